"""Which code a document stands for: balanced by Sinkhorn's iterations, or the best explanation of its words."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import decoder_ids, learning_inputs, tiny_model

from modeling_lmindexer.code_choice import CodeChoice, balanced_codes
from modeling_lmindexer.codebooks import straight_through
from trainers.losses import reconstruction_loss

quick = settings(max_examples=40, deadline=None, database=None)


def sinkhorn_by_loops(logits, smoothness, iterations):
    """Shares `rows[document][code]`, in plain numbers."""
    rows = [[math.exp(value / smoothness) for value in row] for row in logits.tolist()]
    for _ in range(iterations):
        totals = [sum(column) for column in zip(*rows, strict=True)]
        rows = [[value / total for value, total in zip(row, totals, strict=True)] for row in rows]
        rows = [[value / sum(row) for value in row] for row in rows]
    return rows


def random_logits(seed, documents=24, codes=5, preference=3.0):
    """Float32 logits; the later a code, the more all documents like it."""
    logits = 2 * torch.randn(documents, codes, generator=torch.Generator().manual_seed(seed))
    return logits + torch.linspace(0, preference, codes)


def used_codes(codes, size):
    """Perplexity of codes, from 1 to `size`."""
    shares = torch.bincount(codes, minlength=size) / len(codes)
    return torch.special.entr(shares).sum().exp().item()


@quick
@given(st.integers(0, 2**32), st.integers(1, 12), st.integers(2, 6), st.sampled_from([0.5, 1, 4]), st.integers(1, 12))
def test_balanced_codes_are_sinkhorns(seed, documents, codes, smoothness, iterations):
    logits = random_logits(seed, documents, codes)
    found = balanced_codes(logits, smoothness, iterations)
    assert found.shape == (documents,) and found.dtype == torch.long
    for row, code in zip(sinkhorn_by_loops(logits, smoothness, iterations), found.tolist(), strict=True):
        assert row[code] >= max(row) * (1 - 1e-9)


def test_balanced_codes_are_used_about_equally():
    logits = random_logits(0, documents=200, codes=8, preference=6.0)
    perplexities = [used_codes(balanced_codes(logits, smoothness), 8) for smoothness in (1, 5, 50)]
    assert perplexities[0] > 7.7 and perplexities == sorted(perplexities, reverse=True)
    assert used_codes(logits.argmax(-1), 8) < 5
    # Half precision is read as it is, and no gradient comes of it.
    half = logits.bfloat16().requires_grad_()
    assert torch.equal(balanced_codes(half), balanced_codes(half.detach().double()))


def test_what_all_documents_like_does_not_matter():
    logits = random_logits(1)
    for smoothness in (0.3, 1):
        liked = balanced_codes(logits.double() + torch.tensor([0.0, 40, -3, 0, 7]), smoothness)
        assert torch.equal(liked, balanced_codes(logits, smoothness))


def words_model(**config):
    """It predicts bags of words; codes and texts differ enough for candidates to change places."""
    return tiny_model("t5", reconstruction_target="words", dropout=0.0, **config)


@torch.no_grad()
def best_code_by_loops(model, inputs, choice):
    """The code of each document, with the reconstructor called for every document and every code alone."""
    position = inputs["decoder_input_ids"].shape[1] - 1
    book, found = model.codebooks.learned[position], []
    for row in range(len(inputs["input_ids"])):
        alone = {name: value[row : row + 1] for name, value in inputs.items()}
        text = {name: alone[name] for name in ("input_ids", "attention_mask", "decoder_input_ids")}
        likely = model(**text).code_logits[-1][0].log_softmax(-1)
        prefix = model.codebooks.embed(alone["decoder_input_ids"][:, 1:])
        scores = {}
        for code in likely.topk(min(choice.candidates, len(likely))).indices.tolist():
            codes = torch.cat([prefix, book.embeddings()[code][None, None]], dim=1)
            names = ("input_ids", "hint_mask", "target_weights")
            output = model.reconstructor(codes, model.get_input_embeddings().weight, *(alone[n] for n in names))
            loss = reconstruction_loss(output, 1)
            scores[code] = (likely[code] - choice.likelihood_weight * loss[0]).item()
        found.append(max(scores, key=scores.get))
    return found


@pytest.mark.parametrize("position", [0, 1])
@pytest.mark.parametrize("candidates", [1, 3, 99])
@pytest.mark.parametrize("hints", [True, False])
def test_the_expected_code_is_the_best_of_the_candidates(position, candidates, hints):
    torch.manual_seed(0)
    model = words_model(codebook_sizes=[7, 6])
    # Second codes of flat ids 8 and on.
    inputs = learning_inputs(decoder_input_ids=torch.tensor([[0, 1], [0, 3], [0, 7]])[:, : 1 + position])
    if not hints:
        inputs["target_weights"] = inputs["attention_mask"].float()
        inputs["hint_mask"] = torch.zeros_like(inputs["hint_mask"])
    choice, seen = CodeChoice("expectation", likelihood_weight=40.0, candidates=candidates), set()
    for _ in range(4):
        with torch.no_grad():
            model.codebooks.learned[position].weight.normal_(std=3.0)
        output = model(**inputs, quantize=True, code_choice=choice)
        assert output.chosen_codes.tolist() == best_code_by_loops(model, inputs, choice)
        likely = output.code_logits[-1].argmax(-1)
        seen |= {torch.equal(output.chosen_codes, likely)}
        # It is what the reconstructor gets, on top of the prefix.
        book = model.codebooks.learned[position]
        prefix = model.codebooks.embed(inputs["decoder_input_ids"][:, 1:])
        codes = torch.cat([prefix, book.lookup(output.chosen_codes)[:, None]], dim=1)
        names = ("input_ids", "hint_mask", "target_weights")
        expected = model.reconstruct(codes, *(inputs[name] for name in names))
        torch.testing.assert_close(output.reconstruction.logits, expected.logits, rtol=1e-4, atol=1e-5)
    assert (False in seen) == (candidates > 1)


def test_without_weight_the_expected_code_is_the_most_likely():
    model, inputs = words_model(), learning_inputs(decoder_input_ids=decoder_ids()[:, :2])
    output = model(**inputs, quantize=True, code_choice=CodeChoice("expectation", likelihood_weight=0.0))
    likely = model(**inputs, quantize=True)
    assert torch.equal(output.chosen_codes, likely.code_logits[-1].argmax(-1))
    assert torch.equal(output.chosen_codes, likely.chosen_codes)


def test_candidates_are_compared_without_dropout():
    """In training, too: chance would decide between them otherwise."""
    model = tiny_model("t5", reconstruction_target="words", dropout=0.6)
    inputs = learning_inputs(decoder_input_ids=decoder_ids()[:, :2])
    choice = CodeChoice("expectation", likelihood_weight=40.0)
    prefix = model.codebooks.embed(inputs["decoder_input_ids"][:, 1:])
    texts = [inputs[name] for name in ("input_ids", "hint_mask", "target_weights")]
    model.reconstructor.train()
    logits = torch.zeros(3, 5)
    choices = {tuple(model.choose_codes(choice, logits, prefix, *texts).tolist()) for _ in range(10)}
    assert len(choices) == 1 and model.reconstructor.training
    assert model.reconstructor.layers[0].training


def test_an_expectation_needs_bags():
    model, inputs = tiny_model("t5"), learning_inputs(decoder_input_ids=decoder_ids()[:, :1])
    with pytest.raises(ValueError, match="code_choice='expectation' weighs bags .* reconstruction_target='words'"):
        model(**inputs, quantize=True, code_choice=CodeChoice("expectation"))


def test_balanced_codes_are_chosen_and_reconstructed():
    model, inputs = words_model(), learning_inputs(decoder_input_ids=decoder_ids()[:, :1])
    output = model(**inputs, quantize=True, code_choice=CodeChoice("balanced", smoothness=0.5))
    expected = balanced_codes(output.code_logits[-1], 0.5)
    assert torch.equal(output.chosen_codes, expected)
    assert not torch.equal(expected, output.code_logits[-1].argmax(-1))
    # Forward the chosen code, backward the expected one, as for any other choice (Eq. 6).
    names = ("input_ids", "hint_mask", "target_weights")
    codes = straight_through(output.code_logits[-1], model.codebooks.learned[0].embeddings(), expected)
    again = model.reconstruct(codes[:, None], *(inputs[name] for name in names))
    gradients = [
        torch.autograd.grad(part.logits.square().sum(), model.codebooks.learned[0].weight, retain_graph=True)[0]
        for part in (output.reconstruction, again)
    ]
    assert gradients[0].abs().max() > 1e-3
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"kind": "likely"}, "kind is 'likely'; it must be one of most_likely, balanced, expectation"),
        ({"candidates": 0}, "candidates is 0"),
        ({"smoothness": 0.0}, "smoothness 0.0"),
        ({"likelihood_weight": -1.0}, "likelihood_weight -1.0"),
    ],
)
def test_impossible_choices(values, message):
    with pytest.raises(ValueError, match=message):
        CodeChoice(**values)

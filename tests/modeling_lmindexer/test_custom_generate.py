"""The fast search behind `generate` of plain encoder-decoders: what it returns is what `generate` returns."""

import functools

import pytest
import torch
from tiny_models import VOCABULARY, tiny_backbone_config, tiny_inputs, tiny_model
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    GPT2Config,
    LogitsProcessor,
    MaxTimeCriteria,
    StoppingCriteriaList,
)

from modeling_lmindexer import PrefixTree, PrefixTreeLogitsProcessor, constrained_beam_search

EOS = 1


def plain_model(kind, attention=None):
    """A random encoder-decoder with its language-modelling head, whose tokens differ in probability."""
    torch.manual_seed(0)
    config = tiny_backbone_config(kind)
    if kind == "t5":
        config.num_layers = config.num_decoder_layers  # by which transformers makes the decoder's cache
    model = AutoModelForSeq2SeqLM.from_config(config, attn_implementation=attention).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    model.generation_config.update(
        decoder_start_token_id=0, pad_token_id=0, eos_token_id=EOS, forced_eos_token_id=None, max_length=None
    )
    return model


def random_tree(number=60, depth=3, lengths=None, seed=0):
    sequences = torch.randint(2, 14, (number, depth), generator=torch.Generator().manual_seed(seed))
    return PrefixTree.from_sequences(sequences, lengths)


def results(model, trie, number, custom=None, inputs=None, **kwargs):
    """Per text, the sequences that are results and their scores, best first."""
    output = model.generate(
        **(inputs or tiny_inputs()),
        **{"num_beams": number, "num_return_sequences": number, "max_new_tokens": trie.tree.depth} | kwargs,
        logits_processor=trie,
        custom_generate=custom,
        return_dict_in_generate=True,
        output_scores=True,
    )
    if number == 1 and custom is None:
        return output.sequences
    found = [[] for _ in range(len(output.sequences) // number)]
    valid = trie.is_valid(output.sequences, number) & (output.sequences_scores > -1e7)
    for row in valid.nonzero().flatten().tolist():
        tokens = output.sequences[row].tolist()
        # Behind the end transformers repeats it when the padding is 0.
        tokens = tuple(tokens[: tokens.index(EOS) + 1] if EOS in tokens else tokens)
        found[row // number].append((tokens, output.sequences_scores[row].item()))
    if custom is not None:
        assert (output.sequences_scores[~valid] == -torch.inf).all()
        assert not output.sequences[~valid, trie.prompt_length :].any()
    return found


def assert_same(found, expected):
    assert any(expected)
    for ours, theirs in zip(found, expected, strict=True):
        assert [tokens for tokens, _ in ours] == [tokens for tokens, _ in theirs]
        for (_, score), (_, other) in zip(ours, theirs, strict=True):
            assert score == pytest.approx(other, abs=1e-5, rel=1e-5)


@pytest.mark.parametrize("number", [2, 7, 20, 80])
@pytest.mark.parametrize(("kind", "attention"), [("t5", None), ("t5", "eager"), ("bart", None), ("t5gemma", None)])
def test_it_returns_what_generate_returns(kind, attention, number):
    model, trie = plain_model(kind, attention), PrefixTreeLogitsProcessor(random_tree())
    expected = results(model, trie, number)
    assert_same(results(model, trie, number, constrained_beam_search), expected)


@pytest.mark.parametrize("kind", ["t5", "bart"])
def test_one_beam_is_greedy(kind):
    model, trie = plain_model(kind), PrefixTreeLogitsProcessor(random_tree())
    greedy = results(model, trie, 1)
    found = results(model, trie, 1, constrained_beam_search)
    assert [list(tokens) for ((tokens, _),) in found] == greedy.tolist()


@pytest.mark.parametrize("length_penalty", [0.0, 1.0, -2.0])
def test_length_penalty_and_fewer_tokens(length_penalty):
    model, trie = plain_model("t5"), PrefixTreeLogitsProcessor(random_tree())
    kwargs = {"length_penalty": length_penalty, "max_new_tokens": 2, "num_return_sequences": 5}
    asked = {"num_beams": 5, "logits_processor": trie, "return_dict_in_generate": True, "output_scores": True}
    expected = model.generate(**tiny_inputs(), **asked, **kwargs)
    found = model.generate(**tiny_inputs(), **asked, **kwargs, custom_generate=constrained_beam_search)
    assert torch.equal(found.sequences, expected.sequences)
    torch.testing.assert_close(found.sequences_scores, expected.sequences_scores, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("early_stopping", [False, True, "never"])
@pytest.mark.parametrize("length_penalty", [0.0, 1.0])
@pytest.mark.parametrize("number", [2, 6, 30])
@pytest.mark.parametrize("seed", range(3))
def test_sequences_of_different_lengths_end_as_in_generate(number, early_stopping, length_penalty, seed):
    lengths = torch.randint(1, 5, (60,), generator=torch.Generator().manual_seed(seed))
    tree = random_tree(60, 4, lengths, seed)
    trie = PrefixTreeLogitsProcessor(tree, eos_token_id=EOS, pad_token_id=0)
    kwargs = {"early_stopping": early_stopping, "length_penalty": length_penalty, "max_new_tokens": 5}
    model = plain_model("t5")
    expected = results(model, trie, number, **kwargs)
    found = results(model, trie, number, constrained_beam_search, **kwargs)
    if early_stopping is True:
        # There transformers takes its own fillers for results, and stops before it has enough.
        pairs = [(ours, theirs) for ours, theirs in zip(found, expected, strict=True) if len(theirs) == number]
        assert all(len(ours) >= len(theirs) for ours, theirs in zip(found, expected, strict=True))
        found, expected = [ours for ours, _ in pairs], [theirs for _, theirs in pairs]
    if expected:
        assert_same(found, expected)


def test_an_end_after_sequences_of_one_length():
    model = plain_model("bart")
    trie = PrefixTreeLogitsProcessor(random_tree(), eos_token_id=EOS, pad_token_id=0)
    expected = results(model, trie, 6, max_new_tokens=4)
    assert_same(results(model, trie, 6, constrained_beam_search, max_new_tokens=4), expected)
    assert all(tokens[-1] == EOS for row in expected for tokens, _ in row)


@pytest.mark.parametrize("number", [3, 20])
def test_a_prompt_and_filters(number):
    model, tree = plain_model("t5"), random_tree()
    first = tree.codes_at(0)
    prompt = torch.stack([torch.zeros_like(first), first], dim=1)[[0, 1, 2]]
    masks = torch.rand(3, 60) < torch.tensor([[0.7], [0.2], [0.05]])
    for allowed in (None, masks[0], masks):
        trie = PrefixTreeLogitsProcessor(tree if allowed is None else tree.filtered(allowed))
        for kwargs in ({}, {"decoder_input_ids": prompt, "max_new_tokens": 2}):
            if kwargs and allowed is not None and allowed.ndim == 1:
                continue
            expected = results(model, trie, number, **kwargs)
            assert_same(results(model, trie, number, constrained_beam_search, **kwargs), expected)


def test_texts_with_nothing_allowed_get_fillers():
    model, tree = plain_model("t5"), random_tree()
    for rows in ([0, 0, 0], [1, 0, 1]):
        masks = torch.tensor(rows, dtype=torch.bool)[:, None].expand(3, 60)
        trie = PrefixTreeLogitsProcessor(tree.filtered(masks))
        found = results(model, trie, 4, constrained_beam_search)
        assert [len(row) for row in found] == [4 * row for row in rows]
        output = model.generate(
            **tiny_inputs(), num_beams=4, logits_processor=trie, custom_generate=constrained_beam_search
        )
        assert output.shape == (3, 4) and trie.is_valid(output).tolist() == [row == 1 for row in rows]


def test_prompts_of_two_tokens():
    """As BART has: the start token, and the language behind it."""
    model = plain_model("bart")
    trie = PrefixTreeLogitsProcessor(random_tree(), prompt_length=2)
    prompt = torch.tensor([[0, 20], [0, 21], [0, 22]])
    expected = results(model, trie, 6, decoder_input_ids=prompt)
    assert_same(results(model, trie, 6, constrained_beam_search, decoder_input_ids=prompt), expected)


@pytest.mark.parametrize("kind", ["t5", "bart"])
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("eos", [None, EOS])
def test_the_sliced_head_normalises_over_the_codes_of_the_position(kind, tied, eos):
    """Which is generate with the model's probabilities of all other tokens set to zero."""
    model = plain_model(kind)
    if kind == "t5":
        model.config.scale_decoder_outputs = tied
    else:
        model.final_logits_bias.normal_()
    tree = PrefixTree.from_sequences(torch.tensor([[2, 9, 11], [3, 9, 14], [4, 10, 12], [3, 12, 13], [2, 10, 13]]))
    trie = PrefixTreeLogitsProcessor(tree, eos_token_id=eos)

    class Renormalised(LogitsProcessor):
        def __call__(self, input_ids, scores):
            level = input_ids.shape[1] - 1
            kept = tree.codes_at(level).tolist() if level < 3 else []
            kept += [] if eos is None else [eos]
            masked = torch.full_like(scores, -torch.inf)
            masked[:, kept] = scores[:, kept].log_softmax(-1)
            return trie(input_ids, masked)

    asked = {"num_beams": 5, "num_return_sequences": 5, "max_new_tokens": 3 + (eos is not None)}
    asked |= {"return_dict_in_generate": True, "output_scores": True}
    expected = model.generate(**tiny_inputs(), **asked, logits_processor=[Renormalised()])
    sliced = functools.partial(constrained_beam_search, head="codes")
    for kwargs in ({"custom_generate": sliced}, {"custom_generate": constrained_beam_search, "head": "codes"}):
        found = model.generate(**tiny_inputs(), **asked, **kwargs, logits_processor=trie)
        assert torch.equal(found.sequences, expected.sequences)
        torch.testing.assert_close(found.sequences_scores, expected.sequences_scores, atol=1e-5, rtol=1e-5)


def test_our_model_takes_it_too():
    model = tiny_model("t5")
    tree = PrefixTree.from_sequences([[1, 5, 10], [1, 6, 11], [2, 5, 12], [4, 9, 10]])
    trie = PrefixTreeLogitsProcessor(tree)
    asked = {"num_beams": 4, "num_return_sequences": 4, "return_dict_in_generate": True, "output_scores": True}
    expected = model.generate(**tiny_inputs(), **asked, logits_processor=trie)
    found = model.generate(**tiny_inputs(), **asked, logits_processor=trie, custom_generate=constrained_beam_search)
    assert torch.equal(found.sequences, expected.sequences)
    torch.testing.assert_close(found.sequences_scores, expected.sequences_scores, atol=1e-5, rtol=1e-5)


def test_the_answer_is_a_tensor_unless_asked():
    model, trie = plain_model("t5"), PrefixTreeLogitsProcessor(random_tree())
    asked = {"num_beams": 5, "logits_processor": trie, "max_new_tokens": 3}
    found = model.generate(**tiny_inputs(), **asked, custom_generate=constrained_beam_search)
    assert torch.equal(found, model.generate(**tiny_inputs(), **asked))
    output = model.generate(
        **tiny_inputs(), **asked, custom_generate=constrained_beam_search, return_dict_in_generate=True
    )
    assert torch.equal(output.sequences, found) and output.sequences_scores is None


def test_what_it_cannot_do_is_said():
    trie = PrefixTreeLogitsProcessor(random_tree())
    model = plain_model("t5")

    def run(model=model, **kwargs):
        asked = {"num_beams": 2, "logits_processor": trie, "custom_generate": constrained_beam_search} | kwargs
        return model.generate(**asked)

    inputs = tiny_inputs()
    with pytest.raises(ValueError, match="Found the logits processors none"):
        run(**inputs, logits_processor=None)
    with pytest.raises(ValueError, match="Found the logits processors .*RepetitionPenaltyLogitsProcessor"):
        run(**inputs, repetition_penalty=1.5)
    with pytest.raises(ValueError, match="Found do_sample=True"):
        run(**inputs, do_sample=True)
    with pytest.raises(ValueError, match="Found head='half': expected one of full, codes"):
        run(**inputs, head="half")
    with pytest.raises(ValueError, match="stopping criterion MaxTimeCriteria"):
        run(**inputs, stopping_criteria=StoppingCriteriaList([MaxTimeCriteria(1.0)]))
    with pytest.raises(ValueError, match="Found decoder_attention_mask"):
        run(**inputs, decoder_attention_mask=torch.ones(3, 1))
    with pytest.raises(ValueError, match="filters for 2 texts and 3 texts"):
        two = PrefixTreeLogitsProcessor(trie.tree.filtered(torch.ones(2, 60, dtype=torch.bool)))
        run(**inputs, logits_processor=two)
    causal = AutoModelForCausalLM.from_config(GPT2Config(vocab_size=VOCABULARY, n_embd=16, n_layer=1, n_head=2))
    with pytest.raises(ValueError, match="GPT2LMHeadModel is no encoder-decoder"):
        run(causal, **inputs)
    with pytest.raises(ValueError, match="T5GemmaForConditionalGeneration is no linear map"):
        run(plain_model("t5gemma"), **inputs, head="codes")

import math

import pytest
import torch
from tiny_models import tiny_model
from torch.nn.functional import cross_entropy

from modeling_lmindexer.reconstructor import query_slots, sinusoidal_positions, visible_places
from trainers.losses import reconstruction_loss

# Two documents; in the first, tokens 1, 3 and 4 are hidden, in the second 0 and 2 (5 tokens, the last one padding).
INPUT_IDS = torch.tensor([[11, 12, 13, 14, 15], [21, 22, 21, 24, 0]])
HINTS = torch.tensor([[1, 0, 1, 0, 0], [0, 1, 0, 1, 0]], dtype=torch.bool)
WEIGHTS = torch.tensor([[0, 1.0, 0, 2.0, 1.0], [3.0, 0, 1.0, 0, 0]])


def reconstructor(depth=1, target="tokens"):
    model = tiny_model("bert", num_reconstructor_layers=depth, reconstruction_target=target)
    return model.reconstructor, model.get_input_embeddings().weight.detach()


def codes(positions=2):
    return torch.randn(2, positions, 16, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("target", ["tokens", "words"])
def test_hidden_tokens_never_influence_predictions(depth, target):
    module, embedding = reconstructor(depth, target)
    before = module(codes(), embedding, INPUT_IDS, HINTS, WEIGHTS).logits
    for row, place in [(0, 1), (0, 3), (0, 4), (1, 0), (1, 4)]:
        changed = INPUT_IDS.clone()
        changed[row, place] = 77
        after = module(codes(), embedding, changed, HINTS, WEIGHTS).logits
        torch.testing.assert_close(after, before, atol=0, rtol=0)


@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("target", ["tokens", "words"])
def test_hints_and_codes_of_the_document_influence_predictions(depth, target):
    module, embedding = reconstructor(depth, target)
    before = module(codes(), embedding, INPUT_IDS, HINTS, WEIGHTS)
    changed = INPUT_IDS.clone()
    changed[0, 2] = 77
    others = codes()
    others[0, 0, :8] += 1
    for after in (
        module(codes(), embedding, changed, HINTS, WEIGHTS),
        module(others, embedding, INPUT_IDS, HINTS, WEIGHTS),
    ):
        difference = (after.logits - before.logits).abs().amax(-1)
        assert (difference[before.documents == 0] > 1e-4).all()
        assert (difference[before.documents == 1] == 0).all()


def test_every_code_counts_and_adds_up():
    """`z_w = sum_j Trans(q = c^j)` (Eq. 7): the order of the codes does not matter."""
    module, embedding = reconstructor(2)
    module.output_norm = torch.nn.Identity()
    logits = [
        module(c, embedding, INPUT_IDS, HINTS, WEIGHTS).logits - module.bias
        for c in (codes(3), codes(3)[:, [2, 0, 1]], codes(3)[:, :1], codes(3)[:, 1:])
    ]
    torch.testing.assert_close(logits[1], logits[0])
    torch.testing.assert_close(logits[2] + logits[3], logits[0])


def test_tokens_are_predicted_at_their_places():
    module, embedding = reconstructor()
    output = module(codes(), embedding, INPUT_IDS, HINTS, WEIGHTS)
    assert output.documents.tolist() == [0, 0, 0, 1, 1]
    assert output.targets.tolist() == [12, 14, 15, 21, 21]
    assert output.weights.tolist() == [1, 2, 1, 3, 1]
    assert output.logits.shape == (5, 100)
    # The same token at two places: told apart by position.
    assert not torch.allclose(output.logits[3], output.logits[4], atol=1e-4)


def test_words_are_one_bag_per_document():
    module, embedding = reconstructor(target="words")
    output = module(codes(), embedding, INPUT_IDS, HINTS, WEIGHTS)
    assert output.documents.tolist() == [0, 1] and output.weights.tolist() == [4, 4]
    assert output.logits.shape == output.targets.shape == (2, 100)
    expected = torch.zeros(2, 100)
    expected[0, 12], expected[0, 14], expected[0, 15], expected[1, 21] = 0.25, 0.5, 0.25, 1
    assert torch.equal(output.targets, expected)


@pytest.mark.parametrize("target", ["tokens", "words"])
def test_a_restricted_vocabulary_is_the_full_softmax_restricted(target):
    module, embedding = reconstructor(target=target)
    full = module(codes(), embedding, INPUT_IDS, HINTS, WEIGHTS)
    vocabulary = torch.tensor([3, 11, 12, 13, 14, 15, 21, 22, 24, 99])
    # The scale of the logits is the mean norm of the rows in use: make it the same for both.
    norm = embedding.norm(dim=-1).mean() / embedding[vocabulary].norm(dim=-1).mean()
    module.set_vocabulary(vocabulary)
    part = module(codes(), embedding, INPUT_IDS, HINTS, WEIGHTS)
    expected = (full.logits - module.bias)[:, vocabulary] * norm + module.bias[vocabulary]
    torch.testing.assert_close(part.logits, expected)
    if target == "tokens":
        assert vocabulary[part.targets].tolist() == full.targets.tolist()
    else:
        assert torch.equal(part.targets, full.targets[:, vocabulary])


def test_the_whole_vocabulary_changes_nothing():
    module, embedding = reconstructor()
    full = module(codes(), embedding, INPUT_IDS, HINTS, WEIGHTS)
    module.set_vocabulary(torch.arange(100))
    part = module(codes(), embedding, INPUT_IDS, HINTS, WEIGHTS)
    assert torch.equal(part.logits, full.logits) and torch.equal(part.targets, full.targets)


@pytest.mark.parametrize("target", ["tokens", "words"])
def test_a_document_without_hints_or_without_targets_is_finite(target):
    module, embedding = reconstructor(2, target)
    no_hints, no_targets = HINTS.clone(), WEIGHTS.clone()
    no_hints[0] = False
    no_targets[1] = 0
    query = codes().requires_grad_()
    output = module(query, embedding, INPUT_IDS, no_hints, no_targets)
    assert all(value.isfinite().all() for value in output.values())
    assert (output.documents == 0).any() and output.weights[output.documents == 1].sum() == 0
    output.logits.sum().backward()
    assert query.grad.isfinite().all()


@pytest.mark.parametrize("target", ["tokens", "words"])
def test_nothing_to_predict_at_all_is_finite(target):
    module, embedding = reconstructor(1, target)
    output = module(codes(), embedding, INPUT_IDS, HINTS, torch.zeros_like(WEIGHTS))
    assert len(output.logits) == (0 if target == "tokens" else 2)
    assert all(value.isfinite().all() for value in output.values())


@pytest.mark.parametrize("target", ["tokens", "words"])
def test_more_padding_changes_nothing(target):
    module, embedding = reconstructor(2, target)
    before = module(codes(), embedding, INPUT_IDS, HINTS, WEIGHTS)
    padded = (torch.nn.functional.pad(values, (0, 3)) for values in (INPUT_IDS, HINTS, WEIGHTS))
    after = module(codes(), embedding, *padded)
    for name, value in before.items():
        torch.testing.assert_close(after[name], value, msg=name)


@pytest.mark.parametrize("target", ["tokens", "words"])
def test_warm_up_needs_no_codes_but_learns_from_hints(target):
    module, embedding = reconstructor(1, target)
    output = module(None, embedding, INPUT_IDS, HINTS, WEIGHTS)
    same = module(module.start.expand(2, 1, -1), embedding, INPUT_IDS, HINTS, WEIGHTS)
    assert torch.equal(output.logits, same.logits)
    output.logits.sum().backward()
    assert module.start.grad.norm() > 0
    changed = INPUT_IDS.clone()
    changed[0, 2] = 77
    assert not torch.allclose(module(None, embedding, changed, HINTS, WEIGHTS).logits[0], output.logits[0])


@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("restricted", [True, False])
def test_log_likelihoods_of_alternatives_are_those_of_each_alone(depth, restricted):
    """With a prefix that is common to them, and hints; minus what the loss says of each."""
    module, embedding = reconstructor(depth, "words")
    if restricted:
        module.set_vocabulary(torch.tensor([3, 12, 14, 15, 21, 99]))
    alternatives = torch.randn(2, 4, 16, generator=torch.Generator().manual_seed(2))
    prefix = codes(1)[:, :, None].expand(-1, -1, 4, -1)
    together = torch.cat([prefix, alternatives[:, None]], dim=1)  # (batch, positions, alternatives, width)
    found = module.log_likelihoods(together, embedding, INPUT_IDS, HINTS, WEIGHTS)
    assert found.shape == (2, 4)
    for j in range(4):
        output = module(together[:, :, j], embedding, INPUT_IDS, HINTS, WEIGHTS)
        torch.testing.assert_close(found[:, j], -reconstruction_loss(output, 2))
    assert found.std(dim=1).min() > 1e-3
    # A document that hides nothing says nothing.
    none = WEIGHTS * torch.tensor([[0.0], [1.0]])
    likelihoods = module.log_likelihoods(together, embedding, INPUT_IDS, HINTS, none)
    assert likelihoods[0].tolist() == [0] * 4 and torch.equal(likelihoods[1], found[1])


@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("target", ["tokens", "words"])
def test_a_document_without_hints_learns_the_same_beside_others_without_any_and_with_some(depth, target):
    """Gradients included, and which parameters have one."""
    results = []
    for hints in (torch.zeros_like(HINTS), torch.tensor([[0, 0, 0, 0, 0], [0, 1, 0, 0, 0]], dtype=torch.bool)):
        module, embedding = reconstructor(depth, target)
        query = codes().requires_grad_()
        output = module(query, embedding, INPUT_IDS, hints, WEIGHTS)
        first = output.logits[output.documents == 0]
        first.square().sum().backward()
        results.append((first, query.grad, {name: value.grad for name, value in module.named_parameters()}))
    (alone, gradient, gradients), (beside, expected, expected_gradients) = results
    torch.testing.assert_close(alone, beside)
    torch.testing.assert_close(gradient, expected)
    assert gradient.abs().max() > 1e-3
    for name, value in expected_gradients.items():
        assert (gradients[name] is None) == (value is None), name  # processes must agree on what has a gradient
        if value is not None:
            torch.testing.assert_close(gradients[name], value, msg=name)


def test_logits_do_not_depend_on_the_scale_of_the_embeddings():
    module, embedding = reconstructor()
    hidden = torch.randn(2, 16)
    torch.testing.assert_close(module.token_logits(hidden, 50 * embedding), module.token_logits(hidden, embedding))


@pytest.mark.parametrize("width", [6, 7])
def test_positions_are_those_of_the_paper(width):
    found = sinusoidal_positions(5, width, torch.zeros(1))
    for place in range(5):
        for i in range(width):
            angle = place / 10000 ** (2 * (i // 2) / width)
            assert found[place, i].item() == pytest.approx(math.cos(angle) if i % 2 else math.sin(angle), abs=1e-6)


def test_visible_tokens_stand_together_in_the_order_of_the_text():
    hints = torch.tensor([[0, 1, 0, 1, 1], [1, 0, 0, 0, 1]], dtype=torch.bool)
    places, is_visible = visible_places(hints)
    assert places[0].tolist() == [1, 3, 4] and is_visible[0].all()
    assert places[1, :2].tolist() == [0, 4] and is_visible[1].tolist() == [True, True, False]
    assert visible_places(torch.zeros(2, 5, dtype=torch.bool))[1].tolist() == [[False], [False]]


def test_documents_have_the_slots_of_the_one_with_most_queries():
    assert query_slots(torch.tensor([2, 0, 3])).int().tolist() == [[1, 1, 0], [0, 0, 0], [1, 1, 1]]
    assert query_slots(torch.tensor([0, 0])).tolist() == [[False], [False]]


def read_alone(module, codes, place, embedding, input_ids, hints):
    """One query of one document, by the formulas: nothing is packed, padded or masked."""
    positions = sinusoidal_positions(len(input_ids), 16, codes)
    queries = module.query_norm(codes) + positions[place]  # (positions of the ID, width)
    visible = hints.nonzero()[:, 0]
    read = module.hint_norm(embedding[input_ids[visible]]) + positions[visible]
    for layer in module.layers:
        query = layer.query(layer.attention_norm(queries))
        # The heads have their keys, then their values; one more key and value are zero.
        key_value = torch.cat([layer.key_value(read), torch.zeros(1, 32, dtype=read.dtype)])
        mixed = []
        for head in range(layer.num_heads):
            size = 16 // layer.num_heads
            key, value = key_value[:, 2 * head * size :][:, : 2 * size].chunk(2, dim=-1)
            weights = (query[:, head * size :][:, :size] @ key.T * size**-0.5).softmax(-1)
            mixed.append(weights @ value)
        queries = queries + layer.output(torch.cat(mixed, dim=-1))
        queries = queries + layer.feed_forward(layer.feed_forward_norm(queries))
    return queries.sum(0)


@pytest.mark.parametrize("padding", [0, 4])
def test_losses_and_gradients_are_those_of_every_token_alone(padding):
    """Of documents with different numbers of visible and of hidden tokens, and with none."""
    generator = torch.Generator().manual_seed(3)
    input_ids = torch.randint(1, 100, (5, 7), generator=generator)
    hints = torch.rand(5, 7, generator=generator) < torch.tensor([[0.6], [0.2], [0.0], [1.0], [0.5]])
    weights = torch.rand(5, 7, generator=generator).double() * (~hints) * (torch.rand(5, 7, generator=generator) < 0.7)
    assert hints.sum(-1).unique().numel() >= 3 and (weights > 0).sum(-1).unique().numel() >= 3
    results = []
    for is_packed in (True, False):
        module, embedding = reconstructor(2)
        module, embedding = module.double(), embedding.double().requires_grad_()
        for layer in module.layers:
            layer.num_heads = 4
        query = torch.randn(5, 3, 16, generator=torch.Generator().manual_seed(4)).double().requires_grad_()
        if is_packed:
            padded = (torch.nn.functional.pad(values, (0, padding)) for values in (input_ids, hints, weights))
            output = module(query, embedding, *padded)
            losses = cross_entropy(output.logits, output.targets, reduction="none")
        else:
            found = [
                read_alone(module, query[row], place, embedding, input_ids[row], hints[row])
                for row, place in weights.nonzero().tolist()
            ]
            logits = module.token_logits(torch.stack(found), embedding)
            losses = cross_entropy(logits, input_ids[weights > 0], reduction="none")
        (losses * weights[weights > 0]).sum().backward()
        gradients = {name: value.grad for name, value in module.named_parameters() if value.grad is not None}
        results.append({"losses": losses, "codes": query.grad, "embedding": embedding.grad, **gradients})
    packed, alone = results
    assert packed.keys() == alone.keys() and alone["codes"].abs().max() > 1e-3
    for name, value in alone.items():
        torch.testing.assert_close(packed[name], value, atol=1e-9, rtol=1e-9, msg=name)


@pytest.mark.parametrize("target", ["tokens", "words"])
def test_training_keeps_losses_without_the_scores(target, monkeypatch):
    """They are those of the scores, also chunk by chunk."""
    module, embedding = reconstructor(2, target)
    judged = module(codes(), embedding, INPUT_IDS, HINTS, WEIGHTS)
    torch.testing.assert_close(judged.losses, cross_entropy(judged.logits, judged.targets, reduction="none"))
    module.train()
    for layer in module.layers:
        layer.dropout = 0.0
    for at_once in (150, 10**6):
        monkeypatch.setattr("modeling_lmindexer.word_losses.SCORES_AT_ONCE", at_once)
        trained = module(codes(), embedding, INPUT_IDS, HINTS, WEIGHTS)
        assert trained.logits is None
        torch.testing.assert_close(trained.losses, judged.losses)

"""The losses against plain loops over documents."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from modeling_lmindexer.outputs import ReconstructionOutput
from modeling_lmindexer.word_losses import losses_of_scores
from trainers.losses import anchor_loss, choice_loss, commitment_loss, contrastive_loss, reconstruction_loss

quick = settings(max_examples=40, deadline=None, database=None)
SEEDS = st.integers(0, 2**32 - 1)


def log_softmax(row):
    """In plain numbers."""
    highest = max(row)
    total = sum(math.exp(value - highest) for value in row)
    return [value - highest - math.log(total) for value in row]


def random_reconstruction(seed, documents, dtype=torch.float64):
    """Predictions of hidden tokens of some documents in mixed order; the last document has none."""
    random = np.random.default_rng(seed)
    number, vocabulary = int(random.integers(1, 12)), int(random.integers(2, 7))
    return judged(
        torch.tensor(random.normal(size=(number, vocabulary)) * 3, dtype=dtype),
        torch.from_numpy(random.integers(vocabulary, size=number)),
        weights=torch.from_numpy(random.uniform(0.1, 4, size=number)).float(),
        documents=torch.from_numpy(random.integers(max(1, documents - 1), size=number)),
    )


def judged(logits, targets, **others):
    return ReconstructionOutput(losses=losses_of_scores(logits, targets), logits=logits, targets=targets, **others)


def reconstruction_by_loops(output, num_documents, reduction):
    losses = []
    for document in range(num_documents):
        total = weight_of_all = 0.0
        for place, owner in enumerate(output.documents.tolist()):
            if owner != document:
                continue
            logs = log_softmax(output.logits[place].tolist())
            target, weight = output.targets[place].tolist(), output.weights[place].item()
            if isinstance(target, list):
                term = -sum(share * log for share, log in zip(target, logs, strict=True))
            else:
                term = -logs[target]
            total += weight * term
            weight_of_all += weight
        losses.append(total if reduction == "sum" or not weight_of_all else total / weight_of_all)
    return losses


@quick
@given(SEEDS, st.integers(2, 5), st.sampled_from(["mean", "sum"]))
def test_reconstruction_of_tokens(seed, documents, reduction):
    output = random_reconstruction(seed, documents)
    losses = reconstruction_loss(output, documents, reduction)
    assert losses.dtype == torch.float64
    assert losses[-1] == 0  # it has no hidden tokens
    assert losses.tolist() == pytest.approx(reconstruction_by_loops(output, documents, reduction), rel=1e-6)


@quick
@given(SEEDS, st.integers(2, 5), st.sampled_from(["mean", "sum"]))
def test_reconstruction_of_bags(seed, documents, reduction):
    """Targets are distributions, one prediction per document."""
    output = random_reconstruction(seed, documents)
    random = np.random.default_rng(seed)
    shape = documents, output.logits.shape[1]
    output = judged(
        torch.from_numpy(random.normal(size=shape)),
        torch.from_numpy(random.dirichlet(np.ones(shape[1]), size=documents)),
        weights=torch.from_numpy(random.uniform(0.1, 4, size=documents)),
        documents=torch.arange(documents),
    )
    losses = reconstruction_loss(output, documents, reduction)
    assert losses.tolist() == pytest.approx(reconstruction_by_loops(output, documents, reduction), rel=1e-6)


def test_a_bag_without_words_gives_nothing():
    output = judged(
        torch.randn(2, 4, requires_grad=True),
        torch.tensor([[0.0, 0, 0, 0], [0, 0.5, 0.5, 0]]),
        weights=torch.tensor([0.0, 2]),
        documents=torch.arange(2),
    )
    losses = reconstruction_loss(output, 2)
    losses.sum().backward()
    assert losses[0] == 0 and losses[1] > 0
    assert (output.logits.grad[0] == 0).all() and output.logits.grad[1].any()


def test_half_precision_is_added_up_in_float32():
    output = random_reconstruction(0, 3, dtype=torch.bfloat16)
    losses = reconstruction_loss(output, 3)
    assert losses.dtype == torch.float32
    assert losses.tolist() == pytest.approx(reconstruction_by_loops(output, 3, "mean"), rel=1e-5)
    logits, codes = torch.randn(5, 9).bfloat16(), torch.randint(9, (5, 1))
    exact = commitment_loss((logits.double(),), codes)
    torch.testing.assert_close(commitment_loss((logits,), codes).double(), exact, rtol=1e-5, atol=1e-6)


def random_views(seed, batch=6, others=3, width=4):
    """Anchors, their second views, the views of all documents of the global batch, and their prefix groups."""
    random = np.random.default_rng(seed)
    anchors, views, further = (
        torch.from_numpy(random.normal(size=(rows, width))).requires_grad_() for rows in (batch, batch, others)
    )
    groups = torch.from_numpy(random.integers(3, size=batch + others))
    groups[0] = 99  # nobody else's
    documents = torch.arange(batch + others)
    is_negative = (groups[:batch, None] == groups) & (documents[:batch, None] != documents)
    return anchors, views, torch.cat([views, further]), is_negative


def contrastive_by_loops(anchors, views, candidates, is_negative, temperature, normalize):
    def unit(row):
        return [value / math.hypot(*row) for value in row] if normalize else row

    def product(one, other):
        return sum(a * b for a, b in zip(unit(one), unit(other), strict=True)) / temperature

    losses = []
    for anchor, view, peers in zip(anchors.tolist(), views.tolist(), is_negative.tolist(), strict=True):
        numerator = math.exp(product(anchor, view))
        others = [
            math.exp(product(anchor, other)) for other, peer in zip(candidates.tolist(), peers, strict=True) if peer
        ]
        losses.append(-math.log(numerator / (numerator + sum(others))))
    return losses


@quick
@given(SEEDS, st.sampled_from([1.0, 0.5, 2.0]), st.booleans())
def test_contrastive(seed, temperature, normalize):
    inputs = random_views(seed)
    losses = contrastive_loss(*inputs, temperature, normalize)
    assert losses.dtype == torch.float64
    assert losses.tolist() == pytest.approx(contrastive_by_loops(*inputs, temperature, normalize), abs=1e-9)


def test_identical_views_are_equation_9_literally():
    """The numerator is the exponential of a state's product with itself."""
    states = torch.randn(4, 3, dtype=torch.float64)
    is_negative = ~torch.eye(4, dtype=torch.bool)
    products = (states @ states.T).exp()
    expected = -(products.diagonal() / products.sum(dim=1)).log()
    torch.testing.assert_close(contrastive_loss(states, states, states, is_negative), expected)


def test_a_document_without_peers_gives_exactly_nothing():
    anchors, views, candidates, is_negative = random_views(1)
    losses = contrastive_loss(anchors, views, candidates, is_negative)
    assert losses[0] == 0 and (losses[1:] > 0).any()
    gradients = torch.autograd.grad(losses[0], [anchors, views])
    assert all((gradient == 0).all() for gradient in gradients)
    # Also where exponentials are large, and among documents that have peers.
    losses = contrastive_loss(60 * anchors, 60 * views, 60 * candidates, is_negative)
    gradients = torch.autograd.grad(losses.sum(), [anchors, views])
    assert losses[0] == 0 and all((gradient[0] == 0).all() and gradient.isfinite().all() for gradient in gradients)


def test_only_documents_of_the_prefix_push():
    """The gradient of an anchor's loss is zero for every candidate that is not its negative."""
    anchors, views, candidates, is_negative = random_views(2)
    losses = contrastive_loss(anchors, views, candidates, is_negative)
    for row, peers in enumerate(is_negative):
        (gradient,) = torch.autograd.grad(losses[row], candidates, retain_graph=True)
        assert torch.equal(gradient.any(dim=1), peers)


@quick
@given(SEEDS, st.integers(1, 4))
def test_commitment_adds_up_positions(seed, positions):
    random = np.random.default_rng(seed)
    sizes = random.integers(2, 6, size=positions)
    logits = tuple(torch.from_numpy(random.normal(size=(3, size))) for size in sizes)
    codes = torch.from_numpy(np.column_stack([random.integers(size, size=3) for size in sizes]))
    expected = [
        -sum(log_softmax(logits[j][row].tolist())[codes[row, j]] for j in range(positions)) for row in range(3)
    ]
    # In the discrete stage there are logits of the position that is learned, too; nothing was assigned there.
    losses = commitment_loss((*logits, torch.randn(3, 4)), codes)
    assert losses.dtype == torch.float64
    assert losses.tolist() == pytest.approx(expected)


def test_no_commitment_at_the_first_position():
    assert commitment_loss((torch.randn(3, 4),), torch.empty(3, 0, dtype=torch.long)).tolist() == [0, 0, 0]


@quick
@given(SEEDS)
def test_choice_is_the_cross_entropy(seed):
    random = np.random.default_rng(seed)
    logits, codes = torch.from_numpy(random.normal(size=(4, 5)) * 3), torch.from_numpy(random.integers(5, size=4))
    expected = [-log_softmax(row)[code] for row, code in zip(logits.tolist(), codes.tolist(), strict=True)]
    assert choice_loss(logits, codes).tolist() == pytest.approx(expected)
    assert choice_loss(logits.bfloat16(), codes).dtype == torch.float32


def random_anchors(seed, batch=5, others=3):
    """States and anchors of a batch and of the global batch, and who is another document; the last one is a filler."""
    random = np.random.default_rng(seed)
    all_hidden, all_anchors = (torch.from_numpy(random.normal(size=(batch + others, width))) for width in (4, 3))
    documents = torch.arange(batch + others)
    documents[-2] = 1  # the same document once more
    is_other = (documents[:batch, None] != documents) & (torch.arange(batch + others) != batch + others - 1)
    return all_hidden[:batch], all_anchors[:batch], all_hidden, all_anchors, is_other


def anchor_by_loops(hidden, anchors, all_hidden, all_anchors, is_other, temperature):
    def cosine(one, other):
        return sum(a * b for a, b in zip(one, other, strict=True)) / math.hypot(*one) / math.hypot(*other)

    losses = []
    for row in range(len(hidden)):
        others = [j for j, other in enumerate(is_other[row].tolist()) if other]
        target, found = (
            log_softmax([cosine(mine[row].tolist(), everyone[j].tolist()) / temperature for j in others])
            for mine, everyone in ((anchors, all_anchors), (hidden, all_hidden))
        )
        losses.append(sum(math.exp(p) * (p - q) for p, q in zip(target, found, strict=True)))
    return losses


@quick
@given(SEEDS, st.sampled_from([1.0, 0.2, 0.05]))
def test_anchor(seed, temperature):
    inputs = random_anchors(seed)
    losses = anchor_loss(*inputs, temperature)
    assert losses.dtype == torch.float64 and (losses >= 0).all()
    assert losses.tolist() == pytest.approx(anchor_by_loops(*inputs, temperature), abs=1e-9)


def turned(states, seed=0):
    """The same states in another, wider space, turned and of other lengths: their cosines are the same."""
    random = np.random.default_rng(seed)
    basis = torch.from_numpy(np.linalg.qr(random.normal(size=(9, states.shape[1])))[0])
    return states @ basis.T * torch.from_numpy(random.uniform(0.1, 9, size=(len(states), 1)))


def test_states_as_similar_as_the_anchors_are_not_pulled():
    _, anchors, _, all_anchors, is_other = random_anchors(0)
    everyone = turned(all_anchors).requires_grad_()
    losses = anchor_loss(everyone[: len(anchors)], anchors, everyone, all_anchors, is_other, 0.05)
    assert losses.abs().max() < 1e-9
    (gradient,) = torch.autograd.grad(losses.sum(), everyone)
    assert gradient.abs().max() < 1e-9
    moved = turned(all_anchors + 0.5 * torch.randn_like(all_anchors)).requires_grad_()
    losses = anchor_loss(moved[: len(anchors)], anchors, moved, all_anchors, is_other, 0.5)
    (gradient,) = torch.autograd.grad(losses.sum(), moved)
    assert losses.min() > 1e-4
    # The last one is a filler: it pulls nobody.
    assert gradient[-1].abs().max() == 0 and gradient[:-1].abs().amax(dim=1).min() > 1e-6


def test_only_similarities_count():
    hidden, anchors, all_hidden, all_anchors, is_other = random_anchors(1)
    expected = anchor_loss(hidden, anchors, all_hidden, all_anchors, is_other, 0.2)
    states, starts = turned(all_hidden, 1), turned(all_anchors, 2)
    found = anchor_loss(states[: len(hidden)], starts[: len(hidden)], states, starts, is_other, 0.2)
    torch.testing.assert_close(found, expected)


def test_a_document_without_others_is_not_pulled():
    hidden, anchors, all_hidden, all_anchors, is_other = random_anchors(2)
    all_hidden.requires_grad_()
    is_other[0] = False
    losses = anchor_loss(all_hidden[: len(hidden)], anchors, all_hidden, all_anchors, is_other, 0.05)
    (gradient,) = torch.autograd.grad(losses[0], all_hidden)
    assert losses[0] == 0 and not gradient.any() and (losses[1:] > 0).all()


def test_a_pull_in_half_precision_is_finite():
    """Masked similarities are lower than any other also where the numbers end early."""
    hidden, anchors, all_hidden, all_anchors, is_other = random_anchors(3)
    exact = anchor_loss(hidden, anchors, all_hidden, all_anchors, is_other, 0.5)
    for dtype in (torch.bfloat16, torch.float16):
        parts = [part.to(dtype) for part in (hidden, anchors, all_hidden, all_anchors)]
        losses = anchor_loss(*parts, is_other, 0.5)
        assert losses.dtype == torch.float32
        torch.testing.assert_close(losses.double(), exact, rtol=0.2, atol=0.05)

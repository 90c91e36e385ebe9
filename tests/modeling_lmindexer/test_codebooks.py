import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import all_ids, tiny_model

from modeling_lmindexer import LMIndexerConfig, LMIndexerForSemanticID
from modeling_lmindexer.codebooks import Codebook, DisambiguationHead, codes_to_ids, straight_through

SIMILARITIES = ("cosine", "dot", "euclidean")


def codebook(similarity, size=6, width=4, temperature=1.0):
    """Codes of very different lengths, so that the three similarities disagree."""
    book = Codebook(size, width, similarity, temperature)
    with torch.no_grad():
        book.weight.copy_(torch.randn(size, width) * torch.linspace(0.2, 3, size)[:, None])
    return book


def similarity_by_hand(name, state, code):
    if name == "cosine":
        return sum(s * c for s, c in zip(state, code, strict=True)) / (
            sum(s * s for s in state) ** 0.5 * sum(c * c for c in code) ** 0.5
        )
    if name == "dot":
        return sum(s * c for s, c in zip(state, code, strict=True))
    return -sum((s - c) ** 2 for s, c in zip(state, code, strict=True))


def test_straight_through_is_the_hard_code_forward():
    logits, embeddings = torch.randn(7, 5), torch.randn(5, 3)
    torch.testing.assert_close(straight_through(logits, embeddings), embeddings[logits.argmax(-1)])


def test_straight_through_is_the_expected_code_backward():
    """Eq. 6; the gradients of `softmax(logits) @ embeddings`, written out by hand."""
    logits = torch.randn(7, 5, dtype=torch.float64, requires_grad=True)
    embeddings = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    incoming = torch.randn(7, 3, dtype=torch.float64)
    straight_through(logits, embeddings).backward(incoming)
    shares = logits.detach().softmax(-1)
    along = incoming @ embeddings.detach().T  # (7, 5)
    torch.testing.assert_close(logits.grad, shares * (along - (shares * along).sum(-1, keepdim=True)))
    torch.testing.assert_close(embeddings.grad, shares.T @ incoming)


def test_straight_through_takes_the_codes_that_are_given():
    """Only what is passed forward changes; the gradient is that of the expected code."""
    gradients = []
    for codes in (None, torch.tensor([4, 0, 0, 2, 1, 3, 3])):
        torch.manual_seed(0)
        logits, embeddings = torch.randn(7, 5).requires_grad_(), torch.randn(5, 3).requires_grad_()
        taken = straight_through(logits, embeddings, codes)
        torch.testing.assert_close(taken, embeddings[logits.argmax(-1) if codes is None else codes])
        gradients.append(torch.autograd.grad((taken * torch.arange(3)).sum(), [logits, embeddings]))
    assert all(torch.equal(*pair) for pair in zip(*gradients, strict=True))


@pytest.mark.parametrize("similarity", SIMILARITIES)
def test_logits_are_the_similarity_over_the_temperature(similarity):
    torch.manual_seed(0)
    book, hidden = codebook(similarity, temperature=0.5), torch.randn(2, 9, 4)
    by_hand = torch.tensor(
        [
            [[similarity_by_hand(similarity, h, e) for e in book.weight.tolist()] for h in row]
            for row in hidden.tolist()
        ]
    )
    torch.testing.assert_close(book.logits(hidden), by_hand / 0.5, atol=1e-5, rtol=1e-5)
    assert (book.logits(hidden).argmax(-1) == by_hand.argmax(-1)).all()


def test_the_similarities_assign_different_codes():
    torch.manual_seed(0)
    book, hidden = codebook("cosine", size=20), torch.randn(200, 4)
    codes = []
    for book.similarity in SIMILARITIES:
        codes.append(book.logits(hidden).argmax(-1))
    assert (codes[0] != codes[1]).any() and (codes[0] != codes[2]).any() and (codes[1] != codes[2]).any()


def test_cosine_codes_live_on_one_norm():
    book = codebook("cosine")
    centroids = torch.randn(6, 4) * torch.arange(1, 7)[:, None]
    book.initialize(centroids)
    mean = centroids.norm(dim=-1).mean()
    torch.testing.assert_close(book.embeddings().norm(dim=-1), mean.expand(6))
    torch.testing.assert_close(book.embeddings() / mean, centroids / centroids.norm(dim=-1, keepdim=True))
    # The length of a code has no say, neither in the logits nor as an input.
    hidden = torch.randn(3, 4)
    logits, embeddings = book.logits(hidden), book.embeddings()
    with torch.no_grad():
        book.weight.mul_(torch.arange(1, 7)[:, None])
    torch.testing.assert_close(book.logits(hidden), logits)
    torch.testing.assert_close(book.embeddings(), embeddings)


@pytest.mark.parametrize("similarity", ["dot", "euclidean"])
def test_other_codes_are_the_weights(similarity):
    book = codebook(similarity)
    assert torch.equal(book.embeddings(), book.weight)


@pytest.mark.parametrize("similarity", SIMILARITIES)
def test_a_code_is_its_own_nearest_state(similarity):
    """What clustering relies on: a centroid is assigned to itself (with dot products, among equal lengths)."""
    book = Codebook(6, 4, similarity, 1.0)
    book.initialize(torch.nn.functional.normalize(torch.randn(6, 4), dim=-1))
    assert book.logits(book.embeddings()).argmax(-1).tolist() == list(range(6))


def test_initialize_takes_centroids_of_the_right_shape_only():
    book = codebook("dot")
    assert not book.initialized
    with pytest.raises(ValueError, match=r"Expected centroids of shape \(6, 4\), got \(5, 4\)"):
        book.initialize(torch.randn(5, 4))
    assert not book.initialized
    centroids = torch.randn(6, 4)
    book.initialize(centroids)
    assert book.initialized and torch.equal(book.weight, centroids) and book.weight.requires_grad


def test_initialized_codebooks_are_known_after_loading(tmp_path):
    model = tiny_model("t5")
    centroids = torch.randn(4, 16) * 5
    model.codebooks.learned[0].initialize(centroids)
    model.save_pretrained(tmp_path)
    first, second = LMIndexerForSemanticID.from_pretrained(tmp_path).codebooks.learned
    assert first.initialized and not second.initialized
    assert first.norm == centroids.norm(dim=-1).mean() and torch.equal(first.weight, centroids)


@pytest.mark.parametrize(("similarity", "temperature"), [("cosine", 0.05), ("dot", 1.0), ("euclidean", 0.2)])
def test_a_learned_temperature_starts_where_it_is_told_to(similarity, temperature):
    shape = {"similarity": similarity, "code_temperature": temperature}
    fixed, learned = (
        tiny_model("t5", zeros=True, **shape),
        tiny_model("t5", zeros=True, learn_temperature=True, **shape),
    )
    names = {name for name, _ in learned.named_parameters()} - {name for name, _ in fixed.named_parameters()}
    assert names == {f"codebooks.learned.{t}.log_temperature" for t in (0, 1)}
    hidden = torch.randn(3, 16)
    for fixed_book, book in zip(fixed.codebooks.learned, learned.codebooks.learned, strict=True):
        assert book.temperature.item() == pytest.approx(temperature, rel=1e-5)
        book.weight.data.copy_(fixed_book.weight)
        torch.testing.assert_close(book.logits(hidden), fixed_book.logits(hidden), rtol=1e-4, atol=1e-4)


def test_a_learned_temperature_divides_and_can_always_come_back():
    book = tiny_model("t5", learn_temperature=True).codebooks.learned[0]
    hidden = torch.randn(3, 16)
    for value, temperature in ((-100.0, 0.01), (0.0, 1.01), (-4.0, 0.01 + math.exp(-4))):
        book.log_temperature.data.fill_(value)
        logits = book.logits(hidden)
        assert book.temperature.item() == pytest.approx(temperature)
        assert logits.abs().max() <= 1.0001 / temperature  # of cosines
        torch.testing.assert_close(
            logits * temperature,
            torch.nn.functional.cosine_similarity(hidden[:, None], book.weight, dim=-1),
            rtol=1e-4,
            atol=1e-5,
        )
        (gradient,) = torch.autograd.grad(logits.square().sum(), book.log_temperature)
        assert gradient.isfinite() and (gradient < 0 or value == -100)


def test_a_learned_temperature_is_saved_and_new_ones_are_no_garbage(tmp_path):
    """A model is built without memory, and what its file lacks must be filled in."""
    model = tiny_model("t5", learn_temperature=True, code_temperature=0.2)
    temperatures = [book.temperature.item() for book in model.codebooks.learned]
    assert len({0.2, *temperatures}) == 3
    model.save_pretrained(tmp_path / "learned")
    loaded = LMIndexerForSemanticID.from_pretrained(tmp_path / "learned")
    assert loaded.config.learn_temperature
    assert [book.temperature.item() for book in loaded.codebooks.learned] == temperatures
    model = tiny_model("t5", code_temperature=0.2)
    model.save_pretrained(tmp_path / "fixed")
    loaded = LMIndexerForSemanticID.from_pretrained(tmp_path / "fixed", learn_temperature=True)
    assert torch.equal(loaded.codebooks.learned[0].weight, model.codebooks.learned[0].weight)
    assert [book.temperature.item() for book in loaded.codebooks.learned] == pytest.approx([0.2, 0.2])


def test_disambiguation_starts_equal_and_scales_like_attention():
    head = DisambiguationHead(3, 4)
    assert head.logits(torch.randn(2, 4)).tolist() == [[0, 0, 0], [0, 0, 0]]
    with torch.no_grad():
        head.weight.copy_(torch.randn(3, 4))
    hidden = torch.randn(2, 4)
    torch.testing.assert_close(head.logits(hidden), torch.einsum("bd,kd->bk", hidden, head.weight) / 2)


@settings(max_examples=30, deadline=None, database=None)
@given(st.data())
def test_ids_and_positions_are_one_to_one(data):
    sizes = data.draw(st.lists(st.integers(2, 6), min_size=1, max_size=4))
    room = data.draw(st.integers(0, 4))
    config = LMIndexerConfig(codebook_sizes=sizes, num_disambiguation_codes=room)
    positions = data.draw(st.integers(1, config.id_length))
    codes = torch.tensor([[data.draw(st.integers(0, s - 1)) for s in [*sizes, room][:positions]] for _ in range(3)])
    ids = codes_to_ids(codes, config)
    # By hand: every id from 1 on belongs to one position, in order.
    owner = [(t, code) for t, size in enumerate([*sizes, room]) for code in range(size)]
    assert config.vocab_size == 1 + len(owner)
    for row, row_ids in zip(codes.tolist(), ids.tolist(), strict=True):
        assert [owner[i - 1] for i in row_ids] == list(enumerate(row))


def test_embed_looks_up_every_position_in_its_own_codebook():
    codebooks = tiny_model("t5", similarity="dot").codebooks
    ids = torch.tensor([[1, 5], [4, 9], [2, 7]])
    first, second = (book.weight for book in codebooks.learned)
    expected = torch.stack([torch.stack([first[a], second[b]]) for a, b in [(0, 0), (3, 4), (1, 2)]])
    assert torch.equal(codebooks.embed(ids), expected)
    assert torch.equal(codebooks.embed(ids[:, :1]), expected[:, :1])


@pytest.mark.parametrize("ids", [[[5]], [[0]], [[1, 4]], [[1, 10]], [[2, 5], [1, -100]]])
def test_embed_refuses_ids_of_another_position(ids):
    codebooks = tiny_model("t5").codebooks
    with pytest.raises(ValueError, match="hold ids of other positions.*after the start id 0"):
        codebooks.embed(torch.tensor(ids))


def test_every_learned_prefix_can_be_embedded():
    model = tiny_model("t5")
    assert model.codebooks.embed(all_ids(model.config)[:, :2]).shape == (60, 2, 16)

"""Reassignment: no collision is left, at the least regret, and nobody moves who need not."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment
from tiny_training import at_second_position, tiny_indexer

from modeling_lmindexer import SemanticIndex
from modeling_lmindexer.codebooks import codes_to_ids
from trainers import reassignment
from trainers.corpus_pass import CorpusPass
from trainers.reassignment import _Moves, model_costs, reassign

quick = settings(max_examples=100, deadline=None, database=None)


class RandomCosts:
    """Costs that depend on document and prefix; it remembers which documents it was asked for at each position."""

    def __init__(self, sizes, keys, levels=None):
        self.sizes, self.keys, self.levels, self.asked = list(sizes), list(keys), levels, []

    def of(self, position, row, prefix):
        rng = np.random.default_rng([position, self.keys[row], *map(int, prefix)])
        size = self.sizes[position]
        # Low codes are cheaper on the whole, so that prefixes fill up.
        return rng.integers(self.levels, size=size) if self.levels else rng.random(size) + np.linspace(0, 0.7, size)

    def __call__(self, position, rows, prefixes):
        assert prefixes.shape == (len(rows), position)
        self.asked += [(position, int(row)) for row in rows]
        return np.array([self.of(position, row, prefix) for row, prefix in zip(rows, prefixes, strict=True)])

    def cheapest(self, number):
        """The codes that documents have when each takes its cheapest one."""
        codes = np.zeros((number, len(self.sizes)), dtype=np.int64)
        for row, position in itertools.product(range(number), range(len(self.sizes))):
            codes[row, position] = self.of(position, row, codes[row, :position]).argmin()
        return codes


def crowded_prefixes(codes, position, room):
    """Prefixes `(position codes)` in which some code has more documents than room."""
    cells = [tuple(row[: position + 1]) for row in codes.tolist()]
    return {cell[:-1] for cell in cells if cells.count(cell) > room}


def by_brute_force(codes, sizes, costs):
    """Every assignment of every crowded prefix is tried, position by position."""
    new, spent = codes.copy(), 0.0
    for position, size in enumerate(sizes):
        room = math.prod(sizes[position + 1 :])
        for row in range(len(codes)):
            if (new[row, :position] != codes[row, :position]).any():
                new[row, position] = costs.of(position, row, new[row, :position]).argmin()
        for prefix in crowded_prefixes(new, position, room):
            rows = [row for row in range(len(codes)) if tuple(new[row, :position].tolist()) == prefix]
            table = [costs.of(position, row, prefix) for row in rows]
            regrets = [t - t.min() for t in table]
            for regret, row in zip(regrets, rows, strict=True):
                regret[new[row, position]] = 0
            best = min(
                (c for c in itertools.product(range(size), repeat=len(rows)) if max(map(c.count, c)) <= room),
                key=lambda chosen: sum(r[c] for r, c in zip(regrets, chosen, strict=True)),  # noqa: B023
            )
            spent += sum(t[c] for t, c in zip(table, best, strict=True))
            new[rows, position] = best
    return new, spent


@st.composite
def corpora(draw, most=6, ties=True):
    """Sizes, and codes of documents that often collide: each its cheapest, or with ties also from anywhere."""
    sizes = draw(st.lists(st.integers(2, 3), min_size=1, max_size=3))
    number = draw(st.integers(1, min(most, math.prod(sizes))))
    keys = draw(st.lists(st.integers(0, 10**6), min_size=number, max_size=number, unique=True))
    costs = RandomCosts(sizes, keys, draw(st.sampled_from([None, 3])) if ties else None)
    if not ties or draw(st.booleans()):
        return sizes, costs.cheapest(number), costs
    rows = st.tuples(*[st.integers(0, draw(st.integers(0, size - 1))) for size in sizes])
    return sizes, np.array(draw(st.lists(rows, min_size=number, max_size=number))), costs


@quick
@given(corpora(most=8, ties=False))
def test_the_least_cost_of_all(corpus):
    """Without ties there is one answer."""
    sizes, codes, costs = corpus
    result = reassign(codes, sizes, costs, costs.keys)
    expected, spent = by_brute_force(codes, sizes, costs)
    np.testing.assert_array_equal(result.codes, expected)
    assert result.cost_after == pytest.approx(spent)


@quick
@given(corpora(most=30))
def test_every_id_is_unique_and_who_need_not_move_stays(corpus):
    sizes, codes, costs = corpus
    result = reassign(codes, sizes, costs, costs.keys)
    new = result.codes
    assert len(np.unique(new, axis=0)) == len(codes)
    assert new.min() >= 0 and (new < sizes).all()
    first = [next((t for t in range(len(sizes)) if a[t] != b[t]), -1) for a, b in zip(codes, new, strict=True)]
    assert result.moved_at.tolist() == first
    # A document moved at a position only if its prefix was crowded there, by its own documents or by newcomers.
    for row, position in enumerate(first):
        if position >= 0:
            prefix = tuple(codes[row, :position])
            there = [i for i in range(len(codes)) if tuple(new[i, :position]) == prefix]
            room = math.prod(sizes[position + 1 :])
            came = any(0 <= first[i] < position for i in there)
            assert came or prefix in crowded_prefixes(codes[there], position, room)
    if len(np.unique(codes, axis=0)) == len(codes):
        assert not costs.asked and result.cost_before == result.cost_after == 0


@quick
@given(corpora(most=20), st.randoms(use_true_random=False))
def test_the_order_of_the_documents_does_not_matter(corpus, random):
    """Also with ties, which the ids decide."""
    sizes, codes, costs = corpus
    order = list(range(len(codes)))
    random.shuffle(order)
    shuffled = RandomCosts(sizes, [costs.keys[row] for row in order], costs.levels)
    result = reassign(codes, sizes, costs, costs.keys)
    other = reassign(codes[order], sizes, shuffled, shuffled.keys)
    np.testing.assert_array_equal(other.codes, result.codes[order])
    np.testing.assert_array_equal(other.moved_at, result.moved_at[order])
    assert (other.cost_before, other.cost_after) == (result.cost_before, result.cost_after)


@quick
@given(st.data())
def test_making_room_is_the_transportation_problem(data):
    """Against the assignment problem with a column for every place, with many ties and with none."""
    size, room = data.draw(st.integers(2, 7)), data.draw(st.integers(1, 6))
    number = data.draw(st.integers(1, size * room))
    rng = np.random.default_rng(data.draw(st.integers(0, 10**6)))
    ties = data.draw(st.booleans())
    costs = (rng.integers(4, size=(number, size)) if ties else rng.random((number, size))).astype(np.float64)
    costs[:, 0] -= data.draw(st.integers(0, 1))
    regrets, codes = costs - costs.min(axis=1, keepdims=True), costs.argmin(axis=1)
    found = _Moves(regrets, codes, room).make_room()
    assert np.bincount(found).max() <= room
    places = np.repeat(regrets, room, axis=1)
    assert regrets[np.arange(number), found].sum() == pytest.approx(places[linear_sum_assignment(places)].sum())


@quick
@given(st.data())
def test_of_equally_good_assignments_one_that_moves_the_fewest(data):
    """A code that is cheaper than the document's own is as good as that, and no reason to move."""
    size = data.draw(st.integers(2, 5))
    number = data.draw(st.integers(1, size))
    costs = np.array(data.draw(st.lists(st.tuples(*[st.integers(0, 2)] * size), min_size=number, max_size=number)))
    codes = np.array(data.draw(st.lists(st.integers(0, size - 1), min_size=number, max_size=number)))
    regrets, rows = costs - costs.min(axis=1, keepdims=True), np.arange(number)
    regrets[rows, codes] = 0
    choices = [np.array(chosen) for chosen in itertools.permutations(range(size), number)]
    found = reassign(codes[:, None], [size], lambda _, rows, __: costs[rows], rows).codes[:, 0]
    worth = [(regrets[rows, chosen].sum(), (chosen != codes).sum()) for chosen in [found, *choices]]
    assert worth[0] == min(worth)


def test_a_prefix_with_many_documents():
    """Long chains of moves: there is hardly more room than documents."""
    rng = np.random.default_rng(0)
    costs = rng.random((900, 31)) + np.linspace(0, 1.5, 31)
    regrets, codes = costs - costs.min(axis=1, keepdims=True), costs.argmin(axis=1)
    found = _Moves(regrets, codes, 30).make_room()
    assert np.bincount(codes).max() > 90 and np.bincount(found).max() <= 30
    places = np.repeat(regrets, 30, axis=1)
    best = places[linear_sum_assignment(places)].sum()
    assert regrets[np.arange(900), found].sum() == pytest.approx(best, rel=1e-12)


def test_only_documents_of_crowded_prefixes_are_asked_for():
    """Prefix 0 is crowded at the last position, prefix 1 is not, and no prefix outgrows its room."""
    codes = np.array([[0, 1], [0, 1], [0, 2], [1, 0], [1, 1]])
    costs = RandomCosts([2, 3], range(5))
    result = reassign(codes, [2, 3], costs, list("abcde"))
    assert sorted(costs.asked) == [(1, 0), (1, 1), (1, 2)]
    np.testing.assert_array_equal(result.codes[3:], codes[3:])
    np.testing.assert_array_equal(result.codes[:, 0], codes[:, 0])


def test_a_prefix_that_is_too_large_is_left_at_the_position_before():
    """Four documents under a code with room for two: those leave for whom the other code costs least more."""
    codes = np.array([[0, 0], [0, 0], [0, 0], [0, 1]])
    first = np.array([[0.0, 5.0], [0.0, 1.0], [0.0, 4.0], [0.0, 2.0]])
    second = np.array([[0.0, 1.0], [0.0, 1.0], [0.0, 3.0], [7.0, 0.0]])
    result = reassign(codes, [2, 2], lambda position, rows, _: (first, second)[position][rows], list("abcd"))
    assert result.codes.tolist() == [[0, 1], [1, 0], [0, 0], [1, 1]]
    assert result.moved_at.tolist() == [1, 0, -1, 0]
    assert (result.cost_before, result.cost_after) == (0, 3 + 1)
    assert result.figures() == {
        "documents_moved": 3, "documents_moved_at": [2, 1], "cost_before": 0.0, "cost_after": 4.0
    }  # fmt: skip


def test_a_documents_own_code_counts_as_its_cheapest():
    """The model has changed since: "c" would not choose its code again, but it is in nobody's way."""
    codes = np.array([[0], [0], [1]])
    costs = np.array([[0.0, 9.0, 2.0, 9.0], [0.0, 9.0, 3.0, 9.0], [9.0, 2.0, 1.0, 0.0]])
    result = reassign(codes, [4], lambda _, rows, __: costs[rows], ["a", "b", "c"])
    assert result.codes.tolist() == [[2], [0], [1]] and result.moved_at.tolist() == [0, -1, -1]
    assert (result.cost_before, result.cost_after) == (2, 4)


def test_equal_documents_are_told_apart_by_their_ids():
    """Whatever their order, the same one keeps the code."""
    found = set()
    for ids in itertools.permutations(["a", "b", "c"]):
        result = reassign(np.zeros((3, 1), int), [3], lambda *_: np.tile([0.0, 1.0, 2.0], (3, 1)), ids)
        found.add(tuple(sorted(zip(ids, result.codes[:, 0].tolist(), strict=True))))
    assert len(found) == 1 and sorted(code for _, code in found.pop()) == [0, 1, 2]


def test_costs_are_asked_for_in_parts(monkeypatch):
    costs = RandomCosts([4, 5], range(20))
    codes = costs.cheapest(20)
    whole = reassign(codes, [4, 5], costs, costs.keys)
    calls = []
    monkeypatch.setattr(reassignment, "_COSTS_IN_MEMORY", 30)
    parts = reassign(codes, [4, 5], lambda t, rows, p: calls.append(len(rows)) or costs(t, rows, p), costs.keys)
    assert len(calls) > 2
    np.testing.assert_array_equal(parts.codes, whole.codes)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"codes": np.zeros((7, 2), int)}, "7 documents, and codebooks of 2 x 3 codes make only 6 IDs"),
        ({"codes": [[0, 0], [0, 3]]}, r"Document 1 has the codes \[0, 3\]; the sizes are \[2, 3\]"),
        ({"codes": [[0, 0], [-1, 0]]}, r"Document 1 has the codes \[-1, 0\]"),
        ({"codes": [[0], [0]]}, r"Expected codes of shape \(2, 2\), got \(2, 1\)"),
        ({"costs": lambda *_: np.zeros((2, 2))}, r"Expected costs of shape \(2, 3\) at position 1, got \(2, 2\)"),
        ({"costs": lambda *_: np.full((2, 3), np.inf)}, "Some costs at position 1 are nan or infinite"),
    ],
)
def test_what_cannot_be_reassigned_is_named(change, message):
    values = {"codes": [[0, 0], [0, 0]], "costs": lambda *_: np.zeros((2, 3))} | change
    with pytest.raises(ValueError, match=message):
        reassign(sizes=[2, 3], document_ids=list(range(len(values["codes"]))), **values)


def corpus_pass(folder, **config):
    """A pass over the tiny corpus with a random model whose codes are assigned."""
    trainer = at_second_position(folder, model=tiny_indexer(**config))
    trainer.model.eval()
    corpus = CorpusPass(trainer.model, trainer.documents, trainer.collator(), trainer.args, "test")
    ids = torch.cat([trainer.model.assign(b["input_ids"], b["attention_mask"]) for _, b in in_order(corpus)])
    trainer.documents.codes = (ids - codes_to_ids(torch.zeros_like(ids), trainer.model.config)).numpy()
    return corpus


def in_order(corpus):
    return corpus.batches(np.arange(len(corpus.documents)), "test", shared=False)


def test_a_model_costs_minus_the_log_probability(tmp_path):
    corpus = corpus_pass(tmp_path)
    rows, prefixes = np.array([41, 3, 17, 58]), np.array([[5], [0], [2], [2]])
    costs = model_costs(corpus)
    for position in (0, 1):
        found = costs(position, rows, prefixes[:, :position])
        assert found.dtype == np.float64 and found.shape == (4, (6, 4)[position])
        for row, prefix, values in zip(rows, prefixes, found, strict=True):
            tokens = torch.from_numpy(corpus.documents[int(row)]["input_ids"].astype(np.int64))[None]
            ids = torch.tensor([[0, *(prefix[:position] + 1)]])
            logits = corpus.model(tokens, decoder_input_ids=ids).code_logits[-1]
            np.testing.assert_allclose(values, -logits.log_softmax(-1)[0].detach(), atol=2e-5)


def test_processes_share_the_work(tmp_path, monkeypatch):
    corpus = corpus_pass(tmp_path)
    corpus.batch_size = 7
    rows, prefixes = np.arange(60)[::-1], np.zeros((60, 1), dtype=np.int64)
    whole = model_costs(corpus)(1, rows, prefixes)
    monkeypatch.setattr(corpus, "combine", lambda tensor: combined.append(tensor) or tensor)
    corpus.world_size, shares, combined = 2, [], []
    for corpus.rank in (0, 1):
        shares.append(model_costs(corpus)(1, rows, prefixes))
    assert all((share == 0).all(axis=1).any() for share in shares)
    np.testing.assert_array_equal(sum(shares), whole)
    assert len(combined) == 2


def test_ids_of_a_model_become_unique(tmp_path):
    corpus = corpus_pass(tmp_path, codebook_sizes=[6, 12])
    model, documents = corpus.model, corpus.documents
    codes = documents.codes.copy()
    assert len(np.unique(codes, axis=0)) < 60
    result = reassign(codes, model.config.codebook_sizes, model_costs(corpus), documents.ids)
    assert result.cost_after > result.cost_before and result.figures()["documents_moved"] > 0
    np.testing.assert_array_equal(documents.codes, codes)
    with pytest.raises(ValueError, match="trainers.reassignment"):
        SemanticIndex.from_codes(documents.ids, codes, [6, 12], has_disambiguation=False)
    model.drop_disambiguation()
    index = SemanticIndex.from_codes(documents.ids, result.codes, [6, 12], has_disambiguation=False)
    _, batch = next(iter(in_order(corpus)))
    found = model.search(
        input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], index=index, num_beams=60, top_k=60
    )
    assert all(sorted(names) == sorted(documents.ids) for names in found.documents)

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from modeling_lmindexer import PrefixTree
from modeling_lmindexer.beam_search import beam_search, best_of_each_text


class TableSteps:
    """Log-probabilities that depend on the whole prefix, drawn from few numbers so that there are ties."""

    def __init__(self, codes=6, values=(-0.5, -1.0, -2.0)):
        self.codes, self.values = codes, values
        self.calls = []

    def __call__(self, ids, parents):
        self.calls.append((ids, parents))
        return torch.tensor([[self.of([*row, code]) for code in range(self.codes)] for row in ids.tolist()])

    def of(self, prefix):
        return self.values[hash(tuple(prefix)) % len(self.values)]

    def columns(self, codes, level):
        return codes


def expected_beams(steps, sequences, prompt, number):
    """By hand, with dictionaries: `{sequence: score}` of one text."""
    length = len(prompt) - 1
    beams = {tuple(prompt[1:]): 0.0} if any(s[:length] == tuple(prompt[1:]) for s in sequences) else {}
    for level in range(length + 1, len(sequences[0]) + 1):
        children = {}
        for prefix in sorted({s[:level] for s in sequences}):
            if prefix[:-1] in beams:
                children[prefix] = beams[prefix[:-1]] + steps.of([prompt[0], *prefix])
        best = sorted(children, key=lambda prefix: (-children[prefix], prefix))[:number]
        beams = {prefix: children[prefix] for prefix in sorted(best)}
    return beams


sequences_of_three = st.lists(st.tuples(*[st.integers(0, 5)] * 3), min_size=1, max_size=30, unique=True)


@settings(max_examples=60, deadline=None, database=None)
@given(st.data(), sequences_of_three, st.integers(1, 6), st.integers(1, 3), st.booleans(), st.booleans())
def test_the_best_of_what_each_text_may_have(data, sequences, number, texts, static, filtered):
    """Fixed or ragged shapes, filters for each text, prompts that no sequence continues: the first of equals."""
    tree, steps = PrefixTree.from_sequences(sequences), TableSteps()
    own = [sequences] * texts
    if filtered:
        flags = st.lists(st.booleans(), min_size=len(sequences), max_size=len(sequences))
        masks = data.draw(st.lists(flags, min_size=texts, max_size=texts))
        tree = tree.filtered(torch.tensor(masks))
        own = [[s for s, kept in zip(sequences, mask, strict=True) if kept] for mask in masks]
    given_codes = data.draw(st.integers(0, 2))
    codes = st.lists(st.integers(0, 5), min_size=given_codes, max_size=given_codes)
    prompt = [[9 + text, *data.draw(codes)] for text in range(texts)]
    ids, scores = beam_search(steps, tree, torch.tensor(prompt), number, static=static)
    assert ids.shape == (*scores.shape, 3 - given_codes)
    for text in range(texts):
        expected = expected_beams(steps, own[text], prompt[text], number) if own[text] else {}
        alive = scores[text] > -torch.inf
        found = [(*prompt[text][1:], *row) for row in ids[text][alive].tolist()]
        assert found == list(expected)
        assert scores[text][alive].tolist() == pytest.approx(list(expected.values()))
        assert alive.sum() == len(expected)


@settings(max_examples=40, deadline=None, database=None)
@given(st.data(), sequences_of_three, st.integers(1, 3), st.booleans())
def test_renormalized_probabilities_are_those_among_what_is_allowed(data, sequences, texts, static):
    """All that a text may have sums up to one, and a sequence's score is the product over its own choices."""
    tree, steps = PrefixTree.from_sequences(sequences), TableSteps()
    flags = st.lists(st.booleans(), min_size=len(sequences), max_size=len(sequences))
    masks = data.draw(st.lists(flags, min_size=texts, max_size=texts))
    tree = tree.filtered(torch.tensor(masks))
    prompt = [[9 + text] for text in range(texts)]
    ids, scores = beam_search(
        steps, tree, torch.tensor(prompt), len(sequences), static=static, among=tree
    )  # fmt: skip
    for text, mask in enumerate(masks):
        own = [s for s, kept in zip(sequences, mask, strict=True) if kept]
        alive = scores[text] > -torch.inf
        assert list(map(tuple, ids[text][alive].tolist())) == sorted(own)
        expected = []
        for sequence in sorted(own):
            score = 0.0
            for level, code in enumerate(sequence):
                siblings = {s[level] for s in own if s[:level] == sequence[:level]}
                row = steps(torch.tensor([[*prompt[text], *sequence[:level]]]), None)[0]
                score += float(row[code] - row[sorted(siblings)].logsumexp(0))
            expected.append(score)
        assert scores[text][alive].tolist() == pytest.approx(expected, abs=1e-4)
        assert not own or sum(map(math.exp, expected)) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("static", [False, True])
def test_rows_added_to_a_live_tree_come_in_their_order(static):
    """Codes behind the last compaction stand last in a padded row; ties go to the first ID all the same."""
    tree = PrefixTree.from_sequences([[2, 0], [2, 3], [4, 1]] + [[5, i] for i in range(40)])
    tree.add([[2, 1], [0, 0], [4, 0]])
    assert tree.pending
    steps = TableSteps(codes=40, values=(-1.0,))
    ids, _ = beam_search(steps, tree, torch.tensor([[9]]), 4, static=static)
    assert ids[0].tolist() == [[0, 0], [2, 0], [2, 1], [2, 3]]


def test_no_step_after_the_last_code_and_rows_that_belong_together():
    tree = PrefixTree.from_sequences([[i, j, k] for i in range(3) for j in range(3) for k in range(3)])
    steps = TableSteps()
    beam_search(steps, tree, torch.tensor([[9], [8]]), 4)
    assert [len(ids) for ids, _ in steps.calls] == [2, 6, 8]
    for (before, _), (ids, parents) in zip(steps.calls, steps.calls[1:], strict=False):
        assert torch.equal(ids[:, :-1], before[parents])
    steps = TableSteps()
    ids, _ = beam_search(steps, tree, torch.tensor([[9], [8]]), 4, num_codes=2)
    assert ids.shape == (2, 4, 2) and len(steps.calls) == 2


def test_a_removed_document_is_not_found():
    tree = PrefixTree.from_sequences([[0, 0], [0, 1], [1, 0]])
    tree.remove([1])
    ids, scores = beam_search(TableSteps(), tree, torch.tensor([[9]]), 5)
    assert ids[0].tolist() == [[0, 0], [1, 0]] and all(math.isfinite(score) for score in scores[0])


@settings(max_examples=100, deadline=None, database=None)
@given(st.data(), st.integers(1, 5), st.integers(1, 6), st.integers(1, 8))
def test_best_of_each_text(data, texts, width, number):
    score = st.sampled_from([0.0, -1.0, -2.5, -torch.inf])
    table = data.draw(st.lists(st.lists(score, min_size=width, max_size=width), min_size=texts, max_size=texts))
    kept = best_of_each_text(torch.tensor(table), number)
    expected = [sorted(sorted(range(width), key=lambda i: (-row[i], i))[:number]) for row in table]  # noqa: B023
    assert kept.tolist() == expected

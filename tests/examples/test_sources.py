"""What converters of all sources share: draws, the 5-core, and the forms."""

from collections import Counter

import numpy as np
import pytest
from data import CorpusError
from data.histories import History
from data.sources.draws import core, draw
from data.sources.forms import Recommendation
from hypothesis import given
from hypothesis import strategies as st


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), max_size=60, unique=True), st.integers(0, 4))
def test_the_core_is_what_a_loop_leaves(pairs, least):
    left = list(pairs)
    while True:
        users, items = (Counter(pair[side] for pair in left) for side in (0, 1))
        poor = [pair for pair in left if users[pair[0]] < least or items[pair[1]] < least]
        if not poor:
            break
        left.remove(poor[0])  # one at a time: the order of removal does not matter
    users, items = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
    assert [pair for pair, kept in zip(pairs, core(users, items, least), strict=True) if kept] == left


def test_the_core_may_need_many_rounds():
    """A chain that falls apart from one end: every round takes one user and one item."""
    users = np.repeat(np.arange(10), 2)
    items = users + np.tile([0, 1], 10)
    assert not core(users, items, 2).any() and core(users, items, 1).all()


@given(st.sets(st.text(max_size=3), max_size=20), st.data())
def test_a_draw_knows_names_not_places(names, data):
    names = sorted(names)
    count, seed = data.draw(st.integers(0, len(names))), data.draw(st.integers(0, 3))
    mixed = data.draw(st.permutations(names))
    drawn = [{n for n, d in zip(order, draw(order, count, seed), strict=True) if d} for order in (names, mixed)]
    assert drawn[0] == drawn[1] and len(drawn[0]) == count
    more = draw(names, min(count + 1, len(names)), seed)
    assert drawn[0] <= {name for name, d in zip(names, more, strict=True) if d}


def test_a_draw_is_the_same_for_everybody():
    """Written down once: whoever draws something else has other data."""
    assert draw(["ann", "bob", "cyd", "dan"], 2, seed=0).tolist() == [False, False, True, True]
    assert draw(list("abcdefgh"), 4, 0).tolist() != draw(list("abcdefgh"), 4, 1).tolist()


def test_histories_have_items(tmp_path):
    with pytest.raises(CorpusError, match="User u has item b, which is not among the items"):
        Recommendation([{"id": "a"}], [History("u", ["a", "b"])]).write(tmp_path)

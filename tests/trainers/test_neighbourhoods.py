"""Neighbours of every document and their means, against what is computed one by one."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from trainers.neighbourhoods import nearest_neighbours, neighbourhood_means


@settings(max_examples=60, deadline=None, database=None)
@given(st.data())
def test_neighbours_are_the_nearest_others(data):
    """Of coarse vectors, many of them equal, and zero ones: near ties may come in any order, but no document twice."""
    point = st.tuples(st.integers(-2, 2), st.integers(-2, 2))
    vectors = np.array(data.draw(st.lists(point, min_size=2, max_size=30)), dtype=np.float32)
    groups = np.array(data.draw(st.lists(st.integers(0, 5), min_size=len(vectors), max_size=len(vectors))))
    others = ~(groups[:, None] == groups if data.draw(st.booleans()) else np.eye(len(vectors), dtype=bool))
    unlike = None if (~others).sum() == len(vectors) else groups
    most = others.sum(axis=1).min()
    assume(most > 0)
    number = data.draw(st.integers(1, int(most)))
    found = nearest_neighbours(vectors, number, unlike)
    assert found.shape == (len(vectors), number) and found.dtype == np.int64
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit = np.divide(vectors, lengths, where=lengths > 0, out=np.zeros_like(vectors))
    cosines = unit @ unit.T
    for row, neighbours in enumerate(found.tolist()):
        assert others[row, neighbours].all() and len(set(neighbours)) == number
        best = np.sort(cosines[row, others[row]])[::-1]
        np.testing.assert_allclose(cosines[row, neighbours], best[:number], atol=1e-6)


def test_smoothing_is_the_mean_of_a_neighbourhood():
    """Step by step, with the neighbours of the start; in plain numbers."""
    vectors = np.random.default_rng(0).normal(size=(9, 4)).astype(np.float32)
    neighbours = nearest_neighbours(vectors, 3)
    expected = vectors.tolist()
    for steps in range(3):
        np.testing.assert_allclose(neighbourhood_means(vectors, neighbours, steps), expected, rtol=1e-4, atol=1e-5)
        sums = [
            [expected[row][i] + sum(expected[other][i] for other in neighbours[row]) for i in range(4)]
            for row in range(9)
        ]
        expected = [[value / np.linalg.norm(row) for value in row] for row in sums]


def test_more_neighbours_than_documents_are_an_error():
    with pytest.raises(ValueError, match="4 documents have no 4 neighbours each: set num_neighbours lower"):
        nearest_neighbours(np.eye(4, dtype=np.float32), 4)
    with pytest.raises(ValueError, match="4 documents have no 2 neighbours each that differ in what is excluded"):
        nearest_neighbours(np.eye(4, dtype=np.float32), 2, np.array([0, 0, 0, 1]))

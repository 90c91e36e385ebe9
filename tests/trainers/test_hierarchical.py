"""A tree of clusters: codes inside a cluster are its own."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import adjusted_mutual_info_score

from trainers.hierarchical import HierarchicalKMeans, distinct_rows, groups


def test_clusters_are_cut_each_in_its_own_way():
    """Two clusters that differ inside in different directions, which no shared codebook of two codes describes."""
    rng = np.random.default_rng(0)
    first, inner = rng.integers(2, size=(2, 200))
    vectors = np.zeros((200, 4))
    vectors[np.arange(200), first] = 1
    vectors[np.arange(200), 2 + first] = 0.3 * (2 * inner - 1)
    vectors = (vectors + 0.01 * rng.normal(size=vectors.shape)).astype(np.float32)
    codes = HierarchicalKMeans().fit(vectors, [2, 2], seed=0).codes
    assert adjusted_mutual_info_score(first, codes[:, 0]) == 1
    assert adjusted_mutual_info_score(2 * first + inner, 2 * codes[:, 0] + codes[:, 1]) == 1


def test_a_small_cluster_has_as_many_codes_as_distinct_documents():
    """Two far from the others, one of them twice; codes that they do not need cost as much as the dearest."""
    crowd = np.random.default_rng(0).normal(size=(30, 2)) + [9, 0]
    vectors = np.vstack([crowd, [[0, 9], [0, 9], [1, 9]]]).astype(np.float32)
    assignment = HierarchicalKMeans().fit(vectors, [2, 5], seed=0)
    assert len(np.unique(assignment.codes[:30], axis=0)) == 5
    assert assignment.codes[30:, 1].tolist() == [0, 0, 1]
    costs = assignment.costs(1, np.arange(30, 33), assignment.codes[30:, :1])
    np.testing.assert_array_equal(costs[:, 2:], np.repeat(costs.max(axis=1)[:, None], 3, axis=1))
    assert costs.argmin(axis=1).tolist() == [0, 0, 1]


def test_after_a_prefix_of_no_document_all_codes_are_as_good():
    vectors = np.array([[5, 0], [5, 1], [0, 5], [1, 5], [0, 6]], dtype=np.float32)
    assignment = HierarchicalKMeans().fit(vectors, [2, 4, 2], seed=0)
    empty = np.array([[assignment.codes[0, 0], 3]])
    np.testing.assert_array_equal(assignment.costs(2, np.array([0]), empty), np.zeros((1, 2)))


def test_equal_documents_stay_together():
    vectors = np.repeat(np.eye(3, dtype=np.float32), 4, axis=0)
    codes = HierarchicalKMeans().fit(vectors, [3, 2, 2], seed=0).codes
    assert len(np.unique(codes, axis=0)) == 3 and not codes[:, 1:].any()


@settings(deadline=None, max_examples=100)
@given(st.integers(0, 2), st.data())
def test_groups(position, data):
    row = st.tuples(*[st.integers(0, 2)] * position)
    rows = data.draw(st.lists(row, max_size=12))
    prefixes = np.array(rows, dtype=np.int64).reshape(len(rows), position)
    expected = {}
    for number, prefix in enumerate(map(tuple, prefixes.tolist())):
        expected.setdefault(prefix, []).append(number)
    found = groups(prefixes)
    assert {prefix: rows.tolist() for prefix, rows in found} == expected and len(found) == len(expected)


def test_distinct_rows():
    vectors = np.array([[1, 0], [1, -0.0], [2, 0], [1, 0], [3, 0], [4, 0]], dtype=np.float32)
    assert distinct_rows(vectors, 9).tolist() == [0, 2, 4, 5]
    assert distinct_rows(vectors, 2).tolist() == [0, 2, 4]

"""Residual codebooks: every position sees what the others leave over."""

import numpy as np
from planted_vectors import planted_vectors

from trainers.cluster_inputs import ClusterInputs
from trainers.clustering import kmeans
from trainers.residual_kmeans import ResidualKMeans


def test_later_positions_cluster_the_residuals():
    """Against the formulas, one position after the other."""
    vectors = planted_vectors()[0]
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    codes = ResidualKMeans().fit(vectors, [4, 3, 5], seed=2).codes
    first = kmeans(vectors, 4, similarity="cosine", seed=2, restarts=3)
    directions = first.centroids[first.labels]
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    residuals = vectors - directions * (vectors * directions).sum(axis=1, keepdims=True)
    second = kmeans(residuals, 3, similarity="euclidean", seed=3, restarts=3)
    third = kmeans(residuals - second.centroids[second.labels], 5, similarity="euclidean", seed=4, restarts=3)
    np.testing.assert_array_equal(codes, np.stack([first.labels, second.labels, third.labels], axis=1))


def test_costs_after_another_prefix_are_of_what_that_leaves_over():
    vectors = planted_vectors()[0]
    assignment = ResidualKMeans(similarity="euclidean").fit(vectors, [4, 3], seed=0)
    first, second = assignment.codebooks.levels
    rows, prefixes = np.array([0, 1, 5]), np.array([[3], [0], [2]])
    left_over = assignment.encoded[rows] - first.centres[prefixes[:, 0]]
    expected = np.square(left_over[:, None] - second.points).sum(axis=2)
    np.testing.assert_allclose(assignment.costs(1, rows, prefixes), expected, rtol=1e-4)


def test_unit_residuals_tell_vectors_near_their_centroid_apart():
    """Two clusters with four directions inside, along which documents lie near the centroid or far from it."""
    first, direction, far = np.indices((2, 4, 10)).reshape(3, -1)
    inside = np.vstack([np.eye(2), -np.eye(2)])[direction] * np.where(far < 5, 0.01, 1)[:, None]
    vectors = np.column_stack([20 * first - 10, inside]).astype(np.float32)
    near, distinct = far < 5, {}
    for unit in (False, True):
        indexer = ResidualKMeans("euclidean", unit_residuals=unit, inputs=ClusterInputs("raw"))
        distinct[unit] = len(np.unique(indexer.fit(vectors, [2, 4], seed=0).codes[near], axis=0))
    assert distinct == {False: 2, True: 8}

"""Slices of vectors, each with a codebook."""

import numpy as np
import pytest
from planted_vectors import planted_vectors, same_partition
from sklearn.decomposition import PCA

from trainers.product_quantization import ProductQuantization


def test_every_position_sees_its_slice():
    """Topics are in the first half of the vectors, kinds in the second."""
    vectors, topics, kinds = planted_vectors()
    codes = ProductQuantization(rotation="none").fit(vectors, [4, 3], seed=0).codes
    assert same_partition(codes[:, 0], topics) and same_partition(codes[:, 1], kinds)


def test_a_code_costs_the_same_after_any_prefix():
    assignment = ProductQuantization().fit(planted_vectors()[0], [4, 3], seed=0)
    rows = np.arange(10)
    first, second = (assignment.costs(1, rows, np.full((10, 1), code)) for code in (0, 3))
    np.testing.assert_array_equal(first, second)


def test_rotation_puts_the_leading_components_first():
    vectors = planted_vectors()[0]
    assignment = ProductQuantization().fit(vectors, [4, 3], seed=0)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    expected = PCA(16).fit_transform(unit)
    np.testing.assert_allclose(abs(assignment.encoded[:, :5]), abs(expected[:, :5]), atol=1e-4)
    distances = [np.square(points[:9, None] - points).sum(axis=2) for points in (assignment.encoded, unit)]
    np.testing.assert_allclose(*distances, atol=1e-4)


def test_slices_need_a_dimension_each():
    with pytest.raises(ValueError, match="vectors of 2 dimensions have no slice for each of 3 positions"):
        ProductQuantization().fit(np.random.default_rng(0).normal(size=(9, 2)).astype(np.float32), [2, 2, 2], seed=0)


def test_settings_are_checked():
    with pytest.raises(ValueError, match="rotation is components or none, not 'random'"):
        ProductQuantization(rotation="random")

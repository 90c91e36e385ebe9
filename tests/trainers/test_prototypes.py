"""Points that stand for codes: costs against their definition, residuals, means, Lloyd's iterations."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import KMeans

from trainers import prototypes
from trainers.prototypes import Prototypes, chunks, cluster_means, lloyd


def defined_costs(vectors, points, codes, size, similarity):
    """`(n, size)`, one pair at a time."""
    costs = np.full((len(vectors), size), np.nan)
    for i, vector in enumerate(vectors.astype(np.float64)):
        for code in range(size):
            own = points[codes == code].astype(np.float64)
            if not len(own):
                continue
            if similarity == "euclidean":
                costs[i, code] = min(np.square(vector - point).sum() for point in own)
            else:
                lengths = [np.linalg.norm(vector) * np.linalg.norm(point) for point in own]
                costs[i, code] = min(
                    1 - (vector @ point / length if length else 0) for point, length in zip(own, lengths, strict=True)
                )
    return np.where(np.isnan(costs), np.nanmax(costs, axis=1, keepdims=True), costs)


@settings(deadline=None, max_examples=100)
@given(st.data())
def test_costs(data):
    """Several points for some codes, none for the last ones; zero vectors among all of them."""
    similarity = data.draw(st.sampled_from(["cosine", "euclidean"]))
    point = st.lists(st.integers(-3, 3), min_size=3, max_size=3)
    points = np.array(data.draw(st.lists(point, min_size=1, max_size=6)), dtype=np.float32)
    steps = data.draw(st.lists(st.booleans(), min_size=len(points), max_size=len(points)))
    codes = np.cumsum([0, *steps[1:]])
    size = codes[-1] + 1 + data.draw(st.integers(0, 3))
    vectors = np.array(data.draw(st.lists(point, min_size=1, max_size=5)), dtype=np.float32)
    fitted = Prototypes(points, codes, int(size), similarity, points)
    costs = fitted.costs(vectors)
    np.testing.assert_allclose(costs, defined_costs(vectors, points, codes, size, similarity), atol=1e-12)
    np.testing.assert_array_equal(fitted.assign(vectors), costs.argmin(axis=1))
    assert (fitted.assign(vectors) <= codes[-1]).all()


def test_costs_do_not_depend_on_the_chunks(monkeypatch):
    rng = np.random.default_rng(0)
    points, vectors = rng.normal(size=(30, 7)).astype(np.float32), rng.normal(size=(200, 7)).astype(np.float32)
    fitted = Prototypes(points, np.repeat(np.arange(10), 3), 10, "euclidean", points[::3])
    costs, codes = fitted.costs(vectors), fitted.assign(vectors)
    monkeypatch.setattr(prototypes, "_SCORES_IN_MEMORY", 90)
    np.testing.assert_allclose(fitted.costs(vectors), costs, atol=1e-12)
    np.testing.assert_array_equal(fitted.assign(vectors), codes)


@pytest.mark.parametrize(("number", "width"), [(0, 5), (7, 5), (10, 10**9)])
def test_chunks_cover_all_rows_once(monkeypatch, number, width):
    monkeypatch.setattr(prototypes, "_SCORES_IN_MEMORY", 15)
    rows = [np.arange(number)[part] for part in chunks(number, width)]
    assert [row for part in rows for row in part] == list(range(number))
    assert all(len(part) <= max(1, 15 // width) for part in rows)


def test_residuals():
    centres = np.array([[2, 0], [0, 0], [3, 4]], dtype=np.float32)
    vectors = np.array([[5, 1], [5, 1], [10, 5]], dtype=np.float32)
    codes = np.array([0, 1, 2])
    euclidean = Prototypes(centres, codes, 3, "euclidean", centres).residuals(vectors, codes)
    np.testing.assert_array_equal(euclidean, [[3, 1], [5, 1], [7, 1]])
    # Less the projection; a centre without direction takes nothing away.
    cosine = Prototypes(centres, codes, 3, "cosine", centres).residuals(vectors, codes)
    np.testing.assert_allclose(cosine, [[0, 1], [5, 1], [4, -3]], atol=1e-6)
    assert euclidean.dtype == cosine.dtype == np.float32


def test_cluster_means():
    vectors = np.array([[1, 2], [3, 6], [5, 5]], dtype=np.float32)
    means = cluster_means(vectors, np.array([3, 3, 1]), 5)
    np.testing.assert_array_equal(means, [[0, 0], [5, 5], [0, 0], [2, 4], [0, 0]])
    assert means.dtype == np.float32


def test_lloyd_is_scikit_learn_s():
    rng = np.random.default_rng(1)
    vectors = rng.normal(size=(300, 5)).astype(np.float32)
    for iterations in (1, 4, 100):
        ours = lloyd(vectors[:9], vectors, "euclidean", iterations)
        theirs = KMeans(9, init=vectors[:9], n_init=1, max_iter=iterations + 1, tol=0).fit(vectors)
        np.testing.assert_allclose(ours.centres, theirs.cluster_centers_, atol=1e-5)


def test_a_point_that_nothing_prefers_stays():
    vectors = np.array([[0, 1], [0, 2], [4, 0]], dtype=np.float32)
    points = np.array([[0, 1], [5, 0], [-90, 0]], dtype=np.float32)
    centres = lloyd(points, vectors, "euclidean", 10).centres
    np.testing.assert_array_equal(centres, [[0, 1.5], [4, 0], [-90, 0]])

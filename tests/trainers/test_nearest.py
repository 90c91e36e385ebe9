"""The nearest centroid by float32 and float64 is the one of float64 alone, whatever the blocks and threads."""

import tracemalloc
import warnings
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trainers import nearest
from trainers.nearest import nearest_centroids, pair_scores

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
TINY = np.float32(2.0**-23)  # one unit in the last place of numbers from 1 to 2


def best_of_all(vectors, centroids, euclidean):
    """Labels and scores from all pairs, one by one."""
    scores = np.stack([pair_scores(vectors, centroids[[k]], euclidean) for k in range(len(centroids))], axis=1)
    return scores.argmax(axis=1), scores.max(axis=1)


@st.composite
def close_calls(draw):
    """Vectors, and centroids that are copies of each other, or of vectors, up to a few units in the last place."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    number, size, dimensions = draw(st.integers(1, 40)), draw(st.integers(1, 30)), draw(st.integers(1, 40))
    vectors = rng.normal(size=(number, dimensions)).astype(np.float32)
    centroids = rng.normal(size=(size, dimensions)).astype(np.float32)
    centroids[: size // 2] = vectors[rng.integers(number, size=size // 2)]
    copies = rng.integers(size, size=size // 2)
    centroids[size - size // 2 :] = centroids[copies] * (1 + rng.integers(-2, 3, size=(size // 2, 1)) * TINY)
    vectors[rng.random(number) < 0.1] = 0
    offset, scale = draw(st.sampled_from([0, 1, 1000])), draw(st.sampled_from([1e-30, 1e-22, 1, 1e19, 1e25]))
    scale = np.float32(scale)
    return (vectors + np.float32(offset)) * scale, (centroids + np.float32(offset)) * scale


@settings(deadline=None, max_examples=300)
@given(close_calls(), st.booleans(), st.sampled_from([64, 2**24]), st.booleans())
def test_labels_and_scores_are_those_of_float64(points, euclidean, block, on_device):
    """By faiss, and by what takes its place on a GPU, here on the CPU where there is none."""
    vectors, centroids = points
    expected = best_of_all(vectors, centroids, euclidean)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("trainers.prototypes._SCORES_IN_MEMORY", block)
        patch.setattr(torch.cuda, "is_available", lambda: on_device)
        patch.setattr(nearest, "_two_best_on_device", partial(nearest._two_best_on_device, device=DEVICE))
        patch.setattr(nearest, "_SCORES_ON_DEVICE", block)
        found = nearest_centroids(vectors, centroids, euclidean)
    np.testing.assert_array_equal(found[0], expected[0])
    np.testing.assert_array_equal(found[1], expected[1])


@pytest.mark.parametrize("euclidean", [False, True])
def test_only_close_calls_cost_a_second_look(euclidean, monkeypatch):
    """Also far off the origin, where all scores are nearly equal in float32."""
    rng, looked_at = np.random.default_rng(0), []
    vectors = rng.normal(size=(4000, 64)).astype(np.float32) + 100
    candidates = nearest._candidates
    monkeypatch.setattr(
        nearest, "_candidates", lambda rows, *rest: looked_at.append(len(rows)) or candidates(rows, *rest)
    )
    nearest_centroids(vectors, vectors[:500], euclidean)
    assert sum(looked_at) < 200


def test_memory_where_all_is_close(monkeypatch):
    """Equal centroids: every pair is compared in float64, but never many at once; all scores would be 4 MB."""
    monkeypatch.setattr("trainers.prototypes._SCORES_IN_MEMORY", 2**14)
    vectors = np.random.default_rng(0).normal(size=(1000, 64)).astype(np.float32)
    tracemalloc.start()
    labels, _ = nearest_centroids(vectors, np.ones((1000, 64), np.float32), True)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert not labels.any() and peak < 2.5e6


@pytest.fixture
def products():
    """Settings of products on a GPU, as they were afterwards."""
    before = torch.backends.cuda.matmul.fp32_precision
    yield torch.backends.cuda.matmul
    torch.backends.cuda.matmul.fp32_precision = before


def test_precision_stays_as_it_was_set(products):
    """As `--tf32` sets it, which the older functions for it do not know; vectors may be only to be read."""
    vectors = np.eye(3, dtype=np.float32)
    vectors.setflags(write=False)
    products.fp32_precision = "tf32"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        find = nearest._two_best_on_device(np.eye(3, dtype=np.float32), False, device=DEVICE)
        assert find(vectors)[1].tolist() == [0, 1, 2]
    assert products.fp32_precision == "tf32"

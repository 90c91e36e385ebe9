"""Agreement with nearest neighbours against brute force."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import metrics.semantic_id_quality.neighbours as module
from metrics.semantic_id_quality import neighbour_agreement


def corpus(seed: int, documents: int = 60) -> tuple[np.ndarray, np.ndarray]:
    """Codes `(N, 3)` that follow the vectors `(N, 4)` a little."""
    rng = np.random.default_rng(seed)
    vectors = rng.standard_normal((documents, 4)).astype(np.float32)
    codes = np.stack([vectors[:, 0] > 0, vectors[:, 1] > 0, rng.random(documents) < 0.5], axis=1)
    return codes.astype(np.int64), vectors


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**32 - 1), st.sampled_from([1, 5, 59]))
def test_shares_are_those_of_brute_force(seed, neighbours):
    codes, vectors = corpus(seed)
    directions = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    cosines = directions @ directions.T
    np.fill_diagonal(cosines, -np.inf)
    nearest = np.argsort(-cosines, axis=1)[:, :neighbours]
    same = [(codes[nearest, :t] == codes[:, None, :t]).all(axis=2).mean() for t in (1, 2, 3)]

    result = neighbour_agreement(codes, vectors, neighbours=neighbours)

    np.testing.assert_allclose(result.share, same)
    if neighbours == 59:  # all others are neighbours: there is nothing but chance
        np.testing.assert_allclose(result.share, result.chance)


def test_chance_is_the_mean_over_shuffled_codes():
    codes, vectors = corpus(0)
    rng = np.random.default_rng(0)
    shuffled = [neighbour_agreement(rng.permutation(codes), vectors).share for _ in range(300)]
    result = neighbour_agreement(codes, vectors)
    np.testing.assert_allclose(np.mean(shuffled, axis=0), result.chance, atol=0.01)
    assert (result.share > result.chance + 0.05).all()


def test_pieces_of_the_search_change_nothing(monkeypatch):
    codes, vectors = corpus(1)
    whole = neighbour_agreement(codes, vectors, queries=20, seed=3)
    monkeypatch.setattr(module, "_ROWS_AT_ONCE", 7)  # fewer than neighbours, and the last piece smaller still
    pieces = neighbour_agreement(codes, vectors, queries=20, seed=3)
    assert np.array_equal(whole, pieces)


def test_queries_are_a_seeded_sample():
    codes, vectors = corpus(2, documents=500)
    one, again, other = (neighbour_agreement(codes, vectors, queries=50, seed=seed) for seed in (0, 0, 1))
    assert np.array_equal(one.share, again.share) and not np.array_equal(one.share, other.share)
    assert np.array_equal(one.chance, other.chance)


def test_a_document_is_no_neighbour_of_its_own_even_among_equals():
    """Five equal vectors, of which each has two neighbours, and itself not always among the first three."""
    vectors = np.ones((5, 2), dtype=np.float32)
    assert neighbour_agreement(np.arange(5), vectors, neighbours=2).share == 0
    assert neighbour_agreement(np.zeros(5, int), vectors, neighbours=2).share == 1


def test_documents_without_a_direction_are_not_asked():
    vectors = np.array([[1, 0], [1, 0.1], [0, 0], [0, 0]], dtype=np.float32)
    # Asked, the last two would find at least one neighbour of another code.
    result = neighbour_agreement(np.array([0, 0, 1, 1]), vectors, neighbours=1)
    assert (result.share, result.chance) == (1, pytest.approx(1 / 3))


def test_what_cannot_be_searched_is_an_error():
    codes, vectors = corpus(0)
    for arguments, message in (
        ({"vectors": vectors[:9]}, "60 documents have codes, but the vectors"),
        ({"neighbours": 60}, "have no 60 neighbours"),
        ({"queries": 0}, "at least one document"),
        ({"vectors": np.where(codes[:, :1] > 0, vectors, np.nan)}, "hold nan or infinity"),
        ({"vectors": np.zeros_like(vectors)}, "all 60 vectors are zero"),
    ):
        with pytest.raises(ValueError, match=message):
            neighbour_agreement(codes, **{"vectors": vectors} | arguments)

"""Codebooks that start at random, for comparison, look at no document."""

import numpy as np
import pytest
from tiny_training import make_trainer, tiny_indexer

from trainers.codebook_start import start_codebook

VECTORS = np.random.default_rng(0).normal(3, 1, size=(50, 8)).astype(np.float32)


@pytest.mark.parametrize("similarity", ["cosine", "dot", "euclidean"])
def test_random_codes(similarity):
    centroids, labels = start_codebook(VECTORS, 6, method="random", similarity=similarity, seed=1)
    assert centroids.shape == (6, 8) and centroids.dtype == np.float32 and labels.dtype == np.int64
    np.testing.assert_allclose(np.linalg.norm(centroids, axis=1), np.linalg.norm(VECTORS, axis=1).mean(), rtol=1e-5)
    distances = ((VECTORS[:, None].astype(np.float64) - centroids) ** 2).sum(axis=2)
    np.testing.assert_array_equal(labels, distances.argmin(axis=1))
    # Shuffled documents have the same codebook, and another seed has another one.
    other = start_codebook(VECTORS[::-1].copy(), 6, method="random", similarity=similarity, seed=1)
    np.testing.assert_allclose(other.centroids, centroids, rtol=1e-5)
    assert not np.allclose(start_codebook(VECTORS, 6, method="random", similarity=similarity, seed=2)[0], centroids)


@pytest.mark.parametrize("similarity", ["cosine", "dot", "euclidean"])
def test_a_run_from_random_codes(tmp_path, similarity):
    """The model gives the codes that the start says, some of them unused, and learns from there."""
    model = tiny_indexer(codebook_sizes=[30], similarity=similarity)
    trainer = make_trainer(tmp_path, model=model, codebook_init="random", continuous_epochs=[0.0])
    figures = trainer.train()
    assert figures["1-continuous"]["kmeans_agreement"] == 1.0
    assert figures["1-continuous"]["perplexity"] < 20
    assert trainer.model.codebooks.learned[0].initialized

"""Where codebooks start: clusters of the corpus's hidden states, and the codes that the model gives by them."""

import numpy as np
import pytest
import torch
from planted_vectors import planted_vectors, same_partition
from scipy.cluster.hierarchy import fcluster
from scipy.cluster.hierarchy import ward as scipy_ward
from sklearn.metrics import adjusted_mutual_info_score
from tiny_training import tiny_arguments

from modeling_lmindexer.codebooks import Codebook
from trainers.assignment import check_agreement, most_likely_codes
from trainers.clustering import kmeans
from trainers.codebook_start import initialize_codebook, start_codebook

SIMILARITIES = ("cosine", "dot", "euclidean")
METHODS = ("kmeans", "ward", "micro")


@pytest.fixture(scope="module")
def rare_kinds():
    """A wide kind of 400 documents and seven of 4: vectors `(428, 3)` and kinds `(428,)`."""
    rng = np.random.default_rng(0)
    kinds = np.repeat(np.arange(8), [400, *[4] * 7])
    centres = np.vstack([[0, 0, 0], 1.2 * np.eye(3), -1.2 * np.eye(3), [[0.9, 0.9, 0]]])
    spread = np.where(kinds == 0, 0.25, 0.01)[:, None]
    return (centres[kinds] + spread * rng.normal(size=(428, 3))).astype(np.float32), kinds


def start(vectors, method, similarity="euclidean", size=8, seed=0):
    return start_codebook(vectors, size, method=method, similarity=similarity, seed=seed, share=0.1)


@pytest.mark.parametrize("similarity", SIMILARITIES)
@pytest.mark.parametrize("method", METHODS)
def test_planted_clusters_are_found(method, similarity):
    vectors, topics, kinds = planted_vectors()
    # One start of k-means may cut one of the twelve kinds in place of another.
    size, planted = (4, topics) if method == "kmeans" else (12, 3 * topics + kinds)
    centroids, labels = start(vectors, method, similarity, size)
    assert same_partition(labels, planted)
    assert centroids.shape == (size, 16) and centroids.dtype == np.float32
    means = np.stack([vectors[labels == code].mean(axis=0) for code in range(size)])
    if similarity != "euclidean":
        length = np.linalg.norm(vectors, axis=1).mean()
        means *= length / np.linalg.norm(means, axis=1, keepdims=True)
        np.testing.assert_allclose(np.linalg.norm(centroids, axis=1), length, rtol=1e-5)
    np.testing.assert_allclose(centroids, means, atol=0.02)


def test_ward_starts_from_the_means_of_wards_clusters():
    vectors = planted_vectors()[0]
    found = start(vectors, "ward", size=5)
    labels = fcluster(scipy_ward(vectors.astype(np.float64)), 5, "maxclust")
    assert same_partition(found.labels, labels)
    means = {tuple(np.round(vectors[labels == code].mean(axis=0), 4)) for code in np.unique(labels)}
    assert {tuple(row) for row in np.round(found.centroids, 4)} == means


def test_many_small_clusters_find_rare_kinds(rare_kinds):
    vectors, kinds = rare_kinds
    found = {m: adjusted_mutual_info_score(kinds, start(vectors, m).labels) for m in METHODS}
    assert found["micro"] > found["kmeans"] + 0.05


@pytest.mark.parametrize("similarity", SIMILARITIES)
@pytest.mark.parametrize("method", METHODS)
def test_labels_are_the_nearest_codes_and_none_is_empty(rare_kinds, method, similarity):
    vectors = rare_kinds[0]
    centroids, labels = start(vectors, method, similarity)
    scores = vectors.astype(np.float64) @ centroids.T.astype(np.float64)
    if similarity == "euclidean":
        scores = 2 * scores - np.square(centroids.astype(np.float64)).sum(axis=1)
    np.testing.assert_array_equal(labels, scores.argmax(axis=1))
    assert np.bincount(labels, minlength=8).min() >= 1


def test_kmeans_is_kmeans(rare_kinds):
    expected = kmeans(rare_kinds[0], 8, similarity="cosine", seed=0)
    found = start(rare_kinds[0], "kmeans", "cosine")
    assert (found.centroids == expected.centroids).all() and (found.labels == expected.labels).all()


@pytest.mark.parametrize("method", [*METHODS, "random"])
def test_the_seed_decides_every_bit(method):
    vectors = np.random.default_rng(1).normal(size=(500, 8)).astype(np.float32)
    first, again, other = (start(vectors, method, size=9, seed=seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first.centroids, again.centroids)
    np.testing.assert_array_equal(first.labels, again.labels)
    assert (first.labels != other.labels).any() == (method != "ward")  # which draws nothing


@pytest.mark.parametrize("similarity", SIMILARITIES)
@pytest.mark.parametrize("method", [*METHODS, "random"])
def test_the_model_gives_the_codes_of_the_clusters(tmp_path, method, similarity):
    """Of vectors without clusters and of very different lengths, so that many lie between codes."""
    rng = np.random.default_rng(0)
    vectors = (rng.normal(size=(1000, 16)) * rng.uniform(0.3, 3, size=(1000, 1))).astype(np.float32)
    book = Codebook(40, 16, similarity, 0.05)
    arguments = tiny_arguments(tmp_path, codebook_init=method, micro_share=0.1, seed=1)
    labels = initialize_codebook(book, vectors, arguments, position=0)
    assert book.initialized and labels.dtype == np.int64
    assert check_agreement(labels, most_likely_codes(book, vectors), 0) > 0.999
    expected = start(vectors, method, similarity, 40, seed=1)
    np.testing.assert_array_equal(labels, expected.labels)
    np.testing.assert_array_equal(book.weight.detach().numpy(), expected.centroids)


def test_every_position_may_start_in_its_own_way_and_with_its_own_seed(tmp_path):
    vectors = np.random.default_rng(1).normal(size=(300, 16)).astype(np.float32)
    arguments = tiny_arguments(tmp_path, codebook_init=["micro", "kmeans"], micro_share=0.1, seed=5)
    for position, method in enumerate(("micro", "kmeans", "kmeans")):
        labels = initialize_codebook(Codebook(9, 16, "cosine", 0.05), vectors, arguments, position)
        np.testing.assert_array_equal(labels, start(vectors, method, "cosine", 9, seed=5 + position).labels)


def test_a_model_in_another_precision_gets_the_same_codes(tmp_path):
    vectors = planted_vectors()[0]
    book = Codebook(12, 16, "cosine", 0.05).double()
    labels = initialize_codebook(book, vectors, tiny_arguments(tmp_path), position=0)
    assert book.weight.dtype == torch.float64
    np.testing.assert_array_equal(most_likely_codes(book, vectors), labels)


def test_what_cannot_be_clustered_is_an_error():
    vectors = planted_vectors()[0]
    with pytest.raises(ValueError, match="one of kmeans, ward, micro and random, not 'best'"):
        start(vectors, "best")
    for method in METHODS:
        with pytest.raises(ValueError, match="set a smaller codebook"):
            start(np.repeat(vectors[:3], 5, axis=0), method, size=4)

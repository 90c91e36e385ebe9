"""k-means: its labels are what the codebook assigns, every code is used, and the seed decides everything."""

import tracemalloc
from functools import partial

import faiss
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score

from trainers.clustering import _fill, _on_norm, kmeans
from trainers.nearest import pair_scores
from trainers.progress import progress_bar

SIMILARITIES = ["cosine", "dot", "euclidean"]


def scores(vectors, centroids, similarity):
    """`(N, K)` similarities in float64, by their definitions."""
    vectors, centroids = vectors.astype(np.float64), centroids.astype(np.float64)
    if similarity == "euclidean":
        return -np.square(vectors[:, None] - centroids).sum(axis=2)
    products = vectors @ centroids.T
    if similarity == "dot":
        return products
    return products / np.linalg.norm(vectors, axis=1)[:, None] / np.linalg.norm(centroids, axis=1)


@pytest.fixture(scope="module")
def vectors():
    """`(400, 12)`, 20 blobs off the origin, of lengths that differ by a factor of 10."""
    rng = np.random.default_rng(0)
    points = np.repeat(rng.normal(size=(20, 12)), 20, axis=0) + 0.3 * rng.normal(size=(400, 12)) + 0.5
    return (points * rng.uniform(0.3, 3, size=(400, 1))).astype(np.float32)


@pytest.mark.parametrize("similarity", SIMILARITIES)
@pytest.mark.parametrize("num_clusters", [2, 16, 100])
def test_labels_are_the_most_similar_centroids(vectors, similarity, num_clusters):
    centroids, labels = kmeans(vectors, num_clusters, similarity=similarity, seed=1)
    assert centroids.shape == (num_clusters, 12) and centroids.dtype == np.float32
    assert labels.shape == (400,) and labels.dtype == np.int64
    np.testing.assert_array_equal(labels, scores(vectors, centroids, similarity).argmax(axis=1))
    assert len(np.unique(labels)) == num_clusters


@pytest.mark.parametrize("similarity", ["cosine", "dot"])
def test_centroids_share_the_vectors_mean_norm(vectors, similarity):
    centroids, labels = kmeans(vectors, 16, similarity=similarity, seed=1)
    norms = np.linalg.norm(centroids, axis=1)
    np.testing.assert_allclose(norms, np.linalg.norm(vectors, axis=1).mean(), rtol=1e-6)
    other = "dot" if similarity == "cosine" else "cosine"
    np.testing.assert_array_equal(labels, scores(vectors, centroids, other).argmax(axis=1))


@pytest.mark.parametrize("similarity", ["cosine", "dot"])
def test_lengths_do_not_matter_to_directions(vectors, similarity):
    """Powers of two change no rounding, so the labels stay as they are; Euclidean ones do not."""
    lengths = 2.0 ** np.random.default_rng(2).integers(-3, 4, size=(400, 1)).astype(np.float32)
    first, second = (kmeans(v, 16, similarity=similarity, seed=1).labels for v in (vectors, vectors * lengths))
    np.testing.assert_array_equal(first, second)
    third, fourth = (kmeans(v, 16, similarity="euclidean", seed=1).labels for v in (vectors, vectors * lengths))
    assert (third != fourth).any()


@pytest.mark.parametrize("similarity", SIMILARITIES)
def test_separate_blobs_are_found(similarity):
    rng = np.random.default_rng(3)
    blob = np.repeat(np.arange(8), 15)
    points = (10 * np.eye(8)[blob] + 0.2 * rng.normal(size=(120, 8))).astype(np.float32)
    labels = kmeans(points, 8, similarity=similarity, seed=0).labels
    assert adjusted_rand_score(blob, labels) == 1


def test_euclidean_is_as_good_as_scikit_learn(vectors):
    centroids, labels = kmeans(vectors, 20, similarity="euclidean", seed=0, restarts=3)
    inertia = np.square(vectors - centroids[labels]).sum()
    assert inertia < 1.05 * KMeans(20, n_init=3, random_state=0).fit(vectors).inertia_


def test_restarts_keep_the_best(vectors):
    def inertia(restarts):
        centroids, labels = kmeans(vectors, 20, similarity="euclidean", seed=0, restarts=restarts)
        return np.square(vectors - centroids[labels]).sum()

    assert inertia(8) < inertia(1)


@pytest.mark.parametrize("similarity", SIMILARITIES)
def test_the_seed_decides_every_bit(similarity):
    """Enough vectors for faiss to use several threads and blocks."""
    points = np.random.default_rng(4).normal(size=(6000, 24)).astype(np.float32)
    threads = faiss.omp_get_max_threads()
    runs = []
    try:
        for number in (1, 1, 2):
            faiss.omp_set_num_threads(number)
            runs.append(kmeans(points, 32, similarity=similarity, seed=5, iterations=5))
    finally:
        faiss.omp_set_num_threads(threads)
    for run in runs[1:]:
        np.testing.assert_array_equal(run.centroids, runs[0].centroids)
        np.testing.assert_array_equal(run.labels, runs[0].labels)
    assert (kmeans(points, 32, similarity=similarity, seed=6, iterations=5).labels != runs[0].labels).any()


@settings(deadline=None, max_examples=100)
@given(st.data())
def test_no_code_stays_empty_with_enough_distinct_vectors(data):
    """Coarse points, many of them equal, and as many clusters as they can fill."""
    similarity = data.draw(st.sampled_from(SIMILARITIES))
    point = st.tuples(st.integers(-3, 3), st.integers(-3, 3)).filter(any)
    points = np.array(data.draw(st.lists(point, min_size=2, max_size=30)), dtype=np.float32)
    if similarity == "euclidean":
        distinct = {tuple(p) for p in points}
    else:
        distinct = {tuple(np.round(p / np.linalg.norm(p), 4) + 0.0) for p in points}
    seed = data.draw(st.integers(0, 5))
    for num_clusters in {2, len(distinct) // 2, len(distinct)} - {0, 1}:
        if num_clusters > len(distinct):
            with pytest.raises(ValueError, match="set a smaller codebook"):
                kmeans(points, num_clusters, similarity=similarity, seed=seed)
            continue
        labels = kmeans(points, num_clusters, similarity=similarity, seed=seed).labels
        assert len(np.unique(labels)) == num_clusters


def test_unwanted_centroids_move_to_the_farthest_vectors():
    """Two of the four centroids are nobody's: one copies the first, one lies off; two vectors lie far away."""
    points = np.array([[0, 0], [1, 0], [10, 0], [0, 30], [0, 30]], dtype=np.float32)
    centroids = np.array([[0.5, 0], [0.5, 0], [-90, -90], [10, 0]], dtype=np.float32)
    filled, labels = _fill(points, centroids.copy(), None)
    np.testing.assert_array_equal(filled[1], [0, 30])
    np.testing.assert_array_equal(filled[2], [0, 0])
    np.testing.assert_array_equal(labels, [2, 0, 3, 1, 1])


def test_many_unwanted_centroids_move_in_one_round():
    """One by one they would take more rounds than there are."""
    points = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
    labels = _fill(points, np.zeros((40, 3), np.float32), None).labels
    assert sorted(labels) == list(range(40))


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**32 - 1), st.booleans())
def test_codes_after_moves_are_those_of_all_centroids(seed, directions):
    """Points on a grid, with many ties, and centroids of which most are nobody's: only the moved are compared anew."""
    rng = np.random.default_rng(seed)
    points = np.unique(rng.integers(-4, 5, size=(60, 3)), axis=0).astype(np.float32)
    points = points[points.any(axis=1)]
    centroids = np.repeat(rng.choice(points, 3), 6, axis=0)
    norms = None
    if directions:
        norms = np.linalg.norm(points.astype(np.float64), axis=1)
        centroids = _on_norm(centroids, norms.mean())
    centroids, labels = _fill(points, centroids, norms)
    found = [pair_scores(points, centroids[[k]], norms is None) for k in range(len(centroids))]
    np.testing.assert_array_equal(labels, np.argmax(found, axis=0))
    assert len(np.unique(labels)) == 18


def test_a_centroid_without_direction_gets_one(monkeypatch):
    """Directions that cancel out have the mean zero, which no norm can be given to."""
    points = np.array([[2, 0], [-2, 0], [0, 2], [0, -2]], dtype=np.float32)
    monkeypatch.setattr("trainers.clustering._train", lambda *_: np.array([[0, 0], [0, 1]], dtype=np.float32))
    centroids, labels = kmeans(points, 2, similarity="cosine", seed=0)
    np.testing.assert_array_equal(np.linalg.norm(centroids, axis=1), 2)
    assert set(labels) == {0, 1}


def test_zero_vectors_get_the_first_code():
    points = np.concatenate([np.zeros((3, 2)), np.eye(2), -np.eye(2)]).astype(np.float32)
    centroids, labels = kmeans(points, 4, similarity="cosine", seed=0)
    assert np.linalg.norm(centroids, axis=1).min() > 0
    assert labels[:3].tolist() == [0, 0, 0] and set(labels[3:]) == {0, 1, 2, 3}
    with pytest.raises(ValueError, match="only 4 of the documents' vectors are distinct"):
        kmeans(points, 5, similarity="cosine", seed=0)


def test_equal_up_to_the_sign_of_zero_is_not_distinct():
    points = np.array([[0.0, 1.0], [-0.0, 1.0], [2.0, 1.0]], dtype=np.float32)
    with pytest.raises(ValueError, match="only 2 of the documents' vectors are distinct, 3 codes"):
        kmeans(points, 3, similarity="euclidean", seed=0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_clusters": 500}, "400 documents, 500 codes: set a smaller codebook"),
        ({"num_clusters": 1}, "at least 2"),
        ({"similarity": "manhattan"}, "similarity is one of"),
        ({"vectors": np.zeros(12, np.float32)}, "shape"),
        ({"vectors": np.full((400, 12), np.nan, np.float32)}, "nan or infinity"),
        ({"vectors": np.full((400, 12), 1e300)}, "nan or infinity"),
    ],
)
def test_what_cannot_be_clustered_is_an_error(vectors, change, message):
    arguments = {"vectors": vectors, "num_clusters": 16, "similarity": "dot", "seed": 0} | change
    with pytest.raises(ValueError, match=message):
        kmeans(**arguments)


@pytest.mark.parametrize("similarity", SIMILARITIES)
def test_many_vectors_are_clustered_in_parts(similarity, monkeypatch, capfd):
    """Every code is used, labels are the most similar centroids, and the clusters are nearly those of all at once.

    Progress is shown only of what takes long."""
    points = np.random.default_rng(5).normal(size=(3000, 8)).astype(np.float32)

    def closeness(num_clusters=60):
        centroids, labels = kmeans(points, num_clusters, similarity=similarity, seed=1)
        found = scores(points, centroids, similarity)
        np.testing.assert_array_equal(labels, found.argmax(axis=1))
        assert len(np.unique(labels)) == num_clusters
        return found.max(axis=1).mean()

    at_once = closeness()
    assert capfd.readouterr().err == ""
    monkeypatch.setattr("trainers.clustering._MOST_COMPARISONS", 3000 * 60 - 1)
    for room in ("clustering", "nearest"):
        monkeypatch.setattr(f"trainers.{room}.progress_bar", partial(progress_bar, delay=0.0))
    in_parts = closeness()
    shown = capfd.readouterr().err
    assert "k-means in parts" in shown and "nearest centroids" in shown
    assert in_parts != at_once and in_parts == closeness()
    assert in_parts == pytest.approx(at_once, rel=0.05)


def test_parts_of_any_size_are_filled(monkeypatch):
    """Many equal vectors: parts with more centroids than distinct vectors, and parts without any."""
    monkeypatch.setattr("trainers.clustering._MOST_COMPARISONS", 0)
    rng = np.random.default_rng(0)
    points = np.concatenate([np.ones((300, 2)), rng.normal(size=(40, 2))]).astype(np.float32)
    for num_clusters in (2, 9, 41):
        labels = kmeans(points, num_clusters, similarity="euclidean", seed=0).labels
        assert len(np.unique(labels)) == num_clusters


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**32 - 1), st.integers(1, 12), st.booleans())
def test_moves_among_the_farthest_are_moves_among_all(seed, num_candidates, directions):
    points = np.random.default_rng(seed).normal(size=(60, 3)).astype(np.float32)
    norms = np.linalg.norm(points.astype(np.float64), axis=1) if directions else None
    filled = []
    for candidates in (60, num_candidates):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("trainers.clustering._CANDIDATES", candidates)
            filled.append(_fill(points, np.ones((12, 3), np.float32), norms))
    np.testing.assert_array_equal(filled[0].labels, filled[1].labels)
    np.testing.assert_array_equal(filled[0].centroids, filled[1].centroids)


def test_no_matrix_of_all_vectors_and_centroids(monkeypatch):
    """20,000 x 1,000 scores would be 80 MB in float32; vectors, centroids and chunks of scores are less than 20."""
    monkeypatch.setattr("trainers.clustering._MOST_COMPARISONS", 0)
    monkeypatch.setattr("trainers.prototypes._SCORES_IN_MEMORY", 2**19)
    points = np.random.default_rng(0).normal(size=(20_000, 16)).astype(np.float32)
    tracemalloc.start()
    kmeans(points, 1_000, similarity="cosine", seed=0, iterations=2)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20e6


def test_distances_that_no_float32_holds_are_refused():
    """faiss ends the process at them."""
    vectors = np.random.default_rng(0).normal(size=(20, 4)).astype(np.float32) * np.float32(1e25)
    with pytest.raises(ValueError, match="too large for distances: the model diverged"):
        kmeans(vectors, 3, similarity="euclidean", seed=0)
    assert np.isfinite(kmeans(vectors, 3, similarity="cosine", seed=0).centroids).all()

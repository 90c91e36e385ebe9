"""k-means over the corpus's hidden states: a codebook to start from, and the codes that codebook itself assigns."""

from collections.abc import Callable, Iterable
from typing import Literal, NamedTuple

import numpy as np

from .nearest import nearest_centroids
from .progress import progress_bar

_FILLING_ROUNDS = 20
# Vectors x centroids that Lloyd's compares in every iteration; beyond, in parts: a million vectors and 51,200
# centroids would take hours on a CPU.
_MOST_COMPARISONS = 2**28
_SAMPLE_PER_PART = 256
_CANDIDATES = 2**15


class Clustering(NamedTuple):
    """`centroids` `(K, D)` float32 and `labels` `(N,)` int64: the most similar centroid, the lowest of equals."""

    centroids: np.ndarray
    labels: np.ndarray


def kmeans(
    vectors: np.ndarray,
    num_clusters: int,
    *,
    similarity: Literal["cosine", "dot", "euclidean"],
    seed: int,
    iterations: int = 25,
    restarts: int = 1,
) -> Clustering:
    """Cluster by the similarity that later assigns the codes.

    Cosine and dot product are one computation, spherical k-means: all centroids have the mean norm of the vectors, so
    that no centroid wins by its length and both similarities are largest at the same one. No cluster is left empty.
    The result depends on the arguments alone, bit by bit. No matrix of all vectors and centroids is made; where there
    would be more than 2**28 entries and no GPU, Lloyd's clusters the vectors into about `sqrt(K)` parts, and then each
    part on its own, with as many centroids as is its share of the vectors.

    Args:
        vectors: `(N, D)`, used as float32. A zero vector has no direction: for cosine and dot product it gets label 0.
        num_clusters: `K`, at least 2.
        similarity: the codebook's.
        seed: of the k-means++ start.
        iterations: Lloyd's, per restart.
        restarts: independent starts, of which the best is kept.

    Raises:
        ValueError: fewer vectors, or fewer vectors that can be told apart, than clusters; a vector that is not finite,
            or whose squared distances are not; fewer than two clusters; an unknown similarity.
    """

    def train(points: np.ndarray, spherical: bool) -> np.ndarray:
        in_parts = len(points) * num_clusters > _MOST_COMPARISONS and not _has_gpu()
        return (_train_in_parts if in_parts else _train)(points, num_clusters, spherical, seed, iterations, restarts)

    return cluster(vectors, num_clusters, similarity, train)


def cluster(
    vectors: np.ndarray, num_clusters: int, similarity: str, find: Callable[[np.ndarray, bool], np.ndarray]
) -> Clustering:
    """Clusters from the centroids that any method finds, by the similarity that later assigns the codes.

    Args:
        vectors, num_clusters, similarity: see [`kmeans`].
        find: of points `(N, D)` and whether they are directions, to centroids `(K, D)`.
    """
    if similarity not in ("cosine", "dot", "euclidean"):
        raise ValueError(f"similarity is one of cosine, dot and euclidean, not {similarity!r}")
    with np.errstate(over="ignore"):  # what becomes infinite is an error in words
        vectors = np.ascontiguousarray(vectors, dtype=np.float32)
    _check(vectors, num_clusters)
    norms = np.sqrt(np.einsum("nd,nd->n", vectors, vectors, dtype=np.float64))
    if similarity == "euclidean":
        if 4 * norms.max() ** 2 > np.finfo(np.float32).max:
            raise ValueError(f"a vector has the length {norms.max():.0e}, too large for distances: the model diverged")
        _check_distinct(vectors, num_clusters)
        return _fill(vectors, find(vectors, False), None)
    directions = np.divide(vectors, norms[:, None], where=norms[:, None] > 0, out=np.zeros_like(vectors))
    _check_distinct((direction for direction, norm in zip(directions, norms, strict=True) if norm), num_clusters)
    centroids = find(directions, True)
    # Directions that cancel out leave a centroid without one; any will do, for it is moved if nothing prefers it.
    centroids[~centroids.any(axis=1)] = directions[np.argmax(norms)]
    return _fill(vectors, _on_norm(centroids, norms.mean()), norms)


def _check(vectors: np.ndarray, num_clusters: int):
    if vectors.ndim != 2:
        raise ValueError(f"vectors have the shape (documents, dimensions), not {vectors.shape}")
    if num_clusters < 2:
        raise ValueError(f"{num_clusters} codes tell no documents apart: a codebook has at least 2")
    if len(vectors) < num_clusters:
        raise ValueError(f"{len(vectors)} documents, {num_clusters} codes: set a smaller codebook for this corpus")
    if not np.isfinite(vectors).all():
        raise ValueError("some vectors hold nan or infinity: the model diverged, or its precision overflowed")


def _check_distinct(points: Iterable[np.ndarray], num_clusters: int):
    distinct = set()
    for point in points:
        distinct.add((point + 0.0).tobytes())  # -0.0 + 0.0 is 0.0: equal values get equal bytes
        if len(distinct) == num_clusters:
            return
    raise ValueError(
        f"only {len(distinct)} of the documents' vectors are distinct, {num_clusters} codes: set a smaller codebook"
    )


def _has_gpu() -> bool:
    import faiss

    return faiss.get_num_gpus() > 0


def _train_in_parts(
    points: np.ndarray, num_clusters: int, spherical: bool, seed: int, iterations: int, restarts: int
) -> np.ndarray:
    """As [`_train`], in time that grows with `N sqrt(K)`: clusters of the vectors, and in each its own centroids."""
    number = round(num_clusters**0.5)
    sample = points
    if len(points) > _SAMPLE_PER_PART * number:
        sample = points[np.random.default_rng(seed).permutation(len(points))[: _SAMPLE_PER_PART * number]]
    coarse = _train(sample, number, spherical, seed, iterations, restarts)
    labels = nearest_centroids(points, coarse, not spherical)[0]
    counts = np.bincount(labels, minlength=number)
    bounds = np.cumsum(counts)
    # Rounded so that they add up; never more than there are points, for there are no more centroids than points.
    shares = np.diff(bounds * num_clusters // len(points), prepend=0)
    order = np.argsort(labels, kind="stable")
    parts = progress_bar(list(zip(bounds, counts, shares, strict=True)), description="k-means in parts")
    return np.concatenate(
        [
            _train(points[order[end - count : end]], int(share), spherical, seed, iterations, restarts)
            for end, count, share in parts
            if share
        ]
    )


def _train(
    points: np.ndarray, num_clusters: int, spherical: bool, seed: int, iterations: int, restarts: int
) -> np.ndarray:
    """`(K, D)` centroids of faiss, on a GPU where faiss has one."""
    import faiss

    machine = faiss.Kmeans(
        points.shape[1],
        num_clusters,
        niter=iterations,
        nredo=restarts,
        spherical=spherical,
        seed=seed % 2**31,
        # faiss would otherwise train on a sample, and warn of small clusters
        max_points_per_centroid=len(points),
        min_points_per_centroid=1,
        gpu=_has_gpu(),
        init_method=faiss.ClusteringInitMethod_KMEANS_PLUS_PLUS,
    )
    machine.train(points)
    return machine.centroids.copy()


def _fill(vectors: np.ndarray, centroids: np.ndarray, norms: np.ndarray | None) -> Clustering:
    """Assign every vector, moving centroids that no vector prefers to the vectors farthest from theirs.

    `norms` `(N,)` are the vectors', for directions; None stands for Euclidean distance. A moved centroid was nobody's,
    so every move brings vectors closer to their centroid and none farther away: only the moved are compared anew.
    """
    euclidean = norms is None
    slow = len(vectors) * len(centroids) > _MOST_COMPARISONS
    labels, scores = nearest_centroids(vectors, centroids, euclidean, "nearest centroids" if slow else None)
    empty = _unused(labels, len(centroids))
    for _ in range(_FILLING_ROUNDS):
        while len(empty):
            number = _move(centroids, empty, vectors, _closeness(scores, norms), norms)
            moved, empty = empty[:number], empty[number:]
            nearest, found = nearest_centroids(vectors, centroids[moved], euclidean)
            better = (found > scores) | ((found == scores) & (moved[nearest] < labels))
            labels[better], scores[better] = moved[nearest[better]], found[better]
        empty = _unused(labels, len(centroids))
        if not len(empty):
            return Clustering(centroids, labels)
    raise ValueError(
        f"{len(empty)} of {len(centroids)} codes get no document: the vectors are too close together, "
        "set a smaller codebook"
    )


def _unused(labels: np.ndarray, num_clusters: int) -> np.ndarray:
    return np.flatnonzero(np.bincount(labels, minlength=num_clusters) == 0)


def _move(
    centroids: np.ndarray, empty: np.ndarray, vectors: np.ndarray, closeness: np.ndarray, norms: np.ndarray | None
) -> int:
    """Moves the first of the `empty` centroids, each to the vector that is farthest from all centroids by then.

    Only the vectors that are farthest at the start are looked at, while one of them must still be the farthest of all.

    Returns:
        how many were moved, at least one.
    """
    number = max(_CANDIDATES, 4 * len(empty))
    rows, limit = np.arange(len(vectors)), np.inf
    if len(vectors) > number:
        rows = np.sort(np.argpartition(closeness, number)[:number])
        limit = closeness[rows].max()
    candidates, closeness = vectors[rows].astype(np.float64), closeness[rows]
    squares, lengths = np.square(candidates).sum(axis=1), None if norms is None else norms[rows]
    norm = np.linalg.norm(centroids[0].astype(np.float64))
    for moved, cluster in enumerate(empty):
        if moved and closeness.min() >= limit:
            return moved
        farthest = vectors[rows[[np.argmin(closeness)]]]  # (1, D)
        centroids[cluster] = (farthest if norms is None else _on_norm(farthest, norm))[0]
        centroid = centroids[cluster].astype(np.float64)
        scores = np.einsum("nd,d->n", candidates, centroid)
        if norms is None:
            scores = 2 * scores - squares - centroid @ centroid
        closeness = np.maximum(closeness, _closeness(scores, lengths))
    return len(empty)


def _closeness(scores: np.ndarray, norms: np.ndarray | None) -> np.ndarray:
    """Negative squared distances `(n,)`, or cosines times the centroids' norm, infinite for zero vectors."""
    if norms is None:
        return scores
    return np.divide(scores, norms, where=norms > 0, out=np.full(len(scores), np.inf))


def _on_norm(vectors: np.ndarray, norm: float) -> np.ndarray:
    """The float32 vectors `(n, D)`, none of them zero, all scaled to one norm."""
    exact = vectors.astype(np.float64)
    return (exact * (norm / np.linalg.norm(exact, axis=1, keepdims=True))).astype(np.float32)

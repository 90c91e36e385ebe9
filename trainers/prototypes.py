"""The codes of one position as points in the vectors' space: what a code costs a vector, and what it leaves over."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

_SCORES_IN_MEMORY = 2**24


@dataclass
class Prototypes:
    """Points that stand for codes: one for each, or several, of which the nearest decides.

    Attributes:
        points: `(M, D)` float32.
        codes: `(M,)` ascending, the code that each point stands for.
        size: of the codebook; codes without a point are the last ones, if there are any.
        similarity: `cosine` or `euclidean`.
        centres: `(number of codes with points, D)` float32, what a code says of a vector.
    """

    points: np.ndarray
    codes: np.ndarray
    size: int
    similarity: Literal["cosine", "euclidean"]
    centres: np.ndarray

    def costs(self, vectors: np.ndarray) -> np.ndarray:
        """Distance of vectors `(n, D)` to the nearest point of every code: `(n, size)` float64, the squared Euclidean
        one or `1 - cosine`. A code without a point costs as much as the dearest other one."""
        costs = np.empty((len(vectors), self.size))
        starts = np.flatnonzero(np.diff(self.codes, prepend=-1))
        points = self.points.astype(np.float64)
        squares = np.square(points).sum(axis=1)
        for part in chunks(len(vectors), max(self.points.shape)):
            rows = vectors[part].astype(np.float64)
            products = rows @ points.T  # (chunk, M)
            own = np.square(rows).sum(axis=1, keepdims=True)
            if self.similarity == "euclidean":
                distances = own - 2 * products + squares
            else:
                lengths = np.sqrt(own * squares)
                distances = 1 - np.divide(products, lengths, where=lengths > 0, out=np.zeros_like(products))
            if len(starts) < len(points):
                distances = np.minimum.reduceat(distances, starts, axis=1)
            costs[part, : len(starts)] = distances
        if len(starts) < self.size:
            costs[:, len(starts) :] = costs[:, : len(starts)].max(axis=1, keepdims=True)
        return costs

    def assign(self, vectors: np.ndarray) -> np.ndarray:
        """The cheapest code of every vector `(n, D)`: `(n,)` int64, the lowest of equals."""
        codes = np.empty(len(vectors), dtype=np.int64)
        for part in chunks(len(vectors), self.size):
            codes[part] = self.costs(vectors[part]).argmin(axis=1)
        return codes

    def residuals(self, vectors: np.ndarray, codes: np.ndarray) -> np.ndarray:
        """What codes `(n,)` leave over of vectors `(n, D)`: `(n, D)` float32. With cosine a code is a direction, of
        which a vector has as much as its projection."""
        centres = self.centres[codes]
        if self.similarity == "cosine":
            lengths = np.linalg.norm(centres, axis=1, keepdims=True)
            centres = np.divide(centres, lengths, out=np.zeros_like(centres), where=lengths > 0)
            centres = centres * np.sum(vectors * centres, axis=1, keepdims=True)
        return vectors - centres


def lloyd(points: np.ndarray, vectors: np.ndarray, similarity: str, iterations: int) -> Prototypes:
    """Lloyd's iterations from points `(K, D)` over vectors `(N, D)`: one point per code, and the means as centres.

    A point that no vector prefers stays where it is.
    """
    size, labels = len(points), None
    for _ in range(iterations + 1):
        prototypes = Prototypes(points, np.arange(size), size, similarity, points)
        before, labels = labels, prototypes.assign(vectors)
        used = np.bincount(labels, minlength=size) > 0
        prototypes.centres = points = np.where(used[:, None], cluster_means(vectors, labels, size), points)
        if before is not None and (before == labels).all():
            break
    return prototypes


def cluster_means(vectors: np.ndarray, labels: np.ndarray, size: int) -> np.ndarray:
    """Means `(size, D)` float32 of the vectors `(N, D)` with each label; zero for a label without any."""
    order = np.argsort(labels, kind="stable")
    counts = np.bincount(labels, minlength=size)
    used = np.flatnonzero(counts)
    means = np.zeros((size, vectors.shape[1]))
    starts = np.cumsum(counts)[used] - counts[used]
    means[used] = np.add.reduceat(vectors[order], starts, axis=0, dtype=np.float64) / counts[used, None]
    return means.astype(np.float32)


def chunks(number: int, width: int) -> Iterator[slice]:
    """Slices of `number` rows, so that `width` scores of each fit into memory."""
    step = max(1, _SCORES_IN_MEMORY // width)
    return (slice(begin, begin + step) for begin in range(0, number, step))

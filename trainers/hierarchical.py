"""Hierarchical clustering: k-means of all documents, then k-means inside every cluster (DSI, Tay et al., 2022)."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from .prototypes import Prototypes
from .two_stage import Codebooks, KMeansIndexer


class TreeCodebooks(Codebooks):
    """Every prefix has codes of its own.

    Args:
        nodes: the codes after every prefix, a tuple of codes.
        sizes: of the codebooks.
    """

    def __init__(self, nodes: dict[tuple[int, ...], Prototypes], sizes: list[int]):
        self.nodes, self.sizes = nodes, list(sizes)

    def costs(self, encoded: np.ndarray, prefixes: np.ndarray) -> np.ndarray:
        """See the base class. In a small cluster codes without a centroid cost as much as the dearest other one;
        after a prefix that no document has all codes are as good."""
        costs = np.zeros((len(encoded), self.sizes[prefixes.shape[1]]))
        for prefix, rows in groups(prefixes):
            if prefix in self.nodes:
                costs[rows] = self.nodes[prefix].costs(encoded[rows])
        return costs


def fit_tree(
    vectors: np.ndarray, sizes: list[int], cluster: Callable[[int, np.ndarray, int], Prototypes]
) -> TreeCodebooks:
    """Clusters all vectors `(N, D)`, then what falls into each cluster, and so on.

    Args:
        vectors: `(N, D)`.
        sizes: of the codebooks. In a cluster that has no more distinct vectors than codes, each gets one of its own.
        cluster: of a position, from 0, some of the vectors and its size.
    """
    nodes: dict[tuple[int, ...], Prototypes] = {}
    codes = np.empty((len(vectors), len(sizes)), dtype=np.int64)
    for position, size in enumerate(sizes):
        for prefix, rows in groups(codes[:, :position]):
            own = vectors[rows]
            distinct = distinct_rows(own, size)
            if position and len(distinct) <= size:
                node = Prototypes(own[distinct], np.arange(len(distinct)), size, "euclidean", own[distinct])
            else:
                node = cluster(position, own, size)
            nodes[prefix] = node
            codes[rows, position] = node.assign(own)
    return TreeCodebooks(nodes, sizes)


def groups(prefixes: np.ndarray) -> list[tuple[tuple[int, ...], np.ndarray]]:
    """The distinct rows of `prefixes` `(n, position)`, each with the numbers of the rows that equal it."""
    if not len(prefixes):
        return []
    if not prefixes.shape[1]:
        return [((), np.arange(len(prefixes)))]
    distinct, number, counts = np.unique(prefixes, axis=0, return_inverse=True, return_counts=True)
    rows = np.split(np.argsort(number.reshape(-1), kind="stable"), np.cumsum(counts)[:-1])
    return list(zip(map(tuple, distinct.tolist()), rows, strict=True))


def distinct_rows(vectors: np.ndarray, limit: int) -> np.ndarray:
    """The first row of each distinct vector of `(n, D)`, in order, up to the one after `limit`."""
    seen: dict[bytes, int] = {}
    for row, vector in enumerate(vectors):
        seen.setdefault((vector + 0.0).tobytes(), row)  # -0.0 + 0.0 is 0.0
        if len(seen) > limit:
            break
    return np.array(list(seen.values()))


@dataclass
class HierarchicalKMeans(KMeansIndexer):
    """A tree of k-means: the HC indexer."""

    def fit_codebooks(self, vectors: np.ndarray, sizes: list[int], seed: int) -> TreeCodebooks:
        """See the base class."""
        return fit_tree(vectors, sizes, partial(self.kmeans, seed=seed))

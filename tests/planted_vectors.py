"""Vectors with clusters inside clusters, for the two-stage indexers."""

import numpy as np

TOPICS, KINDS = 4, 3


def planted_vectors(documents_of_each: int = 10, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Vectors `(N, 16)` float32 of 4 topics and, across them, of 3 kinds, in random order; and these labels `(N,)`.

    Topics lie far apart in the first 8 dimensions, kinds close together in the last 8.
    """
    rng = np.random.default_rng(seed)
    shape = (TOPICS, KINDS, documents_of_each)
    topics, kinds = (rng.permutation(np.stack([part.ravel() for part in np.indices(shape)[:2]], 1))).T
    topic_of, kind_of = np.eye(8)[2 : 2 + TOPICS], 0.3 * np.eye(8)[4 : 4 + KINDS]
    vectors = np.hstack([topic_of[topics], kind_of[kinds]]) + 0.01 * rng.normal(size=(len(topics), 16))
    return vectors.astype(np.float32), topics, kinds


def same_partition(first: np.ndarray, second: np.ndarray) -> bool:
    """Whether two labellings `(N,)` differ by the names of their labels only."""
    pairs = len({*zip(first.tolist(), second.tolist(), strict=True)})
    return pairs == len(set(first.tolist())) == len(set(second.tolist()))

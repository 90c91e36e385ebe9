"""Whether documents that an independent encoder finds alike share their codes."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from .groups import merge

_ROWS_AT_ONCE = 2**16


class NeighbourAgreement(NamedTuple):
    """`share` `(depths,)`: share of a document's nearest neighbours that have the same first 1, 2, .. codes, in the
    mean over the documents asked. `chance` `(depths,)`: the same, expected when codes of the same frequencies are
    dealt out at random. `share - chance` and `share / chance` compare methods whose groups differ in size."""

    share: np.ndarray
    chance: np.ndarray


def neighbour_agreement(
    codes: np.ndarray, vectors: np.ndarray, *, neighbours: int = 10, queries: int = 1000, seed: int = 0
) -> NeighbourAgreement:
    """Share of a document's nearest neighbours, by cosine, that share its prefix, at every depth.

    The search is exact and reads the vectors piece by piece: they may be a memory map.

    Args:
        codes: `(N, depths)`, or `(N,)` of one position.
        vectors: `(N, D)`, of an encoder that the codes were not made from. A document whose vector is zero is not
            asked.
        neighbours: of each document, without itself.
        queries: documents asked, drawn without replacement; all if there are fewer. The standard error of a share is
            below `0.5 / sqrt(queries)`.
        seed: of the draw.

    Raises:
        ValueError: the lengths differ; no more documents than neighbours; no queries; a vector that is not finite.
    """
    codes = np.asarray(codes)
    codes = codes.reshape(len(codes), codes.shape[1] if codes.ndim > 1 else 1)
    _check(codes, vectors, neighbours, queries)
    asked = np.sort(np.random.default_rng(seed).permutation(_with_direction(vectors))[:queries])
    nearest = _nearest(vectors, asked, neighbours)  # (queries, neighbours)
    share, chance = [], []
    prefix = np.zeros(len(codes), dtype=np.int64)
    for position in codes.T:
        prefix = merge(prefix, position)
        size = np.bincount(prefix).astype(np.float64)
        share.append((prefix[nearest] == prefix[asked, None]).mean())
        chance.append((size * (size - 1)).sum() / (len(codes) * (len(codes) - 1)))
    return NeighbourAgreement(np.array(share), np.array(chance))


def _check(codes: np.ndarray, vectors: np.ndarray, neighbours: int, queries: int):
    if vectors.ndim != 2 or len(vectors) != len(codes):
        raise ValueError(f"{len(codes)} documents have codes, but the vectors have the shape {vectors.shape}")
    if not 0 < neighbours < len(codes):
        raise ValueError(f"{len(codes)} documents have no {neighbours} neighbours each: ask for fewer, at least 1")
    if queries < 1:
        raise ValueError(f"{queries} queries: ask for at least one document")


def _parts(number: int) -> Iterator[slice]:
    return (slice(begin, min(begin + _ROWS_AT_ONCE, number)) for begin in range(0, number, _ROWS_AT_ONCE))


def _with_direction(vectors: np.ndarray) -> np.ndarray:
    """Rows of the vectors that are not zero, once all are seen to be finite."""
    norms = np.concatenate([np.linalg.norm(vectors[part], axis=1) for part in _parts(len(vectors))])
    wrong = np.flatnonzero(~np.isfinite(norms))
    if len(wrong):
        raise ValueError(f"{len(wrong)} vectors hold nan or infinity, row {wrong[0]} first: leave them out")
    rows = np.flatnonzero(norms)
    if not len(rows):
        raise ValueError(f"all {len(vectors)} vectors are zero: none has a nearest neighbour")
    return rows


def _nearest(vectors: np.ndarray, asked: np.ndarray, neighbours: int) -> np.ndarray:
    """`(queries, neighbours)` rows of the vectors closest to those `asked` `(queries,)`, which are not their own."""
    import faiss

    directions = _directions(vectors[asked])
    best = faiss.ResultHeap(len(asked), neighbours + 1, keep_max=True)
    for part in _parts(len(vectors)):
        found = min(neighbours + 1, part.stop - part.start)
        result = faiss.knn(directions, _directions(vectors[part]), found, metric=faiss.METRIC_INNER_PRODUCT)
        best.add_result(result[0], result[1] + part.start)
    best.finalize()
    own = best.I == asked[:, None]
    # Among more equal vectors than there are neighbours, a document need not find itself.
    own[~own.any(axis=1), -1] = True
    return best.I[~own].reshape(len(asked), neighbours)


def _directions(vectors: np.ndarray) -> np.ndarray:
    """The vectors on unit length, float32; zero ones stay, at a cosine of 0 to all."""
    vectors = np.asarray(vectors, dtype=np.float32)
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.where(norms > 0, norms, 1)

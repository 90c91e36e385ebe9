"""Residual k-means: every position clusters what the positions before it leave over (RQ-KMeans)."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from .cluster_inputs import on_unit_length
from .prototypes import Prototypes
from .two_stage import Codebooks, KMeansIndexer


class ResidualCodebooks(Codebooks):
    """One codebook per position, all documents sharing it.

    Args:
        levels: the codes of every position.
        unit_residuals: whether what is left over is put on unit length before the next position.
    """

    def __init__(self, levels: list[Prototypes], unit_residuals: bool = False):
        self.levels, self.unit_residuals = levels, unit_residuals
        self.sizes = [level.size for level in levels]

    def costs(self, encoded: np.ndarray, prefixes: np.ndarray) -> np.ndarray:
        """See the base class."""
        residuals = encoded
        for level, codes in zip(self.levels, prefixes.T, strict=False):
            residuals = self.left_over(level, residuals, codes)
        return self.levels[prefixes.shape[1]].costs(residuals)

    def left_over(self, level: Prototypes, vectors: np.ndarray, codes: np.ndarray) -> np.ndarray:
        """What the next position sees of vectors `(n, D)` that got codes `(n,)`."""
        residuals = level.residuals(vectors, codes)
        return on_unit_length(residuals) if self.unit_residuals else residuals


def fit_residuals(
    vectors: np.ndarray,
    sizes: list[int],
    cluster: Callable[[int, np.ndarray, int], Prototypes],
    unit_residuals: bool = False,
) -> ResidualCodebooks:
    """Codebooks of what is left over, one after the other.

    Args:
        vectors: `(N, D)`.
        sizes: of the codebooks.
        cluster: of a position, from 0, its vectors and its size.
        unit_residuals: see [`ResidualCodebooks`].
    """
    codebooks = ResidualCodebooks([], unit_residuals)
    for position, size in enumerate(sizes):
        if position:
            level = codebooks.levels[-1]
            vectors = codebooks.left_over(level, vectors, level.assign(vectors))
        codebooks.levels.append(cluster(position, vectors, size))
    codebooks.sizes = list(sizes)
    return codebooks


@dataclass
class ResidualKMeans(KMeansIndexer):
    """k-means at the first position, k-means of the residuals at the later ones.

    Attributes:
        unit_residuals: whether residuals are put on unit length: more distinct codes, which say less of the document.
    """

    unit_residuals: bool = False

    def fit_codebooks(self, vectors: np.ndarray, sizes: list[int], seed: int) -> ResidualCodebooks:
        """See the base class."""
        return fit_residuals(vectors, sizes, partial(self.kmeans, seed=seed), self.unit_residuals)

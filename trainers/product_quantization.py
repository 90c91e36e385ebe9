"""Product quantisation: every position clusters its own slice of the vector (Jégou, Douze and Schmid, 2011)."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from .cluster_inputs import leading_components
from .prototypes import Prototypes
from .two_stage import Codebooks, KMeansIndexer


class SlicedCodebooks(Codebooks):
    """A codebook per slice of the (rotated) vector.

    Args:
        levels: the codes of every slice.
        mean, rotation: `(D,)` and `(D, D)`, what happens to a vector before it is cut; None for nothing.
    """

    def __init__(self, levels: list[Prototypes], mean: np.ndarray | None, rotation: np.ndarray | None):
        self.levels, self.mean, self.rotation = levels, mean, rotation
        self.sizes = [level.size for level in levels]

    def encode(self, vectors: np.ndarray) -> np.ndarray:
        """The rotated vectors."""
        return vectors if self.rotation is None else (vectors - self.mean) @ self.rotation.T

    def costs(self, encoded: np.ndarray, prefixes: np.ndarray) -> np.ndarray:
        """See the base class."""
        position = prefixes.shape[1]
        return self.levels[position].costs(np.array_split(encoded, len(self.levels), axis=1)[position])


@dataclass
class ProductQuantization(KMeansIndexer):
    """k-means of consecutive slices of the vector.

    Attributes:
        similarity: of the slices; their lengths are part of the distance.
        rotation: `components` turns the vectors so that the first slice has the leading principal components: codes
            from coarse to fine; `none` cuts them as they are.
    """

    similarity: Literal["cosine", "euclidean"] = "euclidean"
    rotation: Literal["components", "none"] = "components"

    def __post_init__(self):
        super().__post_init__()
        if self.rotation not in ("components", "none"):
            raise ValueError(f"rotation is components or none, not {self.rotation!r}")

    def fit_codebooks(self, vectors: np.ndarray, sizes: list[int], seed: int) -> SlicedCodebooks:
        """See the base class."""
        width = vectors.shape[1]
        if width < len(sizes):
            raise ValueError(f"vectors of {width} dimensions have no slice for each of {len(sizes)} positions")
        codebooks = SlicedCodebooks([], None, None)
        if self.rotation == "components":
            codebooks.mean = vectors.mean(axis=0, dtype=np.float64).astype(np.float32)
            codebooks.rotation = leading_components(vectors - codebooks.mean, width)
        slices = np.array_split(codebooks.encode(vectors), len(sizes), axis=1)
        for position, (part, size) in enumerate(zip(slices, sizes, strict=True)):
            codebooks.levels.append(self.kmeans(position, part, size, seed))
        codebooks.sizes = list(sizes)
        return codebooks

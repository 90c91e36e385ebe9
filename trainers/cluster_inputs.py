"""What a two-stage indexer clusters: embeddings on one length or as they are, with or without the documents' words.

Joining the words to the embedding (unit vectors side by side, the words' weighted) is a control: it gives a clusterer
the content words that an indexer reconstructs.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from .tfidf import TfidfProjection


@dataclass
class ClusterInputs:
    """How embeddings become the vectors that are clustered.

    Attributes:
        normalization: `unit` length; `centred`: the corpus's mean subtracted, then unit length; `raw`: lengths stay,
            in units of their mean.
        removed_components: leading principal components taken out, after centring.
        tfidf_weight: length of the words' vector beside the embedding's 1; 0 leaves the words out.
        tfidf_size: dimensions of the words' vector.
    """

    normalization: Literal["unit", "centred", "raw"] = "unit"
    removed_components: int = 0
    tfidf_weight: float = 0.0
    tfidf_size: int = 256

    def __post_init__(self):
        if self.normalization not in ("unit", "centred", "raw"):
            raise ValueError(f"normalization is one of unit, centred and raw, not {self.normalization!r}")
        if self.removed_components < 0 or self.tfidf_weight < 0 or self.tfidf_size < 1:
            raise ValueError(
                f"removed_components={self.removed_components} and tfidf_weight={self.tfidf_weight} cannot be "
                f"negative, and tfidf_size={self.tfidf_size} is at least 1"
            )

    def fit(
        self,
        vectors: np.ndarray,
        seed: int,
        texts: Sequence[str] | None = None,
        excluded_texts: Sequence[str] | None = None,
    ) -> "FittedInputs":
        """Learns mean, components and word weights from the corpus; see [`TfidfProjection`] for the texts.

        Raises:
            ValueError: vectors that are not `(N, D)` and finite; texts that are missing, or another number of them.
        """
        if vectors.ndim != 2 or not len(vectors) or not np.isfinite(vectors).all():
            raise ValueError(f"expected finite vectors (documents, dimensions), got an array of shape {vectors.shape}")
        words = None
        if self.tfidf_weight:
            _check_texts(texts, vectors)
            words = TfidfProjection(texts, seed, size=self.tfidf_size, excluded_texts=excluded_texts)
        length = float(np.linalg.norm(vectors, axis=1).mean(dtype=np.float64)) or 1.0
        fitted = FittedInputs(self, length, None, None, words)
        scaled = fitted.scaled(vectors)
        if self.normalization == "centred" or self.removed_components:
            fitted.mean = scaled.mean(axis=0, dtype=np.float64).astype(np.float32)
            fitted.components = leading_components(scaled - fitted.mean, self.removed_components)
        return fitted


@dataclass
class FittedInputs:
    """What [`ClusterInputs`] learned from a corpus: `length` of its vectors, `mean` `(D,)`, `components` `(p, D)`."""

    settings: ClusterInputs
    length: float
    mean: np.ndarray | None
    components: np.ndarray | None
    words: TfidfProjection | None

    def __call__(
        self, vectors: np.ndarray, texts: Sequence[str] | None = None, excluded_texts: Sequence[str] | None = None
    ) -> np.ndarray:
        """The vectors to cluster, `(n, D)` or, with words, `(n, D + tfidf_size)`, float32."""
        vectors = self.scaled(vectors)
        if self.mean is not None:
            vectors = vectors - self.mean
            vectors -= (vectors @ self.components.T) @ self.components
            if self.settings.normalization != "raw":
                vectors = on_unit_length(vectors)
        if self.words is None:
            return vectors
        _check_texts(texts, vectors)
        return np.hstack([vectors, np.float32(self.settings.tfidf_weight) * self.words(texts, excluded_texts)])

    def scaled(self, vectors: np.ndarray) -> np.ndarray:
        """Vectors `(n, D)` float32 on unit length, or in units of their mean length."""
        vectors = np.ascontiguousarray(vectors, dtype=np.float32)
        if self.settings.normalization == "raw":
            return vectors / np.float32(self.length)
        return on_unit_length(vectors)


def on_unit_length(vectors: np.ndarray) -> np.ndarray:
    """Rows `(n, D)` divided by their lengths; zero rows stay zero."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.divide(vectors, lengths, out=np.zeros_like(vectors), where=lengths > 0)


def leading_components(centred: np.ndarray, number: int) -> np.ndarray:
    """The `number` directions of the largest variance of vectors `(N, D)` whose mean is 0: `(number, D)` float32.

    Each is turned so that its largest entry is positive: the sign of an eigenvector is anyone's choice.
    """
    exact = centred.astype(np.float64)
    directions = np.linalg.eigh(exact.T @ exact)[1][:, ::-1].T[:number]
    largest = np.take_along_axis(directions, np.abs(directions).argmax(axis=1)[:, None], axis=1)
    return (directions * np.sign(largest)).astype(np.float32)


def _check_texts(texts: Sequence[str] | None, vectors: np.ndarray):
    if texts is None or len(texts) != len(vectors):
        found = "no texts" if texts is None else f"{len(texts)} texts"
        raise ValueError(f"{len(vectors)} vectors and {found}: the words' part (tfidf_weight) needs one for each")

"""The interface of two-stage indexers: embeddings first, then a quantiser that turns them into codes.

An indexer is a small dataclass of settings with one method:

```python
>>> from trainers.residual_kmeans import ResidualKMeans
>>> vectors = np.repeat(np.eye(4, dtype=np.float32), 3, axis=0)
>>> assignment = ResidualKMeans().fit(vectors, sizes=[4], seed=0)
>>> index_of(list(range(12)), assignment.codes, assignment.sizes, room=8)
SemanticIndex(12 documents, 4 x 8 codes)

```
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from modeling_lmindexer import SemanticIndex

from .cluster_inputs import ClusterInputs, FittedInputs
from .clustering import kmeans
from .prototypes import Prototypes, chunks


class Codebooks(ABC):
    """What a fitted indexer knows: how much every code of a position costs a document after a prefix.

    Attributes:
        sizes: of the codebooks, `T` of them.
    """

    sizes: list[int]

    def encode(self, vectors: np.ndarray) -> np.ndarray:
        """The vectors `(n, D)` as [`~Codebooks.costs`] takes them; the same unless the indexer learned an encoder."""
        return vectors

    @abstractmethod
    def costs(self, encoded: np.ndarray, prefixes: np.ndarray) -> np.ndarray:
        """`(n, K)` float64 at the position after `prefixes` `(n, position)`, of encoded vectors `(n, D)`."""

    def assign(self, encoded: np.ndarray) -> np.ndarray:
        """The cheapest code after the codes before it, position by position: `(n, T)` int64; of equals the lowest."""
        codes = np.empty((len(encoded), len(self.sizes)), dtype=np.int64)
        for position, size in enumerate(self.sizes):
            for part in chunks(len(encoded), size):
                codes[part, position] = self.costs(encoded[part], codes[part, :position]).argmin(axis=1)
        return codes


@dataclass
class CodeAssignment:
    """The codes that an indexer gave a corpus, and would give other documents.

    Attributes:
        codes: `(N, T)` int64.
        encoded: `(N, D)`, what the codes were read off.
        codebooks, inputs: what was fitted.
    """

    codes: np.ndarray
    encoded: np.ndarray
    codebooks: Codebooks
    inputs: FittedInputs

    @property
    def sizes(self) -> list[int]:
        """Of the codebooks."""
        return self.codebooks.sizes

    def costs(self, position: int, rows: np.ndarray, prefixes: np.ndarray) -> np.ndarray:
        """What every code of a position costs some of the fitted documents; the cheapest one is their code.

        Args:
            position: from 0.
            rows: `(n,)` documents.
            prefixes: `(n, position)` codes before it.

        Returns:
            `(n, K)` float64.

        Raises:
            ValueError: a position there is not; prefixes of another shape.
        """
        if not 0 <= position < len(self.sizes) or np.shape(prefixes) != (len(rows), position):
            raise ValueError(
                f"position {position} of {len(self.sizes)} needs prefixes of shape {(len(rows), position)}, "
                f"not {np.shape(prefixes)}"
            )
        return self.codebooks.costs(self.encoded[rows], np.asarray(prefixes))

    def assign(
        self, vectors: np.ndarray, texts: Sequence[str] | None = None, excluded_texts: Sequence[str] | None = None
    ) -> np.ndarray:
        """Codes `(n, T)` of documents that need not have been there when the indexer was fitted; texts as there."""
        return self.codebooks.assign(self.codebooks.encode(self.inputs(vectors, texts, excluded_texts)))


@dataclass
class TwoStageIndexer(ABC):
    """Base of the indexers: a dataclass of settings, of which [`ClusterInputs`] are common to all.

    Attributes:
        inputs: what of a document is clustered.
    """

    inputs: ClusterInputs = field(default_factory=ClusterInputs, kw_only=True)

    @abstractmethod
    def fit_codebooks(self, vectors: np.ndarray, sizes: list[int], seed: int) -> Codebooks:
        """Codebooks of the given sizes for vectors `(N, D)` float32."""

    def fit(
        self,
        vectors: np.ndarray,
        sizes: Sequence[int],
        seed: int,
        texts: Sequence[str] | None = None,
        excluded_texts: Sequence[str] | None = None,
    ) -> CodeAssignment:
        """Gives every document of a corpus its codes. The same arguments give the same codes, bit by bit.

        Args:
            vectors: `(N, D)` embeddings.
            sizes: of the codebooks, coarse to fine.
            seed: of everything random.
            texts: `N` texts, needed where their words are joined to the embeddings.
            excluded_texts: `N` texts, such as the brands, whose words do not count in their document.

        Raises:
            ValueError: sizes below 2; vectors that are too few, too equal or not finite.
        """
        sizes = [int(size) for size in sizes]
        if not sizes or min(sizes) < 2:
            raise ValueError(f"expected one size of at least 2 per position, got {sizes}")
        inputs = self.inputs.fit(vectors, seed, texts, excluded_texts)
        prepared = inputs(vectors, texts, excluded_texts)
        codebooks = self.fit_codebooks(prepared, sizes, seed)
        encoded = codebooks.encode(prepared)
        return CodeAssignment(codebooks.assign(encoded), encoded, codebooks, inputs)


@dataclass
class KMeansIndexer(TwoStageIndexer):
    """Base of the indexers that are made of k-means.

    Attributes:
        similarity: what the first position compares by; later ones are Euclidean.
        restarts: independent starts of each k-means, of which the best is kept: a rival is to lose by its idea, not by
            an unlucky start.
        iterations: Lloyd's, per start.
    """

    similarity: Literal["cosine", "euclidean"] = "cosine"
    restarts: int = 3
    iterations: int = 25

    def __post_init__(self):
        if self.similarity not in ("cosine", "euclidean"):
            raise ValueError(f"similarity is cosine or euclidean, not {self.similarity!r}")

    def kmeans(self, position: int, vectors: np.ndarray, size: int, seed: int) -> Prototypes:
        """One point per code; raises what [`trainers.clustering.kmeans`] raises."""
        similarity = "euclidean" if position else self.similarity
        centroids = kmeans(
            vectors, size, similarity=similarity, seed=seed + position, iterations=self.iterations,
            restarts=self.restarts,
        ).centroids  # fmt: skip
        return Prototypes(centroids, np.arange(size), size, similarity, centroids)


def index_of(
    document_ids: Sequence, codes: np.ndarray, sizes: Sequence[int], room: int | None = None
) -> SemanticIndex:
    """The codes as an index that search, fine-tuning and saving take.

    Args:
        document_ids: `N` ids.
        codes: `(N, T)`.
        sizes: of the codebooks.
        room: of the disambiguation position, which counts documents that share all codes; it grows to the largest
            group, and that is the default.
    """
    largest = int(np.unique(codes, axis=0, return_counts=True)[1].max(initial=1))
    return SemanticIndex.from_codes(document_ids, codes, [*sizes, max(largest, room or 1)])

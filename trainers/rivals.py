"""The indexers that learned IDs are compared with, by name; and those among them that need no embeddings."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np

from .hierarchical import HierarchicalKMeans
from .micro_clusters import MicroClusters
from .product_quantization import ProductQuantization
from .residual_kmeans import ResidualKMeans
from .rq_vae import RQVAEIndexer
from .tfidf import TfidfProjection
from .two_stage import Codebooks, TwoStageIndexer


class RandomCodebooks(Codebooks):
    """Codes drawn at random, one row after the other; the "vectors" are the codes drawn.

    Args:
        sizes: of the codebooks.
        seed: of the draws.
    """

    def __init__(self, sizes: Sequence[int], seed: int):
        self.sizes = list(sizes)
        self._rng = np.random.default_rng(seed)

    def encode(self, vectors: np.ndarray) -> np.ndarray:
        """New codes `(n, T)` for `n` documents, whatever their vectors: not the same if called again."""
        return self._rng.integers(0, np.array(self.sizes, dtype=np.int64), size=(len(vectors), len(self.sizes)))

    def costs(self, encoded: np.ndarray, prefixes: np.ndarray) -> np.ndarray:
        """0 for the code drawn, 1 for all others, which are as good."""
        position = prefixes.shape[1]
        return (encoded[:, [position]] != np.arange(self.sizes[position])).astype(np.float64)


@dataclass
class RandomIDs(TwoStageIndexer):
    """Codes that say nothing of a document: what chance and the shape of the IDs give."""

    def fit_codebooks(self, vectors: np.ndarray, sizes: list[int], seed: int) -> RandomCodebooks:
        """See the base class."""
        return RandomCodebooks(sizes, seed)


INDEXERS = {
    "rq-vae": RQVAEIndexer,
    "hc": HierarchicalKMeans,
    "residual-kmeans": ResidualKMeans,
    "micro": MicroClusters,
    "pq": ProductQuantization,
    "random": RandomIDs,
}


def make_indexer(name: str, settings: dict) -> TwoStageIndexer:
    """A rival by its name: one of [`INDEXERS`], or `ward`: [`MicroClusters`] of the documents themselves.

    Raises:
        ValueError: an unknown name, or a setting that the indexer does not have.
    """
    if name == "ward":
        name, settings = "micro", {"share": 1.0, **settings}
    if name not in INDEXERS:
        raise ValueError(f"unknown method {name!r}: expected one of {', '.join([*INDEXERS, 'ward'])}")
    known = {field.name for field in fields(INDEXERS[name])}
    unknown = sorted(settings.keys() - known)
    if unknown:
        raise ValueError(f"{name} has no setting {', '.join(unknown)}: it has {', '.join(sorted(known))}")
    defaults = INDEXERS[name]()
    for setting, value in settings.items():
        default = getattr(defaults, setting)
        # True is an int to Python, and 1 a fine float to us.
        if type(value) is not type(default) and not (type(default) is float and type(value) is int):
            raise ValueError(f"{name}: {setting}={value!r} is no {type(default).__name__}, such as {default!r}")
    return INDEXERS[name](**settings)


def random_codes(num_documents: int, codebook_sizes: Sequence[int], seed: int) -> np.ndarray:
    """`(N, T)` int64, each code uniform over its codebook."""
    return RandomCodebooks(codebook_sizes, seed).encode(np.empty((num_documents, 0)))


def distinct_random_codes(num_documents: int, codebook_sizes: Sequence[int], seed: int) -> np.ndarray:
    """As [`random_codes`], but no two documents get the same codes.

    Raises:
        ValueError: more documents than IDs.
    """
    if num_documents > math.prod(codebook_sizes):
        raise ValueError(f"{num_documents:,} documents, but only {math.prod(codebook_sizes):,} IDs to give them.")
    codes = random_codes(num_documents, codebook_sizes, seed)
    # As many positions as can be numbered: no two documents share these codes.
    depth = max(d for d in range(1, len(codebook_sizes) + 1) if d == 1 or math.prod(codebook_sizes[:d]) < 2**62)
    shape = tuple(codebook_sizes[:depth])
    numbers = np.random.default_rng(seed).choice(math.prod(shape), size=num_documents, replace=False)
    codes[:, :depth] = np.stack(np.unravel_index(numbers, shape), axis=1)
    return codes


def tfidf_kmeans_codes(texts: Sequence[str], codebook_sizes: Sequence[int], seed: int) -> np.ndarray:
    """Residual k-means of the documents' words: no neural network, no training.

    Args:
        texts: `N` documents; see [`TfidfProjection`].
        codebook_sizes: `T` sizes.
        seed: of the projection and of the clusterings.

    Returns:
        `(N, T)` int64 codes.

    Raises:
        ValueError: fewer documents, or fewer distinct ones, than a codebook has codes; documents without any word.
    """
    return ResidualKMeans().fit(TfidfProjection(texts, seed)(texts), codebook_sizes, seed).codes

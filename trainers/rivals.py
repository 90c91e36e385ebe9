"""Codes that no language model learned, to compare the learned ones with: same positions, same codebook sizes."""

from collections.abc import Sequence

import numpy as np

from .clustering import kmeans

_PROJECTION_SIZE = 256
# A rival is to lose by its idea, not by an unlucky start.
_RESTARTS = 3


def random_codes(num_documents: int, codebook_sizes: Sequence[int], seed: int) -> np.ndarray:
    """`(N, T)` int64, each code uniform over its codebook."""
    rng = np.random.default_rng(seed)
    return rng.integers(0, np.array(codebook_sizes, dtype=np.int64), size=(num_documents, len(codebook_sizes)))


def tfidf_kmeans_codes(texts: Sequence[str], codebook_sizes: Sequence[int], seed: int) -> np.ndarray:
    """Residual k-means of the documents' words: no neural network, no training.

    TF-IDF with logarithmic counts, projected by a truncated SVD (latent semantic analysis), on unit length. The first
    position clusters by cosine, each later one clusters by Euclidean distance what the centroids so far leave over.

    Args:
        texts: `N` documents, in any language that puts something between its words.
        codebook_sizes: `T` sizes.
        seed: of the projection and of the clusterings.

    Returns:
        `(N, T)` int64 codes.

    Raises:
        ValueError: fewer documents, or fewer distinct ones, than a codebook has codes; documents without any word.
    """
    residual = _projection(texts, seed)  # (N, D)
    codes = []
    for position, size in enumerate(codebook_sizes):
        similarity = "euclidean" if position else "cosine"
        centroids, labels = kmeans(residual, size, similarity=similarity, seed=seed + position, restarts=_RESTARTS)
        nearest = centroids[labels]
        if not position:
            nearest /= np.linalg.norm(nearest, axis=1, keepdims=True)
            nearest *= np.sum(residual * nearest, axis=1, keepdims=True)
        residual = residual - nearest
        codes.append(labels)
    return np.stack(codes, axis=1)


def _projection(texts: Sequence[str], seed: int) -> np.ndarray:
    """`(N, D)` float32 rows of unit length, zero for a document none of whose words count."""
    from sklearn.decomposition import TruncatedSVD
    from sklearn.preprocessing import normalize

    weights = _tfidf(texts)
    components = min(_PROJECTION_SIZE, *weights.shape)
    with np.errstate(invalid="ignore"):  # it also divides by the variance, which is 0 for equal documents
        projected = TruncatedSVD(components, random_state=seed).fit_transform(weights)
    return normalize(projected).astype(np.float32)


def _tfidf(texts: Sequence[str]):
    """Sparse `(N, words)` float32."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    if len(texts) >= 1000:
        try:
            return TfidfVectorizer(sublinear_tf=True, min_df=2, max_df=0.5, dtype=np.float32).fit_transform(texts)
        except ValueError:  # no word is left: all are in most documents, or in one
            pass
    # In a tiny corpus a word of one document, or of most, is often all that a document has.
    return TfidfVectorizer(sublinear_tf=True, dtype=np.float32).fit_transform(texts)

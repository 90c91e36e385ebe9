"""Documents as their words: TF-IDF, projected by a truncated SVD (latent semantic analysis). No neural network."""

from collections.abc import Sequence

import numpy as np


class TfidfProjection:
    """TF-IDF with logarithmic counts, projected to few dimensions, on unit length.

    Args:
        texts: `N` documents, in any language that puts something between its words.
        seed: of the projection.
        size: dimensions, or as many as documents or words allow.
        excluded_texts: `N` texts, such as the brands, whose words do not count in their document.

    Raises:
        ValueError: documents without any word; other numbers of texts.
    """

    def __init__(
        self, texts: Sequence[str], seed: int, *, size: int = 256, excluded_texts: Sequence[str] | None = None
    ):
        from sklearn.decomposition import TruncatedSVD

        texts = leave_out_words(texts, excluded_texts)
        self._vectorizer = _fitted_vectorizer(texts)
        weights = self._vectorizer.transform(texts)  # sparse (N, words)
        self._svd = TruncatedSVD(min(size, *weights.shape), random_state=seed)
        with np.errstate(invalid="ignore"):  # it also divides by the variance, which is 0 for equal documents
            self._svd.fit(weights)

    def __call__(self, texts: Sequence[str], excluded_texts: Sequence[str] | None = None) -> np.ndarray:
        """`(n, size)` float32 rows of unit length, zero for a document none of whose words count."""
        from sklearn.preprocessing import normalize

        weights = self._vectorizer.transform(leave_out_words(texts, excluded_texts))
        return normalize(self._svd.transform(weights)).astype(np.float32)


def leave_out_words(texts: Sequence[str], excluded_texts: Sequence[str] | None) -> list[str]:
    """The words of every text, in lower case, less those of its excluded text; the texts themselves without any.

    ```python
    >>> leave_out_words(["Acme glue, the best of ACME"], ["Acme Inc."])
    ['glue the best of']

    ```
    """
    from sklearn.feature_extraction.text import TfidfVectorizer

    if excluded_texts is None:
        return list(texts)
    if len(texts) != len(excluded_texts):
        raise ValueError(
            f"{len(texts)} documents, {len(excluded_texts)} texts to leave out: give one for each document"
        )
    words_of, kept = TfidfVectorizer().build_analyzer(), []
    for text, excluded in zip(texts, excluded_texts, strict=True):
        left_out = set(words_of(excluded))
        kept.append(" ".join(word for word in words_of(text) if word not in left_out))
    return kept


def _fitted_vectorizer(texts: list[str]):
    from sklearn.feature_extraction.text import TfidfVectorizer

    if len(texts) >= 1000:
        try:
            return TfidfVectorizer(sublinear_tf=True, min_df=2, max_df=0.5, dtype=np.float32).fit(texts)
        except ValueError:  # no word is left: all are in most documents, or in one
            pass
    # In a tiny corpus a word of one document, or of most, is often all that a document has.
    return TfidfVectorizer(sublinear_tf=True, dtype=np.float32).fit(texts)

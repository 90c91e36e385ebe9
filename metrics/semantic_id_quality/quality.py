"""Figures of semantic IDs, as functions of integer arrays; `N` documents, codes of one position `(N,)` or of several
`(N, positions)`. None of them builds a matrix of documents against codes or against documents."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np


class DifferenceRatios(NamedTuple):
    """How often documents that share a prefix get different next codes; `nan` where no two documents share one.

    `pairs`: pairs with the same prefix and different codes / pairs with the same prefix (the paper's definition).
    `groups`: mean over the prefixes of at least two documents of distinct codes / documents (its authors' code).
    """

    pairs: float
    groups: float


class Collisions(NamedTuple):
    """What the learned codes cannot tell apart.

    `sharing`: share of documents whose ID is another document's too; `crowded`: share of documents in groups of more
    than five; `distinct`: number of distinct IDs; `largest`: documents in the largest group.
    """

    sharing: float
    crowded: float
    distinct: int
    largest: int


def category_ami(codes: np.ndarray, categories: Sequence[Any]) -> float:
    """Adjusted mutual information of IDs and categories (Vinh, Epps and Bailey, 2010; arithmetic mean): 1 when they
    are the same partition, 0 in the mean for codes drawn at random.

    Args:
        codes: `(N,)` codes of one position, or `(N, depth)`: then the whole prefix is compared.
        categories: `N` labels, or `N` paths (sequences of labels, general to specific): then the whole path is
            compared. Documents whose category is empty or None are left out.

    Returns:
        The figure, or `nan` if the documents have fewer than two categories.

    Raises:
        ValueError: the lengths differ.
    """
    from sklearn.metrics import adjusted_mutual_info_score

    groups = _group_numbers(codes)
    paths = [_path(category) for category in categories]
    if len(paths) != len(groups):
        raise ValueError(f"{len(groups)} documents have codes and {len(paths)} have categories")
    known = np.array([bool(path) for path in paths], dtype=bool)
    number: dict[tuple, int] = {}
    labels = [number.setdefault(path, len(number)) for path in paths if path]
    if len(number) < 2:
        return float("nan")
    return float(adjusted_mutual_info_score(labels, groups[known]))


def code_perplexity(codes: np.ndarray) -> float:
    """`exp(entropy)` of the distribution of the codes `(N,)`: 1 when all are the same, the number of codes when all
    are equally frequent. `nan` without documents."""
    counts = np.bincount(np.asarray(codes))
    counts = counts[counts > 0]
    if not len(counts):
        return float("nan")
    shares = counts / counts.sum()
    return float(np.exp(-(shares * np.log(shares)).sum()))


def used_codes(codes: np.ndarray) -> int:
    """Number of distinct codes in `(N,)`."""
    return len(np.unique(codes))


def difference_ratios(prefix: np.ndarray, codes: np.ndarray) -> DifferenceRatios:
    """Both readings of the difference ratio.

    Args:
        prefix: `(N, t - 1)` codes of the earlier positions; at `t = 1` all documents share the empty prefix.
        codes: `(N,)` codes of position `t`.
    """
    prefix_of = _group_numbers(prefix)
    _, first, id_of = np.unique(_merge(prefix_of, codes), return_index=True, return_inverse=True)
    size, id_size = np.bincount(prefix_of), np.bincount(id_of)
    distinct = np.bincount(prefix_of[first], minlength=len(size))
    shared = size >= 2
    if not shared.any():
        return DifferenceRatios(float("nan"), float("nan"))
    same_code = _pairs(id_size) / _pairs(size)
    return DifferenceRatios(float(1 - same_code), float((distinct[shared] / size[shared]).mean()))


def collisions(codes: np.ndarray) -> Collisions:
    """How many documents share all their codes `(N, T)` with others. The shares are `nan` without documents."""
    size = np.bincount(_group_numbers(codes))
    if not len(size):
        return Collisions(float("nan"), float("nan"), 0, 0)
    documents = size.sum()
    sharing, crowded = size[size >= 2].sum(), size[size > 5].sum()
    return Collisions(float(sharing / documents), float(crowded / documents), len(size), int(size.max()))


def macro_f1(predicted: np.ndarray, actual: np.ndarray) -> float:
    """F1 of each token type, averaged over the types that occur in either array; `nan` without tokens.

    Args:
        predicted: token ids of any shape.
        actual: token ids of the same shape.

    Raises:
        ValueError: the shapes differ.
    """
    predicted, actual = np.asarray(predicted), np.asarray(actual)
    if predicted.shape != actual.shape:
        raise ValueError(f"{predicted.shape} predicted tokens cannot be compared with {actual.shape}")
    types, numbers = np.unique(np.stack([predicted.ravel(), actual.ravel()]), return_inverse=True)
    numbers = numbers.reshape(2, -1)
    hits = np.bincount(numbers[0, numbers[0] == numbers[1]], minlength=len(types))
    return _mean_f1(hits, *(np.bincount(row, minlength=len(types)) for row in numbers))


def multilabel_macro_f1(predicted_sets: Any, actual_sets: Any) -> float:
    """F1 of each word, averaged over the words that occur in either matrix: for documents taken as sets of words.

    Args:
        predicted_sets: `(documents, words)`, dense or scipy sparse; a word is in a document's set unless it is 0.
        actual_sets: of the same shape.

    Returns:
        The figure, or `nan` if no word occurs.

    Raises:
        ValueError: the shapes differ.
    """
    from scipy.sparse import csc_array

    predicted, actual = (csc_array(sets).astype(bool) for sets in (predicted_sets, actual_sets))
    if predicted.shape != actual.shape:
        raise ValueError(f"{predicted.shape} predicted words cannot be compared with {actual.shape}")
    hits = predicted.multiply(actual)
    # Summed, for a stored zero is no word; as integers, for booleans add to True at most.
    return _mean_f1(*(matrix.astype(np.int64).sum(axis=0) for matrix in (hits, predicted, actual)))


def _mean_f1(hits: np.ndarray, predicted: np.ndarray, actual: np.ndarray) -> float:
    """Macro-F1 from `(types,)` counts, over the types with any."""
    total = predicted + actual
    return float((2 * hits[total > 0] / total[total > 0]).mean()) if total.any() else float("nan")


def _pairs(sizes: np.ndarray) -> float:
    """Number of unordered pairs within groups of these sizes."""
    return float((sizes.astype(np.int64) * (sizes - 1) // 2).sum())


def _group_numbers(codes: np.ndarray) -> np.ndarray:
    """`(N,)` or `(N, depth)` codes as `(N,)` numbers 0, 1, ..: equal where all codes are."""
    codes = np.asarray(codes)
    numbers = np.zeros(len(codes), dtype=np.int64)
    for column in codes.reshape(len(codes), codes.shape[1] if codes.ndim > 1 else 1).T:
        numbers = np.unique(_merge(numbers, column), return_inverse=True)[1]
    return numbers


def _merge(numbers: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """`(N,)` group numbers and `(N,)` codes as `(N,)` keys, distinct where either differs; below N * N."""
    values, ranks = np.unique(codes, return_inverse=True)
    return numbers * len(values) + ranks


def _path(category: Any) -> tuple:
    """A category as a tuple of labels, empty where it is not known."""
    if category is None or (isinstance(category, float) and np.isnan(category)):
        return ()
    if isinstance(category, str) or not hasattr(category, "__iter__"):
        return (category,) if category != "" else ()
    return tuple(category)

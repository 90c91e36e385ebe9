"""How much of the documents' words the reconstructor finds again."""

from typing import Any

import numpy as np


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

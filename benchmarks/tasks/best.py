"""The best documents of a query by their scores."""

import numpy as np


def best_rows(scores: np.ndarray, depth: int) -> np.ndarray:
    """Rows of the `depth` highest of `scores` `(documents,)`, the highest first; equal ones in the order of rows."""
    if depth < len(scores):
        least = np.partition(scores, len(scores) - depth)[len(scores) - depth]
        above, equal = np.flatnonzero(scores > least), np.flatnonzero(scores == least)
        rows = np.concatenate([above, equal[: depth - len(above)]])
    else:
        rows = np.arange(len(scores))
    return rows[np.argsort(-scores[rows], kind="stable")]

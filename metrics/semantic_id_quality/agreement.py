"""How well codes follow categories: mutual information, adjusted for chance and not, and purity."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from .categories import CategoryPaths, category_paths
from .chance import expected_sums, x_log_x
from .groups import group_numbers, groups, merge


class Agreement(NamedTuple):
    """Two groupings of the same documents, codes and categories, compared; natural logarithms throughout.

    `ami`: adjusted mutual information (Vinh, Epps and Bailey, 2010; arithmetic mean): 1 when both are the same
    partition, 0 in the mean for codes drawn at random. `nmi`: mutual information over the mean of both entropies.
    `homogeneity`: over the categories' entropy, 1 when no code has documents of two categories. `completeness`: over
    the codes' entropy, 1 when no category has two codes. `documents`: how many the figures are over.

    The last three are not adjusted for chance: homogeneity is 1 when every document has a code of its own.
    """

    ami: float
    nmi: float
    homogeneity: float
    completeness: float
    documents: int


_UNKNOWN = Agreement(float("nan"), float("nan"), float("nan"), float("nan"), 0)


def category_ami(
    codes: np.ndarray,
    categories: Sequence[Any] | CategoryPaths,
    *,
    level: int | None = None,
    documents: np.ndarray | None = None,
) -> float:
    """Adjusted mutual information of IDs and categories (Vinh, Epps and Bailey, 2010; arithmetic mean): 1 when they
    are the same partition, 0 in the mean for codes drawn at random.

    Args:
        codes: `(N,)` codes of one position, or `(N, depth)`: then the whole prefix is compared.
        categories: `N` labels, or `N` paths (sequences of labels, general to specific), or what `category_paths` made
            of them, once for many figures. Documents whose category is empty or None are left out.
        level: labels of the path that count, from 1, of a shorter path all; the whole path by default.
        documents: `(N,)` booleans, the documents to judge; all by default.

    Returns:
        The figure, or `nan` if the documents have fewer than two categories.

    Raises:
        ValueError: the lengths differ; `documents` is no mask; a level below 1.
    """
    return category_agreement(codes, categories, level=level, documents=documents).ami


def category_agreement(
    codes: np.ndarray,
    categories: Sequence[Any] | CategoryPaths,
    *,
    level: int | None = None,
    documents: np.ndarray | None = None,
) -> Agreement:
    """All figures of IDs against categories; arguments and errors as of `category_ami`. `nan` if the documents have
    fewer than two categories."""
    numbers, labels = _judged(group_numbers(codes), categories, level, documents)
    if len(np.unique(labels)) < 2:
        return _UNKNOWN
    figures = _compare(np.zeros(len(labels), dtype=np.int64), numbers, labels)
    return Agreement(*figures[:, 0].tolist(), len(labels))


def agreement_within(
    prefix: np.ndarray,
    codes: np.ndarray,
    categories: Sequence[Any] | CategoryPaths,
    *,
    level: int | None = None,
    documents: np.ndarray | None = None,
) -> Agreement:
    """Codes of one position against categories inside the documents that share a prefix, averaged over the prefixes.

    The mean is weighted by documents. Only prefixes count in which two documents share a category and two do not:
    with one document, one category or only categories of one document, AMI is 0, or 0/0, whatever the codes are. (By
    scikit-learn's convention for 0/0, random codes that split pairs of different categories would reach 1.) A prefix
    whose documents all get the same code counts as 0, with a completeness of 1.

    Args:
        prefix: `(N, t - 1)` codes of the earlier positions; at `t = 1` this is `category_agreement`.
        codes: `(N,)` codes of position `t`.
        categories, level, documents: as of `category_ami`.

    Returns:
        The means, and the number of documents behind them; `nan` and 0 if no prefix counts.
    """
    both = np.column_stack([group_numbers(prefix), np.asarray(codes)])
    both, labels = _judged(both, categories, level, documents)
    outer = group_numbers(both[:, 0])
    categories_of = groups(merge(outer, labels), outer)
    size, kinds = np.bincount(outer), np.bincount(categories_of.within)
    tells = ((kinds > 1) & (kinds < size))[outer]
    if not tells.any():
        return _UNKNOWN
    outer = group_numbers(outer[tells])
    figures = _compare(outer, both[tells, 1], labels[tells])
    return Agreement(*np.average(figures, axis=1, weights=np.bincount(outer)).tolist(), len(outer))


def prefix_purity(
    codes: np.ndarray,
    categories: Sequence[Any] | CategoryPaths,
    *,
    level: int | None = None,
    documents: np.ndarray | None = None,
) -> float:
    """Share of the documents whose category is the commonest one of their prefix; 1 when every document has a prefix
    of its own, so compare it at equal numbers of prefixes.

    Arguments and errors as of `category_ami`; `nan` if no document has a category.
    """
    numbers, labels = _judged(group_numbers(codes), categories, level, documents)
    if not len(labels):
        return float("nan")
    numbers = group_numbers(numbers)
    cells = groups(merge(numbers, labels), numbers)
    commonest = np.zeros(numbers.max() + 1, dtype=np.int64)
    np.maximum.at(commonest, cells.within, cells.sizes)
    return float(commonest.sum() / len(labels))


def _judged(
    codes: np.ndarray,
    categories: Sequence[Any] | CategoryPaths,
    level: int | None,
    documents: np.ndarray | None,
) -> tuple[np.ndarray, np.ndarray]:
    """Codes and labels of the documents to judge whose category is known."""
    labels = category_paths(categories).labels(level)
    if len(labels) != len(codes):
        raise ValueError(f"{len(codes)} documents have codes and {len(labels)} have categories")
    judged = labels >= 0
    if documents is not None:
        documents = np.asarray(documents)
        if documents.dtype != bool or documents.shape != judged.shape:
            raise ValueError(
                f"documents is {documents.dtype} of the shape {documents.shape}: it must be one boolean for each of "
                f"the {len(judged)} documents"
            )
        judged &= documents
    return codes[judged], labels[judged]


def _compare(outer: np.ndarray, codes: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """AMI, NMI, homogeneity and completeness inside each outer group: `(4, G)` of `G` groups, `(N,)` integers each.

    All follow from sums `S = sum of n log n` over groups of `n` documents, for which one count of the overlaps of
    codes and categories is enough; where scikit-learn's are defined by convention, so are these.
    """
    rows, columns = merge(outer, codes), merge(outer, labels)
    by_code, by_label, overlaps = groups(rows, outer), groups(columns, outer), groups(merge(rows, labels), outer)
    total = np.bincount(outer)

    def log_sum(parts) -> np.ndarray:
        return np.bincount(parts.within, weights=x_log_x(parts.sizes), minlength=len(total))

    of_codes, of_labels, of_both = map(log_sum, (by_code, by_label, overlaps))
    by_chance = expected_sums(total, by_code, by_label)
    whole = x_log_x(total)
    information = np.maximum(whole + of_both - of_codes - of_labels, 0)  # this and the entropies times the documents
    code_entropy, label_entropy = whole - of_codes, whole - of_labels
    return np.stack(
        [
            _ratio(of_both - by_chance, (of_codes + of_labels) / 2 - by_chance),
            _ratio(information, (code_entropy + label_entropy) / 2),
            _ratio(information, label_entropy),
            _ratio(information, code_entropy),
        ]
    )


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """`part / whole`, 1 where the whole is 0: then both groupings are the same."""
    return np.divide(part, whole, where=whole != 0, out=np.ones_like(part))

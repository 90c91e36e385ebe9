"""What IDs look like without knowing any category: use of the codebooks, branching, collisions.

Everywhere `N` documents, codes of one position `(N,)` or of several `(N, positions)`. None of the figures builds a
matrix of documents against codes or against documents."""

from typing import NamedTuple

import numpy as np

from .groups import group_numbers, groups, merge


class DifferenceRatios(NamedTuple):
    """How often documents that share a prefix get different next codes; `nan` where no two documents share one.

    `pairs`: pairs with the same prefix and different codes / pairs with the same prefix (the paper's definition).
    `groups`: mean over the prefixes of at least two documents of distinct codes / documents (its authors' code).
    """

    pairs: float
    groups: float


class FanOut(NamedTuple):
    """Distinct next codes of a prefix: their `mean` over the prefixes, and the most that one has, `max`."""

    mean: float
    max: int


class Collisions(NamedTuple):
    """What the learned codes cannot tell apart.

    `sharing`: share of documents whose ID is another document's too; `crowded`: share of documents in groups of more
    than five; `distinct`: number of distinct IDs; `largest`: documents in the largest group.
    """

    sharing: float
    crowded: float
    distinct: int
    largest: int


class Density(NamedTuple):
    """The collisions as a histogram, one row for each size that occurs, ascending: `size` `(S,)` in documents, `ids`
    `(S,)` how many IDs have so many documents (the paper's Fig. 6), `documents` `(S,)` how many these are together."""

    size: np.ndarray
    ids: np.ndarray
    documents: np.ndarray


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


def used_share(codes: np.ndarray, codebook_size: int) -> float:
    """Share of a codebook's codes that some document has.

    Args:
        codes: `(N,)`.
        codebook_size: `K`, all codes are below it.

    Raises:
        ValueError: a code outside the codebook.
    """
    codes = np.asarray(codes)
    if len(codes) and not 0 <= codes.min() <= codes.max() < codebook_size:
        raise ValueError(
            f"the codes lie between {codes.min()} and {codes.max()}, outside a codebook of {codebook_size}: give the "
            "size of this position's codebook"
        )
    return used_codes(codes) / codebook_size


def difference_ratios(prefix: np.ndarray, codes: np.ndarray) -> DifferenceRatios:
    """Both readings of the difference ratio.

    Args:
        prefix: `(N, t - 1)` codes of the earlier positions; at `t = 1` all documents share the empty prefix.
        codes: `(N,)` codes of position `t`.
    """
    prefix_of = group_numbers(prefix)
    ids = groups(merge(prefix_of, codes), prefix_of)
    size, distinct = np.bincount(prefix_of), np.bincount(ids.within)
    shared = size >= 2
    if not shared.any():
        return DifferenceRatios(float("nan"), float("nan"))
    same_code = _pairs(ids.sizes) / _pairs(size)
    return DifferenceRatios(float(1 - same_code), float((distinct[shared] / size[shared]).mean()))


def fan_out(prefix: np.ndarray, codes: np.ndarray) -> FanOut:
    """How many next codes prefixes have; `nan` and 0 without documents.

    Args:
        prefix: `(N, t - 1)` codes of the earlier positions; at `t = 1` there is one prefix, the empty one.
        codes: `(N,)` codes of position `t`.
    """
    prefix_of = group_numbers(prefix)
    distinct = np.bincount(groups(merge(prefix_of, codes), prefix_of).within)
    if not len(prefix_of):
        return FanOut(float("nan"), 0)
    return FanOut(float(distinct.mean()), int(distinct.max()))


def collisions(codes: np.ndarray) -> Collisions:
    """How many documents share all their codes `(N, T)` with others. The shares are `nan` without documents."""
    size = np.bincount(group_numbers(codes))
    if not len(size):
        return Collisions(float("nan"), float("nan"), 0, 0)
    documents = size.sum()
    sharing, crowded = size[size >= 2].sum(), size[size > 5].sum()
    return Collisions(float(sharing / documents), float(crowded / documents), len(size), int(size.max()))


def collision_density(codes: np.ndarray) -> Density:
    """How many documents share all their codes `(N, T)`, as a histogram of the sizes of their groups."""
    size, ids = np.unique(np.bincount(group_numbers(codes)), return_counts=True)
    return Density(size, ids, size * ids)


def _pairs(sizes: np.ndarray) -> float:
    """Number of unordered pairs within groups of these sizes."""
    return float((sizes.astype(np.int64) * (sizes - 1) // 2).sum())

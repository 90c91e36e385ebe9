"""What the overlap of two groupings is by chance: the expected mutual information behind AMI, from group sizes alone.

scikit-learn walks through every pair of a code and a category and every overlap they may have: over 20 seconds for 512
codes, 1,000 categories and a million documents (here half a second), and out of reach for 100,000 prefixes. Here pairs
of equal sizes are taken once, groups of one document not at all (they overlap in one document or none, and
`1 log 1 = 0`), and overlaps that practically never happen are left out. The worst case is two groupings whose sizes
all differ: `N` documents have at most `sqrt(2 N)` sizes, so at most `2 N` pairs, with some 50 overlaps each: about 4
seconds for a million (`benchmarks/id_metrics.py`).
"""

import numpy as np

from .groups import Groups, merge, number

_CELLS_IN_MEMORY = 2**20
# Overlaps less likely than exp(-50) are left out: over all pairs they come to less than a rounding error.
_LOG_TAIL = 50.0


def x_log_x(numbers: np.ndarray) -> np.ndarray:
    """`n log n` of integers of any shape, 0 at 0."""
    return numbers * np.log(np.maximum(numbers, 1))


def expected_sums(total: np.ndarray, first: Groups, second: Groups) -> np.ndarray:
    """Sum of `n log n` over the overlaps of two groupings, expected when one is shuffled.

    Args:
        total: `(G,)` documents of each of the larger groups, inside which the shuffling stays.
        first: the groups of one grouping, each within a larger one.
        second: those of the other.

    Returns:
        `(G,)`.
    """
    within, size, times = _distinct_sizes(first)
    other_within, other_size, other_times = _distinct_sizes(second)
    counts = np.bincount(other_within, minlength=len(total))
    starts = np.cumsum(counts) - counts  # of each larger group's sizes, which lie together
    repeats = counts[within]
    left = np.repeat(np.arange(len(size)), repeats)  # (pairs,)
    right = np.arange(len(left)) - np.repeat(np.cumsum(repeats) - repeats - starts[within], repeats)
    a, b, where = size[left], other_size[right], within[left]
    # Small larger groups are alike: each triple is computed once.
    triple = merge(merge(number(total[where]), a), b)
    example = np.zeros(triple.max(initial=-1) + 1, dtype=np.int64)
    example[triple] = np.arange(len(triple))
    expected = expected_x_log_x(total[where][example], a[example], b[example])[triple]
    return np.bincount(where, weights=times[left] * other_times[right] * expected, minlength=len(total))


def expected_x_log_x(total: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """`E[n log n]` of the overlap `n` of random sets of `a` and of `b` among `total` documents (hypergeometric).

    Probabilities come from the ratios of successive ones and are then scaled to a sum of 1. Log-gammas of a million
    would be as large as 1e7 and leave nine digits of a probability.

    Args:
        total, a, b: `(P,)` integers, `1 <= a, b <= total`.

    Returns:
        `(P,)` float64.
    """
    low, high = _likely(total, a, b)
    width = high - low + 1
    order = np.argsort(-width, kind="stable")  # widest first: a block is as wide as its first row
    expected, begin = np.empty(len(a)), 0
    while begin < len(order):
        block = order[begin : begin + max(1, _CELLS_IN_MEMORY // width[order[begin]])]
        n = low[block, None] + np.arange(width[block[0]])  # (rows, widest)
        # P(n) / P(n - 1), logarithmic; what lies behind a row's own overlaps is impossible or left out.
        before, rest = n[:, 1:] - 1, (total - a - b)[block, None]
        kept = n[:, 1:] <= high[block, None]
        ratio = (a[block, None] - before) * (b[block, None] - before) / (n[:, 1:] * np.where(kept, rest + n[:, 1:], 1))
        steps = np.log(ratio, where=kept, out=np.full(ratio.shape, -np.inf))
        logarithms = np.concatenate([np.zeros((len(block), 1)), np.cumsum(steps, axis=1)], axis=1)
        weights = np.exp(logarithms - logarithms.max(axis=1, keepdims=True))
        expected[block] = (weights * x_log_x(n)).sum(axis=1) / weights.sum(axis=1)
        begin += len(block)
    return expected


def _likely(total: np.ndarray, a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """First and last overlap that are not left out, `(P,)` each.

    An overlap is distributed as a sum of independent indicators (Vatutin and Mikhailov, 1982), so that Bernstein's
    inequality bounds its tails.
    """
    share = b / total
    mean = a * share
    variance = mean * (1 - share) * (total - a) / np.maximum(total - 1, 1)
    reach = _LOG_TAIL / 3 + np.sqrt((_LOG_TAIL / 3) ** 2 + 2 * _LOG_TAIL * variance)
    low = np.maximum(np.maximum(0, a + b - total), np.floor(mean - reach).astype(np.int64))
    high = np.minimum(np.minimum(a, b), np.ceil(mean + reach).astype(np.int64))
    return low, high


def _distinct_sizes(parts: Groups) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Larger group, size and number of the parts of that size, sorted by larger group; sizes of 1 are left out."""
    many = parts.sizes > 1
    base = parts.sizes.max(initial=0) + 1
    keys, times = np.unique(parts.within[many] * base + parts.sizes[many], return_counts=True)
    return keys // base, keys % base, times

"""Whether one system's rankings are better than another's: intervals and paired tests over queries."""

from typing import NamedTuple

import numpy as np

from .ranking import RankingError, RankingFigures


class PairedTest(NamedTuple):
    """`difference` of the means, first less second, and the two-sided `p_value` of its being 0."""

    difference: float
    p_value: float


def paired_test(first: RankingFigures, second: RankingFigures, measure: str, seed: int = 0) -> PairedTest:
    """A paired permutation test of the means: signs of the queries' differences are drawn at random.

    As Smucker, Allan and Carterette (2007) recommend for rankings; it assumes no distribution.

    Args:
        first, second: figures of the same queries in the same order.
        measure: one of theirs, such as `recall@10`.
        seed: of the signs.

    Raises:
        RankingError: figures of other queries, or without the measure.
    """
    from scipy.stats import permutation_test

    if first.queries != second.queries:
        raise RankingError("A paired test needs figures of the same queries in the same order.")
    for figures in (first, second):
        if measure not in figures.values:
            raise RankingError(f"There is no {measure}; there are {', '.join(figures.values)}.")
    differences = first.values[measure] - second.values[measure]
    kept = differences[differences != 0]  # a sign changes nothing of the others
    if len(kept) < 2:  # either sign of a single difference is as far from 0
        return PairedTest(float(differences.mean()), 1.0)
    found = permutation_test(
        (kept,), lambda values, axis: values.sum(axis=axis), permutation_type="samples", n_resamples=9999,
        vectorized=True, batch=max(1, 2**22 // len(kept)), rng=np.random.default_rng(seed),
    )  # fmt: skip
    return PairedTest(float(differences.mean()), float(found.pvalue))


def confidence_interval(values: np.ndarray, level: float = 0.95, seed: int = 0) -> tuple[float, float]:
    """The bootstrap interval of a mean over queries, by percentiles of 2,000 resamples.

    Args:
        values: a measure `(queries,)`.
        level: probability with which such intervals hold the mean.
        seed: of the resamples.
    """
    from scipy.stats import bootstrap

    if np.ptp(values) == 0:  # every resample is the same
        return float(values[0]), float(values[0])
    found = bootstrap(
        (values,), np.mean, confidence_level=level, method="percentile", n_resamples=2000,
        batch=max(1, 2**22 // len(values)), rng=np.random.default_rng(seed),
    )  # fmt: skip
    return float(found.confidence_interval.low), float(found.confidence_interval.high)

"""A table per split: means over queries, the spread over seeds, and paired tests against two of the systems."""

import numpy as np

from metrics.ranking_quality import RankingFigures, paired_test
from trainers.report import format_table


def mean_of_seeds(runs: dict[int, RankingFigures]) -> RankingFigures:
    """Every query's figures, in the mean over seeds."""
    one = next(iter(runs.values()))
    values = {name: np.mean([run.values[name] for run in runs.values()], axis=0) for name in one.values}
    return RankingFigures(one.queries, values)


def spread(runs: dict[int, RankingFigures], measure: str) -> float:
    """Standard deviation of a measure over seeds."""
    return float(np.std([run.means()[measure] for run in runs.values()], ddof=1))


def compared(own: RankingFigures, other: RankingFigures | None, measure: str) -> str:
    """The difference, and how likely one of that size is between equal systems."""
    if other is None or own is other:
        return ""
    test = paired_test(own, other, measure)
    return f"{test.difference:+.4f} (p {test.p_value:.4f})"


def table(systems: dict[str, dict[int, RankingFigures]], measures: list[str], tested: str, against: list[str]) -> str:
    """One row per system.

    Args:
        systems: by name and seed, the figures of the same queries.
        measures: shown.
        tested: the measure that is tested.
        against: names of systems that all others are tested against; those that are not there are left out.
    """
    means = {name: mean_of_seeds(runs) for name, runs in systems.items()}
    for name, figures in means.items():
        missing = [measure for measure in [*measures, tested] if measure not in figures.values]
        if missing:
            raise ValueError(f"{name} was recorded without {missing[0]}: record it again.")
    others = [name for name in against if name in means]
    rows = []
    for name, runs in systems.items():
        cells = [f"{means[name].means()[m]:.4f}" for m in measures]
        if len(runs) > 1:
            cells = [f"{cell} ({spread(runs, m):.4f})" for cell, m in zip(cells, measures, strict=True)]
        tests = [compared(means[name], means[other], tested) if other != name else "" for other in others]
        rows.append([name, len(runs), *cells, *tests])
    return format_table(["system", "seeds", *measures, *(f"{tested} less {name}" for name in others)], rows)

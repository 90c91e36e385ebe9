"""The comparison as bars: AMI of the first code of every method, with the seeds' spread."""

import itertools
from pathlib import Path

from modeling_lmindexer.folder import atomic_path
from quality.bench import Bench
from quality.tables import Group, groups

OURS, RIVAL = "#2a9d8f", "#a8b5bd"


def save_figure(bench: Bench, path: Path) -> None:
    """A panel per sizes of the codebooks, a row of panels per set."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = [list(found) for _, found in itertools.groupby(groups(bench), key=lambda group: group.name)]
    if not rows:
        raise ValueError("there are no rows to draw: run compare first")
    columns = max(map(len, rows))
    bars = max(len(group.rows) for found in rows for group in found)
    figure, axes = pyplot.subplots(
        len(rows), columns, figsize=(3.6 * columns, (0.3 * bars + 1) * len(rows)), squeeze=False
    )
    for line, found in zip(axes, rows, strict=True):
        for axis, group in zip(line, found, strict=False):
            draw(axis, group, bench.plan.learner)
            axis.set_title(f"{bench.family}: {group.title}", fontsize=8)
        for axis in line[len(found) :]:
            axis.axis("off")
    figure.tight_layout()
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=130, metadata={"Software": None})
    pyplot.close(figure)


def draw(axis, group: Group, learner: str) -> None:
    """One bar per method, the best at the top; a line from the smallest to the largest of the seeds' values."""
    methods = sorted(group.rows, key=lambda method: -group.mean(method, "ami_1"))
    means = [group.mean(method, "ami_1") for method in methods]
    ends = [group.values(method, "ami_1") for method in methods]
    # Of equal values, the mean may differ in the last bit.
    errors = [[max(0.0, mean - min(values)) for mean, values in zip(means, ends, strict=True)]]
    errors.append([max(0.0, max(values) - mean) for mean, values in zip(means, ends, strict=True)])
    colours = [OURS if method == learner else RIVAL for method in methods]
    axis.barh(range(len(methods)), means, color=colours, xerr=errors, error_kw={"elinewidth": 1.2, "capsize": 2})
    for place, (mean, values) in enumerate(zip(means, ends, strict=True)):
        axis.text(max(*values, mean, 0) + 0.01, place, f"{mean:.3f}".lstrip("0"), va="center", fontsize=8)
    axis.set_yticks(range(len(methods)), methods, fontsize=8)
    axis.invert_yaxis()
    axis.set_xlim(0, 1.18 * max(*means, 0.01))
    axis.set_xlabel("AMI of the first code", fontsize=8)
    axis.tick_params(axis="x", labelsize=7)
    axis.spines[["top", "right"]].set_visible(False)

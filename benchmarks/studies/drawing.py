"""One figure per study: curves over steps, bars, documents per ID, or categories under each code."""

from collections.abc import Callable
from pathlib import Path

import matplotlib
import numpy as np

matplotlib.use("Agg")
from matplotlib import pyplot

from metrics.semantic_id_quality import collision_density
from trainers.plots import plot_categories, plot_density, save

from .plan import Plan, Study
from .tables import Found

COLOURS = "#2a6f97", "#e76f51", "#2a9d8f", "#e9c46a"


def curve(row: dict, stages: list[str], figure: str) -> tuple[list[int], list[float]]:
    """Steps and values of a figure through some stages, one after the other.

    Runs may spend equally many steps on different stages: those of the stages before count, from the start of the
    first shown position on, with the warm-up before the first.
    """
    positions = {stage.partition("-")[0] for stage in stages}
    positions |= {"0"} if "1" in positions else set()
    steps, values, before = [], [], 0
    for stage, points in row["curves"].items():
        if stage in stages:
            found = [point for point in points if point.get(figure) is not None]
            steps += [before + point["step"] for point in found]
            values += [point[figure] for point in found]
        if points and stage.partition("-")[0] in positions:
            before += points[-1]["step"]
    return steps, values


def draw_curves(study: Study, found: Found, families: list[str]):
    """A row of panels per family, a panel per figure, a line per run and seed."""
    figures = study.curves["figures"]
    canvas, axes = panels(len(families), len(figures))
    for row_of_axes, family in zip(axes, families, strict=True):
        for axis, figure in zip(row_of_axes, figures, strict=True):
            for run, colour in zip(study.runs, COLOURS, strict=False):
                for number, row in enumerate(found.rows.get((family, run), [])):
                    steps, values = curve(row, study.curves["stages"], figure)
                    label = None if number else run
                    axis.plot(steps, values, marker="o", markersize=2.5, linewidth=1.3, color=colour, label=label)
            axis.set_title(f"{family}: {figure.replace('_', ' ')}", fontsize=8)
            axis.set_xlabel("steps", fontsize=7)
            axis.grid(alpha=0.3)
        row_of_axes[-1].legend(fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return canvas


def draw_bars(study: Study, found: Found, families: list[str]):
    """A row of panels per family, a panel per figure, a bar per run, a dot per seed where there are several."""
    canvas, axes = panels(len(families), len(study.bars))
    for row_of_axes, family in zip(axes, families, strict=True):
        for axis, figure in zip(row_of_axes, study.bars, strict=True):
            bars = {run: values for run in study.runs if (values := found.values(family, run, figure))}
            for place, (run, values) in enumerate(bars.items()):
                mean = np.mean(values)
                axis.bar(place, mean, color=COLOURS[study.runs.index(run) % len(COLOURS)], width=0.7)
                if len(values) > 1:
                    axis.plot([place] * len(values), values, "o", color="black", markersize=2.5)
                shown = f"{mean:,.0f}" if mean >= 100 else f"{mean:.3g}"
                axis.annotate(shown, (place, mean), ha="center", va="bottom", fontsize=7)
            axis.margins(y=0.15)
            axis.set_xticks(range(len(bars)), bars)
            axis.set_title(f"{family}: {figure.replace('_', ' ')}", fontsize=8)
            axis.spines[["top", "right"]].set_visible(False)
    return canvas


def panels(rows: int, columns: int):
    """A canvas and its axes `(rows, columns)`."""
    canvas, axes = pyplot.subplots(rows, columns, figsize=(3.5 * columns, 2.6 * rows), squeeze=False)
    for axis in axes.flat:
        axis.tick_params(labelsize=7)
    return canvas, axes


def draw_density(study: Study, codes_of: Callable, families: list[str]):
    """A panel per family: the share of IDs with so many documents, a line per run."""
    canvas, axes = panels(1, len(families))
    for axis, family in zip(axes[0], families, strict=True):
        for run, colour in zip(study.runs, COLOURS, strict=False):
            codes = codes_of(family, run)
            if codes is not None:
                plot_density(axis, collision_density(codes), colour=colour, label=run)
        axis.set_title(family, fontsize=8)
        axis.legend(fontsize=7)
    return canvas


class Figures:
    """Draws what rows of results hold.

    Args:
        plan: what the studies are.
        corpus: name of the data set.
        found: the rows.
        folder: where the runs left their codes; figures go into `figures` there.
        categories: reads one list of labels per document, where a study needs them.
    """

    def __init__(self, plan: Plan, corpus: str, found: Found, folder: Path, categories: Callable[[], list]):
        self.plan, self.corpus, self.found, self.folder, self.categories = plan, corpus, found, folder, categories

    def codes_of(self, family: str, run: str) -> np.ndarray | None:
        """Codes `(N, positions)` of the first seed of a run, `None` where there is none."""
        rows = self.found.rows.get((family, run))
        if not rows:
            return None
        label = self.plan.run(self.corpus, family, run, rows[0]["seed"]).label
        return np.load(self.folder / "runs" / label / "codes.npy")

    def draw(self, name: str, families: list[str]) -> list[str]:
        """Writes the figure of a study, if it has rows; of categories one per family. Returns the files' names."""
        study = self.plan.studies[name]
        # What a single run of several looks like is of no use.
        enough = min(2, len(study.runs))
        present = [
            family for family in families if sum((family, run) in self.found.rows for run in study.runs) >= enough
        ]
        file = f"{self.corpus}_{name.replace(' ', '_')}"
        if not present:
            return []
        if study.categories:
            return [self.draw_categories(study, family, f"{file}_{family}.png") for family in present]
        if study.density:
            canvas = draw_density(study, self.codes_of, present)
        else:
            canvas = (draw_curves if study.curves else draw_bars)(study, self.found, present)
        return [save(canvas, self.folder, f"{file}.png")]

    def draw_categories(self, study: Study, family: str, file: str) -> str:
        """What the most frequent first codes of the study's first run are about."""
        paths = [path or [] for path in self.categories()]
        return save(plot_categories(self.codes_of(family, study.runs[0])[:, 0], paths), self.folder, file)

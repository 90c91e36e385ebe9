"""Rows of `constrained_decoding.py` on disk, as tables beside what they must reach, and as a plot."""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from modeling_lmindexer.folder import atomic_path, write_json
from trainers.report import format_table

TITLES = {
    "structure": "Memory and builds, one thread; builds in units of one torch.sort of as many int64 keys",
    "constraint": "The constraint alone, per step, in units of log_softmax + beam scores + topk of that step",
    "device": "The constraint on the GPU, per step: kernels launched ahead, one write of all scores, called when idle",
    "filters": "Setting a filter, in units of a permutation and a cumsum of its mask",
    "filtered_steps": "A step under a filter, in units of the unfiltered one",
    "updates": "From `add` to the end of the first decode that returns a new document",
    "pending_steps": "A step with pending changes, in units of the compacted tree's",
    "search": "Whole runs, in units of the unconstrained `generate`",
}
FAST = "fast, re-used", "fast, fresh"
CODES_HEAD = "search, codes' head", "packed, codes' head"


@dataclass(frozen=True)
class Limit:
    """What a column of a table must reach in every row that `counts`."""

    text: str
    table: str
    columns: tuple[str, ...]
    bound: float
    counts: Callable[[dict], bool] = lambda row: True
    at_least: bool = False

    def summary(self, rows: dict[str, dict]) -> list:
        """Text, bound, worst value, where it is, whether it is within the bound."""
        found = [
            (row[column], f"{name}: {column}")
            for name, row in rows.items()
            for column in self.columns
            if row.get(column) is not None and self.counts(row)
        ]
        bound = f"{'at least' if self.at_least else 'at most'} {self.bound:g}"
        if not found:
            return [self.text, bound, None, "not measured", None]
        value, where = (min if self.at_least else max)(found)
        reached = value >= self.bound if self.at_least else value <= self.bound
        return [self.text, bound, value, where, "yes" if reached else "NO"]


def _many(vocabulary: str, settings: str) -> Callable[[dict], bool]:
    return lambda row: row["batch"] > 1 and row["vocabulary"] == vocabulary and row["setting"] in settings


def _layout(layout: str, settings: str) -> Callable[[dict], bool]:
    return lambda row: row["layout"] == layout and row["setting"] in settings


LIMITS = (
    Limit("constraint, T5 vocabulary, fresh", "constraint", FAST[1:], 0.13, _many("T5", "ABC")),
    Limit("constraint, T5 vocabulary, re-used", "constraint", FAST[:1], 0.03, _many("T5", "ABC")),
    Limit("constraint, small vocabulary, fresh", "constraint", FAST[1:], 0.20, _many("small", "ABD")),
    Limit("constraint, small vocabulary, re-used", "constraint", FAST[:1], 0.20, _many("small", "ABD")),
    Limit("dict trie over ours", "constraint", tuple(f"dict trie / {name}" for name in FAST), 10, at_least=True),
    Limit("nested dicts over ours", "constraint", tuple(f"nested dicts / {name}" for name in FAST), 10, at_least=True),
    Limit("bytes a document, 4 positions, compact", "structure", ("bytes / document",), 20, _layout("compact", "ABC")),
    Limit("bytes a document, 8 positions, compact", "structure", ("bytes / document",), 50, _layout("compact", "D")),
    Limit("build of C, unsorted, fast", "structure", ("unsorted",), 4, _layout("fast", "C")),
    Limit("build of C, unsorted, compact", "structure", ("unsorted",), 4, _layout("compact", "C")),
    Limit("peak of D, sorted, GB with its input, fast", "structure", ("peak GB",), 1.2, _layout("fast", "D")),
    Limit("peak of D, sorted, GB with its input, compact", "structure", ("peak GB",), 1.2, _layout("compact", "D")),
    Limit("setting a filter", "filters", ("filtered / floor",), 2),
    Limit("filtered step, global", "filtered_steps", ("re-used", "fresh"), 1.6, lambda row: row["kind"] == "global"),
    Limit("filtered step, per row", "filtered_steps", ("re-used", "fresh"), 1.6, lambda row: row["kind"] == "per row"),
    Limit("rebuilding over adding, constraint of the decode", "updates", ("rebuild / add and constraint",), 50,
          at_least=True),
    Limit("rebuilding over adding, whole decode", "updates", ("rebuild / add and decode",), 50, at_least=True),
    Limit("step with pending changes", "pending_steps", ("re-used", "fresh"), 1.2),
    Limit("generate with the processor", "search", ("processor",), 1.07),
    Limit("search, 4 positions", "search", ("search",), 0.50, lambda row: row["positions"] == 4),
    Limit("search, 8 positions", "search", ("search",), 0.65, lambda row: row["positions"] == 8),
    Limit("search, packed weights, 4 positions", "search", ("packed",), 0.50, lambda row: row["positions"] == 4),
    Limit("search, packed weights, 8 positions", "search", ("packed",), 0.65, lambda row: row["positions"] == 8),
    Limit("search, codes' head, 4 positions", "search", CODES_HEAD, 0.50, lambda row: row["positions"] == 4),
    Limit("search, codes' head, 8 positions", "search", CODES_HEAD, 0.65, lambda row: row["positions"] == 8),
    Limit("GPU step, ms, setting C: 1 x 20, or re-used", "device", ("kernels ms",), 0.05,
          lambda row: row["setting"] == "C" and (row["batch"] == 1 or row["buffer"] == "re-used")),
    Limit("GPU step over one write, 32 x 20, fresh", "device", ("kernels / write",), 1.3,
          lambda row: row["batch"] > 1 and row["buffer"] == "fresh"),
)  # fmt: skip


class Results:
    """Tables of rows, `results.json` of a folder; rows that are there are not measured again.

    Args:
        run: the settings of the run; rows of other settings cannot be mixed with its own.

    Raises:
        ValueError: the folder holds the rows of other settings.
    """

    def __init__(self, folder: Path, run: dict):
        self.folder, self.path, self.run = folder, folder / "results.json", run
        self.tables: dict[str, dict[str, dict]] = {}
        if self.path.exists():
            content = json.loads(self.path.read_text())
            if content["run"] != run:
                raise ValueError(
                    f"{self.path} has rows of {content['run']}, this run is {run}: give another --output_dir, or "
                    "remove the file."
                )
            self.tables = content["tables"]
        folder.mkdir(parents=True, exist_ok=True)

    def row(self, table: str, name: str, fields: dict, figures: Callable[[], dict], left_out: str | None = None):
        """Measures one row, unless it is there.

        Args:
            table: name of the table.
            name: of the row.
            fields: what the row is about.
            figures: measures its columns.
            left_out: why it cannot be measured here.
        """
        rows = self.tables.setdefault(table, {})
        if name in rows and "left out" not in rows[name]:
            return
        started = time.time()
        rows[name] = fields | ({"left out": left_out} if left_out else figures())
        write_json(self.path, {"run": self.run, "tables": self.tables})
        print(f"{table}: {name}: {left_out or f'{time.time() - started:.1f} s'}", flush=True)


def print_tables(results: Results) -> None:
    """All tables, what was left out of them, and the worst row for everything that has a limit."""
    for table, title in TITLES.items():
        rows = results.tables.get(table, {})
        if not rows:
            continue
        measured = [row for row in rows.values() if "left out" not in row]
        header = list(dict.fromkeys(column for row in measured for column in row))
        print(f"\n{title}\n")
        print(format_table(header, [[row.get(column) for column in header] for row in measured]))
        for name, row in rows.items():
            if "left out" in row:
                print(f"Left out: {name}: {row['left out']}")
    if results.run["quick"]:
        print("\nNothing here was large enough to be judged: this was a quick run.")
    print("\nThe worst rows\n")
    summaries = [limit.summary(results.tables.get(limit.table, {})) for limit in LIMITS]
    print(format_table(["", "must", "worst", "where", "reached"], summaries))
    print("\n" + ", ".join(f"{name} {value}" for name, value in results.run.items()))


def save_plot(results: Results) -> None:
    """`results.png`: the constraint and whole runs, a row of points each, and what they must reach as lines."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    panels = (
        ("constraint", (*FAST, "dict trie"), "constraint / floor of the step", True, (0.03, 0.13, 0.20)),
        (
            "search",
            ("processor", "search", "packed"),
            "whole run / unconstrained generate",
            False,
            (0.5, 0.65, 1.07),
        ),
    )
    tables = [{k: r for k, r in results.tables.get(p[0], {}).items() if "left out" not in r} for p in panels]
    height = 1.6 + 0.22 * max(map(len, tables))
    figure, axes = pyplot.subplots(1, 2, figsize=(15, height))
    for axis, rows, (_, columns, label, logarithmic, bounds) in zip(axes, tables, panels, strict=True):
        for column, colour in zip(columns, ("#2a9d8f", "#2a6f97", "#e76f51"), strict=True):
            places = [place for place, row in enumerate(rows.values()) if row.get(column) is not None]
            values = [row[column] for row in rows.values() if row.get(column) is not None]
            axis.plot(values, places, "o", markersize=4, color=colour, label=column)
        for bound in bounds:
            axis.axvline(bound, color="black", linewidth=0.8, linestyle=":")
        axis.set_yticks(range(len(rows)), list(rows), fontsize=7)
        axis.invert_yaxis()
        axis.set_xlabel(f"{label} (dotted: what must be reached)", fontsize=8)
        axis.set_xscale("log" if logarithmic else "linear")
        axis.grid(alpha=0.3, axis="x")
        axis.legend(fontsize=7)
    figure.tight_layout()
    with atomic_path(results.folder / "results.png") as temporary:
        figure.savefig(temporary, dpi=130, metadata={"Software": None})
    pyplot.close(figure)

"""Runs the same trainings on 1, 2 and 4 processes, and compares what comes of them.

    python tests/long/process_equality.py --documents 4000 --processes 1 2 4

Prints one table per check: the first 20 losses and gradients of a stage of every kind, whole runs by SGD in float64,
a retrieval task, and runs by AdamW in float32, with batches in parts and without. Whole runs without parts are short,
of 250 documents at most: in longer ones, which `--long_runs` shows, what was rounded otherwise grows until k-means
finds other clusters. Exits with 1 where one of the limits that it names is broken.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

import torch

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2])]

from launching import launch  # noqa: E402
from tiny_equality import farthest, farthest_gradient, share_of_equal  # noqa: E402

NEAR, ENOUGH = 1e-5, 0.995
TASKS = ("first_steps", "parts_runs", "whole_runs", "one_task", "adamw_runs")
SHORT = {"whole_runs", "one_task", "adamw_runs"}


class Report:
    """Prints lines of tables, and remembers which limits were broken."""

    def __init__(self):
        self.broken = []

    def title(self, text: str, *columns: str) -> None:
        """Begins a table."""
        print(f"\n{text}\n{'':34}" + "".join(f"{column:>22}" for column in columns), flush=True)

    def row(self, name: str, holds: bool, *values: str) -> None:
        """A line of it."""
        if not holds:
            self.broken.append(name)
        print(f"{name:34}" + "".join(f"{value:>22}" for value in values) + ("" if holds else "   BROKEN"), flush=True)


def compare_steps(report: Report, found: dict, expected: dict, processes: int) -> None:
    """Losses and gradients of the first steps."""
    for name, reference in expected.items():
        losses = [farthest(*pair) for pair in zip(found[name]["losses"], reference["losses"], strict=True)]
        gradient = farthest_gradient(found[name]["gradients"], reference["gradients"])
        holds = max(losses) <= NEAR and gradient <= NEAR
        label = f"{name}, {len(losses)} steps, {processes} processes"
        report.row(label, holds, f"{max(losses):.1e}", f"{gradient:.1e}")


def compare_runs(report: Report, found: dict, expected: dict, processes: int) -> None:
    """Codes, IDs, figures and files of whole runs."""
    for name, reference in expected.items():
        own = found[name]
        share, ids = share_of_equal(own["codes"], reference["codes"]), share_of_equal(own["ids"], reference["ids"])
        same = sum(own["files"][file] == digest for file, digest in reference["files"].items())
        difference = farthest(own["figures"], reference["figures"])
        holds = share.min() == 1 and ids.min() == 1 and same == len(reference["files"]) and difference <= NEAR
        report.row(
            f"{name}, {processes} processes", holds, " ".join(f"{part:.2%}" for part in share), f"{ids[-1]:.2%}",
            f"{same} of {len(reference['files'])}", f"{difference:.1e}",
        )  # fmt: skip


def compare_parts(report: Report, found: dict, expected: dict, processes: int) -> None:
    """Weights, codes and files, to the bit."""
    for name, reference in expected.items():
        own = found[name]
        share = share_of_equal(own["codes"], reference["codes"])
        weights, files = own["weights"] == reference["weights"], own["files"] == reference["files"]
        words = {True: "same", False: "other"}
        report.row(
            f"{name}, {processes} processes", share.min() == 1 and weights and files,
            f"{share[-1]:.2%}", words[weights], words[files],
        )  # fmt: skip


def compare_task(report: Report, found: dict, expected: dict, processes: int) -> None:
    """Figures and rankings of a task."""
    difference = farthest(found["figures"], expected["figures"])
    same = found["documents"] == expected["documents"]
    scores = (found["scores"] - expected["scores"]).abs().max().item() if same else float("nan")
    holds = same and difference <= NEAR and scores <= NEAR
    report.row(f"{processes} processes", holds, f"{difference:.1e}", "same" if same else "other", f"{scores:.1e}")


def compare_codes(report: Report, found: dict, expected: dict, processes: int) -> None:
    """Codes of runs in single precision; the limit is for the rate of fine-tuning."""
    runs = [(f"{name}, {processes} processes", found[name], expected[name]) for name in found]
    if processes == 2:
        runs.append(("rate 2e-3, nudged, 1 process", expected["rate 2e-3, nudged"], expected["rate 2e-3"]))
    for label, own, reference in runs:
        share = share_of_equal(own["codes"], reference["codes"])
        holds = share.min() >= ENOUGH or "2e-3" in label
        difference = farthest(own["figures"], reference["figures"])
        report.row(label, holds, *(f"{part:.2%}" for part in share), f"{difference:.1e}")


def same(one, other) -> bool:
    """Whether two processes found the same, bit by bit."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[name], other[name]) for name in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other


TABLES = {
    "first_steps": ("SGD in float64: largest relative difference", compare_steps, "losses", "gradients"),
    "parts_runs": ("AdamW in float32, dropout, batches in 4 parts", compare_parts, "equal IDs", "weights", "files"),
    "whole_runs": ("Whole runs, SGD in float64", compare_runs, "equal codes", "equal IDs", "equal files", "figures"),
    "one_task": ("A task, SGD in float64", compare_task, "losses and figures", "run file", "scores"),
    "adamw_runs": ("AdamW in float32: equal codes", compare_codes, "position 1", "position 2", "both", "figures"),
}


def results(arguments: argparse.Namespace, processes: int) -> list[dict]:
    """What each of so many processes found, by check."""
    short = [check for check in arguments.checks if check in SHORT and not arguments.long_runs]
    long = [check for check in arguments.checks if check not in short]
    found: list[dict] = [{} for _ in range(processes)]
    for documents, checks in ((min(arguments.documents, 250), short), (arguments.documents, long)):
        began = time.time()
        if checks:
            with tempfile.TemporaryDirectory() as folder:
                parts = launch(Path(folder), processes, *checks, documents=documents, timeout=3600)
            found = [known | part for known, part in zip(found, parts, strict=True)]
            what = f"{documents:,} documents, {processes} processes, {', '.join(checks)}"
            print(f"{what}: {time.time() - began:.0f} s", flush=True)
    return found


def main() -> None:
    """Parses arguments and runs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--documents", type=int, default=4000)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2, 4], help="the first is the reference")
    parser.add_argument("--long_runs", action="store_true", help="runs without parts of all documents, too")
    parser.add_argument("--checks", nargs="+", choices=TASKS, default=TASKS)
    arguments = parser.parse_args()
    report = Report()
    found = {processes: results(arguments, processes) for processes in arguments.processes}
    first, *others = arguments.processes
    for check in arguments.checks:
        title, compare, *columns = TABLES[check]
        report.title(f"{title}, beside {first} process{'es' if first > 1 else ''}", *columns)
        for processes in others:
            for part in found[processes][1:]:  # what they end with is the same on all, and no less
                assert same(part[check], found[processes][0][check]), f"processes differ in {check}"
            compare(report, found[processes][0][check], found[first][0][check], processes)
    print(f"\n{'; '.join(report.broken) or 'All limits hold'}.")
    sys.exit(bool(report.broken))


if __name__ == "__main__":
    main()

"""What a set's queries ask for, the systems that need no training, and how runs become recorded figures."""

from functools import cached_property
from pathlib import Path

from data.histories import History, read_histories

from metrics.ranking_quality import fuse, ranking_figures, read_qrels, read_run
from tasks.counting import recommendations
from tasks.plan import TaskSet
from tasks.records import Records
from tasks.training import SEQUENCES

_DEPTH = 20
COUNTED = "co-occurrence"


class Judged:
    """The test splits of a data set.

    Args:
        entry: data set and task.
        data: folder of the data sets.
    """

    def __init__(self, entry: TaskSet, data: Path):
        self.entry, self.folder = entry, data / entry.folder
        self.counts = entry.task == "recommendation"

    @cached_property
    def histories(self) -> list[History]:
        """Of recommendation."""
        return read_histories(self.folder / SEQUENCES, None)

    @cached_property
    def qrels(self) -> dict[str, dict]:
        """By split, gains by query and document."""
        if self.counts:
            return {"test": {history.user: {history.items[-1]: 1} for history in self.histories}}
        found = {path.stem: read_qrels(path) for path in sorted((self.folder / "qrels").glob("test*.tsv"))}
        return {
            split: {query: row for query, row in own.items() if any(gain > 0 for gain in row.values())}
            for split, own in found.items()
        }

    @cached_property
    def untrained(self) -> dict[str, dict]:
        """Rankings of the test split by systems that need no training, of recommendation."""
        if not self.counts:
            return {}
        return {
            "popularity": recommendations(self.histories, _DEPTH, with_validation=False, counted=False),
            COUNTED: recommendations(self.histories, _DEPTH, with_validation=False),
            f"{COUNTED}, validation counted": recommendations(self.histories, _DEPTH, with_validation=True),
        }

    def record_untrained(self, records: Records) -> None:
        """Figures of [`Judged.untrained`]."""
        for name, rankings in self.untrained.items():
            records.add("test", name, 0, self.figures(rankings, "test"))

    def record(self, records: Records, name: str, seed: int, folder: Path, fused: bool) -> None:
        """Figures of the runs in a folder, one per test split.

        Args:
            records: where they go.
            name: of the system.
            seed: of the run.
            folder: with `run.<split>.trec`.
            fused: whether the run is recorded with the reference, too.

        Raises:
            FileNotFoundError: there is no run of any split.
        """
        runs = {split: folder / f"run.{split}.trec" for split in self.qrels}
        runs = {split: read_run(path) for split, path in runs.items() if path.exists()}
        if not runs:
            raise FileNotFoundError(f"{folder} has no run of {', '.join(self.qrels)}: expected run.<split>.trec.")
        for split, rankings in runs.items():
            records.add(split, name, seed, self.figures(rankings, split))
            reference = self.untrained.get(self.entry.reference)
            if fused and reference:
                both = fuse([rankings, reference], _DEPTH)
                records.add(split, f"{name} + {self.entry.reference}", seed, self.figures(both, split))

    def figures(self, rankings: dict, split: str):
        """Figures of a split's rankings; see [`ranking_figures`]."""
        return ranking_figures(rankings, self.qrels[split], self.entry.measures)

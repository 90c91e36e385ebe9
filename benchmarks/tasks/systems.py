"""What a set's queries ask for, the systems that need no training, and how runs become recorded figures."""

from functools import cached_property, partial
from pathlib import Path

from data.beir import BeirFolder
from data.histories import History, read_histories

from metrics.ranking_quality import RankingFigures, fuse, ranking_figures, read_run
from tasks.counting import recommendations, recommendations_at_any_distance
from tasks.lexical import BM25, BM25Settings
from tasks.plan import TaskSet
from tasks.records import Records
from tasks.training import SEQUENCES

_DEPTH = 20
COUNTED, BY_WORDS = "co-occurrence", "BM25"


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
        splits = [name for name in self.beir.splits() if name not in ("train", "dev")]
        return {split: self.beir.qrels(split) for split in splits}

    @cached_property
    def beir(self) -> BeirFolder:
        """Of search and retrieval."""
        return BeirFolder(self.folder)

    @cached_property
    def untrained(self) -> dict[str, dict[str, dict]]:
        """By system that needs no training and split, rankings by query."""
        if self.counts:
            count = partial(recommendations, self.histories, _DEPTH)
            found = {
                "popularity": count(with_validation=False, counted=False),
                COUNTED: count(with_validation=False),
                f"{COUNTED}, validation counted": count(with_validation=True),
                f"{COUNTED} at any distance": recommendations_at_any_distance(self.histories, _DEPTH),
            }
            return {name: {"test": rankings} for name, rankings in found.items()}
        documents = self.beir.documents
        bm25 = BM25(list(documents["id"]), list(documents["text"]), BM25Settings(stemmer="english"))
        texts = self.beir.queries
        return {
            BY_WORDS: {
                split: bm25({query: texts[query] for query in judged}, _DEPTH).documents
                for split, judged in self.qrels.items()
            }
        }

    def record_untrained(self, records: Records) -> None:
        """Figures of [`Judged.untrained`]."""
        for name, by_split in self.untrained.items():
            for split, rankings in by_split.items():
                records.add(split, name, 0, self.figures(rankings, split))

    def record(self, records: Records, name: str, seed: int, folder: Path) -> None:
        """Figures of the runs in a folder, one per test split, and of their fusion with the reference.

        Args:
            records: where they go.
            name: of the system.
            seed: of the run.
            folder: with `run.<split>.trec`.

        Raises:
            FileNotFoundError: there is no run of any split.
        """
        runs = {split: folder / f"run.{split}.trec" for split in self.qrels}
        runs = {split: read_run(path) for split, path in runs.items() if path.exists()}
        if not runs:
            raise FileNotFoundError(f"{folder} has no run of {', '.join(self.qrels)}: expected run.<split>.trec.")
        missing = sorted(set(self.qrels) - set(runs))
        if missing:
            print(f"{folder}: no run of {', '.join(missing)}", flush=True)
        for split, rankings in runs.items():
            records.add(split, name, seed, self.figures(rankings, split))
            # The reference first: it decides between documents that both have at the same rank.
            both = fuse([self.untrained[self.entry.reference][split], rankings], _DEPTH)
            records.add(split, f"{name} + {self.entry.reference}", seed, self.figures(both, split))

    def figures(self, rankings: dict, split: str) -> RankingFigures:
        """Figures of a split's rankings; see [`ranking_figures`]."""
        return ranking_figures(rankings, self.qrels[split], self.entry.measures)

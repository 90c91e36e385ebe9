"""A BEIR folder becomes pairs and queries: `corpus.jsonl`, `queries.jsonl`, both also as .gz, `qrels/<split>.tsv`.

A folder of products may have `items.jsonl`, as recommendation does, in place of `corpus.jsonl`.
"""

from pathlib import Path

import numpy as np
from datasets import Dataset

from metrics.ranking_quality import RankingError, read_qrels

from .corpora import clean_text
from .rows import CorpusError, decode_rows, read_rows

_TEXTS = ("title", "description", "text")


class BeirFolder:
    """Documents, queries and judgements of a folder.

    Args:
        folder: see above; `corpus.jsonl` has `_id`, `text` and perhaps `title`, `items.jsonl` has `id`, `title` and
            `description`, `queries.jsonl` has `_id` and `text`.

    Raises:
        FileNotFoundError: a file is missing.
        CorpusError: ids are missing or repeated, or judgements name what is not there.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder).expanduser()
        rows = self.read("corpus", "items")
        texts = ["\n".join(filter(None, (clean_text(row.get(name)) for name in _TEXTS))) for row in rows]
        self.titles = [clean_text(row.get("title")) for row in rows]
        self.documents = Dataset.from_dict({"id": [row["_id"] for row in rows], "text": texts})
        self.queries = {row["_id"]: clean_text(row.get("text")) for row in self.read("queries")}

    def read(self, *names: str) -> list[dict]:
        """The rows of the first file that there is, each with an `_id` of its own."""
        paths = [self.folder / f"{name}{suffix}" for name in names for suffix in (".jsonl", ".jsonl.gz")]
        path = next(filter(Path.exists, paths), paths[0])
        table, _ = read_rows(str(path))
        rows = decode_rows(table[:])
        ids = [str(row.get("_id", row.get("id", ""))) for row in rows]
        if "" in ids or len(set(ids)) < len(ids):
            raise CorpusError(f"{path}: row {_first_wrong(ids) + 1} has no `_id`, or that of another row.")
        return [row | {"_id": value} for row, value in zip(rows, ids, strict=True)]

    def splits(self) -> list[str]:
        """Names of the splits that have judgements."""
        return sorted(path.stem for path in (self.folder / "qrels").glob("*.tsv"))

    def qrels(self, split: str) -> dict[str, dict[str, int]]:
        """Judgements of a split, without queries that have no relevant document.

        Raises:
            CorpusError: they name a query or a document that is not there, or the file cannot be read.
        """
        path = self.folder / "qrels" / f"{split}.tsv"
        try:
            qrels = read_qrels(path)
        except RankingError as error:
            raise CorpusError(str(error)) from error
        documents = set(self.documents["id"])
        for query, judged in qrels.items():
            if query not in self.queries:
                raise CorpusError(f"{path}: query {query} is not in queries.jsonl; add or remove it.")
            unknown = [document for document in judged if document not in documents]
            if unknown:
                raise CorpusError(f"{path}: query {query} has document {unknown[0]}, which is not in corpus.jsonl.")
        return {query: judged for query, judged in qrels.items() if any(gain > 0 for gain in judged.values())}

    def pairs(self, qrels: dict[str, dict[str, int]]) -> Dataset:
        """A pair for every relevant document of every query."""
        rows = [
            {"text": self.queries[query], "target": document}
            for query, judged in qrels.items()
            for document, gain in judged.items()
            if gain > 0
        ]
        return Dataset.from_list(rows)

    def judged_queries(self, qrels: dict[str, dict[str, int]]) -> Dataset:
        """Queries with their judged documents."""
        return Dataset.from_list(
            [
                {
                    "id": query, "text": self.queries[query], "relevant": list(judged),
                    "gains": list(map(int, judged.values())),
                }
                for query, judged in qrels.items()
            ]
        )  # fmt: skip


def held_out(qrels: dict[str, dict], share: float, seed: int) -> tuple[dict, dict]:
    """A seeded share of the queries, for validation where a folder has none, and the others: `(others, held out)`."""
    names = list(qrels)
    chosen = set(np.random.default_rng(seed).permutation(len(names))[: max(1, round(share * len(names)))].tolist())
    if len(names) < 2:
        raise CorpusError(
            f"There are {len(names)} training queries; expected some to learn from and one to validate by."
        )
    parts = [{query: qrels[query] for i, query in enumerate(names) if (i in chosen) == out} for out in (False, True)]
    return parts[0], parts[1]


def _first_wrong(ids: list[str]) -> int:
    seen: set[str] = set()
    return next(row for row, value in enumerate(ids) if not value or value in seen or seen.add(value))

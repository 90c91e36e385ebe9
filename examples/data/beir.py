"""A BEIR folder becomes pairs and queries: `corpus.jsonl`, `queries.jsonl`, both also as .gz, `qrels/<split>.tsv`.

A folder of products may have `items.jsonl`, as recommendation does, in place of `corpus.jsonl`.
"""

from pathlib import Path

import numpy as np
from datasets import Dataset

from metrics.ranking_quality import RankingError, read_qrels

from .corpora import NUM_EXAMPLES, TEXT_COLUMNS, clean_text
from .rows import CorpusError, decode_rows, read_rows


class BeirFolder:
    """Documents, queries and judgements of a folder.

    Args:
        folder: see above; `corpus.jsonl` has `_id`, `text` and perhaps `title`, `items.jsonl` has `id`, `title`,
            `description` and perhaps `brand`, `queries.jsonl` has `_id` and `text`.

    Raises:
        FileNotFoundError: a file is missing.
        CorpusError: ids are missing, repeated or with white space, which no run file can hold; documents have no text.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder).expanduser()
        rows = self.read("corpus", "items")
        texts = ["\n".join(filter(None, (clean_text(row.get(name)) for name in TEXT_COLUMNS))) for row in rows]
        empty = [row["_id"] for row, text in zip(rows, texts, strict=True) if not text]
        if empty:
            raise CorpusError(
                f"{self.folder}: {len(empty)} documents have no text, such as {empty[:NUM_EXAMPLES]}: leave them out."
            )
        self.titles = [clean_text(row.get("title")) for row in rows]
        self.documents = Dataset.from_dict({"id": [row["_id"] for row in rows], "text": texts})
        self.queries = {row["_id"]: clean_text(row.get("text")) for row in self.read("queries")}

    def read(self, *names: str) -> list[dict]:
        """The rows of the first file that there is, each with an `_id` of its own."""
        paths = [self.folder / f"{name}{suffix}" for name in names for suffix in (".jsonl", ".jsonl.gz")]
        path = next(filter(Path.exists, paths), None)
        if path is None:
            raise FileNotFoundError(f"{self.folder} has no {' or '.join(f'{name}.jsonl' for name in names)}.")
        table, _ = read_rows(str(path))
        rows = decode_rows(table[:])
        ids = [str(row.get("_id", row.get("id")) or "") for row in rows]
        if len(set(ids)) < len(ids) or any(value.split() != [value] for value in ids):
            raise CorpusError(
                f"{path}: row {_first_wrong(ids) + 1} has no `_id`, that of another row, or one with white space, "
                "which a run file cannot hold."
            )
        return [row | {"_id": value} for row, value in zip(rows, ids, strict=True)]

    def splits(self) -> list[str]:
        """Names of the splits that have judgements."""
        return sorted(path.stem for path in (self.folder / "qrels").glob("*.tsv"))

    def qrels(self, split: str) -> dict[str, dict[str, int]]:
        """Judgements of a split, without queries that have no relevant document.

        Raises:
            CorpusError: they name a query or a document that is not there, or a query without text; nothing is
                relevant; or the file cannot be read.
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
            if not self.queries[query]:
                raise CorpusError(f"{path}: query {query} has no text in queries.jsonl; remove it.")
            unknown = [document for document in judged if document not in documents]
            if unknown:
                raise CorpusError(f"{path}: query {query} has document {unknown[0]}, which is not in corpus.jsonl.")
        found = {query: judged for query, judged in qrels.items() if any(gain > 0 for gain in judged.values())}
        if not found:
            raise CorpusError(f"{path}: no query has a document with a gain above 0; remove the file.")
        return found

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
    if not 0 < share < 1:
        raise CorpusError(f"The share of queries to hold out is {share}; expected one between 0 and 1.")
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
    return next(
        row for row, value in enumerate(ids) if value.split() != [value] or value in seen or seen.add(value)
    )  # fmt: skip

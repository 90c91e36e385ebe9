"""Tables of one's own become a BEIR folder: documents, and which of them answer which query."""

import json
import re
from collections.abc import Iterable
from pathlib import Path

from datasets import Dataset

from metrics.ranking_quality import write_qrels
from modeling_lmindexer.folder import atomic_path

from .beir import held_out
from .rows import CorpusError, rows_with

Qrels = dict[str, dict[str, int]]


def read_judgements(file: str | Path, document_ids: Iterable, test_share: float, seed: int) -> dict[str, Qrels]:
    """Judgements of a table, by split: the query's text, its documents and their gains.

    Args:
        file: the columns `query` and `document_id`, and perhaps `gain`, a whole number, 1 where there is none, and
            `split`, such as train, dev or test: .jsonl, .csv or .parquet, also .gz.
        document_ids: that there are.
        test_share: of the queries, drawn with the seed, where there is no column `split`; the others are `train`.
        seed: see above.

    Raises:
        CorpusError: a row without a query, with an unknown document, or with a gain that is no whole number, a
            document judged twice for a query, or a query in two splits; with its number.
    """
    known, splits, found = {str(value) for value in document_ids}, {}, {}
    rows = rows_with(file, ("query", "document_id"))
    has_splits = any("split" in row for row in rows)
    for number, row in enumerate(rows, start=1):
        query, document = " ".join(str(row.get("query") or "").split()), str(row.get("document_id", ""))
        gain, split = str(row.get("gain", 1)), str(row.get("split") or "") if has_splits else "all"
        where = f"{file}, row {number}"
        if not query or document not in known:
            raise CorpusError(
                f"{where}: query {query!r}, document {document!r}; expected a query and a known document."
            )
        if not gain.removeprefix("-").isdigit():
            raise CorpusError(f"{where}: gain {gain!r}; expected a whole number.")
        if not re.fullmatch(r"[\w-]+", split):
            raise CorpusError(f"{where}: split {split!r}; expected a name such as train, dev or test in every row.")
        if splits.setdefault(query, split) != split:
            raise CorpusError(f"{where}: query {query!r} is in {split} and in {splits[query]}; expected one split.")
        judged = found.setdefault(split, {}).setdefault(query, {})
        if document in judged:
            raise CorpusError(f"{where}: query {query!r} has document {document} twice; keep one row.")
        judged[document] = int(gain)
    if has_splits:
        return found
    if test_share == 1:
        return {"test": found["all"]}
    train, test = held_out(found["all"], test_share, seed)
    return {"train": train, "test": test}


def document_rows(corpus: Dataset) -> Iterable[dict]:
    """Rows of `corpus.jsonl` from a corpus with the columns `id`, `text` and perhaps `query`, the title."""
    for row in corpus:
        title = row.get("query") or ""
        text = "\n".join(part for part in row["text"].split("\n") if part != title)  # a column is a line
        yield {"_id": str(row["id"]), "title": title, "text": text}


def write_beir(folder: str | Path, documents: Iterable[dict], judged: dict[str, Qrels]) -> None:
    """Writes a BEIR folder; splits that an earlier one had are removed, for their queries had other ids.

    Args:
        folder: gets corpus.jsonl, queries.jsonl and qrels/<split>.tsv.
        documents: `_id`, `title` and `text` of each.
        judged: by split, documents and gains by the text of a query, which gets the id q0, q1, ...
    """
    folder = Path(folder)
    (folder / "qrels").mkdir(parents=True, exist_ok=True)
    for old in (folder / "qrels").glob("*.tsv"):
        old.unlink()
    names = {text: f"q{i}" for i, text in enumerate(text for qrels in judged.values() for text in qrels)}
    tables = {"corpus": documents, "queries": ({"_id": name, "text": text} for text, name in names.items())}
    for name, rows in tables.items():
        with atomic_path(folder / f"{name}.jsonl") as temporary, open(temporary, "w", encoding="utf-8") as file:
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    for split, qrels in judged.items():
        write_qrels(folder / "qrels" / f"{split}.tsv", {names[text]: row for text, row in qrels.items()})

"""What sources are converted to, and how it is written: items with histories, or a BEIR folder."""

import gzip
import hashlib
import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from metrics.ranking_quality import write_qrels

from ..histories import History
from ..rows import CorpusError

_PAPER_WINDOWS = 5  # training histories per user in Table 6


@dataclass
class Recommendation:
    """Items, and what users had of them.

    Attributes:
        items: `id`, `title`, `description`, `brand`, `categories`, perhaps more.
        histories: oldest first, of items that are there.
        counts: what else is worth knowing, by name.
    """

    items: Iterable[dict]
    histories: list[History]
    counts: dict[str, int] = field(default_factory=dict)

    def write(self, folder: Path) -> dict[str, int]:
        """Writes `items.jsonl.gz` and `sequences.txt.gz`; returns the counts."""
        ids = set()
        with packed(folder / "items.jsonl.gz") as write:
            for item in self.items:
                ids.add(item["id"])
                write(json.dumps(item, ensure_ascii=False))
        with packed(folder / "sequences.txt.gz") as write:
            for history in self.histories:
                unknown = next((item for item in history.items if item not in ids), None)
                if unknown is not None:
                    raise CorpusError(f"User {history.user} has item {unknown}, which is not among the items.")
                write(" ".join(map(str, (history.user, *history.items))))
        users = len(self.histories)
        learned = sum(len(history.items) > 3 for history in self.histories)  # that have a pair before the last two
        return {
            "items": len(ids), "users": users, "interactions": sum(len(history.items) for history in self.histories),
            "train histories": _PAPER_WINDOWS * learned, "dev histories": users, "test histories": users,
        } | self.counts  # fmt: skip


@dataclass
class Retrieval:
    """Documents, queries, and which documents answer them.

    Attributes:
        documents: `_id`, `title`, `text`; read once, before all else, so that a source may fill the rest meanwhile.
        queries: their text by id.
        qrels: by split and query, the gains of documents.
        counts: what else is worth knowing, by name.
    """

    documents: Iterable[dict]
    queries: dict[str, str]
    qrels: dict[str, dict[str, dict[str, int]]]
    counts: dict[str, int] = field(default_factory=dict)

    def write(self, folder: Path) -> dict[str, int]:
        """Writes `corpus.jsonl.gz`, `queries.jsonl.gz` and `qrels/<split>.tsv`; returns the counts."""
        ids = set()
        with packed(folder / "corpus.jsonl.gz") as write:
            for document in self.documents:
                if document["_id"] in ids:
                    raise CorpusError(f"Document {document['_id']} is there twice; expected every id once.")
                ids.add(document["_id"])
                write(json.dumps(document, ensure_ascii=False))
        judged = set().union(*self.qrels.values())
        with packed(folder / "queries.jsonl.gz") as write:
            for query, text in self.queries.items():
                if query in judged:
                    write(json.dumps({"_id": query, "text": text}, ensure_ascii=False))
        counts = {"documents": len(ids)}
        (folder / "qrels").mkdir()
        for split, qrels in self.qrels.items():
            self._check(split, qrels, ids)
            write_qrels(folder / "qrels" / f"{split}.tsv", qrels)
            relevant = [sum(gain > 0 for gain in row.values()) for row in qrels.values()]
            counts |= {f"{split} queries": sum(n > 0 for n in relevant), f"{split} labels": sum(relevant)}
        return counts | self.counts

    def _check(self, split: str, qrels: dict[str, dict[str, int]], ids: set[str]) -> None:
        for query, row in qrels.items():
            if query not in self.queries:
                raise CorpusError(f"The judgements of {split} have query {query}, whose text is in no file.")
            missing = next((document for document in row if document not in ids), None)
            if missing is not None:
                raise CorpusError(
                    f"The judgements of {split} have document {missing}, which is not in the collection."
                )


@contextmanager
def packed(path: Path) -> Iterator:
    """A function that writes lines to a .gz file: the same bytes for the same lines at any time, under any name."""
    with open(path, "wb") as raw, gzip.GzipFile(filename="", mode="wb", fileobj=raw, mtime=0) as file:
        # half a surrogate pair, as some JSON escapes have, is no UTF-8
        yield lambda line: file.write(line.encode("utf-8", errors="replace") + b"\n")


def fingerprint(path: Path, unpack: bool = False) -> dict[str, str | int]:
    """`sha256` and `bytes` of a file; with `unpack` of what a .gz unpacks to: zlib's versions pack it differently."""
    digest, size = hashlib.sha256(), 0
    with (gzip.open if unpack and path.suffix == ".gz" else open)(path, "rb") as file:
        while block := file.read(2**20):
            digest.update(block)
            size += len(block)
    return {"sha256": digest.hexdigest(), "bytes": size}

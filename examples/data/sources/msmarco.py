"""MS MARCO passages or documents, a million of them or all, with TREC's Deep Learning judgements of 2019 and 2020."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ..rows import CorpusError
from .draws import draw_keys, smallest
from .files import text_lines, tsv_rows, whole_number
from .forms import Retrieval

SPLITS = ("train", "test", "test_dl19", "test_dl20")
_DRAWN_FOR = ("train", "test")  # their relevant documents are in every draw
_PASSAGES, _DOCUMENTS = ("id", "passage"), ("id", "url", "title", "body")


@dataclass
class MsMarcoSettings:
    """How large the collection is."""

    documents: int = field(
        default=1_000_000,
        metadata={
            "help": "Those relevant to training and dev queries, and others, drawn with the seed, up to this number; "
            "0 for all there are."
        },
    )
    seed: int = field(default=0, metadata={"help": "Of the draw."})


def convert_msmarco(inputs: dict[str, list[Path]], settings: MsMarcoSettings) -> Retrieval:
    """The collection in its order, and the queries and judgements of all splits that are given.

    As in the paper, after Pradeep et al. (2023), all passages that are relevant to a training or dev query are kept;
    judgements of TREC-DL are kept as far as their documents were drawn.

    Args:
        inputs: `collection` (collection.tsv, or msmarco-docs.tsv), and for every split of `SPLITS` its
            `<split>_queries` and `<split>_qrels` (query, 0, document, gain); `test` is MS MARCO's dev set; those of
            TREC may be missing.
        settings: see there.

    Raises:
        CorpusError: a line that is none, a query without text, or relevant documents that are missing or too many.
    """
    (collection,) = inputs["collection"]
    given = [split for split in SPLITS if inputs[f"{split}_qrels"]]
    qrels = {split: _qrels(inputs[f"{split}_qrels"][0]) for split in given}
    queries: dict[str, str] = {}
    for split in given:
        if not inputs[f"{split}_queries"]:
            raise CorpusError(f"There are {split}_qrels and no {split}_queries; expected both or none.")
        queries |= _queries(inputs[f"{split}_queries"][0], qrels[split])
    needed = {d for split in _DRAWN_FOR for row in qrels[split].values() for d, gain in row.items() if gain > 0}
    drawn = _draw(collection, needed, settings)
    counts: dict[str, int] = {}

    def documents() -> Iterator[dict]:
        ids = set()
        for (name, document), is_drawn in zip(_collection(collection), drawn, strict=True):
            if is_drawn:
                ids.add(name)
                yield document
        graded = [split for split in given if split not in _DRAWN_FOR]
        for split in graded:
            counts[f"{split} judgements outside dropped"] = _drop_outside(qrels[split], ids)
        if graded:  # merged, as in the paper's Table 7
            labels = [sum(gain > 0 for gain in row.values()) for split in graded for row in qrels[split].values()]
            counts.update({"test_dl queries": len(labels), "test_dl labels": sum(labels)})

    return Retrieval(documents(), queries, qrels, counts)


def _qrels(path: Path) -> dict[str, dict[str, int]]:
    """Judgements of a TREC file, by query."""
    found: dict[str, dict[str, int]] = {}
    for number, line in text_lines(path):
        where, values = f"{path}, line {number}", line.split()
        if len(values) != 4:
            raise CorpusError(f"{where} is {line[:80]!r}; expected query, 0, document and gain.")
        found.setdefault(values[0], {})[values[2]] = whole_number(values[3], where, "the gain")
    return found


def _queries(path: Path, judged: dict) -> dict[str, str]:
    """Texts of the judged queries."""
    return {name: text for _, (name, text) in tsv_rows(path, "id", "query") if name in judged}


def _collection(path: Path) -> Iterator[tuple[str, dict]]:
    """Id and document of every line."""
    with_title = len(next(text_lines(path), (0, ""))[1].split("\t")) == len(_DOCUMENTS)
    for _, values in tsv_rows(path, *(_DOCUMENTS if with_title else _PASSAGES)):
        title = {"title": values[2]} if with_title else {}
        yield values[0], {"_id": values[0]} | title | {"text": values[-1]}


def _draw(path: Path, needed: set[str], settings: MsMarcoSettings) -> np.ndarray:
    """Which lines of the collection are kept `(lines,)`; nothing else of it stays in memory."""
    is_needed = bytearray()

    def others() -> Iterator[str]:
        for name, _ in _collection(path):
            is_needed.append(name in needed)
            if not is_needed[-1]:
                yield name

    keys = draw_keys(others(), settings.seed)
    kept = np.frombuffer(is_needed, dtype=bool).copy()
    missing = len(needed) - kept.sum()
    if missing:
        raise CorpusError(
            f"{missing} of {len(needed)} relevant documents are not in {path}, or are there twice: are passages "
            "judged with documents, or is the download cut?"
        )
    count = settings.documents - len(needed) if settings.documents else len(keys)
    if not 0 <= count <= len(keys):
        raise CorpusError(
            f"documents={settings.documents}: {path} has {len(kept)}, and {len(needed)} of them are relevant to "
            "training or dev queries; expected a number between, or 0 for all."
        )
    kept[~kept] = smallest(keys, count)
    return kept


def _drop_outside(qrels: dict[str, dict[str, int]], ids: set[str]) -> int:
    """Removes judgements of documents that are not there, and queries without any relevant one; says how many."""
    before = sum(map(len, qrels.values()))
    for query in list(qrels):
        qrels[query] = {document: gain for document, gain in qrels[query].items() if document in ids}
        if not any(gain > 0 for gain in qrels[query].values()):
            del qrels[query]
    return before - sum(map(len, qrels.values()))

"""Rankings and judgements in files that every evaluation tool reads: TREC runs, TREC and BEIR qrels."""

import csv
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from .ranking import RankingError

# Least differences of scores that are written with four digits and read in single precision.
_STEP, _SHARE = 2e-4, 4e-7


def write_run(path: str | Path, rankings: Mapping[object, Sequence], scores: Mapping[object, Sequence[float]] | None,
              name: str = "lmindexer") -> None:  # fmt: skip
    """Writes rankings as a TREC run: `query Q0 document rank score name`, ranks from 1.

    Evaluation tools sort by score, in single precision, and equal scores by document id: where a score is not below
    the one before, the written one is a little less, so that every tool sees the order of the ranking.

    Args:
        path: written whole, then renamed.
        rankings: by query, documents, best first.
        scores: by query, as many falling scores; None for minus the rank.
        name: of the system, without spaces.

    Raises:
        RankingError: an id with white space, which the format cannot hold.
    """
    lines = []
    for query, documents in rankings.items():
        own = scores[query] if scores is not None else [-rank for rank in range(1, len(documents) + 1)]
        last = 0.0
        for rank, (document, score) in enumerate(zip(documents, own, strict=True), start=1):
            for what, value in (("query", query), ("document", document)):
                if len(str(value).split()) != 1:
                    raise RankingError(
                        f"{what} id {value!r} has white space, which a TREC run cannot hold: rename it."
                    )
            last = min(float(score), last - max(_STEP, _SHARE * abs(last))) if rank > 1 else float(score)
            lines.append(f"{query} Q0 {document} {rank} {last:.4f} {name}\n")
    _write_whole(path, lines)


def _write_whole(path: str | Path, lines: Iterable[str]) -> None:
    path = Path(path)
    temporary = path.with_name(path.name + ".part")
    with open(temporary, "w", encoding="utf-8", newline="\n") as file:
        file.writelines(lines)
    temporary.replace(path)


def read_run(path: str | Path) -> dict[str, list[str]]:
    """The rankings of a TREC run, the file at `path`, by query, in the order of the ranks.

    Raises:
        RankingError: a line that is none, a rank or a document twice; with its number.
    """
    ranks: dict[str, dict[int, str]] = {}
    documents: dict[str, set[str]] = {}
    for number, parts in _lines(path):
        if len(parts) != 6 or not parts[3].isdigit():
            raise RankingError(
                f"{path}, line {number}: {' '.join(parts)!r}; expected query Q0 document rank score name"
            )
        query, document, rank = parts[0], parts[2], int(parts[3])
        row, named = ranks.setdefault(query, {}), documents.setdefault(query, set())
        if document in named:
            raise RankingError(f"{path}, line {number}: query {query} ranks {document} twice")
        named.add(document)
        if rank in row:
            raise RankingError(
                f"{path}, line {number}: query {query} has rank {rank} twice, for {row[rank]} and {document}"
            )
        row[rank] = document
    return {query: [row[rank] for rank in sorted(row)] for query, row in ranks.items()}


def read_qrels(path: str | Path) -> dict[str, dict[str, int]]:
    """The judgements at `path`, by query: a TREC file (`query 0 document gain`) or a BEIR one (`query document gain`,
    tabs, with a header).

    Raises:
        RankingError: a line that is none, or a document that is judged twice and not alike; with its number.
    """
    qrels: dict[str, dict[str, int]] = {}
    for number, parts in _lines(path):
        if number == 1 and not _is_gain(parts[-1]):
            continue  # the header
        if len(parts) not in (3, 4) or not _is_gain(parts[-1]):
            raise RankingError(
                f"{path}, line {number}: {' '.join(parts)!r}; expected query, document and a whole number"
            )
        judged = qrels.setdefault(parts[0], {})
        if judged.setdefault(parts[-2], int(parts[-1])) != int(parts[-1]):
            raise RankingError(
                f"{path}, line {number}: query {parts[0]} judges {parts[-2]} a second time, as {parts[-1]}; it was "
                f"{judged[parts[-2]]}"
            )
    return qrels


def write_qrels(path: str | Path, qrels: Mapping[object, Mapping[object, int]]) -> None:
    """Writes judgements as BEIR has them: `query document gain`, tabs, with a header.

    Args:
        path: written whole, then renamed.
        qrels: by query, the gain of every judged document.
    """
    lines = [f"{query}\t{document}\t{gain}\n" for query, row in qrels.items() for document, gain in row.items()]
    _write_whole(path, ["query-id\tcorpus-id\tscore\n", *lines])


def _is_gain(text: str) -> bool:
    return text.removeprefix("-").isdigit()


def _lines(path: str | Path) -> Iterator[tuple[int, list[str]]]:
    """Number and parts of every line that is not empty."""
    with open(path, encoding="utf-8", newline="") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                yield number, next(csv.reader([line.rstrip("\r\n")], delimiter="\t")) if "\t" in line else line.split()


def fuse(runs: Sequence[Mapping[object, Sequence]], depth: int, constant: int = 60) -> dict[str, list[str]]:
    """Several systems' rankings as one, by reciprocal rank fusion (Cormack, Clarke and Buettcher, 2009).

    Args:
        runs: by query, documents, best first.
        depth: documents kept per query.
        constant: added to every rank.

    Returns:
        By query, of any of the runs; equal sums in the order of the first run that has the document.
    """
    sums: dict[str, dict[str, float]] = {}
    for run in runs:
        for query, documents in run.items():
            row = sums.setdefault(str(query), {})
            for rank, document in enumerate(documents, start=1):
                row[str(document)] = row.get(str(document), 0.0) + 1 / (constant + rank)
    return {query: sorted(row, key=row.get, reverse=True)[:depth] for query, row in sums.items()}

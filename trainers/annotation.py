"""People judge IDs (the paper's Table 12): pairs of documents that share a prefix, written as a sheet that does not
say which index they come from, and scored when it comes back filled."""

import csv
import hashlib
import io
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from metrics.semantic_id_quality.groups import group_numbers
from modeling_lmindexer import SemanticIndex
from modeling_lmindexer.folder import atomic_path

JUDGEMENT = "similar"
KEY_COLUMNS = ["pair", "index", "document_a", "document_b"]
_TEXT_COLUMNS = ["pair", "text_a", "text_b"]
# What a spreadsheet would compute instead of showing it, in full width too.
_FORMULA_STARTS = tuple("=+-@＝＋－＠")
_NAMED = 5  # how many offending cells a message names


class SheetError(ValueError):
    """A sheet or its key is not what it should be."""


@dataclass(frozen=True)
class Pair:
    """Two documents that share a prefix in the IDs of `index`, in the order in which they are shown."""

    index: str
    first: int | str
    second: int | str

    @property
    def name(self) -> str:
        """The same for the same documents; text for a spreadsheet, and it tells nothing about the index."""
        documents = "\n".join(sorted((repr(self.first), repr(self.second))))
        return "p" + hashlib.sha256(documents.encode()).hexdigest()[:10]


@dataclass(frozen=True)
class IndexScore:
    """How many of an index's pairs one annotator calls similar: `accuracy`, with a 95 % Wilson interval, `low` to
    `high`, over the pairs. The annotator `majority` calls similar what more than half of several do."""

    index: str
    annotator: str
    pairs: int
    similar: int
    accuracy: float
    low: float
    high: float


@dataclass(frozen=True)
class SheetScores:
    """`scores`: by index and annotator. `accuracy`: of each index, in the mean over the annotators, as in the paper.
    `kappa`: Cohen's, of every two annotators over all pairs, `nan` where both always say the same one thing."""

    scores: list[IndexScore]
    accuracy: dict[str, float]
    kappa: dict[tuple[str, str], float]


def draw_pairs(codes: np.ndarray, depth: int, number: int, seed: int) -> np.ndarray:
    """Random pairs of documents whose first `depth` codes are the same, each pair equally likely, none twice.

    Args:
        codes: `(N, positions)`.
        depth: codes that a pair shares.
        number: of pairs.
        seed: of the draw, and of which document of a pair is shown first.

    Returns:
        row numbers `(number, 2)`.

    Raises:
        ValueError: fewer such pairs, or fewer positions.
    """
    if not 1 <= depth <= codes.shape[1]:
        raise ValueError(
            f"depth is {depth}: IDs have {codes.shape[1]} learned positions, and a pair shares at least 1"
        )
    groups = group_numbers(codes[:, :depth])
    order, sizes = np.argsort(groups, kind="stable"), np.bincount(groups)
    ends = np.cumsum(sizes * (sizes - 1) // 2)  # pairs are numbered, group after group
    if ends[-1] < number:
        raise ValueError(
            f"only {ends[-1]} pairs of documents share their first {depth} codes, {number} are asked for: set fewer "
            "pairs or a smaller depth"
        )
    rng = np.random.default_rng(seed)
    chosen = rng.choice(ends[-1], number, replace=False)
    group = np.searchsorted(ends, chosen, side="right")
    within = chosen - (ends - sizes * (sizes - 1) // 2)[group]
    # The second of a pair comes after the first in its group: pair 0 is (0, 1), then (0, 2), (1, 2), (0, 3), ...
    second = ((1 + np.sqrt(8.0 * within + 1)) / 2).astype(np.int64)
    second -= second * (second - 1) // 2 > within
    first = within - second * (second - 1) // 2
    rows = order[(np.cumsum(sizes) - sizes)[group][:, None] + np.stack([first, second], axis=1)]
    return rng.permuted(rows, axis=1)


def draw_blind(indexes: dict[str, SemanticIndex], depth: int, number: int, seed: int) -> list[Pair]:
    """As many pairs of every index, mixed.

    Args:
        indexes: by the name that scores are reported under.
        depth, number, seed: see [`draw_pairs`].

    Raises:
        ValueError: see [`draw_pairs`].
    """
    pairs = []
    for name, index in indexes.items():
        try:
            rows = draw_pairs(index.codes[:, : len(index.codebook_sizes)], depth, number, seed)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
        ids = index.document_ids
        pairs += [Pair(name, ids[first], ids[second]) for first, second in rows.tolist()]
    return [pairs[place] for place in np.random.default_rng(seed).permutation(len(pairs))]


def write_sheet(
    pairs: list[Pair], texts: dict, path: Path, *, annotators: Sequence[str] = (), max_characters: int = 1000
) -> Path:
    """Writes the sheet, and beside it the key that says which index a pair belongs to: `<name>.key.csv`.

    A pair that several indexes have is judged once, for all of them.

    Args:
        pairs: see [`draw_blind`].
        texts: of the documents, by id.
        path: of the sheet.
        annotators: names, one column to fill for each; without names there is one.
        max_characters: shown of a text.

    Returns:
        the path of the key.

    Raises:
        SheetError: a document without a text, or annotators that are not told apart.
    """
    missing = sorted(
        {str(document) for pair in pairs for document in (pair.first, pair.second) if document not in texts}
    )
    if missing:
        raise SheetError(
            f"{len(missing)} documents of the indexes have no text, such as {', '.join(missing[:_NAMED])}"
        )
    columns = [f"{JUDGEMENT}_{name}" for name in annotators] or [JUDGEMENT]
    if len(set(columns)) < len(columns) or not all(annotators):
        raise SheetError(f"annotators need different names, these are {', '.join(map(repr, annotators))}")
    sheet = {}
    for pair in pairs:
        shown = [as_cell(texts[document], max_characters) for document in (pair.first, pair.second)]
        sheet.setdefault(pair.name, [pair.name, *shown, *[""] * len(columns)])
    key = [[pair.name, *map(as_cell, (pair.index, pair.first, pair.second))] for pair in pairs]
    key_path = path.with_suffix(".key.csv")
    write_csv(path, _TEXT_COLUMNS + columns, list(sheet.values()))
    # By the documents, for the order of the draw is that of the sheet.
    write_csv(key_path, KEY_COLUMNS, sorted(key))
    return key_path


def as_cell(value: object, max_characters: int | None = None) -> str:
    """A text for a cell of a spreadsheet: one that would be taken for a formula gets an apostrophe before it."""
    text = "".join(c if c.isprintable() or c == "\n" else " " for c in str(value)).strip()
    if max_characters is not None and len(text) > max_characters:
        text = text[: max_characters - 1] + "…"
    return f"'{text}" if text.startswith(_FORMULA_STARTS) else text


def write_csv(path: Path, header: list[str], rows: list[list[str]]) -> None:
    """Writes a table with a byte order mark, by which spreadsheets know UTF-8."""
    with atomic_path(path) as temporary, open(temporary, "w", encoding="utf-8-sig", newline="") as file:
        csv.writer(file).writerows([header, *rows])


def read_csv(path: Path, required: list[str]) -> list[dict[str, str]]:
    """The rows of a table, as a spreadsheet may have written it: separated by comma, semicolon or tabulator.

    Raises:
        SheetError: no such columns, other columns than the header in a row, or another encoding.
    """
    try:
        content = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise SheetError(f"{path} is not UTF-8: save it as 'CSV UTF-8'") from error
    header = content.partition("\n")[0]
    separator = max(",;\t", key=header.count)
    reader = csv.DictReader(io.StringIO(content, newline=""), delimiter=separator)
    missing = [name for name in required if name not in (reader.fieldnames or [])]
    if missing:
        raise SheetError(f"{path} has the columns {reader.fieldnames}, and not {', '.join(missing)}")
    rows = list(reader)
    if any(None in row or None in row.values() for row in rows):
        raise SheetError(f"{path} has rows of more or fewer cells than its header")
    return rows


def read_judgements(path: Path) -> dict[str, dict[str, int]]:
    """What annotators filled in: by annotator, 1 or 0 by pair.

    Raises:
        SheetError: cells that are empty or hold something else, pairs that are there twice, no column to fill.
    """
    rows = read_csv(path, _TEXT_COLUMNS)
    columns = [name for name in (rows[0] if rows else {}) if name == JUDGEMENT or name.startswith(f"{JUDGEMENT}_")]
    if not columns:
        raise SheetError(f"{path} has no rows, or no column {JUDGEMENT} or {JUDGEMENT}_<annotator>")
    names = [row["pair"] for row in rows]
    if len(set(names)) < len(names):
        raise SheetError(f"{path} has a pair in two rows: {next(name for name in names if names.count(name) > 1)}")
    wrong = [
        f"{row['pair']}, {column}: {row[column]!r}"
        for row, column in itertools.product(rows, columns)
        if row[column].strip() not in ("0", "1")
    ]
    if wrong:
        raise SheetError(
            f"{len(wrong)} cells of {path} are neither 1 (similar) nor 0 (not): {'; '.join(wrong[:_NAMED])}"
        )
    return {
        column.removeprefix(f"{JUDGEMENT}_"): {row["pair"]: int(row[column].strip()) for row in rows}
        for column in columns
    }


def score_sheet(sheet: Path, key: Path) -> SheetScores:
    """Accuracy of every index, and how far annotators agree.

    Raises:
        SheetError: a sheet that is not filled, or a key of another sheet.
    """
    judgements = read_judgements(sheet)
    owners: dict[str, list[str]] = {}
    for row in read_csv(key, KEY_COLUMNS):
        owners.setdefault(row["index"], []).append(row["pair"])
    judged, known = set(next(iter(judgements.values()))), {pair for pairs in owners.values() for pair in pairs}
    if judged != known:
        raise SheetError(
            f"{len(judged - known)} pairs of {sheet} are not in {key}, and {len(known - judged)} of the key not in "
            "the sheet: take the key that was written with it, and all its rows"
        )
    accuracy = {
        index: float(np.mean([[given[pair] for pair in pairs] for given in judgements.values()]))
        for index, pairs in owners.items()
    }
    everyone = dict(judgements)
    if len(judgements) > 1:
        everyone["majority"] = {
            pair: int(2 * sum(given[pair] for given in judgements.values()) > len(judgements)) for pair in judged
        }
    scores = [
        score(index, annotator, [given[pair] for pair in pairs])
        for index, pairs in owners.items()
        for annotator, given in everyone.items()
    ]
    order = sorted(judged)
    kappa = {
        (one, other): agreement([judgements[one][pair] for pair in order], [judgements[other][pair] for pair in order])
        for one, other in itertools.combinations(judgements, 2)
    }
    return SheetScores(scores, accuracy, kappa)


def score(index: str, annotator: str, given: list[int]) -> IndexScore:
    """One annotator's judgements of an index's pairs, 1 or 0 each."""
    from scipy.stats import binomtest

    interval = binomtest(sum(given), len(given)).proportion_ci(method="wilson")
    return IndexScore(
        index, annotator, len(given), sum(given), sum(given) / len(given), float(interval.low), float(interval.high)
    )


def agreement(one: list[int], other: list[int]) -> float:
    """Cohen's kappa of two annotators' judgements, `nan` where both are one and the same constant."""
    from sklearn.metrics import cohen_kappa_score

    if len({*one, *other}) == 1:
        return float("nan")
    return float(cohen_kappa_score(one, other))

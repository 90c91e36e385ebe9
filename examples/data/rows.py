"""A data file becomes the rows that stand in it, their values as they are written."""

import glob
import gzip
import json
import warnings
import zlib
from pathlib import Path
from typing import IO

import pandas
from datasets import Dataset, Features, Value, load_dataset
from datasets.exceptions import DatasetGenerationError

JSON = "json"  # the only column of rows that are still JSON text
FORMATS = {".jsonl": "json", ".jsonl.gz": "json", ".json": "json", ".json.gz": "json"}
FORMATS |= {".csv": "csv", ".csv.gz": "csv", ".parquet": "parquet"}
_UNREADABLE = (DatasetGenerationError, OSError, EOFError, ValueError, RecursionError, zlib.error)


class CorpusError(ValueError):
    """A corpus that cannot be used; the message says what was found, what was expected and what to do."""


def read_rows(file: str) -> tuple[Dataset, list[str]]:
    """The rows of a JSON, CSV or parquet file, and the names of their columns.

    No type is guessed from values, which would turn an id "007" into 7 and "2024-01-01" into a time, and fail on a
    column whose first 10 MB are of another type than the rest. So a CSV file's values are all text, and rows of a
    JSON file stay JSON text in the one column `json`: `decode_rows` parses them.

    Args:
        file: .jsonl, .json (a list of objects, or an object per line), .csv (all three also as .gz) or .parquet.

    Raises:
        FileNotFoundError: there is no such file.
        CorpusError: the file has an unknown extension, cannot be read, or holds no rows.
    """
    path = Path(file).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"train_file={file!r} is not a file (looked for {path.absolute()}); check the path.")
    kind = kind_of_file(file)
    read = {"json": _read_json, "csv": _read_csv, "parquet": _read_parquet}[kind]
    try:
        rows, columns = read(path)
    except CorpusError:
        raise
    except _UNREADABLE as error:
        if "corresponds to no data" in str(error):  # how datasets says that a file has no rows
            raise CorpusError(f"{file} holds no rows; expected one per document.") from error
        reason = error.__cause__ or error
        raise CorpusError(
            f"{file} cannot be read as {kind}: {type(reason).__name__}: {reason}. "
            "Expected what its extension says, text in UTF-8: convert or rename the file."
        ) from error
    return rows, columns


def rows_with(file: str | Path, needed: tuple[str, ...]) -> list[dict]:
    """The rows of such a file that has these columns.

    Raises:
        FileNotFoundError: there is no such file.
        CorpusError: see [`read_rows`]; or a column is missing.
    """
    if not Path(file).is_file():
        raise FileNotFoundError(f"{file} is not a file (looked for {Path(file).absolute()}); check the path.")
    rows, columns = read_rows(str(file))
    missing = [name for name in needed if name not in columns]
    if missing:
        raise CorpusError(f"{file} has no column {' or '.join(missing)}; it has {', '.join(columns)}.")
    return decode_rows(rows[:])


def kind_of_file(file: str) -> str:
    """ "json", "csv" or "parquet", by the file's extension."""
    suffixes = Path(file.lower()).suffixes
    extension = "".join(suffixes[-2:] if suffixes[-1:] == [".gz"] else suffixes[-1:])
    if extension not in FORMATS:
        raise CorpusError(f"{file}: unknown extension {extension!r}, expected one of {', '.join(FORMATS)}.")
    return FORMATS[extension]


def decode_rows(batch: dict[str, list]) -> list[dict]:
    """The rows of a batch of columns, JSON text parsed."""
    if list(batch) == [JSON]:
        return [json.loads(line) for line in batch[JSON]]
    return [dict(zip(batch, values, strict=True)) for values in zip(*batch.values(), strict=True)]


def _read_json(path: Path) -> tuple[Dataset, list[str]]:
    with open_text(path) as file:
        is_list = file.read(1024).lstrip().startswith("[")
    if is_list:
        with open_text(path) as file:
            rows = Dataset.from_dict({JSON: [json.dumps(row) for row in json.load(file)]})
    else:
        features = Features({JSON: Value("string")})
        rows = load_dataset("text", data_files=_pattern(path), split="train", features=features, encoding="utf-8-sig")
    columns, filled, number = {}, [], 0
    for batch in rows.iter(batch_size=1000):
        for line in batch[JSON]:
            number += 1
            if line.strip():
                columns |= dict.fromkeys(_json_object(line, f"{path}, {'element' if is_list else 'line'} {number}"))
                filled.append(number - 1)
    return rows if len(filled) == len(rows) else rows.select(filled), list(columns)


def _json_object(line: str, where: str) -> dict:
    try:
        row = json.loads(line)
    except (json.JSONDecodeError, RecursionError) as error:
        raise CorpusError(f"{where} is not JSON ({error}): {line[:80]!r}. Expected one object per line.") from error
    if not isinstance(row, dict):
        raise CorpusError(f"{where} is not a JSON object but {line[:80]!r}. Expected one object per document.")
    return row


def _read_csv(path: Path) -> tuple[Dataset, list[str]]:
    with warnings.catch_warnings():
        warnings.simplefilter("error", pandas.errors.ParserWarning)  # rows longer than the header would lose values
        columns = list(pandas.read_csv(path, nrows=0, index_col=False).columns)
        options = {"features": Features({name: Value("string") for name in columns}), "keep_default_na": False}
        return load_dataset("csv", data_files=_pattern(path), split="train", index_col=False, **options), columns


def _read_parquet(path: Path) -> tuple[Dataset, list[str]]:
    rows = load_dataset("parquet", data_files=_pattern(path), split="train")
    return rows, rows.column_names


def open_text(path: Path) -> IO[str]:
    """A text file, compressed or not, without its byte order mark."""
    return (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8-sig")


def _pattern(path: Path) -> str:
    return glob.escape(str(path))  # datasets takes every path for a pattern, and "[1]" in a folder's name for "1"

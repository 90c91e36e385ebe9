"""Downloaded files as rows, read one at a time; what is wrong is named with its file and line."""

import ast
import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path

from ..rows import CorpusError

_EXCERPT = 80  # characters of a line that a message shows


def text_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Number and text of every line that is not blank, of a file in UTF-8, also as .gz.

    Lines end with a line feed, perhaps after a carriage return; other characters that Python takes for line ends,
    such as U+2028, are part of texts.

    Raises:
        CorpusError: a line is not UTF-8, or the file is no whole gzip file.
    """
    number = 0
    try:
        with (gzip.open if path.suffix == ".gz" else open)(path, "rb") as lines:
            for number, line in enumerate(lines, start=1):
                text = line.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
                if text.strip():
                    yield number, text
    except UnicodeDecodeError as error:
        raise CorpusError(f"{path}, line {number} is not UTF-8 ({error}); convert the file.") from error
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise CorpusError(f"{path} breaks off after line {number} ({error}): download it again.") from error


def tsv_rows(path: Path, *columns: str) -> Iterator[tuple[int, list[str]]]:
    """Number and values of every line of a file of tabs without quotes or a header.

    Raises:
        CorpusError: a line has another number of values than there are `columns`.
    """
    for number, line in text_lines(path):
        values = line.split("\t")
        if len(values) != len(columns):
            raise CorpusError(
                f"{path}, line {number} has {len(values)} values: {line[:_EXCERPT]!r}. Expected {len(columns)} with "
                f"tabs between them: {', '.join(columns)}."
            )
        yield number, values


def record(line: str, where: str, needed: tuple[str, ...]) -> dict:
    """A line as an object: JSON, or the literal of a Python dictionary, as which Amazon's older files were printed.

    Raises:
        CorpusError: it is neither, or has not the keys that are `needed`.
    """
    try:
        row = json.loads(line)
    except json.JSONDecodeError:
        try:
            row = ast.literal_eval(line)
        except (ValueError, SyntaxError, MemoryError, RecursionError) as error:
            raise CorpusError(
                f"{where} is neither JSON nor a Python literal ({error}): {line[:_EXCERPT]!r}. Expected one object."
            ) from error
    if not isinstance(row, dict):
        raise CorpusError(f"{where} is no object but {line[:_EXCERPT]!r}. Expected one with {', '.join(needed)}.")
    check_columns(row, needed, where)
    return row


def check_columns(found, needed: tuple[str, ...], where: str) -> None:
    """Raises CorpusError if a needed column is not among those found."""
    missing = [name for name in needed if name not in found]
    if missing:
        raise CorpusError(
            f"{where} has no {', '.join(missing)}; it has {', '.join(map(str, found)) or 'nothing'}. Expected "
            f"{', '.join(needed)}."
        )


def parquet_rows(path: Path, *columns: str) -> Iterator[tuple[int, dict]]:
    """Number and values of every row of a parquet file, a batch of rows in memory.

    Raises:
        CorpusError: the file is no parquet file, or has not the columns.
    """
    import pyarrow
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path) as file:
            check_columns(file.schema_arrow.names, columns, str(path))
            number = 0
            for batch in file.iter_batches(batch_size=4096, columns=list(columns)):
                for row in batch.to_pylist():
                    number += 1
                    yield number, row
    except pyarrow.ArrowException as error:
        raise CorpusError(f"{path} cannot be read as parquet ({error}): download it again.") from error


def whole_number(text: object, where: str, what: str) -> int:
    """`text` as a whole number; CorpusError if it is none."""
    try:
        return int(str(text))
    except ValueError as error:
        raise CorpusError(f"{where}: {what} is {text!r}; expected a whole number.") from error

"""Documents in files of any size, read in parts: the same ids and texts as `load_corpus` makes of one file."""

import csv
import glob
import itertools
import json
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from trainers.corpus_parts import Records

from .corpora import TEXT_COLUMNS, check_unicode, document_id, document_text
from .rows import CorpusError, kind_of_file, open_text

_UNREADABLE = (OSError, EOFError, zlib.error, UnicodeError, RecursionError, csv.Error, pa.ArrowException)
csv.field_size_limit(2**31 - 1)  # the standard library stops at 131,072 characters
_BATCH = 1024  # rows of a parquet file at a time
_PASSED_OVER: dict = {}  # in the place of a row that no wanted part has


@dataclass
class ShardFile:
    """A .jsonl, .csv (also as .gz) or .parquet file of documents.

    Args:
        path: of the file.
        id_column: the column with the ids.
        text_columns: those that make up a text; None: as in `load_corpus`.
    """

    path: Path
    id_column: str
    text_columns: list[str] | None = None

    def __post_init__(self):
        self.kind = kind_of_file(str(self.path))

    def parts(self, size: int, wanted: Callable[[int], bool]) -> Iterator[Records]:
        """The parts of `size` documents whose numbers are wanted; the last one has what is left, or nothing.

        Raises:
            CorpusError: the file cannot be read, a column is missing, an id is none, or a text is empty; with the row.
        """
        try:
            yield from self._parts(size, wanted)
        except _UNREADABLE as error:
            raise CorpusError(
                f"{self.path} cannot be read as {self.kind}: {type(error).__name__}: {error}. Expected what its "
                "extension says, text in UTF-8: convert, repair or rename the file."
            ) from error

    def _parts(self, size: int, wanted: Callable[[int], bool]) -> Iterator[Records]:
        def is_needed(first: int, count: int) -> bool:
            return any(map(wanted, range(first // size, (first + count - 1) // size + 1)))

        rows = self._raw_rows(is_needed)
        following = list(itertools.islice(rows, size))
        for number in itertools.count():
            raw, following = following, []
            # One more than needed is looked at: whether a part is the last is said with it.
            after = next(rows, None)
            if wanted(number):
                yield self._records(raw, number, number * size, after is None)
            if after is None:
                return
            following = [after, *itertools.islice(rows, size - 1)]

    def number_of_parts(self, size: int) -> int | None:
        """How many parts of `size` documents there are, where the file says so without being read."""
        if self.kind != "parquet":
            return None
        try:
            return max(1, -(-pq.read_metadata(self.path).num_rows // size))
        except _UNREADABLE:  # said when it is read
            return None

    def _raw_rows(self, is_needed: Callable[[int, int], bool]) -> Iterator[str | dict]:
        """Lines of JSON, or rows; of parquet those alone of which `is_needed(first row, rows)` may be true."""
        if self.kind == "json":
            with open_text(self.path) as file:
                yield from (line for line in file if line.strip())
        elif self.kind == "csv":
            with open_text(self.path) as file:
                reader = csv.DictReader(file)
                self.check_columns(reader.fieldnames or [])
                yield from reader
        else:
            with pq.ParquetFile(self.path, buffer_size=2**20) as file:
                self.check_columns(file.schema_arrow.names)
                columns = list(dict.fromkeys([self.id_column, *self.texts_of(file.schema_arrow.names)]))
                yield from _parquet_rows(file, columns, is_needed)

    def texts_of(self, columns: list[str]) -> list[str]:
        """The columns of a text, among those that there are."""
        return self.text_columns or [name for name in TEXT_COLUMNS if name in columns]

    def check_columns(self, columns: list[str]) -> None:
        """Raises CorpusError when a column is missing."""
        wanted = [self.id_column, *(self.texts_of(columns) or [" or ".join(TEXT_COLUMNS)])]
        missing = [name for name in wanted if name not in columns]
        if missing:
            raise CorpusError(
                f"{self.path} has no column {', '.join(missing)}; it has {', '.join(columns) or 'none'}. Name the "
                "right one with --id_column and --text_columns."
            )

    def _records(self, raw: list, number: int, first: int, is_last: bool) -> Records:
        ids, texts, numbers = [], [], []
        rows = [self._decoded(values, row) for row, values in enumerate(raw, start=first + 1)]
        if self.kind == "json" and number == 0 and rows:  # of a rare column, the first part has an entry or a null
            self.check_columns(list(dict.fromkeys(itertools.chain.from_iterable(rows))))
        for row, values in enumerate(rows, start=first + 1):
            document, is_number = document_id(values, self.id_column, self.kind == "csv", self._where(row))
            text = document_text(values, self.texts_of(list(values)))
            check_unicode(document, self._where(row))
            check_unicode(text, self._where(row))
            if not text:
                raise CorpusError(
                    f"{self._where(row)} has no text in {', '.join(self.texts_of(list(values)))}. Leave it out, or "
                    "name more columns with --text_columns."
                )
            ids.append(document)
            texts.append(text)
            numbers.append(is_number)
        if self.kind != "csv" and len(set(numbers)) > 1:
            row = first + 1 + numbers.index(not numbers[0])
            kinds = ("whole numbers", "text") if numbers[0] else ("text", "a whole number")
            raise CorpusError(
                f"{self._where(row)} has {kinds[1]} as its id, rows before it {kinds[0]}: make all of them one kind."
            )
        if all(numbers):
            ids = list(map(int, ids))
        return Records(number, first, ids, texts, is_last, typed=self.kind != "csv")

    def _decoded(self, values: str | dict, row: int) -> dict:
        if self.kind != "json":
            if None in values or None in values.values() and self.kind == "csv":
                raise CorpusError(f"{self._where(row)} has more or fewer values than the header has columns.")
            return values
        try:
            values = json.loads(values)
        except json.JSONDecodeError as error:
            raise CorpusError(
                f"{self._where(row)} is not JSON ({error}): {values[:80]!r}. Expected one object per line."
            ) from error
        if not isinstance(values, dict):
            raise CorpusError(f"{self._where(row)} is not a JSON object. Expected one object per document.")
        return values

    def _where(self, row: int) -> str:
        return f"{self.path}, row {row},"


def _parquet_rows(file: pq.ParquetFile, columns: list[str], is_needed: Callable[[int, int], bool]) -> Iterator[dict]:
    row = 0
    for group in range(file.num_row_groups):
        count = file.metadata.row_group(group).num_rows
        if not count or not is_needed(row, count):
            yield from itertools.repeat(_PASSED_OVER, count)
            row += count
            continue
        for batch in file.iter_batches(_BATCH, row_groups=[group], columns=columns, use_threads=False):
            needed = is_needed(row, len(batch))
            yield from batch.to_pylist() if needed else itertools.repeat(_PASSED_OVER, len(batch))
            row += len(batch)


def find_shards(patterns: list[str], id_column: str, text_columns: list[str] | None) -> list[ShardFile]:
    """The files that patterns name, each once, sorted.

    Raises:
        CorpusError: a pattern that no file matches, or files of several types.
    """
    paths: dict[Path, None] = {}
    for pattern in patterns:
        found = [path for path in map(Path, glob.glob(pattern, recursive=True)) if path.is_file()]
        found = [Path(pattern)] if not found and Path(pattern).is_file() else found  # "[1]" in a name is no pattern
        if not found:
            raise CorpusError(f"No file matches {pattern!r} (looked from {Path.cwd()}): check --input_files.")
        paths |= dict.fromkeys(found)
    shards = [ShardFile(path, id_column, text_columns) for path in sorted(paths)]
    kinds = {shard.kind: shard.path for shard in reversed(shards)}
    if len(kinds) > 1:
        named = ", ".join(f"{path} is {kind}" for kind, path in kinds.items())
        raise CorpusError(f"The input files are of several types: {named}. Index files of one type.")
    return shards

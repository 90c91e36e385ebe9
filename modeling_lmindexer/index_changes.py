"""The changelog of an index: what every version changed, kept beside the table and read when it is asked for."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from .folder import CorruptedFolderError, resolve_file
from .index_rules import id_texts
from .parquet import arrow, unreadable

CHANGES_NAME = "index_changes.parquet"
ACTIONS = ("add", "remove", "update", "merge", "resize")
COLUMNS = ("version", "action", "id", "before", "after")
CHUNK = 65_536  # rows that are turned into text at once


class Change(NamedTuple):
    """What a version changed for one document.

    Attributes:
        version: of the index after the change.
        action: `add`, `remove`, `update`, `merge`, or `resize`, which is of no document.
        document: its id.
        before: its semantic ID, such as `<12><407><0>`; `None` where the document was not there. Of a `resize`, the
            room of the last position.
        after: as `before`. Both are equal where a text changed and its ID did not.
    """

    version: int
    action: str
    document: int | str | None
    before: str | None
    after: str | None


class _Rows(NamedTuple):
    """Changes of one version that are alike, as arrays: codes `(documents, positions)`, or none."""

    version: int
    action: str
    documents: Sequence
    before: np.ndarray | None
    after: np.ndarray | None

    def changes(self) -> Iterator[Change]:
        for start in range(0, len(self.documents), CHUNK):
            part = slice(start, start + CHUNK)
            documents = self.documents[part]
            before, after = ([None] * len(documents) if codes is None else id_texts(codes[part]) for codes in self[3:])
            for values in zip(documents, before, after, strict=True):
                yield Change(self.version, self.action, *values)


class ChangeLog:
    """Versions of an index, from 0 on.

    ```python
    >>> log = ChangeLog()
    >>> log.record("add", (["a", "b"], None, np.array([[0, 1], [2, 0]])))
    >>> log.record("remove", (["a"], np.array([[0, 1]]), None))
    >>> log.version, list(log.since(1))
    (2, [Change(version=2, action='remove', document='a', before='<0><1>', after=None)])

    ```

    Args:
        version: of the index as it was loaded.
        count: changes up to then.
        source: folder or repository that holds them, and how to reach it.
    """

    def __init__(self, version: int = 0, count: int = 0, source: tuple[str, dict] | None = None):
        self.version, self.count = version, count
        self._loaded, self._loaded_count, self._source = version, count, source
        self._new: list[_Rows] = []

    def record(self, action: str, *rows: tuple[Sequence, np.ndarray | None, np.ndarray | None]) -> None:
        """Adds a version: documents with their codes before and after `(documents, positions)`, or none."""
        self.version += 1
        self._new += [_Rows(self.version, action, *part) for part in rows if len(part[0])]
        self.count += sum(len(part[0]) for part in rows)

    def since(self, version: int) -> Iterator[Change]:
        """Changes of the versions after `version`, in order.

        Raises:
            ValueError: no such version; CorruptedFolderError: the file is missing or of another index.
        """
        if not 0 <= version <= self.version:
            raise ValueError(f"There is no version {version}: this index has the versions 0 to {self.version}.")
        if version < self._loaded:
            for batch in self._stored():
                for values in zip(*(batch[name].to_pylist() for name in COLUMNS), strict=True):
                    if values[0] > version:
                        yield Change(*values)
        for rows in self._new:
            if rows.version > version:
                yield from rows.changes()

    def _stored(self) -> Iterator:
        """Batches of the changes that the index was loaded with; the file may hold later ones by now."""
        name_or_path, hub_kwargs = self._source
        path = resolve_file(name_or_path, CHANGES_NAME, optional=True, **hub_kwargs)
        found = 0
        if path is not None:
            for batch in read_changes(path):
                batch = batch.filter(arrow().compute.less_equal(batch["version"], self._loaded))
                found += len(batch)
                yield batch
        if found != self._loaded_count:
            raise CorruptedFolderError(
                f"{name_or_path} has {found:,} changes up to version {self._loaded} in {CHANGES_NAME}, its table says "
                f"{self._loaded_count:,}: the file is missing or of another index. Download or write the folder "
                "again; index.forget_changes() leaves the history out."
            )

    def write(self, folder: Path, has_numbers: bool) -> None:
        """Writes `index_changes.parquet` into a folder that nobody reads yet."""
        pyarrow = arrow()
        kind = pyarrow.int64() if has_numbers else pyarrow.string()
        text = pyarrow.string()
        schema = pyarrow.schema(zip(COLUMNS, (pyarrow.int64(), text, kind, text, text), strict=True))
        with pyarrow.parquet.ParquetWriter(folder / CHANGES_NAME, schema, write_page_checksum=True) as writer:
            for batch in self._stored() if self._loaded else ():
                writer.write_batch(batch.cast(schema))
            for rows in self._new:
                for part in in_chunks(rows.changes()):
                    columns = zip(*part, strict=True)
                    arrays = [pyarrow.array(c, f.type) for c, f in zip(columns, schema, strict=True)]
                    writer.write_batch(pyarrow.record_batch(arrays, schema=schema))


def in_chunks(changes: Iterable[Change]) -> Iterator[list[Change]]:
    """The changes, so many at a time as are held in memory."""
    part: list[Change] = []
    for change in changes:
        part.append(change)
        if len(part) == CHUNK:
            yield part
            part = []
    if part:
        yield part


def read_changes(path: Path) -> Iterator:
    """Record batches of a changelog, checked column by column.

    Raises:
        CorruptedFolderError: a file that cannot be read, or holds something else.
    """
    last = 0
    try:
        with arrow().parquet.ParquetFile(path, page_checksum_verification=True) as file:
            check_columns(file.schema_arrow)
            for batch in file.iter_batches(CHUNK):
                versions = batch["version"].to_numpy(zero_copy_only=False)
                if batch["version"].null_count or batch["action"].null_count:
                    raise ValueError("it has rows without a version or an action.")
                if len(versions) and (versions[0] < max(last, 1) or (np.diff(versions) < 0).any()):
                    raise ValueError("its versions do not ascend from 1.")
                last = int(versions[-1]) if len(versions) else last
                unknown = set(batch["action"].unique().to_pylist()) - set(ACTIONS)
                if unknown:
                    raise ValueError(f"it has the actions {sorted(unknown)}, expected some of {', '.join(ACTIONS)}.")
                yield batch
    except unreadable() as error:
        if isinstance(error, CorruptedFolderError):
            raise
        raise CorruptedFolderError(
            f"{path} is not a changelog of an index: {error} Download or write the folder again."
        ) from error


def check_columns(schema) -> None:
    """Raises ValueError when a changelog has other columns than it should."""
    kinds = {field.name: field.type for field in schema}
    types = arrow().types
    text, whole = (types.is_string, types.is_large_string), (types.is_int64,)
    allowed = {"version": whole, "action": text, "id": text + whole, "before": text, "after": text}
    wrong = [name for name in COLUMNS if name not in kinds or not any(is_it(kinds[name]) for is_it in allowed[name])]
    if wrong or len(kinds) != len(COLUMNS):
        found = {name: str(kind) for name, kind in kinds.items()}
        raise ValueError(f"it has the columns {found}, expected {', '.join(COLUMNS)}.")


def undo(state: dict, changes: Iterable[Change]) -> dict:
    """The semantic IDs by document before some changes, from those after them.

    Args:
        state: changed in place.
        changes: in order.

    Raises:
        ValueError: a change that does not lead to the state after it.
    """
    for change in reversed(list(changes)):
        if change.action == "resize":
            continue
        if state.get(change.document) != change.after:
            raise ValueError(
                f"version {change.version} leaves document {change.document!r} with the ID {change.after}, which then "
                f"has {state.get(change.document)}."
            )
        if change.before is None:
            del state[change.document]
        else:
            state[change.document] = change.before
    return state

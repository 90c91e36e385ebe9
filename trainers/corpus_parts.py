"""The parts of a corpus that is indexed: a file each, written when it is done, and known again after a stop."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from modeling_lmindexer.folder import atomic_path, file_digest, write_json

from .run_state import ExistingRunError, differences, read_object

PARTS_NAME = "parts"
MANIFEST_NAME = "parts.json"
_SETTINGS_NAME = "settings.json"


@dataclass
class Records:
    """Documents of a source in a row.

    Attributes:
        number: of the part that they are.
        first_row: of the first one in its source, from 0.
        ids: all whole numbers or all text.
        texts: none of them empty.
        is_last: whether the source ends with them.
        typed: whether the source has types; otherwise ids that look like numbers may be text.
    """

    number: int
    first_row: int
    ids: list
    texts: list[str]
    is_last: bool
    typed: bool = True


class Source(Protocol):
    """A file of documents."""

    path: Path

    def parts(self, size: int, wanted: Callable[[int], bool]) -> Iterator[Records]:
        """The parts of `size` documents whose numbers are wanted, in order; the others are passed over."""

    def number_of_parts(self, size: int) -> int | None:
        """How many parts of `size` documents there are, where that is known without reading them."""


@dataclass
class SourceState:
    """What tells a file from itself after a change."""

    path: str
    size: int
    mtime_ns: int
    sha256: str

    @classmethod
    def of(cls, path: Path, known: "SourceState | None" = None) -> "SourceState":
        """That of a file now; not read again where size and time are those that are `known`."""
        path, stat = path.resolve(), path.stat()
        if known is not None and (known.size, known.mtime_ns) == (stat.st_size, stat.st_mtime_ns):
            return known
        return cls(str(path), stat.st_size, stat.st_mtime_ns, file_digest(path))


@dataclass
class Part:
    """A part that is written.

    Attributes:
        file: where.
        rows: its documents.
        first_row: of the first one in the source.
        is_last: whether the source ends with it.
        typed: see [`Records`].
        source: of the file it is of.
        settings: digest of what its codes depend on.
    """

    file: Path
    rows: int
    first_row: int
    is_last: bool
    typed: bool
    source: SourceState
    settings: str

    @classmethod
    def read(cls, file: Path) -> "Part":
        """From the metadata of its file.

        Raises:
            ExistingRunError: it is no part.
        """
        try:
            metadata = pq.read_schema(file).metadata
            values = json.loads(metadata[b"part"])
            return cls(file=file, source=SourceState(**values.pop("source")), **values)
        except (pa.ArrowException, OSError, KeyError, TypeError, ValueError) as error:
            raise ExistingRunError(
                f"{file} is no part of an indexed corpus ({error}): delete it, so that it is written again."
            ) from error


@dataclass
class PartsFolder:
    """Parts in a folder, `parts/<source>/<number>.parquet`, with the columns `id` and `c0`, `c1`, ...

    Args:
        root: the folder.
        settings: what codes depend on, beside the documents.
        size: documents of a part.
    """

    root: Path
    settings: dict
    size: int
    digest: str = field(init=False)

    def __post_init__(self):
        self.settings = json.loads(json.dumps(self.settings | {"records_per_part": self.size}))  # as they will be read
        self.digest = hashlib.sha256(json.dumps(self.settings, sort_keys=True).encode()).hexdigest()

    def claim(self) -> None:
        """Takes the folder for these settings, or finds that it has them.

        Raises:
            ExistingRunError: its parts were made with others.
        """
        path = self.root / _SETTINGS_NAME
        if path.exists():
            different = differences(read_object(path), self.settings)
            if different:
                raise ExistingRunError(
                    f"{self.root} holds parts of another run ({different}). Set --start_over to delete them and "
                    "begin, or choose another output_dir."
                )
        else:
            write_json(path, self.settings)

    def folder_of(self, source: Source) -> Path:
        """Named by the source's path, whatever stands in it."""
        return self.root / hashlib.sha256(str(source.path.resolve()).encode()).hexdigest()[:16]

    def of(self, source: Source) -> dict[int, Part]:
        """The parts of a source that are done, by number.

        Raises:
            ExistingRunError: they are of another content of the source, or of other settings.
        """
        files = sorted(self.folder_of(source).glob("[0-9]*.parquet"))
        parts = {int(file.stem): Part.read(file) for file in files}
        now = None
        for part in parts.values():
            now = SourceState.of(source.path, now or part.source)
            if now.sha256 != part.source.sha256:
                raise ExistingRunError(
                    f"{source.path} has changed since its first parts were indexed ({part.source.size:,} bytes then, "
                    f"{now.size:,} now). Set --redo_changed to index it again, the other files are kept."
                )
            if part.settings != self.digest:
                raise ExistingRunError(
                    f"{part.file} was made with other settings than the parts beside it: delete it, so that it is "
                    "written again."
                )
        return parts

    def forget_changed(self, sources: Sequence[Source]) -> list[Path]:
        """Deletes the parts of sources that have changed, or are no longer among `sources`; returns what these are."""
        known, gone = {self.folder_of(source): source for source in sources}, []
        for folder in self.folders():
            source, parts = known.get(folder), [Part.read(file) for file in sorted(folder.glob("[0-9]*.parquet"))]
            if parts and (
                source is None or SourceState.of(source.path, parts[0].source).sha256 != parts[0].source.sha256
            ):
                gone.append(Path(parts[0].source.path))
                shutil.rmtree(folder)
        return gone

    def forget_all(self) -> None:
        """Deletes the parts of all sources, and the settings."""
        (self.root / _SETTINGS_NAME).unlink(missing_ok=True)
        for folder in self.folders():
            shutil.rmtree(folder)

    def check_sources(self, sources: Sequence[Source]) -> None:
        """Raises ExistingRunError where there are parts of other sources."""
        known = {self.folder_of(source) for source in sources}
        for folder in self.folders():
            parts = sorted(folder.glob("[0-9]*.parquet")) if folder not in known else []
            if parts:
                raise ExistingRunError(
                    f"{self.root} holds parts of {Part.read(parts[0]).source.path}, which is not among the input "
                    "files. Name it again, or set --redo_changed to leave its documents out."
                )

    def folders(self) -> list[Path]:
        """Those of sources."""
        return sorted(folder for folder in self.root.iterdir() if folder.is_dir() and not folder.name.startswith("."))

    def write(self, source: Source, state: SourceState, records: Records, codes: np.ndarray, beside: Path) -> None:
        """Writes a part, under its final name when it is whole.

        Args:
            state: of the source.
            codes: `(documents, positions)`.
            beside: a folder of this process, for the file until it is whole.
        """
        id_type = pa.string() if records.ids and isinstance(records.ids[0], str) else pa.int64()
        columns = {"id": pa.array(records.ids, id_type)}
        columns |= {f"c{t}": pa.array(column, pa.int32()) for t, column in enumerate(codes.T)}
        about = {
            "rows": len(records.ids), "first_row": records.first_row, "is_last": records.is_last,
            "typed": records.typed, "source": asdict(state), "settings": self.digest,
        }  # fmt: skip
        table = pa.table(columns).replace_schema_metadata({"part": json.dumps(about)})
        name = f"{records.number:06d}.parquet"
        with atomic_path(beside / name) as temporary:
            pq.write_table(table, temporary)
        folder = self.folder_of(source)
        folder.mkdir(exist_ok=True)
        os.replace(beside / name, folder / name)


def is_complete(parts: dict[int, Part]) -> bool:
    """Whether the parts of a source are all there, from the first to the last."""
    return sorted(parts) == list(range(len(parts))) and any(part.is_last for part in parts.values())


def write_parts_manifest(folder: PartsFolder, sources: Sequence[Source]) -> tuple[list[Part], str]:
    """Lists all parts with their rows and SHA-256 in `parts.json`, once they are complete and add up.

    Returns:
        the parts in the order of sources and rows, and the digest of the list.

    Raises:
        ExistingRunError: parts of a source are missing, or do not follow one another.
    """
    listed, parts = [], []
    for source in sources:
        own, row = folder.of(source), 0
        if not is_complete(own):
            raise ExistingRunError(f"Parts of {source.path} are missing: run the same command again.")
        for part in own.values():
            if part.first_row != row or pq.ParquetFile(part.file).metadata.num_rows != part.rows:
                raise ExistingRunError(f"{part.file} does not follow the part before it: delete it, and run again.")
            row += part.rows
            name = part.file.relative_to(folder.root).as_posix()
            listed.append({"file": name, "source": part.source.path, "first_row": part.first_row, "rows": part.rows})
            listed[-1] |= {"sha256": file_digest(part.file)}
            parts.append(part)
    manifest = {"rows": sum(part.rows for part in parts), "settings": folder.settings, "parts": listed}
    write_json(folder.root / MANIFEST_NAME, manifest)
    return parts, hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()

"""`semantic_ids.parquet`: written and read in chunks, and every column checked before it is used."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .document_ids import IDS_NAME
from .folder import CorruptedFolderError, atomic_path
from .index_rules import id_texts
from .parquet import arrow, unreadable

CHUNK = 65_536  # rows that are converted at once
LARGEST = 2**62  # of flat ids, as in a prefix tree


@dataclass
class IndexTable:
    """An index as it lies in a file.

    Attributes:
        document_ids: `N`, all integers or all strings.
        codes: `(N, positions)` int64.
        position_sizes, has_disambiguation: as of [`SemanticIndex`].
        codebook_fingerprint: of the model that gave the IDs, where it is known.
        version: of the index.
        num_changes: rows of its changelog.
    """

    document_ids: list
    codes: np.ndarray
    position_sizes: list[int]
    has_disambiguation: bool = True
    codebook_fingerprint: str | None = None
    version: int = 0
    num_changes: int = 0

    METADATA = ("position_sizes", "has_disambiguation", "codebook_fingerprint", "version", "num_changes")

    def write(self, path: Path) -> None:
        """Writes the columns `id`, `codes` and `semantic_id`, atomically.

        Raises:
            ImportError: there is no pyarrow.
        """
        pyarrow = arrow()
        kind = pyarrow.string() if isinstance(self.document_ids[0], str) else pyarrow.int64()
        positions = self.codes.shape[1]
        columns = {"id": kind, "codes": pyarrow.list_(pyarrow.int64()), "semantic_id": pyarrow.string()}
        # What is not there is not written: a table that never changed is as it was before there were versions.
        values = {name: getattr(self, name) for name in self.METADATA}
        metadata = {name: json.dumps(value) for name, value in values.items() if value not in (None, 0)}
        metadata["has_disambiguation"] = json.dumps(self.has_disambiguation)
        schema = pyarrow.schema(columns.items(), metadata=metadata)
        with (
            atomic_path(path) as temporary,
            pyarrow.parquet.ParquetWriter(temporary, schema, write_page_checksum=True) as writer,
        ):
            for start in range(0, len(self.document_ids), CHUNK):
                codes = self.codes[start : start + CHUNK]
                offsets = np.arange(len(codes) + 1, dtype=np.int32) * positions
                lists = pyarrow.ListArray.from_arrays(offsets, codes.ravel())
                ids = pyarrow.array(self.document_ids[start : start + CHUNK], kind)
                texts = pyarrow.array(id_texts(codes), pyarrow.string())
                writer.write_batch(pyarrow.record_batch([ids, lists, texts], schema=schema))

    @classmethod
    def read(cls, path: Path, with_texts: bool = False) -> "IndexTable":
        """Reads a table.

        Args:
            with_texts: compare the column `semantic_id` with the codes, too.

        Raises:
            ImportError: there is no pyarrow.
            CorruptedFolderError: a file that cannot be read or holds something else: what was found, and what to do.
        """
        try:
            with arrow().parquet.ParquetFile(path, page_checksum_verification=True) as file:
                schema = file.schema_arrow
                metadata = checked_metadata(schema.metadata or {})
                names = ["id", "codes", "semantic_id"] if with_texts else ["id", "codes"]
                check_columns(schema, names)
                positions, ids, codes = len(metadata["position_sizes"]), [], []
                for batch in file.iter_batches(CHUNK, columns=names):
                    codes.append(checked_codes(batch["codes"], positions))
                    ids += checked_ids(batch["id"], len(ids))
                    if with_texts:
                        check_texts(batch["semantic_id"].to_pylist(), codes[-1], ids[-len(batch) :])
            return cls(ids, np.concatenate(codes) if codes else np.empty((0, positions), np.int64), **metadata)
        except unreadable() as error:
            raise CorruptedFolderError(
                f"{path} is not a table of semantic IDs: {error} Download or write the folder again."
            ) from error


def version_of(folder: Path) -> int:
    """Version of the index in a folder, 0 without one that can be read."""
    try:
        metadata = arrow().parquet.read_schema(folder / IDS_NAME).metadata or {}
        return int(json.loads(metadata.get(b"version", b"0")))
    except unreadable():
        return 0


def checked_metadata(raw: dict[bytes, bytes]) -> dict:
    """What the file says of itself.

    Raises:
        ValueError: a value is missing or not what it should be.
    """
    if b"position_sizes" not in raw:
        raise ValueError("its metadata lacks position_sizes.")
    found = {name: json.loads(raw[name.encode()]) for name in IndexTable.METADATA if name.encode() in raw}
    sizes = found["position_sizes"]
    is_whole = [type(size) is int and 0 < size < LARGEST for size in sizes] if isinstance(sizes, list) else []
    if not is_whole or not all(is_whole) or sum(sizes) >= LARGEST:
        raise ValueError(f"its position_sizes are {str(sizes)[:100]}, expected a list of numbers above 0.")
    for name, kind in (("has_disambiguation", bool), ("codebook_fingerprint", str)):
        if name in found and type(found[name]) is not kind:
            raise ValueError(f"its {name} is {str(found[name])[:100]}, expected a {kind.__name__}.")
    for name in ("version", "num_changes"):
        if name in found and not (type(found[name]) is int and 0 <= found[name] < 2**63):
            raise ValueError(f"its {name} is {str(found[name])[:100]}, expected a number of 0 or more.")
    return found


def check_columns(schema, names: list[str]) -> None:
    """Raises ValueError when a column is missing or of another type than it should be."""
    types = arrow().types
    is_text = (types.is_string, types.is_large_string)
    is_list = (types.is_list, types.is_large_list, types.is_fixed_size_list)
    allowed = {"id": (*is_text, types.is_integer), "codes": is_list, "semantic_id": is_text}
    for name in names:
        if schema.names.count(name) != 1:
            raise ValueError(f"it has the columns {schema.names}, expected id, codes and semantic_id.")
        kind = schema.field(name).type
        if not any(is_it(kind) for is_it in allowed[name]):
            raise ValueError(f"its column {name} is of type {kind}.")
        if name == "codes" and not types.is_integer(kind.value_type):
            raise ValueError(f"its column codes holds {kind.value_type}, expected whole numbers.")


def checked_ids(column, first: int) -> list:
    """Ids of some rows, from row `first` on. Raises ValueError where one is missing or too large."""
    if column.null_count:
        row = first + int(np.flatnonzero(column.is_null().to_numpy(zero_copy_only=False))[0])
        raise ValueError(f"row {row} has no id.")
    ids = column.to_pylist()
    if arrow().types.is_uint64(column.type) and ids and max(ids) >= 2**63:
        raise ValueError(f"it has the id {max(ids)}, which 64 bits with a sign do not hold.")
    return ids


def checked_codes(column, positions: int) -> np.ndarray:
    """Codes `(rows, positions)` of some rows. Raises ValueError where there are more or fewer, or none."""
    if column.null_count:
        raise ValueError(f"{column.null_count} documents have no codes.")
    values = column.flatten()
    lengths = arrow().compute.list_value_length(column).to_numpy(zero_copy_only=False)
    if (lengths != positions).any():
        wrong = int(lengths[lengths != positions][0])
        raise ValueError(f"a document has {wrong} codes, position_sizes names {positions} positions.")
    if values.null_count:
        raise ValueError(f"{values.null_count} codes are missing.")
    return values.cast(arrow().int64()).to_numpy().reshape(-1, positions)


def check_texts(texts: list, codes: np.ndarray, ids: list) -> None:
    """Raises ValueError when a `semantic_id` is not that of the codes beside it."""
    for text, expected, document in zip(texts, id_texts(codes), ids, strict=True):
        if text != expected:
            raise ValueError(f"document {document!r} has the semantic_id {text!r} beside the codes of {expected}.")

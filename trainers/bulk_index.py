"""The index of a corpus that is done in parts: what concerns all documents, within a budget of memory."""

import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from transformers import AutoTokenizer

from modeling_lmindexer import LMIndexerConfig, LMIndexerForSemanticID
from modeling_lmindexer.document_ids import IDS_NAME
from modeling_lmindexer.folder import atomic_path
from modeling_lmindexer.prefix_file import PREFIX_TREE_NAME

from .corpus_parts import Part
from .external_sort import ExternalSort, read_batches
from .tree_stream import TreeStream

_ROWS = 2**14  # at a time
_ROW_GROUP = 2**16  # rows of the table, whatever the budget: files are the same
_NAMED = 5  # repeated ids in a message


class UnusableShardsError(ValueError):
    """A corpus that no index can be made of; the message names files and rows."""


@dataclass
class PartRows:
    """The rows of parts, with ids of one kind.

    Args:
        parts: in the order of the corpus.
        columns: of the codes.
    """

    parts: Sequence[Part]
    columns: list[str]

    def __post_init__(self):
        # Of a part of each kind, the first.
        numbers = next((part for part in self.parts if part.rows and not self.is_text(part)), None)
        texts = next((part for part in self.parts if part.rows and self.is_text(part)), None)
        self.id_type = pa.string() if texts is not None else pa.int64()
        if numbers is not None and texts is not None:
            typed = next((p for p in self.parts if p.rows and p.typed and not self.is_text(p)), None)
            if typed is not None:  # those of a file without types are text, too, where others are
                raise UnusableShardsError(
                    f"{typed.source.path} has whole numbers as ids (from row {typed.first_row + 1}), "
                    f"{texts.source.path} has text (from row {texts.first_row + 1}): make all of them one kind."
                )

    @staticmethod
    def is_text(part: Part) -> bool:
        """Whether the ids of a part are text."""
        return pa.types.is_string(pq.read_schema(part.file).field("id").type)

    def batches(self, with_place: bool = False) -> Iterator[pa.RecordBatch]:
        """All rows; `with_place` the number of the part and the row in its source in the place of the codes."""
        for number, part in enumerate(self.parts):
            row = part.first_row
            with pq.ParquetFile(part.file) as file:
                for batch in file.iter_batches(_ROWS, columns=["id"] if with_place else None, use_threads=False):
                    columns = {"id": batch["id"].cast(self.id_type)}
                    if with_place:
                        columns["part"] = pa.array(np.full(len(batch), number, dtype=np.int32))
                        columns["row"] = pa.array(np.arange(row, row + len(batch)))
                    else:
                        columns |= {name: batch[name] for name in self.columns}
                    row += len(batch)
                    yield pa.RecordBatch.from_pydict(columns)


def check_unique(rows: PartRows, memory: int, folder: Path) -> None:
    """Raises UnusableShardsError when ids occur more than once, naming them with their files and rows.

    Args:
        rows: of all parts.
        memory: bytes.
        folder: for files, removed in the end.
    """
    sort = ExternalSort(["id", "part", "row"], memory, folder)
    repeated, places, last = 0, {}, None
    for table in sort(lambda: rows.batches(with_place=True)):
        ids = table["id"].combine_chunks()
        same = np.zeros(len(ids), dtype=bool)
        same[1:] = pa.compute.equal(ids[1:], ids[:-1]).to_numpy(zero_copy_only=False)
        same[0] = last is not None and ids[0].as_py() == last[0]
        again = np.flatnonzero(same)
        for row in again[: 4 * _NAMED] if len(places) < _NAMED else again[:0]:
            before = last if row == 0 else place_of(table, row - 1)
            found = places.setdefault(before[0], [before[1:]])
            found.append(place_of(table, row)[1:])
        repeated += len(again)
        last = place_of(table, len(table) - 1)
    if repeated:
        named = "; ".join(
            f"{document!r} in " + ", ".join(f"{rows.parts[p].source.path} row {row + 1}" for p, row in found[:3])
            for document, found in list(places.items())[:_NAMED]
        )
        raise UnusableShardsError(
            f"{repeated:,} rows repeat the id of another one: {named}. Make ids unique, or name another --id_column."
        )


def place_of(table: pa.Table, row: int) -> tuple:
    """Id, part and row in the source."""
    return tuple(table[name][int(row)].as_py() for name in ("id", "part", "row"))


@dataclass
class BulkIndex:
    """An index in files, which [`trainers.model_folder.whole_folder`] takes in the place of a `SemanticIndex`.

    Attributes:
        folder: of the files.
        documents: how many.
        largest_group: most documents that share their learned codes.
        distinct_prefixes: of 1, 2, ... codes, the disambiguation position's among them.
    """

    folder: Path
    documents: int
    largest_group: int
    distinct_prefixes: list[int]

    def save_pretrained(self, folder: Path) -> None:
        """Moves `semantic_ids.parquet` and `prefix_tree.safetensors` into `folder`, on the same file system."""
        for name in (IDS_NAME, PREFIX_TREE_NAME):
            (self.folder / name).replace(folder / name)


def number_documents(tables: Iterator[pa.Table], columns: list[str]) -> Iterator[tuple[pa.ChunkedArray, np.ndarray]]:
    """Ids and codes `(n, positions)`, the disambiguation code last, of rows sorted by codes and id.

    The same as [`modeling_lmindexer.index_rules.number_in_group`], one table after the other.
    """
    last, count = None, 0
    for table in tables:
        codes = np.column_stack([table[name].to_numpy().astype(np.int64) for name in columns])
        starts = np.ones(len(codes), dtype=bool)
        starts[1:] = (codes[1:] != codes[:-1]).any(axis=1)
        starts[0] = last is None or (codes[0] != last).any()
        places = np.arange(len(codes))
        began = np.maximum.accumulate(np.where(starts, places, -count))
        numbers = places - began
        last, count = codes[-1], int(numbers[-1]) + 1
        yield table["id"], np.column_stack([codes, numbers])


def build_bulk_index(
    rows: PartRows, config: LMIndexerConfig, memory: int, folder: Path, say: Callable[[str], None] = lambda _: None
) -> BulkIndex:
    """Gives every document its ID, and writes table and tree, in the order of the IDs.

    Args:
        rows: of all parts.
        config: of the model that wrote the codes.
        memory: bytes that sorting may take.
        folder: for the files.
        say: is told what begins.

    Raises:
        UnusableShardsError: no documents, or repeated ids.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    say("looking for repeated ids ...")
    check_unique(rows, memory, folder / "ids")
    say("sorting by codes ...")
    tables = ExternalSort([*rows.columns, "id"], memory, folder / "sort")(rows.batches)
    offsets = np.cumsum([1, *config.codebook_sizes])
    tree, largest = TreeStream(folder, len(offsets)), 0
    schema = pa.schema({"id": rows.id_type, "codes": pa.list_(pa.int64())})
    with pa.ipc.new_file(folder / "sorted.arrow", schema) as writer:
        for ids, codes in number_documents(tables, rows.columns):
            tree.add(codes + offsets)
            largest = max(largest, int(codes[:, -1].max()) + 1)
            for start in range(0, len(codes), _ROWS):
                span = slice(start, start + _ROWS)
                own = ids.slice(start, _ROWS).combine_chunks()
                writer.write_batch(pa.record_batch([own, as_lists(codes[span])], schema=schema))
    if not tree.count:
        raise UnusableShardsError("The input files hold no documents; expected at least one.")
    say("writing table and tree ...")
    tree.save_pretrained(folder)
    tree.close()
    sizes = [*config.codebook_sizes, max(largest, config.num_disambiguation_codes)]
    write_table(folder / IDS_NAME, folder / "sorted.arrow", schema, sizes, config.codebook_fingerprint)
    return BulkIndex(folder, tree.count, largest, tree.distinct_prefixes())


def as_lists(codes: np.ndarray) -> pa.ListArray:
    """Codes `(n, positions)` as a column of lists."""
    ends = np.arange(0, codes.size + 1, codes.shape[1], dtype=np.int32)
    return pa.ListArray.from_arrays(pa.array(ends), pa.array(codes.reshape(-1)))


def write_table(
    path: Path, file: Path, schema: pa.Schema, position_sizes: list[int], codebook_fingerprint: str | None = None
) -> None:
    """`semantic_ids.parquet` from the sorted rows, as `SemanticIndex.save_pretrained` writes it."""
    shape = {"position_sizes": position_sizes, "has_disambiguation": True}
    if codebook_fingerprint is not None:
        shape["codebook_fingerprint"] = codebook_fingerprint
    schema = schema.append(pa.field("semantic_id", pa.string()))
    schema = schema.with_metadata({name: json.dumps(value) for name, value in shape.items()})
    with atomic_path(path) as temporary, pq.ParquetWriter(temporary, schema, write_page_checksum=True) as writer:
        for table in equal_tables(read_batches(file), _ROW_GROUP):
            texts = pa.chunked_array(map(semantic_ids, table["codes"].chunks), pa.string())
            writer.write_table(pa.table([*table.columns, texts], schema=schema))


def semantic_ids(codes: pa.ListArray) -> pa.StringArray:
    """The readable form of each list of codes, such as `<12><407><0>`."""
    return pa.array(["".join(f"<{code}>" for code in own) for own in codes.to_pylist()], pa.string())


def equal_tables(batches: Iterable[pa.RecordBatch], rows: int) -> Iterator[pa.Table]:
    """The rows of batches in tables of so many, the last one of what is left."""
    waiting: list[pa.RecordBatch] = []
    for batch in batches:
        waiting.append(batch)
        while sum(map(len, waiting)) >= rows:
            table = pa.Table.from_batches(waiting)
            yield table.slice(0, rows)
            waiting = table.slice(rows).to_batches()
    if waiting:
        yield pa.Table.from_batches(waiting)


def load_with_room(name_or_path: str | Path, room: int) -> tuple[LMIndexerForSemanticID, AutoTokenizer, str]:
    """Model and tokenizer, with room for `room` codes at the last position, and what was changed for that."""
    config = LMIndexerConfig.from_pretrained(name_or_path)
    had, note = config.num_disambiguation_codes, ""
    if not had:
        config.num_disambiguation_codes = room
        note = f"The model had no disambiguation position: it has got one, with {room} codes."
    model = LMIndexerForSemanticID.from_pretrained(name_or_path, config=config)
    if not had:
        model.generation_config.max_new_tokens = config.id_length
    elif room > had:
        model.resize_disambiguation(room)
        note = f"The model's last position has grown from {had} to {room} codes."
    return model, AutoTokenizer.from_pretrained(name_or_path), note

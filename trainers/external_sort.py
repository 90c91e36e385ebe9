"""Sorting more rows than fit into memory: shared out by ranges to files, sorted file by file."""

import bisect
import itertools
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

_RANGES = 64  # files at a time
_SAMPLES = 32 * _RANGES  # keys that the borders between them are chosen from
_COPIES = 4  # of a range while it is sorted: as read, its order, sorted, and what the allocator keeps
Batches = Callable[[], Iterator[pa.RecordBatch]]


@dataclass
class ExternalSort:
    """Sorts record batches by columns within a budget of memory.

    The order of rows with equal keys is that of nothing: let the keys tell rows apart.

    Args:
        keys: columns to sort by, the first one first.
        memory: bytes that the rows in memory and the sort may take.
        folder: for files, which are removed as soon as they are read; it must not exist, or hold nothing of value.
    """

    keys: Sequence[str]
    memory: int
    folder: Path

    def __call__(self, batches: Batches) -> Iterator[pa.Table]:
        """The rows in order, in tables that fit into the budget.

        Args:
            batches: gives the rows, the same every time; it is called twice.
        """
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        yield from self._sorted(batches, self.folder)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _sorted(self, batches: Batches, folder: Path) -> Iterator[pa.Table]:
        size, rows = 0, 0
        for batch in batches():
            size, rows = size + batch.nbytes, rows + batch.num_rows
        if not rows:
            return
        if size * _COPIES <= self.memory or rows == 1:
            yield self._ordered(pa.Table.from_batches(batches()))
            return
        borders = self._borders(batches, rows, min(_RANGES, -(-size * _COPIES * 2 // self.memory)))
        if not borders:  # one key fills the budget
            yield self._ordered(pa.Table.from_batches(batches()))
            return
        files = self._share_out(batches, borders, folder)
        for file in files:
            if file.exists():
                yield from self._sorted(lambda file=file: read_batches(file), file.with_suffix(""))
                file.unlink()

    def _ordered(self, table: pa.Table) -> pa.Table:
        return table.sort_by([(key, "ascending") for key in self.keys])

    def _borders(self, batches: Batches, rows: int, ranges: int) -> list[tuple]:
        """Keys where a range ends and the next begins, from evenly spaced rows."""
        step, taken, passed = max(1, rows // _SAMPLES), [], 0
        for batch in batches():
            places = range(-passed % step, batch.num_rows, step)
            taken += keys_of(batch.take(pa.array(places, pa.int64())), self.keys)
            passed += batch.num_rows
        taken.sort()
        chosen = (taken[len(taken) * number // ranges] for number in range(1, ranges))
        return [key for key, _ in itertools.groupby(chosen) if key != taken[0]]

    def _share_out(self, batches: Batches, borders: list[tuple], folder: Path) -> list[Path]:
        """Rows below the first border to the first file, and so on."""
        folder.mkdir(exist_ok=True)
        files = [folder / f"{number:02d}.arrow" for number in range(len(borders) + 1)]
        writers: dict[Path, pa.RecordBatchFileWriter] = {}
        for batch in batches():
            ordered = self._ordered(pa.Table.from_batches([batch])).combine_chunks()
            places = [bisect.bisect_left(_Rows(ordered, self.keys), border) for border in borders]
            for file, start, stop in zip(files, [0, *places], [*places, len(ordered)], strict=True):
                if stop > start:
                    if file not in writers:
                        writers[file] = pa.ipc.new_file(file, ordered.schema)
                    writers[file].write_table(ordered.slice(start, stop - start))
        for writer in writers.values():
            writer.close()
        return files


class _Rows(Sequence):
    """The keys of a sorted table, for `bisect`, which looks at few of them."""

    def __init__(self, table: pa.Table, keys: Sequence[str]):
        self.columns, self.length = [table[key] for key in keys], len(table)

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, row: int) -> tuple:
        return tuple(column[row].as_py() for column in self.columns)


def keys_of(batch: pa.RecordBatch, keys: Sequence[str]) -> list[tuple]:
    """The keys of a few rows. (Text is compared by code points, here as in arrow, whose UTF-8 has the same order.)"""
    return list(zip(*(batch[key].to_pylist() for key in keys), strict=True))


def read_batches(file: Path) -> Iterator[pa.RecordBatch]:
    """The batches of an arrow file, one in memory at a time."""
    with pa.OSFile(str(file)) as opened, pa.ipc.open_file(opened) as reader:
        for number in range(reader.num_record_batches):
            yield reader.get_batch(number)

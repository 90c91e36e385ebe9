"""The prefix tree of more IDs than fit into memory: its arrays grow in files while the sorted IDs pass by."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import numpy as np

from modeling_lmindexer.folder import atomic_path
from modeling_lmindexer.prefix_arrays import INT32_MAX, packed_type
from modeling_lmindexer.prefix_file import PREFIX_TREE_NAME, tree_metadata

_CHUNK = 2**16  # numbers at a time
_TYPES = {np.dtype(np.int16): "I16", np.dtype(np.int32): "I32", np.dtype(np.int64): "I64"}


@dataclass
class _GrowingLevel:
    """One position of the IDs so far.

    Attributes:
        codes, starts: files of int64 codes and of int32 first children.
        low, high: least and greatest code.
        count: nodes.
        widest: most children of a parent that is complete.
        parents: nodes of the position before.
        open_start: where the children of the last parent begin.
    """

    codes: IO[bytes]
    starts: IO[bytes]
    low: int = np.iinfo(np.int64).max
    high: int = -1
    count: int = 0
    widest: int = 0
    parents: int = 0
    open_start: int = 0

    def add(self, codes: np.ndarray, starts: np.ndarray) -> None:
        """Nodes with `codes` `(n,)`, and the first children `(parents,)` of new parents."""
        if len(codes):
            self.low, self.high = min(self.low, int(codes.min())), max(self.high, int(codes.max()))
        self.codes.write(codes.astype(np.int64).tobytes())
        if len(starts):
            ends = np.append(self.open_start, starts) if self.parents else starts
            self.close_parents(np.diff(ends))
            self.open_start = int(starts[-1])
            self.parents += len(starts)
        self.starts.write(starts.astype(np.int32).tobytes())
        self.count += len(codes)

    def close_parents(self, children: np.ndarray) -> None:
        """Parents with so many `children` `(n,)` get no more."""
        if len(children):
            self.widest = max(self.widest, int(children.max()))


@dataclass
class TreeStream:
    """Builds `prefix_tree.safetensors` of IDs that come in lexicographic order, all different and equally long.

    The file is what `PrefixTree.from_sequences(ids).save_pretrained(folder)` writes, but for the order of its arrays.

    Args:
        folder: for files while it grows; it must exist.
        positions: codes of an ID.
    """

    folder: Path
    positions: int
    count: int = 0
    levels: list[_GrowingLevel] = field(init=False)
    last: np.ndarray | None = None

    def __post_init__(self):
        self.levels = [
            _GrowingLevel(*(open(self.folder / f"{name}.{p}", "w+b") for name in ("codes", "starts")))
            for p in range(self.positions)
        ]

    def add(self, ids: np.ndarray) -> None:
        """The next flat ids `(n, positions)`.

        Raises:
            ValueError: more IDs than a tree holds.
        """
        if self.count + len(ids) > INT32_MAX:
            raise ValueError(f"There are over {INT32_MAX:,} documents, which a tree does not hold: make two indexes.")
        is_parent = np.zeros(len(ids), dtype=bool)
        is_parent[0] = self.count == 0  # the root
        is_node = is_parent.copy()
        for position, (level, column) in enumerate(zip(self.levels, ids.T, strict=True)):
            is_node[1:] |= column[1:] != column[:-1]
            is_node[0] |= self.last is not None and column[0] != self.last[position]
            number = level.count - 1 + np.cumsum(is_node)
            level.add(column[is_node], number[is_parent])
            is_parent = is_node.copy()
        self.last = ids[-1].copy()
        self.count += len(ids)

    def distinct_prefixes(self) -> list[int]:
        """Different prefixes of 1, 2, ... codes."""
        return [level.count for level in self.levels]

    def save_pretrained(self, folder: Path) -> None:
        """Writes the file, from the files of the levels; the stream is at its end."""
        arrays, offsets = [], []
        for position, level in enumerate(self.levels):
            level.close_parents(np.array([level.count - level.open_start]))
            offset, dtype = packed_type(level.low, level.high)
            offsets.append(offset)
            arrays.append((f"codes.{position}", dtype, level.count, _packed(level.codes, offset, dtype)))
            if level.parents == 1 or level.widest > 1:
                starts = _starts(level.starts, level.count)
                arrays.append((f"starts.{position}", np.dtype(np.int32), level.parents + 2, starts))
        with atomic_path(folder / PREFIX_TREE_NAME) as temporary:
            write_safetensors(temporary, arrays, tree_metadata(offsets, self.count))

    def close(self) -> None:
        """Closes the files of the levels."""
        for level in self.levels:
            level.codes.close()
            level.starts.close()


def _chunks(file: IO[bytes], dtype: type) -> Iterator[np.ndarray]:
    file.seek(0)
    while content := file.read(_CHUNK * np.dtype(dtype).itemsize):
        yield np.frombuffer(content, dtype=dtype)


def _packed(file: IO[bytes], offset: int, dtype: np.dtype) -> Iterator[np.ndarray]:
    return ((codes - offset).astype(dtype) for codes in _chunks(file, np.int64))


def _starts(file: IO[bytes], count: int) -> Iterator[np.ndarray]:
    """0, the first child of every parent, and the number of children."""
    yield np.zeros(1, dtype=np.int32)
    yield from _chunks(file, np.int32)
    yield np.array([count], dtype=np.int32)


def write_safetensors(
    path: Path, arrays: list[tuple[str, np.dtype, int, Iterator[np.ndarray]]], metadata: dict[str, str]
) -> None:
    """A safetensors file of one-dimensional arrays that come in chunks, so that none is ever whole in memory.

    Args:
        arrays: names, types, lengths and chunks.
        metadata: names and values.
    """
    arrays = sorted(arrays, key=lambda array: -array[1].itemsize)  # wide ones first: all are aligned
    header, end = {"__metadata__": metadata}, 0
    for name, dtype, length, _ in arrays:
        start, end = end, end + length * dtype.itemsize
        header[name] = {"dtype": _TYPES[dtype], "shape": [length], "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for *_, chunks in arrays:
            for chunk in chunks:
                file.write(chunk.tobytes())

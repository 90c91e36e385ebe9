"""The arrays behind a prefix tree: sequences checked, sorted and taken apart level by level.

A sequence's position `p` leads from a node of level `p` to one of level `p + 1`; the root is node 0 of level 0. Nodes
of a level are numbered in lexicographic order, so the children of a node are one slice of the next level.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

PADDING = -1  # not a code: what follows the end of a sequence that is shorter than the longest
INT32_MAX = torch.iinfo(torch.int32).max
LARGEST_CODE = 2**62


@dataclass
class Level:
    """One position of all sequences: the `children` nodes it leads to, from `parents` nodes.

    Attributes:
        codes: `(children,)`, the code of each less `offset`, in the smallest of int16, int32 and int64 that holds it.
        starts: int32 `(parents + 2,)`: 0, then where the children of each node begin, then their number; the extra 0
            makes node -1 one without children. `None` when every node has one child.
        low, high: smallest and largest code.
        widest: most children of a node.
        document_starts, document_ends: int32 `(children,)`, the documents below each node, in the order of their
            sequences; `None` when all sequences have the same length: then they follow from `starts`.
        own_ends: int32 `(children,)`: those from `document_starts` to here end at the node itself.
    """

    codes: Tensor
    starts: Tensor | None
    offset: int
    low: int
    high: int
    widest: int
    document_starts: Tensor | None = None
    document_ends: Tensor | None = None
    own_ends: Tensor | None = None

    def __len__(self) -> int:
        return len(self.codes)

    def tensors(self) -> dict[str, Tensor]:
        """The arrays by name."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if isinstance(value, Tensor)}


@dataclass
class PrefixArrays:
    """All levels of a tree and the documents at their ends.

    Attributes:
        levels: one per position.
        leaf_starts: int32 `(leaves + 1,)`, where the documents of each node of the last level begin; `None` when
            sequences differ in length, or every document has its own.
        documents: int32 `(documents,)`, their numbers in the order of their sequences; `None` for 0, 1, 2, ...
        count: number of documents.
    """

    levels: list[Level]
    leaf_starts: Tensor | None
    documents: Tensor | None
    count: int

    @property
    def fixed_length(self) -> bool:
        return self.levels[0].document_starts is None

    def tensors(self) -> dict[str, Tensor]:
        """All arrays by name, such as `codes.0`."""
        named = {
            f"{name}.{p}": array for p, level in enumerate(self.levels) for name, array in level.tensors().items()
        }
        ends = {"leaf_starts": self.leaf_starts, "documents": self.documents}
        return named | {name: array for name, array in ends.items() if array is not None}


def is_integer(values: Tensor) -> bool:
    """Whether a tensor holds integers, booleans not among them."""
    return not (values.is_floating_point() or values.is_complex() or values.dtype == torch.bool)


def as_rows(sequences, lengths) -> tuple[Tensor, Tensor | None]:
    """Checked sequences `(N, longest)`, -1 behind their ends, and lengths `(N,)`, `None` if all are equal.

    Sequences of one length keep their integer type: a copy of ten million as int64 would be the largest array of all.
    """
    if isinstance(sequences, (list, tuple)):
        if lengths is not None:
            raise ValueError("lengths goes with an array: a list of lists has the lengths of its lists. Leave it out.")
        sequences, lengths = _rows_of_lists(sequences)
    rows = sequences if isinstance(sequences, Tensor) else _from_numpy(np.asarray(sequences))
    if rows.ndim != 2 or not is_integer(rows):
        raise ValueError(
            f"Found sequences of shape {tuple(rows.shape)} and dtype {rows.dtype}: expected integers (N, positions) "
            "or a list of lists of integers."
        )
    if 0 in rows.shape:
        raise ValueError(f"Found sequences of shape {tuple(rows.shape)}: a tree needs at least one code.")
    if rows.dtype in (torch.uint16, torch.uint32, torch.uint64, torch.uint8):
        rows = rows.long()  # torch neither compares nor counts most of the unsigned ones
    if len(rows) > INT32_MAX:
        raise ValueError(f"Found {len(rows):,} sequences: a tree holds at most {INT32_MAX:,}.")
    if lengths is not None:
        lengths = _checked_lengths(torch.as_tensor(lengths, device=rows.device), rows)
        rows = rows[:, : lengths.max()].long()
        beyond = torch.arange(rows.shape[1], device=rows.device) >= lengths[:, None]  # (N, longest)
        if not beyond.any():
            lengths = None
        else:
            rows = rows.masked_fill(beyond, PADDING)
    codes = rows if lengths is None else rows[~beyond]
    smallest, largest = (int(code) for code in codes.aminmax())
    if smallest < 0:
        raise ValueError(f"Found the code {smallest}: codes are 0 or more. Is it padding? Then give lengths.")
    if largest > LARGEST_CODE:
        raise ValueError(f"Found the code {largest}: codes above 2**62 do not fit. Number the codes from 0.")
    return rows, lengths


def _from_numpy(array: np.ndarray) -> Tensor:
    if array.dtype.kind not in "iu":
        raise ValueError(
            f"Found sequences of shape {array.shape} and dtype {array.dtype}: expected integers (N, positions) or a "
            "list of lists of integers."
        )
    return torch.from_numpy(np.require(array, requirements=["C", "W"]))


def _checked_lengths(lengths: Tensor, rows: Tensor) -> Tensor:
    if lengths.shape != rows.shape[:1] or not is_integer(lengths):
        raise ValueError(
            f"Found lengths of shape {tuple(lengths.shape)} and dtype {lengths.dtype}: expected {len(rows)} integers, "
            "one per sequence."
        )
    shortest, longest = (int(length) for length in lengths.aminmax())
    if shortest < 1 or longest > rows.shape[1]:
        raise ValueError(
            f"Found lengths from {shortest} to {longest}: expected 1 to {rows.shape[1]}. Leave out empty sequences."
        )
    return lengths.long()


def _rows_of_lists(sequences: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """A list of lists as a padded array `(N, longest)` and its lengths `(N,)`."""
    try:
        lengths = np.array([len(sequence) for sequence in sequences], dtype=np.int64)
        flat = np.array([code for sequence in sequences for code in sequence])
    except (TypeError, ValueError) as error:
        raise ValueError(
            "Found a list of something other than lists: give a list of integers per sequence."
        ) from error
    if len(lengths) == 0 or lengths.min() == 0:
        which = "an empty list" if len(lengths) == 0 else f"an empty sequence at index {lengths.argmin()}"
        raise ValueError(f"Found {which}: a tree needs sequences of at least one code.")
    if flat.ndim != 1 or flat.dtype.kind not in "iu":
        raise ValueError(f"Found sequences of {flat.dtype} (nested {flat.ndim + 1} deep): expected lists of integers.")
    rows = np.full((len(lengths), lengths.max()), PADDING, dtype=flat.dtype if flat.dtype.kind == "i" else np.int64)
    rows[np.arange(rows.shape[1]) < lengths[:, None]] = flat
    return torch.from_numpy(rows), torch.from_numpy(lengths)


def is_sorted(rows: np.ndarray) -> bool:
    """Whether the sequences `(N, positions)` are in lexicographic order."""
    tied = np.ones(len(rows) - 1, dtype=bool)
    for column in rows.T:
        column = np.ascontiguousarray(column)
        if (tied & (column[1:] < column[:-1])).any():
            return False
        tied &= column[1:] == column[:-1]
    return True


def sorted_columns(rows: np.ndarray) -> tuple[np.ndarray | None, Iterator[np.ndarray]]:
    """The permutation `(N,)` that sorts the sequences `(N, positions)`, padding first, and their sorted columns.

    `None` for sequences that are sorted. Otherwise as many positions as 64 bits hold are packed into one key, least
    significant ones sorted first; columns are unpacked from sorted keys, which is cheaper than gathering each.
    """
    if is_sorted(rows):
        return None, map(np.ascontiguousarray, rows.T)
    given = [np.ascontiguousarray(column) for column in rows.T]
    lows = [int(column.min()) for column in given]
    bits = [(int(column.max()) - low).bit_length() for column, low in zip(given, lows, strict=True)]
    groups, last = [], rows.shape[1]
    while last > 0:
        first, used = last - 1, bits[last - 1]
        while first > 0 and used < 64 and used + bits[first - 1] <= 64:
            first -= 1
            used += bits[first]
        # The first code of a key is centred on 0, as the sign is the 64th bit.
        lows[first] += 1 << bits[first] >> 1
        packed = np.subtract(given[first], lows[first], dtype=np.int64)
        for position in range(first + 1, last):
            packed <<= bits[position]
            packed += given[position]
            packed -= lows[position]
        groups.append((range(first, last), packed))
        last = first
    order = None
    for _, packed in groups:
        ordered = packed if order is None else packed.take(order)
        # Several times as fast as numpy's stable order.
        values, places = (array.numpy() for array in torch.sort(torch.from_numpy(ordered), stable=True))
        order = places if order is None else order.take(places)

    def columns() -> Iterator[np.ndarray]:
        for positions, packed in reversed(groups):
            ordered = values if positions.start == 0 else packed.take(order)
            for position in positions:
                codes = ordered >> sum(bits[position + 1 : positions.stop])
                if position > positions.start:
                    codes &= (1 << bits[position]) - 1
                codes += lows[position]
                yield codes

    return order, columns()


def build_arrays(rows: Tensor, lengths: Tensor | None, documents: Tensor | None = None) -> PrefixArrays:
    """The arrays, on the CPU, for checked sequences `(N, positions)` with `lengths` `(N,)` and numbers `(N,)`.

    With numpy: what is added to a tree is little, and operations of torch on little take several times as long.
    """
    rows, lengths, documents = (None if each is None else each.cpu().numpy() for each in (rows, lengths, documents))
    count = len(rows)
    order, columns = sorted_columns(rows)
    lengths = lengths if lengths is None or order is None else lengths[order]
    differs = np.zeros(count, dtype=bool)  # from the row before, up to this position
    differs[0] = True
    parents = np.zeros(1, dtype=np.int64)  # rows where the nodes of the level before begin
    levels = []
    for position, column in enumerate(columns):
        differs[1:] |= column[1:] != column[:-1]
        is_node = differs if lengths is None else differs & (column != PADDING)
        nodes = np.flatnonzero(is_node)
        before = is_node.cumsum(dtype=np.int32)
        starts = before.take(parents)
        starts -= 1 if lengths is None else is_node.take(parents)
        level = _packed_level(column.take(nodes), starts, len(parents))
        if lengths is not None:
            _add_document_ranges(level, nodes, before, lengths, position)
        levels.append(level)
        parents = nodes
    leaf_starts = None
    if lengths is None and len(parents) < count:
        leaf_starts = torch.from_numpy(np.append(parents, count).astype(np.int32))
    if order is not None:
        documents = order if documents is None else documents.take(order)
    if documents is not None:
        documents = torch.from_numpy(documents.astype(np.int32))
    return PrefixArrays(levels, leaf_starts, documents, count)


def packed_type(low: int, high: int) -> tuple[int, np.dtype]:
    """What is taken off codes from `low` to `high`, and the smallest type that then holds them."""
    span = high - low + 1
    if span <= 2**16:
        return (low if span <= 2**15 else low + 2**15), np.dtype(np.int16)
    return low, np.dtype(np.int32 if span <= INT32_MAX else np.int64)


def _packed_level(codes: np.ndarray, starts: np.ndarray, parents: int) -> Level:
    """A level from the codes `(children,)` and the first child of every parent `(parents,)`."""
    low, high = int(codes.min()), int(codes.max())
    offset, dtype = packed_type(low, high)
    padded = np.empty(parents + 2, dtype=np.int32)
    padded[0], padded[1:-1], padded[-1] = 0, starts, len(codes)
    counts = padded[2:] - padded[1:-1]
    widest = int(counts.max())
    unary = parents > 1 and widest == 1 == counts.min()
    wide = np.int64 if codes.dtype.itemsize == 8 else np.int32  # than int16, which the offset may not fit
    packed = torch.from_numpy(np.subtract(codes, offset, dtype=wide).astype(dtype))
    return Level(packed, None if unary else torch.from_numpy(padded), offset, low, high, widest)


def _add_document_ranges(level: Level, nodes, before, lengths, position: int) -> None:
    """The documents of every node, where sequences differ in length.

    `nodes` are the rows where the level's nodes begin, `before` (N,) counts them up to each row.
    """

    def counted(rows: np.ndarray) -> np.ndarray:
        """Documents of every node among some rows."""
        return np.bincount(before[rows] - 1, minlength=len(level))

    ends = nodes + counted(lengths > position), nodes + counted(lengths == position + 1)
    level.document_starts, level.document_ends, level.own_ends = (
        torch.from_numpy(rows.astype(np.int32)) for rows in (nodes, *ends)
    )

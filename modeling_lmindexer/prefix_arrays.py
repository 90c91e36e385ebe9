"""The arrays behind a prefix tree: built from sequences, or taken from a file and checked one by one.

For every position `p` of the sequences, which leads from the nodes of level `p` to those of level `p + 1`:

- `starts`: int32 (nodes of level p, + 1), where the children of each node begin among those of all;
- `keys`: int64 (nodes of level p + 1,), `parent * (max_code + 1) + code`, strictly ascending;
- `terminal`: bool (nodes of level p + 1,), whether a sequence ends there; none when all have the same length.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import LongTensor, Tensor

FORMAT_NAME = "prefix_tree"
FORMAT_VERSION = 1
PADDING = -1  # not a code: what follows the end of a sequence that is shorter than the longest
INT64_MAX = torch.iinfo(torch.int64).max
INT32_MAX = torch.iinfo(torch.int32).max


class PrefixArrays(NamedTuple):
    """The arrays of every position, see the top of this file."""

    keys: list[LongTensor]
    starts: list[Tensor]
    terminal: list[Tensor] | None
    max_code: int


def is_integer(values: Tensor) -> bool:
    return not (values.is_floating_point() or values.is_complex() or values.dtype == torch.bool)


def as_rows(sequences, lengths) -> tuple[LongTensor, LongTensor | None]:
    """Checked int64 sequences `(N, longest)`, -1 behind their ends, and lengths `(N,)`, `None` if all are equal."""
    if isinstance(sequences, (list, tuple)):
        if lengths is not None:
            raise ValueError("lengths goes with an array: a list of lists has the lengths of its lists. Leave it out.")
        sequences, lengths = _rows_of_lists(sequences)
    if isinstance(sequences, Tensor):
        rows, integer = sequences, is_integer(sequences)
    else:
        rows = np.require(sequences, requirements=["C", "W"])
        integer = rows.dtype.kind in "iu"
    if rows.ndim != 2 or not integer:
        raise ValueError(
            f"Found sequences of shape {tuple(rows.shape)} and dtype {rows.dtype}: expected integers (N, positions) "
            "or a list of lists of integers."
        )
    if 0 in rows.shape:
        raise ValueError(f"Found sequences of shape {tuple(rows.shape)}: a tree needs at least one code.")
    rows = torch.as_tensor(rows).long()
    if lengths is None:
        beyond = None
    else:
        lengths = _checked_lengths(torch.as_tensor(lengths, device=rows.device), rows)
        rows = rows[:, : lengths.max()]
        beyond = torch.arange(rows.shape[1], device=rows.device) >= lengths[:, None]  # (N, longest)
        rows = rows.masked_fill(beyond, 0)
    if rows.min() < 0:
        raise ValueError(f"Found the code {int(rows.min())}: codes are 0 or more. Is it padding? Then give lengths.")
    if beyond is None or not beyond.any():
        return rows, None
    return rows.masked_fill(beyond, PADDING), lengths


def _checked_lengths(lengths: Tensor, rows: LongTensor) -> Tensor:
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
    return lengths


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


def _check_keys_fit(nodes: int, max_code: int) -> None:
    if nodes * (max_code + 1) > INT64_MAX:
        raise ValueError(
            f"Found codes up to {max_code} below {nodes} nodes: parent and code do not fit one 64-bit key together. "
            "Number the codes from 0 without gaps."
        )


def lexicographic_order(columns: LongTensor, max_code: int) -> LongTensor | None:
    """Permutation `(N,)` that sorts the sequences `(positions, N)`, padding first; `None` when they are sorted."""
    tied = torch.ones(columns.shape[1] - 1, dtype=torch.bool, device=columns.device)
    for column in columns:
        if (tied & (column[1:] < column[:-1])).any():
            break
        tied &= column[1:] == column[:-1]
    else:
        return None
    # Least significant first, as many positions to one stable sort as 63 bits hold.
    bits = (max_code + 1).bit_length()
    at_once = max(1, 63 // bits)
    order = None
    for first in reversed(range(0, len(columns), at_once)):
        packed = torch.zeros_like(columns[0])
        for column in columns[first : first + at_once]:
            packed.bitwise_left_shift_(bits).bitwise_or_(column - PADDING)
        order = packed.argsort(stable=True) if order is None else order[packed[order].argsort(stable=True)]
    return order


def build_arrays(columns: LongTensor, lengths: LongTensor | None) -> PrefixArrays:
    """The arrays for the checked sequences `(positions, N)` with `lengths` `(N,)`."""
    max_code, count = int(columns.max()), columns.shape[1]
    _check_keys_fit(1, max_code)
    if count > INT32_MAX:
        raise ValueError(f"Found {count:,} sequences: a tree holds at most {INT32_MAX:,}.")
    order = lexicographic_order(columns, max_code)
    if order is not None and lengths is not None:
        lengths = lengths[order]
    parents, nodes = torch.zeros_like(columns[0]), 1  # of every row
    differs = torch.zeros(count, dtype=torch.bool, device=columns.device)  # from the row before, up to this position
    differs[0] = True
    keys, starts, terminal = [], [], None if lengths is None else []
    for position, column in enumerate(columns):
        _check_keys_fit(nodes, max_code)
        column = column if order is None else column[order]
        differs[1:] |= column[1:] != column[:-1]
        is_node = differs & (column != PADDING)
        keys.append(parents[is_node] * (max_code + 1) + column[is_node])
        child_counts = torch.bincount(parents[is_node], minlength=nodes)
        starts.append(torch.nn.functional.pad(child_counts.cumsum(0), (1, 0)).int())
        parents, nodes = is_node.cumsum(0) - 1, len(keys[-1])
        if lengths is not None:
            ends = torch.zeros(nodes, dtype=torch.bool, device=columns.device)
            ends[parents[lengths == position + 1]] = True
            terminal.append(ends)
    return PrefixArrays(keys, starts, terminal, max_code)


def checked_arrays(metadata: dict[str, str], arrays: dict[str, Tensor]) -> PrefixArrays:
    """The arrays from the content of a file, `codes` instead of `keys`, with the metadata `format` and `version`.

    Raises:
        ValueError: what does not hold.
    """
    if metadata.get("format") != FORMAT_NAME or not metadata.get("version", "").isdecimal():
        raise ValueError(f"its metadata is {metadata}, not that of a {FORMAT_NAME}.")
    if int(metadata["version"]) > FORMAT_VERSION:
        raise ValueError(f"its format version is {metadata['version']}, this package reads up to {FORMAT_VERSION}.")
    kinds = ["starts", "codes", "terminal"] if "terminal.0" in arrays else ["starts", "codes"]
    depth = max(1, len(arrays) // len(kinds))
    expected = {f"{kind}.{position}" for kind in kinds for position in range(depth)}
    if arrays.keys() != expected:
        raise ValueError(f"it holds the arrays {sorted(arrays)}, expected {sorted(expected)}.")
    columns = {kind: [arrays[f"{kind}.{position}"] for position in range(depth)] for kind in kinds}
    for name, array in arrays.items():
        kind = name.split(".")[0]
        dtypes = {"starts": (torch.int32,), "codes": (torch.int32, torch.int64), "terminal": (torch.bool,)}[kind]
        if array.ndim != 1 or array.dtype not in dtypes or len(array) == 0:
            raise ValueError(f"{name} has shape {tuple(array.shape)} and dtype {array.dtype}.")
    codes, starts, terminal = columns["codes"], columns["starts"], columns.get("terminal")
    max_code = max(int(column.max()) for column in codes)
    keys = []
    for position in range(depth):
        nodes = 1 if position == 0 else len(codes[position - 1])
        _check_keys_fit(nodes, max_code)
        keys.append(_checked_keys(starts[position], codes[position].long(), nodes, max_code, position))
    _check_ends(starts, keys, terminal)
    return PrefixArrays(keys, starts, terminal, max_code)


def _checked_keys(starts: Tensor, codes: LongTensor, nodes: int, max_code: int, position: int) -> LongTensor:
    """The keys of one position from `starts` `(nodes + 1,)` and `codes` `(children,)`."""
    counts = starts.long().diff()  # (nodes,)
    if len(starts) != nodes + 1 or starts[0] != 0 or starts[-1] != len(codes) or counts.min() < 0:
        raise ValueError(
            f"starts.{position} does not share out {len(codes)} children among {nodes} nodes: found {len(starts)} "
            f"values from {int(starts[0])} to {int(starts[-1])}, expected {nodes + 1} that ascend from 0."
        )
    if codes.min() < 0:
        raise ValueError(f"codes.{position} holds the negative code {int(codes.min())}.")
    keys = torch.repeat_interleave(counts) * (max_code + 1) + codes
    if (keys.diff() <= 0).any():
        raise ValueError(f"codes.{position} does not ascend among the children of a node.")
    return keys


def _check_ends(starts: list[Tensor], keys: list[LongTensor], terminal: list[Tensor] | None) -> None:
    """Every node must have children or end a sequence, or else it would be a dead end to walk into."""
    for position, nodes in enumerate(keys):
        last = position == len(keys) - 1
        ends = torch.full(nodes.shape, last) if terminal is None else terminal[position]
        if ends.shape != nodes.shape:
            raise ValueError(f"terminal.{position} has {len(ends)} values for {len(nodes)} nodes.")
        if not (ends if last else ends | (starts[position + 1].diff() > 0)).all():
            raise ValueError(f"a node of position {position} neither has children nor ends a sequence.")

"""Scores of allowed codes copied into a tensor of -inf: what a constraint costs at every step of a search."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import BoolTensor, LongTensor, Tensor

from .prefix_children import allowed_padded
from .prefix_hop import on_host

FEW_COLUMNS = 16  # one column in so many is faster handled alone


@dataclass
class RootCodes:
    """The codes that a sequence can begin with: the same at the beginning of every search, and the most of all levels.

    Attributes:
        low: smallest of them.
        flags: `(codes,)`, or `(batch, 1, codes)`, from `low` on: which are allowed.
        columns: where the allowed ones are few of the codes in between.
        absent: where nearly all codes in between are allowed, those that are not.
    """

    low: int
    flags: BoolTensor
    columns: LongTensor | None = None
    absent: LongTensor | None = None

    @cached_property
    def caps(self) -> Tensor:
        """As `flags`: inf for the allowed ones, -inf for others."""
        return torch.where(self.flags, torch.inf, -torch.inf)

    @classmethod
    def from_parts(cls, parts) -> "RootCodes":
        levels = [part.segment.levels[0] for part in parts]
        low, high = min(level.low for level in levels), max(level.high for level in levels)
        batch = next((p.flags.batch for p in parts if p.flags is not None), None)
        columns = () if batch is None else (batch,)
        flags = torch.zeros(high - low + 1, *columns, dtype=torch.bool, device=levels[0].codes.device)
        for part, level in zip(parts, levels, strict=True):
            if part.flags is None:
                own = part.segment.first_codes
                flags[level.low - low : level.high - low + 1] |= own if batch is None else own[:, None]
            else:
                codes = level.codes.long() + (level.offset - low)
                flags[codes] |= part.flags.nodes[0] if batch is None else part.flags.nodes[0][:, :batch]
        if batch is not None:
            return cls(low, flags.T[:, None].contiguous())
        allowed = int(flags.sum())
        if FEW_COLUMNS * allowed < len(flags):
            return cls(low, flags, columns=flags.nonzero().squeeze(1) + low)
        if FEW_COLUMNS * (len(flags) - allowed) < len(flags):
            return cls(low, flags, absent=(~flags).nonzero().squeeze(1) + low)
        return cls(low, flags)


@dataclass
class Written:
    """A region of a score tensor `(rows, vocabulary)` that was written to, to be set back to -inf.

    Attributes:
        cells: places in the flattened tensor, or `None`.
        columns: columns of all rows: a slice, or numbers.
    """

    cells: LongTensor | np.ndarray | None = None
    columns: slice | LongTensor | None = None

    def clear(self, scores: Tensor) -> None:
        """Sets the region back to -inf."""
        if isinstance(self.cells, np.ndarray) and scores.dtype != torch.bfloat16:
            scores.numpy().reshape(-1)[self.cells] = -np.inf
        elif self.cells is not None:
            scores.view(-1).index_fill_(0, torch.as_tensor(self.cells), -torch.inf)
        elif isinstance(self.columns, slice):
            columns_of(scores, self.columns).fill_(-torch.inf)
        else:
            scores.index_fill_(1, self.columns, -torch.inf)


def columns_of(scores: Tensor, columns: slice) -> Tensor:
    """A view of neighbouring columns; made in half the time that an index takes."""
    return scores.narrow(1, columns.start, columns.stop - columns.start)


def write_allowed(state, out: Tensor, scores: Tensor, nodes: LongTensor | None, level: int) -> list[Written]:
    """Copies the scores of allowed children of `nodes` `(rows,)` of `level` from `scores` to `out`, which is all -inf.

    Without `nodes`, all rows are at the root.

    On a GPU, and when it is compiled, shapes are the same for any nodes and nothing waits for the device.

    Returns:
        the regions that may differ from -inf now.
    """
    scores = scores.contiguous()
    if level == 0:
        return [_write_root(state, out, scores, nodes)]
    if numpy_can_write(scores):
        return _write_on_host(state, out, scores, state.split(nodes.numpy(), level), level)
    batch_rows = state.batch_rows(len(nodes), nodes.device)
    split = state.split(nodes, level)
    if len(state.parts) > 1 or scores.requires_grad:  # a child that is written twice would get its gradient twice
        return [_write_union(state, out, scores, split, level, batch_rows)]
    return [_write_padded(state.parts[0], out, scores, split[0], level, batch_rows)]


def write_continuations(state, out: Tensor, scores: Tensor, tokens: LongTensor, skipped: int) -> list[Written] | None:
    """As [`write_allowed`] of the nodes of prefixes `tokens[:, skipped:]`, with numpy; `None` where it cannot."""
    if tokens.shape[1] == skipped or not (on_host(tokens) and numpy_can_write(scores)):
        return None
    prefixes = tokens.numpy()[:, skipped:]
    split = [part.segment.walk_on_host(prefixes) for part in state.parts]
    return _write_on_host(state, out, scores.contiguous(), split, prefixes.shape[1])


def numpy_can_write(scores: Tensor) -> bool:
    """Whether values are copied on the CPU, with no graph to keep."""
    return on_host(scores) and not scores.requires_grad


def _write_on_host(state, out: Tensor, scores: Tensor, split: list[np.ndarray], level: int) -> list[Written]:
    """Cell by cell."""
    rows, written = len(split[0]), []
    groups = None if state.batch is None else state.batch_rows(rows, out.device).numpy()
    flat, given = as_numpy(out).reshape(-1), as_numpy(scores).reshape(-1)
    width = scores.shape[1]
    for i, ((segment, flags), own) in enumerate(zip(state.parts, split, strict=True)):
        # Hardly a prefix is continued by what was added.
        if level >= segment.depth or (i > 0 and own.max(initial=-1) < 0):
            continue
        counts, children = segment.children_on_host(own, level)
        offset = segment.levels[level].offset
        cells = np.arange(offset, offset + rows * width, width).repeat(counts)
        cells += segment.codes_on_host(children, level)
        if flags is not None:
            of_rows = None if groups is None else groups.repeat(counts)
            cells = cells[flags.of_nodes_on_host(children, level + 1, of_rows)]
        flat[cells] = given.take(cells)
        written.append(Written(cells=cells))
    return written


def as_numpy(tensor: Tensor) -> np.ndarray:
    """A view of a tensor to copy values in; bfloat16, which numpy lacks, as integers."""
    return (tensor.view(torch.int16) if tensor.dtype == torch.bfloat16 else tensor).numpy()


def _write_root(state, out: Tensor, scores: Tensor, nodes: LongTensor | None) -> Written:
    root, static = state.root, not numpy_can_write(scores)
    band = slice(root.low, root.low + root.flags.shape[-1])
    written = Written(columns=band)
    if root.columns is not None:
        out.index_copy_(1, root.columns, scores.index_select(1, root.columns))
        written = Written(columns=root.columns)
    elif root.absent is not None:
        columns_of(out, band).copy_(columns_of(scores, band))
        if len(root.absent):
            out.index_fill_(1, root.absent, -torch.inf)
    else:
        here, there = columns_of(scores, band), columns_of(out, band)
        if state.batch is not None:
            state.batch_rows(len(scores), scores.device)
            here, there = (t.unflatten(0, (state.batch, -1)) for t in (here, there))
        # Several times as fast as `where`, but NaN would pass, and no gradient.
        if static or len(scores) == 0 or here.amax().isnan():
            there.copy_(torch.where(root.flags, here, -torch.inf))
        else:
            torch.minimum(here, root.caps.to(here.dtype), out=there)
    if nodes is None:
        return written
    if static:
        out.masked_fill_((nodes < 0)[:, None], -torch.inf)
    elif (nodes < 0).any():
        out[nodes < 0] = -torch.inf
    return written


def _write_padded(part, out, scores, nodes, level, batch_rows) -> Written:
    """Cell by cell in fixed shapes; the cell of a repeated child gets the same value again."""
    codes, children, inside = part.segment.padded(nodes, level)
    allowed = allowed_padded(part, children, level, batch_rows) & inside[:, :1]
    out.scatter_(1, codes, torch.where(allowed, scores.gather(1, codes), -torch.inf))
    first = torch.arange(len(codes), device=codes.device)[:, None] * scores.shape[1]
    return Written(cells=(first + codes).view(-1))


def _write_union(state, out, scores, split, level, batch_rows) -> Written:
    """By a table of flags: a cell is allowed when any part allows it."""
    vocabulary = scores.shape[1]
    flags = torch.zeros(len(scores), vocabulary + 1, dtype=torch.bool, device=scores.device)
    for part, own in zip(state.parts, split, strict=True):
        codes, children, inside = part.segment.padded(own, level)
        allowed = allowed_padded(part, children, level, batch_rows) & inside
        flags.scatter_(1, torch.where(allowed, codes, vocabulary), True)
    out.copy_(torch.where(flags[:, :vocabulary], scores, -torch.inf))
    return Written(columns=slice(0, vocabulary))

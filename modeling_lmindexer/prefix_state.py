"""What a prefix tree consists of at one moment: sorted segments, and which of their documents count."""

from functools import cached_property
from typing import NamedTuple

import torch
from torch import BoolTensor, LongTensor

from .prefix_arrays import PADDING
from .prefix_children import Children, merged
from .prefix_filter import AllowedNodes
from .prefix_mask import RootCodes
from .prefix_segment import PrefixSegment


class Part(NamedTuple):
    """One segment of a tree, and which of its documents and nodes count (`None`: all)."""

    segment: PrefixSegment
    flags: AllowedNodes | None


class TreeState:
    """The parts of a tree at one moment: the compacted one, then those added since. Replaced, never changed."""

    def __init__(self, parts: tuple[Part, ...], num_documents: int, batch: int | None = None, removed: int = 0):
        self.parts, self.num_documents, self.batch = parts, num_documents, batch
        self.removed = removed  # from the compacted part

    @cached_property
    def root(self) -> RootCodes:
        """The first codes, looked up at the beginning of every search."""
        return RootCodes.from_parts(self.parts)

    @cached_property
    def root_children(self) -> tuple[LongTensor, LongTensor]:
        """Codes and nodes of the root's children, where all rows have the same."""
        root = torch.zeros(1, dtype=torch.int64, device=self.parts[0].segment.device)
        return self.children(root, 0)[1:]

    def children(self, nodes: LongTensor, level: int) -> tuple[LongTensor, LongTensor, LongTensor]:
        """Rows, codes and nodes of all allowed children of `nodes` `(rows,)`, see [`PrefixTree.expand`]."""
        batch_rows = self.batch_rows(len(nodes), nodes.device)
        split = zip(self.parts, self.split(nodes, level), strict=True)
        parts = [Children.of_part(part, own, level, batch_rows) for part, own in split]
        found = parts[0] if len(parts) == 1 else merged(parts, self.max_code + 1)
        return found.rows, found.codes, self.joined(found.nodes, level + 1)

    @cached_property
    def depth(self) -> int:
        """Length of the longest sequence."""
        return max(part.segment.depth for part in self.parts)

    @cached_property
    def code_ranges(self) -> list[tuple[int, int]]:
        """Smallest and largest code of every position."""
        levels = [[part.segment.levels[p] for part in self.parts if p < part.segment.depth] for p in range(self.depth)]
        return [(min(level.low for level in some), max(level.high for level in some)) for some in levels]

    @cached_property
    def max_code(self) -> int:
        """Largest code of all positions."""
        return max(high for _, high in self.code_ranges)

    def split(self, nodes: LongTensor, level: int) -> list[LongTensor]:
        """The nodes of every part that make up combined `nodes`; -1 where a part does not have the prefix."""
        if len(self.parts) == 1:
            return [nodes]
        if level == 0:
            return [nodes] * len(self.parts)
        split, rest = [], nodes + 1
        for part in reversed(self.parts[1:]):
            radix = part.segment.count(level) + 1 if level <= part.segment.depth else 1
            split.append(rest % radix - 1)
            rest = rest // radix
        return [rest - 1, *reversed(split)]

    def joined(self, split: list[LongTensor], level: int) -> LongTensor:
        """One number for the nodes of all parts, -1 when no part has one."""
        if level == 0 or len(split) == 1:
            return split[0]
        nodes = split[0] + 1
        for part, more in zip(self.parts[1:], split[1:], strict=True):
            nodes = nodes * (part.segment.count(level) + 1 if level <= part.segment.depth else 1) + more + 1
        return nodes - 1

    def batch_rows(self, rows: int, device: torch.device) -> LongTensor | None:
        """Which filter each of `rows` rows belongs to, `(rows,)`."""
        if self.batch is None:
            return None
        if rows % self.batch:
            raise ValueError(
                f"Found {rows} rows for {self.batch} filters: expected the same number of rows for each filter."
            )
        return torch.arange(self.batch, device=device).repeat_interleave(rows // self.batch, output_size=rows)


def any_row(flags: BoolTensor) -> BoolTensor:
    """Flags `(nodes,)` from those of all filters, `(nodes, columns)`, or of one."""
    return flags if flags.ndim == 1 else flags.any(1)


def live_documents(part: Part) -> tuple[LongTensor, LongTensor, LongTensor]:
    """Sequences `(N, depth)` padded with -1, lengths `(N,)` and numbers `(N,)` of the documents of a part."""
    segment, flags = part
    places = torch.arange(segment.arrays.count, device=segment.device)
    if flags is not None:
        places = places[any_row(flags.places)]
    rows = segment.sequences(places)
    return rows, (rows != PADDING).sum(1), segment.numbers(places)

"""Which nodes of a prefix tree still lead to a document: after a filter, and after removals."""

from dataclasses import dataclass

import torch
from torch import BoolTensor, LongTensor, Tensor

from .prefix_segment import PrefixSegment


@dataclass
class AllowedNodes:
    """Flags of one segment's documents and nodes, for all rows of a batch or one set per row.

    Attributes:
        places: `(documents,)` or `(documents, batch)`, in the order of their sequences. The batch comes last, so that
            what moves together lies together.
        nodes: one `(nodes,)` or `(nodes, batch)` per level from 1 on: whether an allowed document is below.
        ends: the same for the documents that end at the node itself; `None` when all sequences have the same length.
    """

    places: BoolTensor
    nodes: list[BoolTensor]
    ends: list[BoolTensor] | None

    @classmethod
    def from_documents(cls, segment: PrefixSegment, places: BoolTensor) -> "AllowedNodes":
        """From flags of documents `(documents,)` or `(documents, batch)`.

        Documents below a node are one range, so a running count of the allowed ones tells whether it has any; the
        count at the nodes of a level is that of the level below, taken where their children begin.
        """
        counts = torch.empty(len(places) + 1, *places.shape[1:], dtype=torch.int32, device=places.device)
        counts[0] = 0
        torch.cumsum(places, 0, dtype=torch.int32, out=counts[1:])
        if not segment.arrays.fixed_length:
            firsts = [counts.index_select(0, level.document_starts) for level in segment.levels]
            levels = list(zip(segment.levels, firsts, strict=True))
            nodes = [counts.index_select(0, level.document_ends) > first for level, first in levels]
            return cls(places, nodes, [counts.index_select(0, level.own_ends) > first for level, first in levels])
        flags = places
        if segment.arrays.leaf_starts is not None:
            counts = counts.index_select(0, segment.arrays.leaf_starts)
            flags = counts[1:] > counts[:-1]
        nodes = [flags]
        for level in reversed(segment.levels[1:]):
            if level.starts is not None:
                counts = counts.index_select(0, level.starts[1:])
                flags = counts[1:] > counts[:-1]
            nodes.append(flags)
        return cls(places, nodes[::-1], None)

    @property
    def batch(self) -> int | None:
        """Number of filters, `None` for one that all rows share."""
        return self.places.shape[1] if self.places.ndim == 2 else None

    @property
    def nbytes(self) -> int:
        """Bytes of all flags; levels may share theirs."""
        return sum({id(flags): flags.nbytes for flags in [self.places, *self.nodes, *(self.ends or [])]}.values())

    def to(self, device: torch.device) -> "AllowedNodes":
        """The same flags on another device."""
        ends = None if self.ends is None else [flags.to(device) for flags in self.ends]
        return AllowedNodes(self.places.to(device), [flags.to(device) for flags in self.nodes], ends)

    def of_nodes(self, nodes: LongTensor, level: int, batch_rows: LongTensor | None) -> BoolTensor:
        """Flags of `nodes` of `level`, of any shape; `batch_rows`, broadcast to it, are their rows of the batch."""
        return _looked_up(self.nodes[level - 1], nodes, batch_rows)

    def of_ends(self, nodes: LongTensor, level: int, batch_rows: LongTensor | None) -> BoolTensor:
        """Whether an allowed document ends at each of `nodes` of `level`, all of which are terminal."""
        return _looked_up((self.nodes if self.ends is None else self.ends)[level - 1], nodes, batch_rows)


def _looked_up(flags: BoolTensor, nodes: LongTensor, batch_rows: LongTensor | None) -> BoolTensor:
    places = nodes if batch_rows is None else nodes * flags.shape[1] + batch_rows
    return flags.reshape(-1).index_select(0, places.reshape(-1)).view(places.shape)


class Removals(AllowedNodes):
    """Flags that documents lose one by one, at a cost that grows with their number.

    A flag only ever goes from true to false, so a search in another thread sees a document or does not.
    """

    @classmethod
    def none(cls, segment: PrefixSegment) -> "Removals":
        """Every document is there."""

        def flags(number: int) -> BoolTensor:
            return torch.ones(number, dtype=torch.bool, device=segment.device)

        def per_level() -> list[BoolTensor]:
            return [flags(len(level)) for level in segment.levels]

        made = cls(flags(segment.arrays.count), per_level(), None if segment.arrays.fixed_length else per_level())
        made._gone = [torch.zeros(len(level), dtype=torch.int32, device=segment.device) for level in segment.levels]
        made._ended = None if made.ends is None else [torch.zeros_like(counts) for counts in made._gone]
        return made

    def remove(self, segment: PrefixSegment, places: LongTensor) -> None:
        """Takes away the documents at `places`, which are all different and still there."""
        self.places[places] = False
        for level in range(1, segment.depth + 1):
            nodes = segment.node_of_place(places, level)
            if self.ends is not None:
                own = nodes[(nodes >= 0) & (places < segment.levels[level - 1].own_ends[nodes.clamp(min=0)])]
                first, end = segment.levels[level - 1].document_starts[own], segment.levels[level - 1].own_ends[own]
                self._count_off(self._ended[level - 1], self.ends[level - 1], own, end - first)
                nodes = nodes[nodes >= 0]
            first, end = segment.document_ranges(nodes, level)
            self._count_off(self._gone[level - 1], self.nodes[level - 1], nodes, end - first)

    @staticmethod
    def _count_off(gone: Tensor, flags: BoolTensor, nodes: LongTensor, sizes: Tensor) -> None:
        """One document less at each of `nodes`, which may repeat, of `sizes` documents; empty ones lose their flag."""
        gone.index_add_(0, nodes, torch.ones_like(nodes, dtype=torch.int32))
        flags[nodes[gone[nodes] == sizes]] = False

"""Which nodes of a prefix tree still lead to a document: after a filter, and after removals."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import BoolTensor, LongTensor, Tensor

from .prefix_hop import on_host
from .prefix_segment import PrefixSegment


@dataclass
class AllowedNodes:
    """Flags of one segment's documents and nodes, for all rows of a batch or one set per row.

    Attributes:
        places: `(documents,)` or `(documents, columns)`, in the order of their sequences. The batch comes last, so
            that what moves together lies together, and is filled up to whole words.
        nodes: one `(nodes,)` or `(nodes, columns)` per level from 1 on: whether an allowed document is below.
        ends: the same for the documents that end at the node itself; `None` when all sequences have the same length.
        batch: number of filters, `None` for one that all rows share.
    """

    places: BoolTensor
    nodes: list[BoolTensor]
    ends: list[BoolTensor] | None
    batch: int | None = None

    @classmethod
    def from_documents(cls, segment: PrefixSegment, places: BoolTensor, batch: int | None = None) -> "AllowedNodes":
        """From flags of documents `(documents,)` or `(documents, columns)`, of which the first `batch` count."""
        if batch is not None and segment.arrays.fixed_length and places.device.type == "cpu":
            return cls(places, _by_words(segment, places), None, batch)
        return cls(places, *_by_counts(segment, places), batch)

    @property
    def nbytes(self) -> int:
        """Bytes of all flags; levels may share theirs."""
        return sum({id(flags): flags.nbytes for flags in [self.places, *self.nodes, *(self.ends or [])]}.values())

    def to(self, device: torch.device) -> "AllowedNodes":
        """The same flags on another device."""
        ends = None if self.ends is None else [flags.to(device) for flags in self.ends]
        nodes = [flags.to(device) for flags in self.nodes]
        return AllowedNodes(self.places.to(device), nodes, ends, self.batch)

    def of_nodes(self, nodes: LongTensor, level: int, batch_rows: LongTensor | None) -> BoolTensor:
        """Flags of `nodes` of `level`, of any shape; `batch_rows`, broadcast to it, are their rows of the batch."""
        return _looked_up(self.nodes[level - 1], nodes, batch_rows)

    def of_nodes_on_host(self, nodes: np.ndarray, level: int, batch_rows: np.ndarray | None) -> np.ndarray:
        """As [`~AllowedNodes.of_nodes`], with numpy."""
        flags = self.nodes[level - 1].numpy()
        if batch_rows is None:
            return flags.take(nodes)
        places = nodes * flags.shape[1]
        places += batch_rows
        return flags.reshape(-1).take(places)

    def of_ends(self, nodes: LongTensor, level: int, batch_rows: LongTensor | None) -> BoolTensor:
        """Whether an allowed document ends at each of `nodes` of `level`, all of which are terminal."""
        return _looked_up((self.nodes if self.ends is None else self.ends)[level - 1], nodes, batch_rows)


def whole_words(mask: BoolTensor) -> BoolTensor:
    """Flags `(batch, documents)` as `(documents, columns)`, with columns of zeros up to a multiple of eight."""
    return torch.nn.functional.pad(mask, (0, 0, 0, -len(mask) % 8)).T.contiguous()


def _by_words(segment: PrefixSegment, flags: BoolTensor) -> list[BoolTensor]:
    """Flags of all levels from those of the documents, eight filters at a time or'ed over the children of a node."""

    def any_of_slices(flags: BoolTensor, starts: Tensor) -> BoolTensor:
        words = flags.numpy().view(np.uint64)
        return torch.from_numpy(np.bitwise_or.reduceat(words, starts[:-1].numpy(), axis=0).view(np.bool_))

    if segment.arrays.leaf_starts is not None:
        flags = any_of_slices(flags, segment.arrays.leaf_starts)
    nodes = [flags]
    for level in reversed(segment.levels[1:]):
        if level.starts is not None:
            flags = any_of_slices(flags, level.starts[1:])
        nodes.append(flags)
    return nodes[::-1]


def _by_counts(segment: PrefixSegment, places: BoolTensor) -> tuple[list[BoolTensor], list[BoolTensor] | None]:
    """Flags of all levels, and of their ends where sequences differ in length.

    Documents below a node are one range, so a running count of the allowed ones tells whether it has any; the count at
    the nodes of a level is that of the level below, taken where their children begin.
    """
    counts = _running_count(places)
    if not segment.arrays.fixed_length:
        firsts = [_at(counts, level.document_starts) for level in segment.levels]
        levels = list(zip(segment.levels, firsts, strict=True))
        nodes = [_as_flags(_at(counts, level.document_ends) > first) for level, first in levels]
        return nodes, [_as_flags(_at(counts, level.own_ends) > first) for level, first in levels]
    nodes = []
    for starts in (segment.arrays.leaf_starts, *segment.next_starts[:0:-1]):
        if starts is not None:
            counts = _at(counts, starts)
            nodes.append(_as_flags(counts[1:] > counts[:-1]))
        else:  # a child each, or a document
            nodes.append(nodes[-1] if nodes else places)
    return nodes[::-1], None


def _running_count(places: BoolTensor) -> Tensor | np.ndarray:
    """How many are true before each of `places` `(documents,)` or `(documents, columns)`, and in all."""
    shape = (len(places) + 1, *places.shape[1:])
    if on_host(places):
        counts = np.empty(shape, np.int32)
        np.cumsum(places.numpy(), axis=0, out=counts[1:])
    else:
        counts = torch.empty(shape, dtype=torch.int32, device=places.device)
        torch.cumsum(places, 0, dtype=torch.int32, out=counts[1:])
    counts[0] = 0
    return counts


def _at(counts: Tensor | np.ndarray, places: Tensor) -> Tensor | np.ndarray:
    if isinstance(counts, np.ndarray):
        return counts.take(places.numpy(), axis=0 if counts.ndim > 1 else None)  # without is faster
    return counts.index_select(0, places)


def _as_flags(flags: BoolTensor | np.ndarray) -> BoolTensor:
    return torch.from_numpy(flags) if isinstance(flags, np.ndarray) else flags


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

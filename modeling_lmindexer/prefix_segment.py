"""One sorted set of sequences: walking down its nodes, listing their children and documents."""

from dataclasses import replace
from functools import cached_property

import numpy as np
import torch
from torch import BoolTensor, LongTensor, Tensor

from .prefix_arrays import PADDING, Level, PrefixArrays
from .prefix_hop import build_hops, on_host, without_caches

PROBES = 16  # codes looked at together in a search among the children of a node


class PrefixSegment:
    """Sequences in sorted arrays; immutable.

    Args:
        arrays: see `prefix_arrays.py`.
        with_keys: whether to make packed keys for every level, of arrays on the CPU: 8 bytes a node, and a walk is one
            binary search instead of one search per position.
    """

    def __init__(self, arrays: PrefixArrays, with_keys: bool):
        self.arrays, self.levels, self.with_keys = arrays, arrays.levels, with_keys
        self.depth = len(arrays.levels)
        # Views that every step of a search needs.
        self._distinct: dict[int, Tensor] = {}  # see distinct_codes
        self.next_starts = [None if level.starts is None else level.starts[1:] for level in self.levels]
        self.hops = build_hops(arrays) if with_keys else {}

    def __getstate__(self) -> dict:
        return without_caches(self)

    @property
    def device(self) -> torch.device:
        return self.levels[0].codes.device

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        hops = sum(h.keys.nbytes + h.below.nbytes + h.above.nbytes + h.weights.nbytes for h in self.hops.values())
        return sum(array.nbytes for array in self.arrays.tensors().values()) + hops

    def count(self, level: int) -> int:
        """Number of nodes on `level`."""
        return 1 if level == 0 else len(self.levels[level - 1])

    def to(self, device: torch.device) -> "PrefixSegment":
        """The same segment on another device."""
        if torch.empty(0, device=device).device == self.device:
            return self
        levels = [
            Level(**vars(level) | {name: array.to(device) for name, array in level.tensors().items()})
            for level in self.levels
        ]
        ends = (None if end is None else end.to(device) for end in (self.arrays.leaf_starts, self.arrays.documents))
        moved = PrefixSegment(PrefixArrays(levels, *ends, self.arrays.count), with_keys=False)
        moved.with_keys = self.with_keys
        for level, hop in self.hops.items():
            arrays = {name: value.to(device) for name, value in vars(hop).items() if isinstance(value, Tensor)}
            moved.hops[level] = replace(hop, **arrays)
        return moved

    def walk(self, prefixes: LongTensor) -> LongTensor:
        """Nodes `(rows,)` of the prefixes `(rows, level)`; -1 for those that are not there."""
        if on_host(prefixes):
            return torch.from_numpy(self.walk_on_host(prefixes.numpy()))
        level = prefixes.shape[1]
        if level == 0:
            return torch.zeros(len(prefixes), dtype=torch.int64, device=prefixes.device)
        if level > self.depth:
            return torch.full_like(prefixes[:, 0], -1)
        hop = self.hops.get(level)
        if hop is None:
            return self.find_children(self.walk(prefixes[:, :-1]), prefixes[:, -1], level - 1)
        if hop.source == 0:
            return hop.find(prefixes, None)
        return hop.find(prefixes[:, hop.source :], self.walk(prefixes[:, : hop.source]))

    def walk_on_host(self, prefixes: np.ndarray) -> np.ndarray:
        """As [`~PrefixSegment.walk`], with numpy."""
        level = prefixes.shape[1]
        if level == 0 or level > self.depth:
            return np.full(len(prefixes), -1 if level else 0)
        hop = self.hops.get(level)
        if hop is None:
            return self.find_children_on_host(self.walk_on_host(prefixes[:, :-1]), prefixes[:, -1], level - 1)
        if hop.source == 0:
            return hop.find_on_host(prefixes, None)
        return hop.find_on_host(prefixes[:, hop.source :], self.walk_on_host(prefixes[:, : hop.source]))

    def slices(self, nodes: LongTensor, level: int) -> tuple[LongTensor, LongTensor]:
        """First child of `nodes` `(rows,)` of `level`, and the one behind the last; the same twice for node -1."""
        starts = self.levels[level].starts
        after = nodes + 1
        if starts is None:
            return nodes.clamp(min=0), after
        return starts.index_select(0, after).long(), self.next_starts[level].index_select(0, after)

    def codes(self, nodes: LongTensor, level: int) -> LongTensor:
        """Last codes of `nodes` of `level`, of any shape."""
        level = self.levels[level - 1]
        return level.codes.index_select(0, nodes.reshape(-1)).long().add_(level.offset).view(nodes.shape)

    @cached_property
    def first_codes(self) -> BoolTensor:
        """Which codes from the smallest to the largest one a sequence begins with."""
        level = self.levels[0]
        flags = torch.zeros(level.high - level.low + 1, dtype=torch.bool, device=self.device)
        flags[level.codes.long() + (level.offset - level.low)] = True
        return flags

    def distinct_codes(self, position: int) -> LongTensor:
        """All different codes at `position`, ascending; looked for once."""
        if position not in self._distinct:
            level = self.levels[position]
            self._distinct[position] = torch.unique(level.codes).long() + level.offset
        return self._distinct[position]

    def find_children(self, nodes: LongTensor, codes: LongTensor, level: int) -> LongTensor:
        """The children of `nodes` with `codes`, all `(rows,)`; -1 where there is none.

        A search among `PROBES` codes at once, then among those between two of them, and so on: as many rounds as the
        node with most children needs, the same for all rows.
        """
        if level >= self.depth:
            return torch.full_like(nodes, -1)
        below = self.levels[level]
        first, end = self.slices(nodes, level)
        span = below.widest
        probes = torch.arange(PROBES, device=nodes.device)
        last, end = len(below) - 1, end[:, None]
        while span > PROBES:
            span = -(-span // PROBES)
            places = first[:, None] + probes * span
            reached = (self.codes(places.clamp(max=last), level + 1) <= codes[:, None]) & (places < end)
            first = first + (reached.sum(1) - 1).clamp(min=0) * span
        places = first[:, None] + probes[: max(span, 1)]
        hits = (self.codes(places.clamp(max=last), level + 1) == codes[:, None]) & (places < end)
        return torch.where(hits.any(1), first + hits.to(torch.uint8).argmax(1), -1)

    def find_children_on_host(self, nodes: np.ndarray, codes: np.ndarray, level: int) -> np.ndarray:
        """As [`~PrefixSegment.find_children`], with numpy."""
        below, (first, end), (*_, own) = self.levels[level], self.slices_on_host(nodes, level), self._on_host[level]
        codes = codes.astype(np.int64, copy=False)
        codes = np.minimum(np.maximum(codes, below.low - 1), below.high + 1)  # less the offset it would overflow
        codes, end, last = (codes - below.offset)[:, None], end[:, None], len(own) - 1
        span, probes = below.widest, np.arange(PROBES)
        while span > PROBES:
            span = -(-span // PROBES)
            places = first[:, None] + probes * span
            reached = (own.take(np.minimum(places, last)) <= codes) & (places < end)
            first = first + np.maximum(reached.sum(1) - 1, 0) * span
        places = first[:, None] + probes[: max(span, 1)]
        hits = (own.take(np.minimum(places, last)) == codes) & (places < end)
        return np.where(hits.any(1), first + hits.argmax(1), -1)

    def expand(self, nodes: LongTensor, level: int) -> tuple[LongTensor, LongTensor, LongTensor]:
        """All children of `nodes` `(rows,)`, one behind the other: their row, their code, their node."""
        if level >= self.depth:
            empty = nodes.new_empty(0)
            return empty, empty, empty
        if on_host(nodes):
            counts, children = self.children_on_host(nodes.numpy(), level)
            rows = np.arange(len(nodes)).repeat(counts)
            codes = np.add(self.codes_on_host(children, level), self.levels[level].offset, dtype=np.int64)
            return tuple(map(torch.from_numpy, (rows, codes, children)))
        rows, children = ragged(*self.slices(nodes, level))
        return rows, self.codes(children, level + 1), children

    def children_on_host(self, nodes: np.ndarray, level: int) -> tuple[np.ndarray, np.ndarray]:
        """Numbers of children of `nodes` `(rows,)` of `level`, and all of them one behind the other."""
        first, end = self.slices_on_host(nodes, level)
        counts = end - first
        done = counts.cumsum()
        children = np.arange(done[-1] if len(done) else 0)
        children += (end - done).repeat(counts)
        return counts, children

    def slices_on_host(self, nodes: np.ndarray, level: int) -> tuple[np.ndarray, np.ndarray]:
        """As [`~PrefixSegment.slices`], with numpy."""
        starts, next_starts, _ = self._on_host[level]
        after = nodes + 1
        if starts is None:
            return np.maximum(nodes, 0), after
        return starts.take(after), next_starts.take(after)

    def codes_on_host(self, children: np.ndarray, level: int) -> np.ndarray:
        """Codes `(children,)` of nodes of `level + 1`, less the level's offset."""
        return self._on_host[level][2].take(children)

    @cached_property
    def _on_host(self) -> list[tuple]:
        """Starts, the same from the second on, and codes of every level."""
        starts = [None if level.starts is None else level.starts.numpy() for level in self.levels]
        return [
            (own, None if own is None else own[1:], level.codes.numpy())
            for own, level in zip(starts, self.levels, strict=True)
        ]

    def padded(self, nodes: LongTensor, level: int) -> tuple[LongTensor, LongTensor, BoolTensor]:
        """Codes and nodes `(rows, widest)` of all children, and which are there; behind the last the first again.

        A row without children gets those of node 0, none of which is there.
        """
        if level >= self.depth:
            empty = nodes.new_empty(len(nodes), 0)
            return empty, empty, empty.bool()
        first, end = self.slices(nodes, level)
        steps = torch.arange(self.levels[level].widest, device=nodes.device)
        inside = steps < (end - first)[:, None]
        first = torch.where(end > first, first, 0)[:, None]
        children = torch.where(inside, first + steps, first)
        return self.codes(children, level + 1), children, inside

    def is_terminal(self, nodes: LongTensor, level: int) -> BoolTensor:
        """Whether a sequence ends at each of `nodes` of `level`, which are all in the tree."""
        if level == 0 or level > self.depth:
            return torch.zeros_like(nodes, dtype=torch.bool)
        if self.arrays.fixed_length:
            return torch.full_like(nodes, level == self.depth, dtype=torch.bool)
        ends = self.levels[level - 1]
        return ends.own_ends[nodes] > ends.document_starts[nodes]

    def document_ranges(self, nodes: LongTensor, level: int) -> tuple[LongTensor, LongTensor]:
        """Places from which and up to which the documents below each of `nodes` `(rows,)` stand; none for node -1."""
        if level == 0:
            return torch.zeros_like(nodes), (nodes >= 0) * self.arrays.count
        if not self.arrays.fixed_length:
            ranges = self.levels[level - 1]
            known = nodes.clamp(min=0)
            return ranges.document_starts[known].long(), torch.where(nodes < 0, 0, ranges.document_ends[known]).long()
        first, end = nodes.clamp(min=0), nodes + 1
        for below in self.levels[level:]:
            if below.starts is not None:
                first, end = below.starts[first + 1].long(), below.starts[end + 1].long()
        if self.arrays.leaf_starts is not None:
            first, end = self.arrays.leaf_starts[first].long(), self.arrays.leaf_starts[end].long()
        return first, torch.where(nodes < 0, first, end)

    def documents_at(self, nodes: LongTensor, level: int) -> tuple[LongTensor, LongTensor]:
        """Row and place of every document whose sequence ends at one of `nodes` `(rows,)` of `level`."""
        if not 0 < level <= self.depth or (self.arrays.fixed_length and level < self.depth):
            return nodes.new_empty(0), nodes.new_empty(0)
        first, end = self.document_ranges(nodes, level)
        if not self.arrays.fixed_length:
            end = torch.where(nodes < 0, end, self.levels[level - 1].own_ends[nodes.clamp(min=0)].long())
        return ragged(first, torch.maximum(first, end))

    def numbers(self, places: LongTensor) -> LongTensor:
        """Numbers of the documents at `places` of the sorted order."""
        return places if self.arrays.documents is None else self.arrays.documents[places].long()

    def node_of_place(self, places: LongTensor, level: int) -> LongTensor:
        """The nodes of `level`, at least 1, above the documents at `places` `(rows,)`; -1 above a shorter sequence."""
        if not self.arrays.fixed_length:
            ranges = self.levels[level - 1]
            nodes = torch.searchsorted(ranges.document_starts, places.int(), right=True) - 1
            return torch.where(places < ranges.document_ends[nodes.clamp(min=0)], nodes, -1)
        nodes = places
        if self.arrays.leaf_starts is not None:
            nodes = torch.searchsorted(self.arrays.leaf_starts, nodes.int(), right=True) - 1
        for below in reversed(self.levels[level:]):
            if below.starts is not None:
                nodes = torch.searchsorted(below.starts[1:], nodes.int(), right=True) - 1
        return nodes

    def sequences(self, places: LongTensor) -> LongTensor:
        """Sequences `(rows, depth)` of the documents at `places`, padded with -1."""
        paths = torch.full((len(places), self.depth), PADDING, device=self.device)
        for level in range(1, self.depth + 1):
            nodes = self.node_of_place(places, level)
            paths[:, level - 1] = torch.where(nodes < 0, PADDING, self.codes(nodes.clamp(min=0), level))
        return paths

    def paths(self, nodes: LongTensor, level: int) -> LongTensor:
        """The prefixes `(rows, level)` of `nodes` of `level`."""
        paths = torch.empty(len(nodes), level, dtype=torch.int64, device=self.device)
        for position in reversed(range(level)):
            paths[:, position] = self.codes(nodes, position + 1)
            if (starts := self.levels[position].starts) is not None:
                nodes = torch.searchsorted(starts[1:], nodes.int(), right=True) - 1
        return paths


def ragged(first: LongTensor, end: LongTensor) -> tuple[LongTensor, LongTensor]:
    """For every row the numbers from `first` `(rows,)` up to `end` `(rows,)`, and their rows."""
    counts = end - first
    rows = torch.repeat_interleave(counts)
    before = end - counts.cumsum(0)
    return rows, before.index_select(0, rows).add_(torch.arange(rows.shape[0], device=rows.device))

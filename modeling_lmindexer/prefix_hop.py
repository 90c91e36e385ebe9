"""Packed keys: from a prefix to its node by one binary search instead of one per position."""

from dataclasses import dataclass
from functools import cached_property
from math import prod

import numpy as np
import torch
from torch import LongTensor, Tensor

from .prefix_arrays import PrefixArrays

INT64_MAX = torch.iinfo(torch.int64).max


@dataclass
class Hop:
    """Keys that lead from the nodes of level `source` straight to those of a deeper level, by one binary search.

    Attributes:
        keys: int64 `(nodes + 1,)`, ascending: node of `source` and codes in between, added up by weight; the largest
            number last, so that no search ends behind the array.
        below, above: `(positions,)`, the numbers next to the range of every position's codes: what a code outside it
            becomes, one that no key has.
        weights: `(positions,)`, what every digit counts.
        radix: what the number of the source node counts.
    """

    source: int
    keys: Tensor
    below: Tensor
    above: Tensor
    weights: Tensor
    radix: int

    def find(self, digits: LongTensor, sources: LongTensor | None) -> LongTensor:
        """Nodes `(rows,)` behind `sources` `(rows,)`, by default the root, along codes `(rows, positions)`; or -1."""
        wanted = torch.clamp(digits, self.below, self.above).mul_(self.weights).sum(1)
        if sources is not None:
            wanted += sources * self.radix  # node -1 makes it negative: no key
        places = torch.searchsorted(self.keys, wanted)
        return torch.where(self.keys.index_select(0, places) == wanted, places, -1)

    def find_on_host(self, digits: np.ndarray, sources: np.ndarray | None) -> np.ndarray:
        """As [`~Hop.find`], with numpy."""
        keys, below, above, weights = self._on_host
        wanted = np.minimum(np.maximum(digits, below), above).dot(weights)
        if sources is not None:
            wanted += sources * self.radix
        places = keys.searchsorted(wanted)
        return np.where(keys.take(places) == wanted, places, -1)

    @cached_property
    def _on_host(self) -> list[np.ndarray]:
        """Views, which a copy makes of its own."""
        return [array.numpy() for array in (self.keys, self.below, self.above, self.weights)]

    def __getstate__(self) -> dict:
        return without_caches(self)


def without_caches(made) -> dict:
    """What to copy of an object: numpy's views would be arrays of their own in a copy."""
    return {name: value for name, value in vars(made).items() if name not in ("_on_host", "first_codes")}


def on_host(tensor: Tensor) -> bool:
    """Whether numpy can take over: of few rows, a torch operation takes several times as long as one of numpy."""
    return tensor.is_cpu and not (torch.compiler.is_compiling() or torch.jit.is_tracing())


def build_hops(arrays: PrefixArrays) -> dict[int, Hop]:
    """One to every level from which a search goes on, of arrays on the CPU.

    The last level is looked up, when a search is over, from the one before.
    """
    levels, hops = arrays.levels, {}
    counts = [1, *map(len, levels)]  # of nodes
    for target in range(1, len(levels) + (not arrays.fixed_length)):
        spans = [level.high - level.low + 3 for level in levels[:target]]
        highs = [level.high + 1 for level in levels[:target]]
        largest = (_largest_key(counts[s], highs[s:], spans[s:]) for s in range(target))
        source = next((s for s, key in enumerate(largest) if key < INT64_MAX), None)
        if source is not None:
            hops[target] = _build_hop(arrays, source, target, spans[source:], hops.get(target - 1))
    return hops


def _build_hop(arrays: PrefixArrays, source: int, target: int, spans: list[int], shorter: Hop | None) -> Hop:
    positions = arrays.levels[source:target]
    if shorter is not None and shorter.source == source:
        keys, steps = shorter.keys.numpy()[:-1], [(positions[-1], spans[-1])]
    else:
        nodes = len(arrays.levels[source - 1]) if source else 1
        keys, steps = np.arange(nodes), zip(positions, spans, strict=True)
    for below, span in steps:
        keys = keys.copy() if below.starts is None else keys.repeat(np.diff(below.starts.numpy()[1:]))
        keys *= span
        keys += below.codes.numpy()
        keys += below.offset
    bounds = ([level.low - 1 for level in positions], [level.high + 1 for level in positions])
    weights = [prod(spans[i + 1 :]) for i in range(len(spans))]
    below, above, weights = torch.tensor([*bounds, weights], device="cpu")
    return Hop(source, torch.from_numpy(np.append(keys, INT64_MAX)), below, above, weights, prod(spans))


def _largest_key(nodes: int, highs: list[int], spans: list[int]) -> int:
    """Of a hop from `nodes` nodes over positions with codes up to `highs`, in ranges of `spans` codes."""
    return nodes * prod(spans) + sum(high * prod(spans[i + 1 :]) for i, high in enumerate(highs))

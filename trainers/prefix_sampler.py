"""Batches that bring documents of one prefix together, so that the contrastive loss finds its negatives in them."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch.utils.data import Sampler

POOL = 50  # global batches that are sorted at once, as transformers does: enough to save, too few to lose the chance


class SampleKey(NamedTuple):
    """What the data set is asked for: document `index` as epoch `epoch` shows it, counting `weight` (0: a filler)."""

    index: int
    epoch: int
    weight: int


class PrefixBatchSampler(Sampler[list[SampleKey]]):
    """Lists of exactly `batch_size` keys, `num_processes` lists in a row being one global batch.

    A global batch is made of whole prefix groups as far as they fit; a larger group is cut into global batches, and
    where no remaining group fits the room left, the smallest one is continued in the next batch. All batches are full,
    for accelerate drops documents otherwise: the last is filled up with documents of the epoch's start at weight 0.
    Every document has weight 1 exactly once an epoch. Groups, documents and batches are shuffled anew each epoch, the
    same way on every process. accelerate's `BatchSamplerShard` gives list `i` to process `i mod num_processes`.

    Args:
        groups: `(N,)` number of each document's prefix group; any integers.
        batch_size: documents per list, that is, per process.
        num_processes: processes that share a global batch.
        seed: of the order, together with the epoch.
        lengths: `(N,)` of the documents in tokens, to bring those of about one length together, so that little of what
            a model computes is padding: documents of a group that fills several batches, and small groups by their
            mean, out of every 50 shuffled batches.

    Raises:
        ValueError: `groups` is empty or not one-dimensional, `batch_size` or `num_processes` is less than 1.
    """

    # accelerate reads both, and pads or drops what it takes for incomplete
    drop_last = False

    def __init__(
        self, groups: torch.Tensor | np.ndarray, batch_size: int, num_processes: int = 1, seed: int = 0,
        lengths: np.ndarray | None = None,
    ):  # fmt: skip
        groups = np.asarray(groups)
        if groups.ndim != 1 or not len(groups):
            raise ValueError(f"groups have the shape (documents,) with at least one document, not {groups.shape}")
        if batch_size < 1 or num_processes < 1:
            raise ValueError(f"a batch of {batch_size} on {num_processes} processes holds no document")
        self.batch_size = batch_size
        self.num_processes = num_processes
        self.seed = seed
        self.epoch = 0
        self._group_of = np.unique(groups, return_inverse=True)[1]  # (N,)
        self._lengths = lengths

    def set_epoch(self, epoch: int):
        """Choose the order of the next iteration.

        accelerate's loaders do not pass the epoch on through their wrappers, and transformers' Trainer does so only
        at an epoch's start: a data set with a `set_epoch` of its own, which all of them call, can call this one.
        """
        self.epoch = epoch

    def __len__(self) -> int:
        """Lists per epoch, all processes together: the same in every epoch."""
        return -(-len(self._group_of) // self._capacity) * self.num_processes

    def __iter__(self) -> Iterator[list[SampleKey]]:
        epoch = self.epoch
        order = self._order(epoch)  # (N,)
        documents = np.resize(order, len(self) * self.batch_size)
        for begin in range(0, len(documents), self.batch_size):
            indices = documents[begin : begin + self.batch_size].tolist()
            yield [
                SampleKey(index, epoch, int(position < len(order))) for position, index in enumerate(indices, begin)
            ]

    @property
    def _capacity(self) -> int:
        return self.batch_size * self.num_processes

    def _order(self, epoch: int) -> np.ndarray:
        """`(N,)` documents as the epoch visits them, a global batch being a run of `_capacity`."""
        capacity = self._capacity
        rng = np.random.default_rng((self.seed, epoch))
        shuffled = rng.permutation(len(self._group_of))
        if self._lengths is not None:
            shuffled = self._by_length(shuffled, np.ones(len(shuffled), dtype=int), self._lengths)
        documents = shuffled[np.argsort(self._group_of[shuffled], kind="stable")]  # group by group
        sizes = np.bincount(self._group_of)
        starts = np.cumsum(sizes) - sizes
        full, rest = np.divmod(sizes, capacity)
        pieces = rng.permutation(np.flatnonzero(rest))
        if self._lengths is not None:
            means = np.bincount(self._group_of, self._lengths) / sizes
            pieces = self._by_length(pieces, rest[pieces], means)
        piece, begin, length = _pack(rest[pieces], capacity)
        packed = _runs((starts + full * capacity)[pieces][piece] + begin, length)
        complete = len(packed) // capacity * capacity
        batches = np.concatenate([_runs(starts, full * capacity), packed[:complete]]).reshape(-1, capacity)
        # The packing leaves what is hard to fit for last: without this, large groups would gather at the epoch's end.
        batches = rng.permutation(batches)
        return documents[np.concatenate([batches.ravel(), packed[complete:]])]

    def _by_length(self, numbers: np.ndarray, sizes: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """Shuffled documents or pieces `(n,)`, sorted by `lengths[numbers]` within pools of so many documents."""
        pool = (np.cumsum(sizes) - sizes) // (POOL * self._capacity)
        return numbers[np.lexsort((lengths[numbers], pool))]


def _runs(begins: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """`begin, begin + 1, ..` of each length, one run after the other."""
    before = np.cumsum(lengths) - lengths
    return np.repeat(begins - before, lengths) + np.arange(lengths.sum())


def _pack(sizes: np.ndarray, capacity: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Lay pieces of less than `capacity` in a row, cut into batches at the multiples of `capacity`.

    In the order given while they fit; then the largest that fit; then the smallest is cut, once, as its rest opens the
    next batch. Linear in the sum of the sizes.

    Returns:
        One entry per run, a whole piece or a part of one: the piece's number, the run's begin in it, its length.
    """
    sizes = sizes.tolist()
    waiting: list[list[int]] = [[] for _ in range(capacity)]  # of each size, the first in order on top
    for piece in reversed(range(len(sizes))):
        waiting[sizes[piece]].append(piece)
    placed = bytearray(len(sizes))
    runs = []
    room = capacity
    for piece, size in enumerate(sizes):
        while not placed[piece]:
            fit = size if size <= room else next((fit for fit in range(room, 0, -1) if waiting[fit]), 0)
            taken = fit or next(larger for larger in range(room + 1, capacity) if waiting[larger])
            chosen = waiting[taken].pop()
            placed[chosen] = 1
            runs += [(chosen, 0, taken)] if fit else [(chosen, 0, room), (chosen, room, taken - room)]
            room = room - taken if taken < room else room - taken + capacity
    return tuple(np.array(runs, dtype=np.int64).reshape(-1, 3).T)

"""Batches of texts of about one length, so that little of what a model computes is padding."""

from collections.abc import Callable

import numpy as np

from .prefix_sampler import POOL, PrefixBatchSampler


class LengthBatchSampler(PrefixBatchSampler):
    """As [`PrefixBatchSampler`] without groups; of every 50 shuffled batches' texts, those of one length go together.

    Args:
        lengths: of all texts `(N,)` in an epoch, in tokens.
        batch_size, num_processes, seed: as there.
    """

    def __init__(
        self, lengths: Callable[[int], np.ndarray], batch_size: int, num_processes: int = 1, seed: int = 0
    ):  # fmt: skip
        super().__init__(np.arange(len(lengths(0))), batch_size, num_processes, seed)
        self.lengths = lengths

    def _order(self, epoch: int) -> np.ndarray:
        """`(N,)` texts as the epoch visits them; the last batch may be incomplete."""
        capacity, lengths = self._capacity, self.lengths(epoch)
        rng = np.random.default_rng((self.seed, epoch))
        shuffled = rng.permutation(len(lengths))
        pools = [shuffled[start : start + POOL * capacity] for start in range(0, len(shuffled), POOL * capacity)]
        ordered = np.concatenate([pool[np.argsort(lengths[pool], kind="stable")] for pool in pools])
        complete = len(ordered) // capacity * capacity
        batches = rng.permutation(ordered[:complete].reshape(-1, capacity))
        return np.concatenate([batches.ravel(), ordered[complete:]])

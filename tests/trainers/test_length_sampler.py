"""Batches by length: every text once an epoch, the same for any number of processes, and less padding."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainers.length_sampler import LengthBatchSampler
from trainers.prefix_sampler import PrefixBatchSampler


def batches_of(lengths, batch_size: int, processes: int = 1, seed: int = 0, epoch: int = 0, kind=LengthBatchSampler):
    """The lists of keys of an epoch."""
    sampler = kind(lambda _: np.asarray(lengths), batch_size, processes, seed)
    sampler.set_epoch(epoch)
    return list(sampler)


@given(
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=300), batch_size=st.integers(1, 9),
    processes=st.integers(1, 3), seed=st.integers(0, 3), epoch=st.integers(0, 3),
)  # fmt: skip
def test_every_text_counts_once_an_epoch_and_processes_share_the_same_global_batches(
    lengths, batch_size, processes, seed, epoch
):
    batches = batches_of(lengths, batch_size, processes, seed, epoch)
    counted = sorted(key.index for batch in batches for key in batch if key.weight)
    assert counted == list(range(len(lengths)))
    assert {len(batch) for batch in batches} == {batch_size}
    together = batches_of(lengths, batch_size * processes, 1, seed, epoch)
    shared = [sum(batches[i : i + processes], []) for i in range(0, len(batches), processes)]
    assert shared == together


def padded(batches, lengths) -> int:
    """Tokens that a model sees, padding included."""
    return sum(max(lengths[key.index] for key in batch) * len(batch) for batch in batches)


def test_batches_have_less_padding_than_random_ones_and_differ_from_epoch_to_epoch():
    lengths = np.random.default_rng(0).geometric(0.2, size=2000)
    own = batches_of(lengths, 16)
    plain = list(PrefixBatchSampler(np.arange(2000), 16))
    assert lengths.sum() <= padded(own, lengths) < 1.1 * lengths.sum() < padded(plain, lengths) / 2
    assert batches_of(lengths, 16, epoch=1) != own == batches_of(lengths, 16)
    long_first = [lengths[batch[0].index] for batch in own]
    assert long_first != sorted(long_first)  # batches are shuffled


def test_lengths_are_those_of_the_epoch():
    lengths = {0: np.arange(40) % 4, 1: np.arange(40) // 10}
    sampler = LengthBatchSampler(lengths.__getitem__, 10)
    for epoch in lengths:
        sampler.set_epoch(epoch)
        assert all(len({lengths[epoch][key.index] for key in batch}) == 1 for batch in sampler)


def test_no_texts_are_an_error():
    with pytest.raises(ValueError, match="at least one"):
        LengthBatchSampler(lambda _: np.empty(0, dtype=int), 4)

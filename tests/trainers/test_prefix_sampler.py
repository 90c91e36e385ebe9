"""Prefix batches, as accelerate hands them to the processes: nothing lost, nothing twice, groups together."""

from collections import Counter, defaultdict

import numpy as np
import pytest
import torch
from accelerate.data_loader import BatchSamplerShard, prepare_data_loader, skip_first_batches
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader, Dataset

from trainers.prefix_sampler import PrefixBatchSampler, SampleKey

PROCESSES = st.sampled_from([1, 2, 4])


def group_numbers(sizes):
    """Documents of groups of these sizes in mixed order, under numbers with gaps."""
    groups = np.repeat(7 * np.arange(len(sizes)) - 3, sizes)
    return np.random.default_rng(0).permutation(groups)


def on_each_process(sampler, even_batches=True):
    """The lists of every process, by accelerate."""
    count = sampler.num_processes
    return [list(BatchSamplerShard(sampler, count, index, even_batches=even_batches)) for index in range(count)]


def batches_of_groups(sampler, groups):
    """The numbers of the global batches in which each group counts."""
    batches = defaultdict(set)
    for number, batch in enumerate(sampler):
        for key in batch:
            if key.weight:
                batches[groups[key.index]].add(number // sampler.num_processes)
    return batches


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.integers(1, 40), min_size=1, max_size=30),
    PROCESSES,
    st.integers(1, 8),
    st.booleans(),
    st.integers(0, 3),
    st.booleans(),
)
def test_every_document_counts_once_an_epoch(sizes, processes, batch_size, even_batches, seed, by_length):
    lengths = np.random.default_rng(seed).integers(1, 9, size=sum(sizes)) if by_length else None
    sampler = PrefixBatchSampler(group_numbers(sizes), batch_size, processes, seed, lengths)
    steps = -(-sum(sizes) // (batch_size * processes))
    for epoch in (0, 1):
        sampler.set_epoch(epoch)
        lists = on_each_process(sampler, even_batches)
        assert [len(part) for part in lists] == [steps] * processes
        assert len(sampler) == steps * processes
        keys = [key for part in lists for batch in part for key in batch]
        assert {len(batch) for part in lists for batch in part} == {batch_size}
        assert sorted(key.index for key in keys if key.weight) == list(range(sum(sizes)))
        assert {key.weight for key in keys} <= {0, 1} and {key.epoch for key in keys} == {epoch}


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=30), PROCESSES, st.integers(1, 16))
def test_groups_stay_together(sizes, processes, batch_size):
    """A group takes one batch more than it must, at most, and at most one group does so per batch."""
    groups = group_numbers(sizes)
    capacity = batch_size * processes
    sampler = PrefixBatchSampler(groups, batch_size, processes)
    size = Counter(groups.tolist())
    excess = [
        len(numbers) - -(-size[group] // capacity) for group, numbers in batches_of_groups(sampler, groups).items()
    ]
    assert set(excess) <= {0, 1}
    assert sum(excess) <= len(sampler) // processes - 1


def test_hardly_a_group_is_split_while_smaller_ones_fill_the_room():
    """Cut where the batches end, the same groups in the same kind of order would be split 14 to 18 times."""
    groups = group_numbers([5] * 40 + [3] * 40 + [1] * 200)
    sampler = PrefixBatchSampler(groups, 4, 4)
    for epoch in range(5):
        sampler.set_epoch(epoch)
        in_batches = batches_of_groups(sampler, groups)
        assert sum(len(numbers) > 1 for numbers in in_batches.values()) <= 1


def test_fillers_are_the_epochs_first_documents():
    sampler = PrefixBatchSampler(group_numbers([3, 4, 2, 1]), 4, 2)
    keys = [key for batch in sampler for key in batch]
    assert [key.weight for key in keys] == [1] * 10 + [0] * 6
    assert [key.index for key in keys[10:]] == [key.index for key in keys[:6]]


def test_a_corpus_smaller_than_a_batch_is_repeated():
    keys = [key for batch in PrefixBatchSampler(np.array([5, 5, 9]), 4, 2) for key in batch]
    assert [key.weight for key in keys] == [1] * 3 + [0] * 5
    assert [key.index for key in keys] == ([key.index for key in keys[:3]] * 3)[:8]


def test_the_order_depends_on_seed_and_epoch_alone():
    groups = group_numbers([1, 2, 3, 4, 5, 6, 7, 8] * 5)

    def batches(seed, epoch):
        sampler = PrefixBatchSampler(groups, 4, 2, seed)
        sampler.set_epoch(epoch)
        return [[key.index for key in batch] for batch in sampler]

    assert batches(0, 1) == batches(0, 1)
    sampler = PrefixBatchSampler(torch.from_numpy(groups), 4, 2, 0)
    list(sampler)
    sampler.set_epoch(1)
    assert [[key.index for key in batch] for batch in sampler] == batches(0, 1)
    different = [batches(0, 0), batches(0, 1), batches(1, 0), batches(1, 1)]
    assert all(different[i] != different[j] for i in range(4) for j in range(i))
    # Other documents of a group meet, and other groups meet.
    together = [{frozenset(batch) for batch in order} for order in different[:2]]
    assert len(together[0] & together[1]) < len(together[0]) // 2


@pytest.mark.parametrize("groups", [np.zeros(30, int), np.arange(30)])
def test_without_structure_it_is_a_permutation(groups):
    """One group, or as many as documents: every position is equally likely for document 0."""
    sampler = PrefixBatchSampler(groups, 4)
    positions = []
    for epoch in range(600):
        sampler.set_epoch(epoch)
        order = [key.index for batch in sampler for key in batch if key.weight]
        assert sorted(order) == list(range(30))
        positions.append(order.index(0))
    counts = np.bincount(positions, minlength=30)
    # 600 draws of 30: the mean is 20, its deviation 4.4.
    assert counts.min() > 2 and counts.max() < 45


def test_large_groups_are_spread_over_the_epoch():
    """Packed in the order they fit, the large groups that nothing fits beside would come last."""
    groups = group_numbers([6] * 20 + [1] * 40)
    sampler = PrefixBatchSampler(groups, 8)
    large = {group for group, count in Counter(groups.tolist()).items() if count == 6}
    halves = np.zeros(2)
    for epoch in range(40):
        sampler.set_epoch(epoch)
        shares = [np.mean([groups[key.index] in large for key in batch]) for batch in sampler]
        halves += np.mean(shares[:10]), np.mean(shares[10:])
    assert halves[0] == pytest.approx(halves[1], rel=0.1)


class Documents(Dataset):
    """Hands back the keys it is asked for, and tells the sampler of the epoch."""

    def __init__(self, sampler):
        self.set_epoch = sampler.set_epoch

    def __getitem__(self, key: SampleKey):
        return torch.tensor(key)


@pytest.mark.parametrize("skipped", [0, 2])
def test_accelerates_loader_takes_it_and_passes_the_epoch_on(skipped):
    """Also where a run goes on in mid-epoch, whose wrappers would leave the sampler at its first epoch."""
    groups = group_numbers([1, 2, 3, 4, 5, 6, 7, 9])
    rows, left_out = [], []
    for process in range(2):
        sampler = PrefixBatchSampler(groups, 4, 2)
        loader = DataLoader(Documents(sampler), batch_sampler=sampler)
        loader = prepare_data_loader(loader, num_processes=2, process_index=process, put_on_device=False)
        loader = skip_first_batches(loader, skipped)
        loader.set_epoch(3)
        rows += [row.tolist() for batch in loader for row in batch]
        left_out += [key.index for batch in list(sampler)[process : 2 * skipped : 2] for key in batch]
    assert len(rows) == 40 - 8 * skipped
    assert {epoch for _, epoch, _ in rows} == {3}
    assert sorted([index for index, _, weight in rows if weight] + left_out) == list(range(37))


@pytest.mark.parametrize(
    ("groups", "batch_size", "processes"),
    [(np.zeros((2, 2), int), 1, 1), (np.zeros(0, int), 1, 1), (np.zeros(2, int), 0, 1), (np.zeros(2, int), 1, 0)],
)
def test_what_cannot_be_batched_is_an_error(groups, batch_size, processes):
    with pytest.raises(ValueError, match="document"):
        PrefixBatchSampler(groups, batch_size, processes)


@pytest.mark.parametrize("groups", [np.zeros(2000, int), np.repeat(np.arange(400), 5)])
def test_documents_of_one_length_share_batches(groups):
    """Of one large group, and of small groups whose documents are about as long; groups stay whole either way."""
    lengths = np.repeat(np.random.default_rng(0).geometric(0.2, size=400), 5)
    sampler, plain = PrefixBatchSampler(groups, 16, lengths=lengths), PrefixBatchSampler(groups, 16)
    tokens, before = (
        sum(len(batch) * lengths[[key.index for key in batch]].max() for batch in order) for order in (sampler, plain)
    )
    assert tokens < 1.3 * lengths.sum() < 0.7 * before
    first = list(sampler)
    sampler.set_epoch(1)
    assert [key.index for key in first[0]] != [key.index for key in next(iter(sampler))]
    starts = [lengths[batch[0].index] for batch in first]
    assert starts != sorted(starts)  # batches are shuffled
    if groups.any():
        split = [len(batches) > 1 for batches in batches_of_groups(plain, groups).values()]
        assert sum(len(batches) > 1 for batches in batches_of_groups(sampler, groups).values()) <= sum(split)

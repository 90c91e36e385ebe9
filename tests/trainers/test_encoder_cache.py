"""Encoder states on disk: computed once, and again when they belong to something else."""

import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from trainers.encoder_cache import EncoderStates, distinct_texts

OFFSETS = np.array([0, 3, 4, 6])


class Encoder:
    """Two padded batches of states of three documents of 3, 1 and 2 tokens; counts how often it is asked."""

    def __init__(self, base=0.0):
        self.calls, self.base = 0, base

    def __call__(self):
        self.calls += 1
        states = self.base + torch.arange(12.0).view(2, 3, 2)
        yield np.array([0, 2]), states
        yield np.array([1]), 100 + states[:1, :1].to(torch.bfloat16)


def test_states_are_read_batch_by_batch(tmp_path):
    states = EncoderStates.open_or_compute(tmp_path / "cache", "mine", OFFSETS, 2, Encoder())
    batch = states.batch(np.array([1, 0]), 4)
    assert batch.dtype == torch.float32
    assert batch.tolist() == [[[100, 101], [0, 0], [0, 0], [0, 0]], [[0, 1], [2, 3], [4, 5], [0, 0]]]
    assert states.batch(np.array([2]), 2).tolist() == [[[6, 7], [8, 9]]]


def test_they_are_computed_once(tmp_path):
    encoder = Encoder()
    for _ in range(2):
        states = EncoderStates.open_or_compute(tmp_path, "mine", OFFSETS, 2, encoder)
        assert states.batch(np.array([0]), 3).tolist() == [[[0, 1], [2, 3], [4, 5]]]
    assert encoder.calls == 1


def test_another_fingerprint_is_computed_anew(tmp_path):
    EncoderStates.open_or_compute(tmp_path, "mine", OFFSETS, 2, Encoder())
    states = EncoderStates.open_or_compute(tmp_path, "other", OFFSETS, 2, Encoder(base=1000))
    assert states.batch(np.array([2]), 2).tolist() == [[[1006, 1007], [1008, 1009]]]
    encoder = Encoder()
    EncoderStates.open_or_compute(tmp_path, "other", OFFSETS, 2, encoder)
    EncoderStates.open_or_compute(tmp_path, "mine", OFFSETS, 2, encoder)
    assert encoder.calls == 1


def test_a_stop_in_the_middle_leaves_no_cache(tmp_path):
    """Neither where there was none, nor where there was another's."""

    def stopped():
        yield from ()
        raise KeyboardInterrupt

    for fingerprint in ("mine", "other"):
        with pytest.raises(KeyboardInterrupt):
            EncoderStates.open_or_compute(tmp_path, fingerprint, OFFSETS, 2, stopped)
        encoder = Encoder()
        EncoderStates.open_or_compute(tmp_path, fingerprint, OFFSETS, 2, encoder)
        assert encoder.calls == 1
    assert {path.name for path in tmp_path.iterdir()} == {"encoder_states.float32", "encoder_states.json"}


def test_equal_texts_are_one():
    tokens, offsets = np.array([5, 7, 5, 7, 5], dtype=np.int32), np.array([0, 2, 4, 5])
    kept, where, places = distinct_texts(tokens, offsets)
    assert kept.tolist() == [5, 7, 5] and where.tolist() == [0, 2, 3] and places.tolist() == [0, 0, 1]


def test_a_full_disk_is_known_before(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=47))
    with pytest.raises(OSError, match="set encoder_cache_dir to a folder with more"):
        EncoderStates.open_or_compute(tmp_path / "states", "mine", OFFSETS, 2, Encoder())
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=48))
    EncoderStates.open_or_compute(tmp_path / "states", "mine", OFFSETS, 2, Encoder())

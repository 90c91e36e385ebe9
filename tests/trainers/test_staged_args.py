"""Settings of all trainers: the batch of all processes, and the CPU where there is nothing else."""

import pytest
import torch
from tiny_training import make_trainer

from trainers import staged_trainer
from trainers.staged_args import StagedTrainingArguments


def arguments(tmp_path, **settings):
    return StagedTrainingArguments(output_dir=str(tmp_path), report_to="none", **settings)


def test_every_process_gets_an_equal_part_of_the_global_batch(tmp_path, monkeypatch):
    assert arguments(tmp_path, use_cpu=True, global_batch_size=12).per_device_train_batch_size == 12
    monkeypatch.setattr(StagedTrainingArguments, "world_size", 4)
    assert arguments(tmp_path, use_cpu=True, global_batch_size=12).per_device_train_batch_size == 3
    assert arguments(tmp_path, use_cpu=True, per_device_train_batch_size=5).per_device_train_batch_size == 5
    for wrong in (10, 2, 0, -4):
        with pytest.raises(ValueError, match=f"global_batch_size is {wrong} on 4 processes"):
            arguments(tmp_path, use_cpu=True, global_batch_size=wrong)


def test_several_processes_without_an_accelerator_take_the_cpu(tmp_path, monkeypatch):
    """Each would train a model of its own otherwise."""
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    assert not arguments(tmp_path).use_cpu
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(StagedTrainingArguments, "_setup_devices", torch.device("cpu"))
    assert arguments(tmp_path).use_cpu
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    assert not arguments(tmp_path).use_cpu


def test_zero_3_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(staged_trainer, "is_deepspeed_zero3_enabled", lambda: True)
    with pytest.raises(ValueError, match="fsdp2.yaml"):
        make_trainer(tmp_path)

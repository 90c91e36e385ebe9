"""Batches in parts: who computes which, and sums that do not depend on it."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_training import make_trainer, training_steps
from torch import nn
from transformers import Trainer

from trainers import SemanticIDTrainingArguments
from trainers.batch_parts import BatchParts, PartOrder
from trainers.prefix_sampler import PrefixBatchSampler
from trainers.run_settings import run_settings


@given(documents=st.integers(1, 40), size=st.integers(1, 3), parts=st.sampled_from([2, 4, 8]), epoch=st.integers(0, 2))
def test_the_parts_of_a_batch_are_the_same_for_any_number_of_processes(documents, size, parts, epoch):
    def steps(processes):
        order = PartOrder(PrefixBatchSampler(np.zeros(documents, int), size, parts, seed=1), processes)
        order.set_epoch(epoch)
        lists, each = list(order), parts // processes
        assert len(lists) == len(order)
        own = [lists[rank::processes] for rank in range(processes)]  # as accelerate shares them
        steps = range(0, len(lists) // processes, each)
        return [[part for rows in own for part in rows[step : step + each]] for step in steps]

    alone = steps(1)
    assert sum(key.weight for batch in alone for part in batch for key in part) == documents
    assert steps(2) == steps(parts) == alone


def sums_of(gradients, processes):
    """What one process after the other makes of its parts' gradients, and the branches put together."""
    branches = []
    each = len(gradients) // processes
    for rank in range(processes):
        parts = BatchParts(len(gradients), rank, processes)
        parts._of_all_processes = lambda found, parameters: found
        parameter = nn.Parameter(torch.zeros(3))
        for gradient in gradients[rank * each : (rank + 1) * each]:
            with parts.part([parameter], 5):
                parameter.grad = None if gradient is None else gradient.clone()
        branches.append(parameter.grad)
    while len(branches) > 1:
        branches = [one + other for one, other in zip(branches[::2], branches[1::2], strict=True)]
    return branches[0]


def test_gradients_are_added_up_in_one_order():
    gradients = [torch.randn(3, generator=torch.Generator().manual_seed(i)) * 10.0 ** (i % 5) for i in range(16)]
    alone = sums_of(gradients, 1)
    torch.testing.assert_close(alone, torch.stack(gradients).double().sum(0).float(), rtol=1e-4, atol=1e-2)
    for processes in (2, 4, 16):
        assert torch.equal(sums_of(gradients, processes), alone)
    in_a_row = gradients[0].clone()
    for gradient in gradients[1:]:
        in_a_row += gradient
    assert not torch.equal(in_a_row, alone)  # the order matters here


def test_a_batch_that_ended_in_an_error_is_forgotten():
    parts, parameter = BatchParts(4), nn.Parameter(torch.zeros(3))

    def step(*gradients):
        for gradient in gradients:
            with parts.part([parameter], 5):
                parameter.grad = torch.full((3,), gradient)

    step(7.0, 7.0)
    with pytest.raises(RuntimeError), parts.part([parameter], 5):
        raise RuntimeError
    parts.begin()
    step(1.0, 2.0, 3.0, 4.0)
    assert parameter.grad.tolist() == [10, 10, 10]


def test_a_parameter_that_some_parts_do_not_use():
    one, other = torch.ones(3), torch.full((3,), 2.0)
    assert sums_of([one, None, None, other], 1).tolist() == [3, 3, 3]
    assert sums_of([None] * 4, 1) is None


def test_draws_depend_on_the_part_and_leave_others_alone():
    def draws(rank, processes, *seeds):
        parts, parameter = BatchParts(4, rank, processes), nn.Parameter(torch.zeros(1))
        parts._of_all_processes = lambda found, parameters: found
        found = []
        for _ in range(parts.own):
            with parts.part([parameter], *seeds):
                found.append(torch.rand(()).item())
        return found

    torch.manual_seed(0)
    expected = torch.rand(())
    torch.manual_seed(0)
    alone = draws(0, 1, 7, 0)
    assert torch.equal(torch.rand(()), expected)
    assert len(set(alone)) == 4 and alone == draws(0, 2, 7, 0) + draws(1, 2, 7, 0)
    assert not set(alone) & set(draws(0, 1, 7, 1)) and not set(alone) & set(draws(0, 1, 8, 0))


def test_losses_and_gradients_in_parts_are_those_of_the_whole_batch(tmp_path):
    """Without what compares the documents of a batch with each other."""
    plain = {"contrastive_weights": [0.0], "global_batch_size": 16, "max_steps": 3, "optim": "sgd"}
    found = []
    for parts in (None, 4):
        trainer = make_trainer(tmp_path / str(parts), batch_parts=parts, **plain)
        assert trainer.args.per_device_train_batch_size == (4 if parts else 16)
        assert trainer.args.gradient_accumulation_steps == (parts or 1)
        trainer.stage = trainer.stages[1]
        trainer.prepare_stage(trainer.stage)
        gradients, losses = training_steps(trainer)
        found.append((gradients, losses))
    (expected, losses), (gradients, in_parts) = found
    assert len(expected) == 3
    for step, reference in zip(gradients, expected, strict=True):
        assert step.keys() == reference.keys() and len(step) > 10
        for name, gradient in step.items():
            torch.testing.assert_close(gradient, reference[name], rtol=1e-4, atol=1e-6, msg=name)
    for own, reference in zip(in_parts, losses, strict=True):
        assert own == pytest.approx(reference, rel=1e-5)


def test_a_run_is_told_apart_by_its_parts_and_not_by_who_computed_them(tmp_path, monkeypatch):
    def settings():
        trainer = make_trainer(tmp_path, global_batch_size=16, batch_parts=4)
        return run_settings(trainer.settings, trainer.model, trainer.documents, trainer.args.num_parts)

    alone = settings()
    assert alone["batch_parts"] == 4 and alone["global_batch_size"] == 16 and alone["gradient_accumulation_steps"] == 1
    monkeypatch.setattr(SemanticIDTrainingArguments, "world_size", 2)
    assert settings() == alone


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"batch_parts": 3}, "batch_parts is 3 on 1 processes: both must be powers of two"),
        ({"batch_parts": 0}, "batch_parts is 0"),
        ({"batch_parts": 32}, "global_batch_size is 16 on batch_parts 32"),
        ({"batch_parts": 4, "global_batch_size": None}, "goes with global_batch_size, which is None"),
        ({"batch_parts": 4, "gradient_accumulation_steps": 2}, "gradient_accumulation_steps 1, not 2"),
        ({"batch_parts": 4, "torch_compile": True}, "without torch_compile"),
    ],
)
def test_settings_that_do_not_go_together(tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        make_trainer(tmp_path, **({"global_batch_size": 16} | settings))


def test_more_processes_than_parts_and_shards_are_refused(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(SemanticIDTrainingArguments, "world_size", 4)
        with pytest.raises(ValueError, match="batch_parts is 2 on 4 processes"):
            make_trainer(tmp_path, global_batch_size=16, batch_parts=2)
    before = Trainer.__init__

    def pretend(self, *args, **kwargs):
        before(self, *args, **kwargs)
        self.is_fsdp_enabled = True

    monkeypatch.setattr(Trainer, "__init__", pretend)
    with pytest.raises(ValueError, match="FSDP and DeepSpeed cut them into shards"):
        make_trainer(tmp_path, global_batch_size=16, batch_parts=2)

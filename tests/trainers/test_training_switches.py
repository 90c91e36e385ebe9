"""Trainer's own switches in every kind of stage: what they save changes no result beyond rounding."""

import pytest
import torch
from tiny_training import Gradients, at_second_position, make_trainer, tiny_indexer
from transformers import Trainer
from transformers.modeling_layers import GradientCheckpointingLayer

STAGES = ["reconstructor", "continuous", "discrete"]
KINDS = ["t5", "bert"]


def trainer_at(folder, stage, kind, **switches):
    """A trainer of a float32 model before its first step in a stage."""
    model = tiny_indexer(kind)
    settings = {"save_strategy": "no", "optim": "sgd", "max_steps": 2, "max_grad_norm": 0.0, **switches}
    if stage != "reconstructor":
        return at_second_position(folder, stage, model=model, **settings)
    trainer = make_trainer(folder, model=model, **settings)
    trainer.prepare_stage(trainer.stages[0])
    return trainer


def steps_of(trainer):
    """The losses of its steps, and the gradients of the last."""
    gradients = Gradients()
    trainer.add_callback(gradients)
    Trainer.train(trainer)
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry], gradients.steps[-1]


def count_runs(model):
    """Forward passes of the first map in every layer that can be checkpointed, in a list of layers that grows."""
    runs = []
    for name, layer in model.named_modules():
        if isinstance(layer, GradientCheckpointingLayer):
            first = next(module for module in layer.modules() if isinstance(module, torch.nn.Linear))
            first.register_forward_pre_hook(lambda *_, name=name: runs.append(name))
    return runs


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("kind", KINDS)
def test_activation_checkpointing_gives_the_same_gradients(tmp_path, stage, kind):
    """Every layer runs twice a step: those of the backbone, of our decoder, and of the reconstructor."""
    results, runs = [], []
    for switch in (False, True):
        trainer = trainer_at(tmp_path / str(switch), stage, kind, gradient_checkpointing=switch)
        runs.append(count_runs(trainer.model))
        results.append(steps_of(trainer))
    torch.testing.assert_close(*results, rtol=1e-5, atol=1e-6)
    assert set(runs[0]) == set(runs[1])
    assert any(name.startswith("reconstructor") for name in runs[0])
    assert stage == "reconstructor" or len(set(runs[0])) == 3
    assert len(runs[1]) == 2 * len(runs[0])


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("kind", KINDS)
def test_bf16_is_near_full_precision_and_keeps_float32_weights(tmp_path, stage, kind):
    (losses, gradients), (expected, _) = (
        steps_of(trainer_at(tmp_path / str(switch), stage, kind, bf16=switch)) for switch in (True, False)
    )
    assert losses == pytest.approx(expected, rel=0.02) and losses != expected
    assert {gradient.dtype for gradient in gradients.values()} == {torch.float32}


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_compiled_layers_give_the_same_losses(tmp_path, kind):
    """Traced by dynamo and differentiated ahead of time; the code that inductor would make of it needs a compiler."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    switches = {"torch_compile": True, "torch_compile_backend": "aot_eager"}
    trainers = [trainer_at(tmp_path / str(len(own)), "discrete", kind, **own) for own in ({}, switches)]
    (expected, _), (losses, _) = map(steps_of, trainers)
    assert losses == pytest.approx(expected, abs=1e-4)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] in (1, 2)  # T5's first layer is of its own
    assert not torch._dynamo.utils.counters["graph_break"]
    assert trainers[0].model.state_dict().keys() == trainers[1].unwrap().state_dict().keys()

"""The schedule of stages."""

from dataclasses import replace

import pytest
import torch
from tiny_training import at_second_position, tiny_arguments, tiny_indexer
from transformers import Trainer

from trainers.stages import Stage, encoder_parameters, hint_ratio_at, plan_stages, set_trainable


@pytest.mark.parametrize("positions", [1, 2, 3])
def test_plan(positions, tmp_path):
    """The reconstructor warms up once; then every position is learned without its codebook, then with it."""
    stages = plan_stages(positions, tiny_arguments(tmp_path))
    names = ["0-reconstructor"]
    titles = ["reconstructor warm-up"]
    for position in range(1, positions + 1):
        names += [f"{position}-continuous", f"{position}-discrete"]
        titles += [f"position {position}, continuous", f"position {position}, discrete"]
    assert [stage.name for stage in stages] == names
    assert [stage.title for stage in stages] == titles
    kinds = [stage.kind for stage in stages]
    assert kinds == ["reconstructor"] + ["continuous", "discrete"] * positions
    assert [stage.position for stage in stages[1:]] == [t for t in range(positions) for _ in range(2)]


def test_every_stage_has_its_epochs_and_its_learning_rate(tmp_path):
    arguments = tiny_arguments(
        tmp_path, reconstructor_epochs=0, continuous_epochs=[2], num_train_epochs=5, learning_rate=0.1
    )
    assert [stage.epochs for stage in plan_stages(2, arguments)] == [0, 2, 5, 2, 5]
    arguments.discrete_rate_factor = 1.0
    assert {stage.learning_rate for stage in plan_stages(2, arguments)} == {0.1}
    arguments.rate_factors = [1.0, 0.1]
    assert [stage.learning_rate for stage in plan_stages(3, arguments)] == pytest.approx([0.1] * 3 + [0.01] * 4)
    arguments.rate_factors, arguments.discrete_rate_factor = [1.0], 0.5
    assert [stage.learning_rate for stage in plan_stages(2, arguments)] == pytest.approx([0.1, 0.1, 0.05, 0.1, 0.05])


def test_hints_become_fewer(tmp_path):
    """50 %, 30 %, and in the same proportion further down."""
    stages = plan_stages(4, tiny_arguments(tmp_path, hint_ratios=[0.5, 0.3]))
    ratios = [stage.hint_ratio for stage in stages]
    assert ratios == pytest.approx([0.5, 0.5, 0.5, 0.3, 0.3, 0.18, 0.18, 0.108, 0.108])
    assert [hint_ratio_at(position, [0.4]) for position in range(3)] == pytest.approx([0.4, 0.24, 0.144])
    assert [hint_ratio_at(position, [0.1, 0.2, 0.3]) for position in range(3)] == [0.1, 0.2, 0.3]


def test_learning_rates_stage_by_stage(tmp_path):
    """In place of the peak and its factors."""
    rates = [0.5, 0.4, 0.3, 0.2, 0.1]
    stages = plan_stages(2, tiny_arguments(tmp_path, stage_learning_rates=rates, rate_factors=[7.0]))
    assert [stage.learning_rate for stage in stages] == rates
    plain = plan_stages(2, tiny_arguments(tmp_path))
    assert [replace(stage, learning_rate=1) for stage in stages] == [
        replace(stage, learning_rate=1) for stage in plain
    ]
    with pytest.raises(ValueError, match="has 5 values for 3 stages: .* 0-reconstructor, 1-continuous, 1-discrete"):
        plan_stages(1, tiny_arguments(tmp_path, stage_learning_rates=rates))


def test_weights_of_losses_by_position(tmp_path):
    stages = plan_stages(3, tiny_arguments(tmp_path, anchor_weights=[1.0, 0.5], contrastive_weights=[0.0, 2.0]))
    assert [stage.anchor_weight for stage in stages] == [0, 1, 1, 0.5, 0.5, 0.5, 0.5]
    assert [stage.contrastive_weight for stage in stages] == [0, 0, 0, 2, 2, 2, 2]
    assert [stage.contrasts for stage in stages] == [False] * 3 + [True] * 4


@pytest.mark.parametrize("kind", ["continuous", "discrete"])
@pytest.mark.parametrize("earlier", [False, True])
@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_what_of_the_codebooks_learns_by_gradient(tmp_path, kind, earlier, ema):
    """Codes that follow their documents do not, while they are learned; temperatures do with their codebooks."""
    model = tiny_indexer(codebook_sizes=[4, 4, 4], learn_temperature=True)
    arguments = tiny_arguments(tmp_path, train_earlier_codebooks=earlier, ema_decay=ema)
    set_trainable(model, Stage(kind, 1, 1, 0.1, 0.5), arguments)
    found = [(book.weight.requires_grad, book.log_temperature.requires_grad) for book in model.codebooks.learned]
    assert found == [(earlier, earlier), (kind == "discrete" and not ema, kind == "discrete"), (False, False)]
    assert not model.codebooks.disambiguation.weight.requires_grad


def test_impossible_settings(tmp_path):
    for ratios in ([], [1.0], [0.5, -0.1]):
        with pytest.raises(ValueError, match="hint_ratios"):
            tiny_arguments(tmp_path, hint_ratios=ratios)
    for values, message in (
        ({"anchor_weights": []}, "anchor_weights is"),
        ({"anchor_weights": [-1.0]}, "anchor_weights is"),
        ({"ema_decay": 1.0}, "ema_decay is 1.0"),
        ({"restart_threshold": -0.1}, "restart_threshold -0.1"),
        ({"micro_share": 0.0}, "micro_share 0.0"),
        ({"num_neighbours": 0}, "num_neighbours is 0"),
        ({"anchor_smoothing": [-1]}, r"anchor_smoothing is \[-1\]; give at least one number"),
        ({"codebook_init": ["kmeans", "median"]}, "codebook_init is 'median'; it must be one of kmeans, ward"),
        ({"code_choice": ["best"]}, "code_choice is 'best'; it must be one of most_likely, balanced, expectation"),
        ({"code_choice": []}, "code_choice is empty; give at least one value"),
        ({"choice_candidates": 0}, "candidates is 0"),
        ({"codebook_init": "median"}, "codebook_init is 'median'; it must be one of kmeans, ward"),
        ({"collisions": "ignore"}, "collisions is 'ignore'; it must be one of counter, reassign"),
        ({"contrastive_views": "crop"}, "contrastive_views is 'crop'; it must be one of identical, dropout"),
        ({"reduction": "max"}, "reduction is 'max'; it must be one of mean, sum"),
    ):
        with pytest.raises(ValueError, match=message):
            tiny_arguments(tmp_path, **values)
    kinds = tiny_arguments(tmp_path, code_choice=["expectation", "balanced"], likelihood_weight=3.0)
    assert [kinds.choice_at(position).kind for position in range(3)] == ["expectation", "balanced", "balanced"]
    assert kinds.choice_at(2).likelihood_weight == 3.0
    assert tiny_arguments(tmp_path, code_choice="balanced").code_choice == ["balanced"]
    assert tiny_arguments(tmp_path, anchor_smoothing=2).anchor_smoothing == [2]
    with pytest.raises(ValueError, match="give whole numbers, how often to average"):
        tiny_arguments(tmp_path, anchor_smoothing=[0.5])
    with pytest.raises(ValueError, match="start_over and go_on"):
        tiny_arguments(tmp_path, start_over=True, go_on=True)


@pytest.mark.parametrize("kind", ["bert", "t5"])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw_torch"])
def test_the_encoder_at_a_share_of_the_rate(tmp_path, kind, optimizer):
    """One step with and without: of plain gradient descent, everything moves in proportion to its rate."""
    steps = {}
    for factor in (1.0, 0.25):
        model = tiny_indexer(kind=kind).double()
        trainer = at_second_position(
            tmp_path / str(factor), model=model, encoder_rate_factor=factor, optim=optimizer, max_steps=1,
            weight_decay=0.1,
        )  # fmt: skip
        before = {name: value.clone() for name, value in model.named_parameters()}
        Trainer.train(trainer)
        steps[factor] = {name: value - before[name] for name, value in model.named_parameters()}
        decays = {group["weight_decay"] for group in trainer.optimizer.param_groups if group["params"]}
        assert decays == {0.0, 0.1}
    encoder = {id(parameter) for parameter in encoder_parameters(model)}
    reads = {name for name, parameter in model.named_parameters() if id(parameter) in encoder}
    moved = {name for name, step in steps[1.0].items() if step.abs().max() > 0}
    assert any("embed" in name or "shared" in name for name in reads) and reads & moved and moved - reads
    assert not any(name.startswith(("decoder", "codebooks", "reconstructor")) for name in reads)
    for name in moved:
        share = 0.25 if name in reads else 1.0
        torch.testing.assert_close(steps[0.25][name], share * steps[1.0][name], rtol=1e-9, atol=1e-15)


def test_no_rate_for_the_encoder(tmp_path):
    with pytest.raises(ValueError, match="encoder_rate_factor is 0.0; .* set freeze_encoder"):
        tiny_arguments(tmp_path, encoder_rate_factor=0.0)

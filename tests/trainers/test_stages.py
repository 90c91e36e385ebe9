"""The schedule of stages."""

import pytest
from tiny_training import tiny_arguments

from trainers.stages import hint_ratio_at, plan_stages


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


def test_impossible_settings(tmp_path):
    for ratios in ([], [1.0], [0.5, -0.1]):
        with pytest.raises(ValueError, match="hint_ratios"):
            tiny_arguments(tmp_path, hint_ratios=ratios)
    with pytest.raises(ValueError, match="start_over and go_on"):
        tiny_arguments(tmp_path, start_over=True, go_on=True)

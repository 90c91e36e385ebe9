"""A run stopped anywhere and started again ends as if it had not been stopped: the same codes, weights and figures."""

import importlib.util
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_training import make_trainer, tiny_indexer
from transformers import TrainerCallback

from trainers import ExistingRunError, SemanticIDTrainer
from trainers.run_state import COMPLETE_MARK

SETTINGS = {
    # Checkpoints at steps 3, 6 and 8 of 8, the first two in mid-epoch; logs in another rhythm.
    "t5": ({"dropout": 0.1}, {"save_strategy": "steps", "save_steps": 3, "logging_steps": 2}),
    "frozen bert": (
        {"kind": "bert", "dropout": 0.1, "codebook_sizes": [5]},
        {"freeze_encoder": True, "save_strategy": "epoch", "contrastive_views": "crops"},
    ),
    "accumulated": (
        {"dropout": 0.1, "codebook_sizes": [5]},
        {"gradient_accumulation_steps": 2, "save_strategy": "steps", "save_steps": 1, "save_total_limit": 2},
    ),
    # Averages of codes and where documents started are not among the weights.
    "additions": (
        {"dropout": 0.1, "codebook_sizes": [8, 6], "learn_temperature": True},
        {
            "save_strategy": "steps", "save_steps": 3, "ema_decay": 0.7, "restart_threshold": 0.8,
            "anchor_weights": [1.0], "anchor_lexical_weight": 0.5, "contrastive_views": "neighbours",
            "choice_weight": 0.5, "code_choice": ["balanced"], "codebook_init": "micro", "anchor_smoothing": [2, 1],
            "anchor_residuals": True,
        },
    ),
}  # fmt: skip


class Stopped(Exception):
    """Stands for a kill."""


class StoppedTrainer(SemanticIDTrainer):
    """Stops at `moment`, `(place, stage)` or `(place, stage, step)`, and notes where its training begins."""

    moment = None

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.begins = []
        self.add_callback(Observer(self))
        complete, finish = self.state_of_run.complete_checkpoint, self.state_of_run.finish
        self.state_of_run.complete_checkpoint = lambda *values: (self.reach("before the mark"), complete(*values))
        self.state_of_run.finish = lambda *values: (self.reach("before the stage's mark"), finish(*values))

    def reach(self, place):
        if self.moment in ((place, self.stage.name), (place, self.stage.name, self.state.global_step)):
            raise Stopped

    def prepare_stage(self, stage):
        self.reach("before a stage")
        super().prepare_stage(stage)

    def finish_stage(self, stage):
        self.reach("after the last step")
        return super().finish_stage(stage)

    def initialize_codebook(self, *values):
        labels = super().initialize_codebook(*values)
        self.reach("after the clustering")
        return labels

    def _save_rng_state(self, output_dir):
        self.reach("inside a checkpoint")
        super()._save_rng_state(output_dir)

    def save_stage(self, folder, figures):
        super().save_stage(folder, figures)
        self.reach("after a stage")


class Observer(TrainerCallback):
    def __init__(self, trainer):
        self.trainer = trainer

    def on_train_begin(self, args, state, control, **kwargs):
        self.trainer.begins.append((self.trainer.stage.name, state.global_step))

    def on_step_end(self, args, state, control, **kwargs):
        self.trainer.reach("step")


def trainer_of(folder, name, **changes):
    model, settings = SETTINGS[name]
    model = tiny_indexer(**model)
    return make_trainer(folder, model=model, trainer_class=StoppedTrainer, **(settings | changes))


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """Whole runs by name, made when they are asked for."""
    runs = {}

    def of(name):
        if name not in runs:
            runs[name] = trainer_of(tmp_path_factory.mktemp("uninterrupted"), name)
            runs[name].train()
        return runs[name]

    return of


def assert_same_result(trainer, expected):
    np.testing.assert_array_equal(trainer.index.codes, expected.index.codes)
    weights, expected_weights = trainer.model.state_dict(), expected.model.state_dict()
    assert weights.keys() == expected_weights.keys()
    assert [name for name in weights if not torch.equal(weights[name], expected_weights[name])] == []


def stop_at(folder, name, *moment):
    """Starts a run, or goes on with it, up to a moment."""
    trainer = trainer_of(folder, name)
    trainer.moment = moment
    with pytest.raises(Stopped):
        trainer.train()
    return trainer


# One run is stopped at all of these in turn; beside each, where the next start begins, as a stage and a step.
MOMENTS = {
    "t5": [
        (("step", "0-reconstructor", 2), ("0-reconstructor", 0)),
        (("inside a checkpoint", "0-reconstructor", 3), ("0-reconstructor", 0)),
        (("step", "0-reconstructor", 4), ("0-reconstructor", 3)),
        (("inside a checkpoint", "1-continuous", 6), ("1-continuous", 3)),
        (("before the mark", "1-continuous", 6), ("1-continuous", 3)),
        (("after the last step", "1-continuous"), ("1-continuous", 8)),
        (("after the clustering", "1-continuous"), ("1-continuous", 8)),
        (("before a stage", "1-discrete"), ("1-discrete", 0)),
        (("before the stage's mark", "1-discrete"), ("1-discrete", 8)),
        (("step", "2-continuous", 4), ("2-continuous", 3)),
        (("after a stage", "2-continuous"), ("2-discrete", 0)),
        (("step", "2-discrete", 1), ("2-discrete", 0)),
        (("step", "2-discrete", 8), ("2-discrete", 6)),
        (("after a stage", "2-discrete"), None),
    ],
    "frozen bert": [
        (("step", "1-continuous", 3), ("1-continuous", 0)),
        (("after the last step", "1-continuous"), ("1-continuous", 8)),
        (("step", "1-discrete", 6), ("1-discrete", 4)),
    ],
    "accumulated": [
        (("step", "1-continuous", 3), ("1-continuous", 2)),
        (("before the mark", "1-discrete", 2), ("1-discrete", 1)),
    ],
    "additions": [
        (("step", "1-continuous", 5), ("1-continuous", 3)),
        (("step", "1-discrete", 2), ("1-discrete", 0)),
        (("step", "1-discrete", 5), ("1-discrete", 3)),
        (("inside a checkpoint", "1-discrete", 6), ("1-discrete", 3)),
        (("after the last step", "1-discrete"), ("1-discrete", 8)),
    ],
}


@pytest.mark.parametrize("name", MOMENTS)
def test_a_run_stopped_again_and_again_ends_the_same(tmp_path, uninterrupted, name):
    begin = ("0-reconstructor", 0)
    for moment, next_begin in MOMENTS[name]:
        assert stop_at(tmp_path, name, *moment).begins[0] == begin
        begin = next_begin
    trainer = trainer_of(tmp_path, name)
    trainer.train()
    assert trainer.begins[:1] == ([begin] if begin else [])
    assert_same_result(trainer, uninterrupted(name))
    if name != "t5":  # whose logs are not written at its checkpoints, so that a start splits the mean of two steps
        assert trainer.figures == uninterrupted(name).figures
    assert not list(trainer.state_of_run.root.glob("*/checkpoint-*"))


def test_a_checkpoint_that_lacks_files_is_ignored(tmp_path, uninterrupted):
    """Of two checkpoints, the newer one lost its mark and others of its files."""
    stop_at(tmp_path, "accumulated", "step", "1-discrete", 3)
    older, newer = sorted((tmp_path / "stages" / "1-discrete").glob("checkpoint-*"))
    assert (older.name, newer.name) == ("checkpoint-1", "checkpoint-2")
    for name in (COMPLETE_MARK, "trainer_state.json", "model.safetensors"):
        (newer / name).unlink()
    trainer = trainer_of(tmp_path, "accumulated")
    trainer.train()
    assert trainer.begins == [("1-discrete", 1)]
    assert_same_result(trainer, uninterrupted("accumulated"))


def test_stages_and_runs_that_are_done_are_read_and_not_repeated(tmp_path, uninterrupted):
    stop_at(tmp_path, "accumulated", "after a stage", "1-continuous")
    trainer = trainer_of(tmp_path, "accumulated")
    trainer.train()
    assert trainer.begins == [("1-discrete", 0)]
    for _ in range(2):
        trainer = trainer_of(tmp_path, "accumulated")
        assert trainer.train() == uninterrupted("accumulated").figures
        assert trainer.begins == []
        assert_same_result(trainer, uninterrupted("accumulated"))


def test_losses_by_name_still_add_up_after_a_stop(tmp_path):
    """The step between the last log entry and the checkpoint is in neither the loss nor its parts."""
    stop_at(tmp_path, "t5", "step", "1-continuous", 5)
    trainer = trainer_of(tmp_path, "t5")
    trainer.moment = ("after the last step", "1-continuous")
    with pytest.raises(Stopped):
        trainer.train()
    entries = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert [entry["step"] for entry in entries] == [2, 4, 6, 8]
    for entry in entries:
        assert entry["reconstruction"] + entry["contrastive"] == pytest.approx(entry["loss"], rel=1e-5)


@pytest.mark.parametrize(
    ("named", "model", "settings"),
    [
        ("learning_rate: 0.01 there, 0.02 now", {}, {"learning_rate": 0.02}),
        ("contrastive_views", {}, {"contrastive_views": "crops"}),
        ("initial_weights", {"seed": 1}, {}),
        ("dropout", {"dropout": 0.2}, {}),
        ("pooling", {"pooling": "cls"}, {}),
        ("code_temperature", {"code_temperature": 0.5}, {}),
    ],
)
def test_a_run_with_other_settings_is_refused(tmp_path, named, model, settings):
    make_trainer(tmp_path, model=tiny_indexer(), max_steps=1).train()
    files = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(ExistingRunError, match=named) as error:
        make_trainer(tmp_path, model=tiny_indexer(**model), max_steps=1, **settings).train()
    assert "--start_over" in str(error.value) and "--go_on" in str(error.value)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()} == files


def test_going_on_and_starting_over_with_other_settings(tmp_path):
    stop_at(tmp_path, "accumulated", "step", "1-discrete", 2)
    trainer = trainer_of(tmp_path, "accumulated", commitment_weight=0.5, go_on=True)
    trainer.train()
    assert trainer.begins == [("1-discrete", 1)]
    trainer = trainer_of(tmp_path, "accumulated", start_over=True)
    trainer.train()
    assert [begin for begin in trainer.begins if begin[1] == 0] == [(stage.name, 0) for stage in trainer.stages]


@pytest.mark.slow
def test_a_run_that_is_killed_and_stopped_ends_the_same(tmp_path):
    """SIGKILL in the first stage, then SIGTERM in the second; `tests/long/kill_and_resume.py` does so more often."""
    path = Path(__file__).parents[1] / "long" / "kill_and_resume.py"
    spec = importlib.util.spec_from_file_location("kill_and_resume", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    lines, signals = [], (signal.SIGKILL, signal.SIGTERM)
    assert module.kill_and_resume(tmp_path, runs=1, kills=2, seed=1, log=lines.append, signals=signals) == []
    assert "SIGKILL at" in lines[1] and "SIGTERM at" in lines[1] and "ended before" not in lines[1]

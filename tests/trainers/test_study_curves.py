"""Curves over a stage: they measure what the stage's figures measure, and training does not notice them."""

import random

import numpy as np
import pytest
import torch
from tiny_training import at_second_position, make_trainer, tiny_corpus, tiny_indexer
from transformers import TrainerCallback

from metrics.semantic_id_quality import code_perplexity, difference_ratios
from trainers.study_curves import StageCurves

STAGES = ["0-reconstructor", "1-continuous", "1-discrete", "2-continuous", "2-discrete"]


def measured(folder, every=3, callbacks=(), **settings):
    """A whole run with curves, dropout and two views; its trainer and curves."""
    trainer = make_trainer(folder, model=tiny_indexer("bert", dropout=0.1), freeze_encoder=True, **settings)
    for callback in callbacks:
        trainer.add_callback(callback)
    curves = StageCurves(trainer, every, reconstruction_documents=20, code_documents=30)
    trainer.add_callback(curves)
    trainer.train()
    return trainer, curves


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return measured(tmp_path_factory.mktemp("measured"))


def random_state() -> list:
    return [torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist()]


def test_training_does_not_notice(finished, tmp_path):
    plain = make_trainer(tmp_path, model=tiny_indexer("bert", dropout=0.1), freeze_encoder=True)
    plain.train()
    trainer = finished[0]
    expected = plain.model.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in trainer.model.state_dict().items())
    np.testing.assert_array_equal(trainer.documents.codes, plain.documents.codes)
    assert trainer.figures == plain.figures


def test_random_numbers_and_mode_stay_as_they_are(tmp_path):
    trainer = at_second_position(tmp_path, model=tiny_indexer(dropout=0.1))
    curves = StageCurves(trainer, 1)
    for mode in (True, False):
        trainer.model.train(mode)
        before = random_state()
        first, again = curves.measure(), curves.measure()
        assert random_state() == before and trainer.model.training is mode
        assert first == again


def test_points(finished):
    trainer, curves = finished
    for stage, steps in zip(STAGES, ([0, 3, 4], *[[0, 3, 6, 8]] * 4), strict=True):
        points = curves.points(stage)
        assert [point["step"] for point in points] == steps
        names = {"step", "reconstruction_f1"}
        if stage.startswith("2"):
            names |= {"position_1_kept", "position_1_predicted_perplexity"}
        if stage.endswith("discrete"):
            names |= {"perplexity", "difference_ratio_pairs", "difference_ratio_groups", "distinct_prefixes", "ami"}
        assert all(set(point) - {"ami_prefix"} == names for point in points), stage
        assert len({point["reconstruction_f1"] for point in points}) > 1, "the model learns"
    assert curves.points("3-discrete") == []


def test_the_last_point_is_the_sample_s_part_of_the_stage(finished):
    trainer, curves = finished
    codes = trainer.documents.codes[curves.rows]
    assert len(curves.rows) == 30 and (np.diff(curves.rows) > 0).all()
    for t in (0, 1):
        last = curves.points(f"{t + 1}-discrete")[-1]
        assert last["perplexity"] == pytest.approx(code_perplexity(codes[:, t]))
        assert last["difference_ratio_pairs"] == pytest.approx(difference_ratios(codes[:, :t], codes[:, t]).pairs)


def test_whole_samples_give_the_stage_s_own_figures(tmp_path):
    trainer = make_trainer(tmp_path)
    curves = StageCurves(trainer, 100, reconstruction_documents=500, code_documents=1000)
    trainer.add_callback(curves)
    figures = trainer.train()
    for stage in STAGES:
        last = curves.points(stage)[-1]
        for name in set(last) - {"step"}:
            assert last[name] == pytest.approx(figures[stage][name]), (stage, name)


def test_a_corpus_without_categories(tmp_path):
    trainer = make_trainer(tmp_path, corpus=tiny_corpus().remove_columns("category"), model=tiny_indexer())
    curves = StageCurves(trainer, 50)
    trainer.stage = trainer.stages[2]
    trainer.prepare_stage(trainer.stage)
    assert "ami" not in curves.measure() and "perplexity" in curves.measure()


class Stop(TrainerCallback):
    """Ends a run in the middle of its third stage, after a checkpoint."""

    def __init__(self):
        self.begun = 0

    def on_train_begin(self, args, state, control, **kwargs):
        self.begun += 1

    def on_step_end(self, args, state, control, **kwargs):
        if self.begun == 3 and state.global_step == 6:
            raise KeyboardInterrupt


def test_a_stopped_run_goes_on_with_its_curves(finished, tmp_path):
    settings = {"save_strategy": "steps", "save_steps": 4}
    with pytest.raises(KeyboardInterrupt):
        measured(tmp_path, every=3, callbacks=[Stop()], **settings)
    trainer, curves = measured(tmp_path, every=3, **settings)
    for stage in STAGES:
        assert curves.points(stage) == finished[1].points(stage)


def test_wrong_settings(tmp_path):
    with pytest.raises(ValueError, match="every is 0"):
        StageCurves(make_trainer(tmp_path), 0)

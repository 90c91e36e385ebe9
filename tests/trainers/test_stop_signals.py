"""SIGTERM and SIGINT: a checkpoint, a line and an exit status; the same command then ends as if nothing had been."""

import os
import signal
import threading
import time

import pytest
import torch
from tiny_training import make_trainer, tiny_indexer
from transformers import TrainerCallback

from trainers import SemanticIDTrainer
from trainers.encoder_cache import EncoderStates
from trainers.stop_signals import RunStopped, StopSignals, leave_on_signal

TERM, INT = signal.SIGTERM, signal.SIGINT
HANDLERS = signal.getsignal(TERM), signal.getsignal(INT)


class SignalledTrainer(SemanticIDTrainer):
    """Sends its own process a signal at a moment, and notes where its training begins."""

    moment = signal_number = None

    def reach(self, *moment):
        if moment == self.moment:
            os.kill(os.getpid(), self.signal_number)
            time.sleep(0.01)  # until Python has called the handler

    def initialize_codebook(self, *arguments):
        self.reach("k-means", self.stage.name)
        return super().initialize_codebook(*arguments)

    def save_stage(self, *arguments):
        super().save_stage(*arguments)
        self.reach("saved", self.stage.name)

    def build_index(self):
        self.reach("index")
        return super().build_index()


class Observer(TrainerCallback):
    def __init__(self, trainer):
        self.trainer, self.begins = trainer, []

    def on_train_begin(self, args, state, control, **kwargs):
        self.begins.append((self.trainer.stage.name, state.global_step))

    def on_step_begin(self, args, state, control, **kwargs):
        self.trainer.reach("step", self.trainer.stage.name, state.global_step)


def trainer_of(folder, moment=None, signal_number=TERM, **settings):
    settings = {"model": tiny_indexer(dropout=0.1), "save_strategy": "steps", "save_steps": 6} | settings
    trainer = make_trainer(folder, trainer_class=SignalledTrainer, **settings)
    trainer.moment, trainer.signal_number = moment, signal_number
    trainer.observer = Observer(trainer)
    trainer.add_callback(trainer.observer)
    return trainer


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    trainer = trainer_of(tmp_path_factory.mktemp("uninterrupted"))
    trainer.train()
    return trainer


def assert_same_result(trainer, expected):
    assert trainer.index.semantic_ids == expected.index.semantic_ids and trainer.figures == expected.figures
    weights, expected_weights = trainer.model.state_dict(), expected.model.state_dict()
    assert [name for name in weights if not torch.equal(weights[name], expected_weights[name])] == []


# One run gets signals at all of these; beside each, what it says, and where the next start begins to train.
MOMENTS = [
    (("step", "0-reconstructor", 1), TERM, "in stage 0-reconstructor, after step 2 of 4", ("0-reconstructor", 2)),
    (("step", "1-continuous", 6), INT, "in stage 1-continuous, after step 7 of 8", ("1-continuous", 7)),
    # Nothing is saved in the middle of it: it goes on to the end of the stage.
    (("k-means", "1-continuous"), TERM, "before stage 1-discrete", ("1-discrete", 0)),
    (("step", "1-discrete", 7), TERM, "in stage 1-discrete, after step 8 of 8", ("1-discrete", 8)),
    (("saved", "2-continuous"), INT, "before stage 2-discrete", ("2-discrete", 0)),
    (("index",), TERM, "before the model folder was written", None),
]


def test_a_run_that_is_asked_to_stop_again_and_again_ends_the_same(tmp_path, uninterrupted, capsys):
    begin = ("0-reconstructor", 0)
    for moment, number, where, next_begin in MOMENTS:
        trainer = trainer_of(tmp_path, moment, number)
        with pytest.raises(RunStopped) as stopped:
            trainer.train()
        assert stopped.value.code == 128 + number and isinstance(stopped.value, SystemExit)
        line = f"Stopped by {signal.Signals(number).name} {where}. The same command goes on.\n"
        assert capsys.readouterr().err.endswith(line)
        assert trainer.observer.begins[0] == begin
        assert (signal.getsignal(TERM), signal.getsignal(INT)) == HANDLERS
        begin = next_begin
    trainer = trainer_of(tmp_path)
    trainer.train()
    assert trainer.observer.begins == []
    assert_same_result(trainer, uninterrupted)


def test_a_checkpoint_is_made_although_none_are_asked_for(tmp_path, uninterrupted):
    """And in mid-epoch, where validation and checkpoints come with the epochs."""
    for strategy, step, stage in (("no", 2, "1-continuous"), ("epoch", 5, "2-discrete")):
        trainer = trainer_of(tmp_path, ("step", stage, step), save_strategy=strategy)
        with pytest.raises(RunStopped):
            trainer.train()
        assert [path.name for path in trainer.state_of_run.complete_checkpoints(stage)][-1:] == [
            f"checkpoint-{step + 1}"
        ]
    trainer = trainer_of(tmp_path, save_strategy="no")
    trainer.train()
    assert trainer.observer.begins[0] == ("2-discrete", 6)
    assert_same_result(trainer, uninterrupted)


def test_the_second_signal_acts_as_ever(monkeypatch):
    monkeypatch.setattr("trainers.stop_signals._THE_SAME", 0.05)
    heard = []
    before = signal.signal(TERM, lambda number, frame: heard.append(number))
    try:
        with StopSignals() as signals:
            signal.raise_signal(TERM)
            signal.raise_signal(TERM)  # as a launcher forwards it
            assert (signals.received, heard) == (TERM, [])
            time.sleep(0.1)
            signal.raise_signal(TERM)
            assert heard == [TERM]
    finally:
        signal.signal(TERM, before)


def test_nothing_happens_outside_the_main_thread(tmp_path):
    found = []

    def other():
        with StopSignals() as signals:
            found.append((signal.getsignal(TERM), signal.getsignal(INT)))
            found.append(signals.received)

    thread = threading.Thread(target=other)
    thread.start()
    thread.join()
    assert found == [HANDLERS, 0]


def test_work_of_one_process_is_left_where_it_stands(tmp_path, capsys):
    """The encoder's states, which are not kept in part; nothing of them stays."""
    leave_on_signal("where nobody listens")

    def batches():
        signal.raise_signal(TERM)
        yield [0], torch.ones(1, 3, 2)
        raise AssertionError("went on")

    with pytest.raises(RunStopped), StopSignals():
        EncoderStates.open_or_compute(tmp_path, "mine", torch.tensor([0, 3]).numpy(), 2, batches)
    assert "Stopped by SIGTERM before the frozen encoder's states" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []

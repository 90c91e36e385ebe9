"""The folder of a run: whose it is, what is done, and which checkpoint is whole."""

import pytest

from trainers.run_state import COMPLETE_MARK, ExistingRunError, RunState

SETTINGS = {"learning_rate": 0.1, "documents": "abc", "hint_ratios": [0.5, 0.3], "max_steps": -1}


@pytest.fixture
def state(tmp_path):
    state = RunState(tmp_path / "run")
    state.claim(SETTINGS, start_over=False, go_on=False)
    state.finish("0-reconstructor", {"loss_end": 1.5})
    return state


def checkpoint(state, stage, step, complete=True):
    folder = state.folder(stage) / f"checkpoint-{step}"
    folder.mkdir(parents=True)
    (folder / "trainer_state.json").write_text("{}")
    if complete:
        (folder / COMPLETE_MARK).touch()
    return folder


def test_the_same_settings_are_accepted(state):
    RunState(state.root.parent).claim(SETTINGS, start_over=False, go_on=False)
    assert state.result("0-reconstructor") == {"loss_end": 1.5}


@pytest.mark.parametrize(
    ("changed", "named", "value"),
    [
        (SETTINGS | {"learning_rate": 0.2}, "learning_rate", "0.1 there, 0.2 now"),
        (SETTINGS | {"hint_ratios": [0.5]}, "hint_ratios", "[0.5, 0.3] there, [0.5] now"),
        (SETTINGS | {"new": 1}, "new", "None there, 1 now"),
        ({name: SETTINGS[name] for name in ("learning_rate", "documents", "hint_ratios")}, "max_steps", "-1 there"),
        (SETTINGS | {"documents": "d" * 100}, "documents", "..."),
    ],
)
def test_another_runs_state_is_refused(state, changed, named, value):
    with pytest.raises(ExistingRunError) as error:
        RunState(state.root.parent).claim(changed, start_over=False, go_on=False)
    message = str(error.value)
    assert named in message and value in message
    assert "--start_over" in message and "--go_on" in message and str(state.root.parent) in message
    assert not any(other in message for other in SETTINGS.keys() - {named})
    # Refused again: the attempt has not made the folder its own.
    with pytest.raises(ExistingRunError):
        RunState(state.root.parent).claim(changed, start_over=False, go_on=False)
    assert state.result("0-reconstructor") == {"loss_end": 1.5}


def test_starting_over_deletes_and_going_on_keeps(state):
    changed = SETTINGS | {"learning_rate": 0.2}
    state.claim(changed, start_over=False, go_on=True)
    assert state.result("0-reconstructor") is not None
    state.claim(changed, start_over=False, go_on=False)
    state.claim(SETTINGS, start_over=True, go_on=False)
    assert state.result("0-reconstructor") is None
    assert [path.name for path in state.root.parent.iterdir()] == ["stages"]
    state.claim(SETTINGS, start_over=False, go_on=False)


def test_a_stop_while_starting_over_leaves_nothing_of_the_old_run_in_place(state, monkeypatch):
    """Half deleted, the old run would have no settings any more that tell it from the new one."""

    def stopped(path, **_):
        if path.exists():
            (path / "settings.json").unlink()
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("trainers.run_state.shutil.rmtree", stopped)
        with pytest.raises(KeyboardInterrupt):
            state.claim(SETTINGS, start_over=True, go_on=False)
    state.claim(SETTINGS | {"learning_rate": 0.2}, start_over=False, go_on=False)
    assert state.result("0-reconstructor") is None
    state.claim(SETTINGS, start_over=True, go_on=False)
    assert [path.name for path in state.root.parent.iterdir()] == ["stages"]


def test_only_complete_checkpoints_count(state):
    assert state.last_checkpoint("1-discrete") is None
    checkpoint(state, "1-discrete", 5, complete=False)
    assert state.last_checkpoint("1-discrete") is None
    older = checkpoint(state, "1-discrete", 9)
    newer = checkpoint(state, "1-discrete", 10)
    checkpoint(state, "1-discrete", 20, complete=False)
    assert state.last_checkpoint("1-discrete") == str(newer)
    (newer / COMPLETE_MARK).unlink()
    assert state.last_checkpoint("1-discrete") == str(older)


def test_what_a_stage_remembers_is_computed_once(state):
    answers = iter([{"loss": 2}])
    for _ in range(2):
        again = RunState(state.root.parent)
        assert again.remember("1-discrete", "start", lambda: next(answers)) == {"loss": 2}


@pytest.mark.parametrize(("limit", "kept"), [(1, [12]), (2, [9, 12]), (None, [3, 6, 9, 12]), (0, [3, 6, 9, 12])])
def test_checkpoints_beyond_the_limit_go_when_a_new_one_is_complete(state, limit, kept):
    for step in (3, 6, 9):
        checkpoint(state, "1-discrete", step)
    checkpoint(state, "1-discrete", 11, complete=False)
    checkpoint(state, "1-discrete", 12, complete=False)
    state.complete_checkpoint("1-discrete", 12, limit)
    assert [path.name for path in state.complete_checkpoints("1-discrete")] == [f"checkpoint-{step}" for step in kept]
    assert len(list(state.folder("1-discrete").iterdir())) == len(kept)


def test_the_best_checkpoint_stays(state):
    best = checkpoint(state, "1-discrete", 3)
    for step in (6, 9):
        checkpoint(state, "1-discrete", step)
    state.complete_checkpoint("1-discrete", 9, 1, best)
    assert [path.name for path in state.complete_checkpoints("1-discrete")] == ["checkpoint-3", "checkpoint-9"]


def test_a_stop_after_a_stages_mark_leaves_no_checkpoints_for_good(state):
    state.finish("1-discrete", {})
    checkpoint(state, "1-discrete", 9)
    RunState(state.root.parent).claim(SETTINGS, start_over=False, go_on=False)
    assert [path.name for path in state.folder("1-discrete").iterdir()] == ["done.json"]


def test_a_stage_that_is_done_keeps_no_checkpoints(state):
    checkpoint(state, "1-discrete", 9)
    (state.folder("1-discrete") / "model.safetensors").touch()
    assert state.result("1-discrete") is None
    state.finish("1-discrete", {"ami": 0.5})
    assert state.result("1-discrete") == {"ami": 0.5}
    assert {path.name for path in state.folder("1-discrete").iterdir()} == {"done.json", "model.safetensors"}

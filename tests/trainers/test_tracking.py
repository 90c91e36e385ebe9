"""What runs of several stages write into TensorBoard's event files and into trackio's database: one run, in order."""

import sys
from pathlib import Path, PureWindowsPath

import pytest
from launching import launch
from tensorboard.backend.event_processing.event_accumulator import HISTOGRAMS, SCALARS, EventAccumulator
from tiny_adaptation import adaptation_trainer
from tiny_retrieval import retrieval_trainer
from tiny_training import make_trainer, tiny_arguments
from transformers import TrainerCallback
from transformers.integrations import integration_utils

from trainers import SemanticIDTrainer
from trainers.tracked_run import TrackedRun
from trainers.tracking import Tracking, TrackioRun

BOTH = ["tensorboard", "trackio"]
# Checkpoints at steps 3, 6 and 8 of a stage's 8, with a log every step.
SETTINGS = {"save_strategy": "steps", "save_steps": 3, "run_name": "tiny"}
# Warm-up 4 steps, the others 8, and one for the end of each.
ENDS = {"warm_up": [5], "position_1": [14, 23], "position_2": [32, 41]}


@pytest.fixture(scope="module")
def trackio(tmp_path_factory):
    """The module with a folder of the tests' own, which it takes when it is first imported."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRACKIO_DIR", str(tmp_path_factory.mktemp("trackio")))
        import trackio
    return trackio


def event_file(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Steps and values by tag, as TensorBoard shows them; of a histogram the sum of its counts."""
    events = EventAccumulator(str(folder), size_guidance={SCALARS: 0, HISTOGRAMS: 0})
    events.Reload()
    scalars = {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()[SCALARS]}
    return scalars | {
        tag: [(e.step, sum(e.histogram_value.bucket)) for e in events.Histograms(tag)]
        for tag in events.Tags()[HISTOGRAMS]
    }


def database(trackio, project: str, run: str) -> dict[str, list[tuple[int, float]]]:
    """The same of a run in trackio."""
    found: dict[str, list] = {}
    for row in trackio.SQLiteStorage.get_logs(project, run):
        for name, value in row.items():
            if name not in ("step", "timestamp"):
                value = sum(value["values"]) if isinstance(value, dict) else value
                found.setdefault(name, []).append((row["step"], value))
    return found


def assert_same(found: dict, expected: dict) -> None:
    """The same names, steps and values, to float32."""
    assert {name: [step for step, _ in points] for name, points in found.items()} == {
        name: [step for step, _ in points] for name, points in expected.items()
    }
    for name, points in expected.items():
        assert [value for _, value in found[name]] == pytest.approx([value for _, value in points], rel=1e-5), name


@pytest.fixture(scope="module")
def whole(tmp_path_factory, trackio):
    """A run that nothing stopped, and what TensorBoard has of it."""
    folder = tmp_path_factory.mktemp("whole")
    trainer = make_trainer(folder, report_to=BOTH, project="whole", **SETTINGS)
    trainer.train()
    return trainer, event_file(folder / "runs" / "tiny")


def test_all_stages_are_on_one_axis(whole):
    trainer, logged = whole
    training = [step for step in range(1, 41) if step not in (5, 14, 23, 32)]
    assert [step for step, _ in logged["train/loss"]] == training
    for name in ("reconstruction", "learning_rate", "grad_norm", "epoch", "stage"):
        assert [step for step, _ in logged[f"train/{name}"]] == training
    assert [step for step, _ in logged["train/commitment"]] == [*range(24, 32), *range(33, 41)]
    assert [value for _, value in logged["train/stage"]] == [1] * 4 + [2] * 8 + [3] * 8 + [4] * 8 + [5] * 8
    assert [value for _, value in logged["train/loss"]][-8:] == pytest.approx(
        [entry["loss"] for entry in trainer.state.log_history if "loss" in entry], rel=1e-6
    )
    assert not [name for name in logged if "runtime" in name]


def test_figures_and_code_histograms_are_at_the_end_of_their_stage(whole):
    trainer, logged = whole
    for stage in trainer.stages:
        end = ENDS[stage.group][stage.kind == "discrete"]
        for name, value in trainer.figures[stage.name].items():
            if name != "loss_curve":
                assert dict(logged[f"{stage.group}/{name}"])[end] == pytest.approx(value, rel=1e-6)
    for group in ("position_1", "position_2"):
        for name in ("perplexity", "difference_ratio_pairs", "ami", "reconstruction_f1", "loss_end"):
            assert [step for step, _ in logged[f"{group}/{name}"]] == ENDS[group]
        assert logged[f"{group}/codes"] == [(end, 60) for end in ENDS[group]]
    events = EventAccumulator(str(trainer.run_dir / "runs" / "tiny")).Reload()
    counts = events.Histograms("position_1/codes")[-1].histogram_value
    assert dict(zip(counts.bucket_limit, counts.bucket, strict=True)) == {
        code + 0.5: (trainer.documents.codes[:, 0] == code).sum() for code in range(6)
    }


def test_trackio_has_the_same_as_tensorboard(whole, trackio):
    assert_same(database(trackio, "whole", "tiny"), whole[1])
    rows = trackio.SQLiteStorage.get_logs("whole", "tiny")
    histogram = [row["position_2/codes"] for row in rows if "position_2/codes" in row][-1]
    codes = whole[0].documents.codes[:, 1]
    assert histogram["bins"] == [-0.5, 0.5, 1.5, 2.5, 3.5]
    assert histogram["values"] == [(codes == code).sum() for code in range(4)]
    assert trackio.Api().runs("whole")[0].config["num_train_epochs"] == 2


class Stopped(Exception):
    """Stands for a kill."""


class StoppedTrainer(SemanticIDTrainer):
    """Stops before the mark of one stage, in the midst of another, and between two."""

    moment = None

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        finish = self.state_of_run.finish
        self.state_of_run.finish = lambda *values: (self.reach("mark"), finish(*values))
        self.add_callback(StopAtStep(self))

    def reach(self, place):
        if self.moment == (place, self.stage.name):
            raise Stopped

    def prepare_stage(self, stage):
        self.reach("before")
        super().prepare_stage(stage)


class StopAtStep(TrainerCallback):
    def __init__(self, trainer):
        self.trainer = trainer

    def on_step_begin(self, args, state, control, **kwargs):
        self.trainer.reach(state.global_step)


def test_a_run_that_goes_on_has_no_gap_and_nothing_twice(tmp_path, trackio, whole):
    def trainer_of():
        return make_trainer(
            tmp_path, trainer_class=StoppedTrainer, report_to=BOTH, project="stopped", **SETTINGS
        )  # fmt: skip

    # After two steps that no checkpoint has; with all figures logged, and no mark; between stages; with no checkpoint.
    for moment in ((5, "1-continuous"), ("mark", "1-continuous"), ("before", "1-discrete"), (2, "2-discrete")):
        trainer = trainer_of()
        trainer.moment = moment
        with pytest.raises(Stopped):
            trainer.train()
    trainer_of().train()
    trainer_of().train()  # is done, and logs nothing
    assert_same(event_file(tmp_path / "runs" / "tiny"), whole[1])
    assert_same(database(trackio, "stopped", "tiny"), whole[1])
    assert [run.name for run in trackio.Api().runs("stopped")] == ["tiny"]


def test_what_a_checkpoint_goes_on_from_is_in_trackio(tmp_path, trackio):
    """Without an end: the process is taken to be killed after the checkpoint."""
    seen = []

    class Look(TrainerCallback):
        def on_save(self, args, state, control, **kwargs):
            seen.append([step for step, _ in database(trackio, "saved", "tiny")["train/loss"]][-1])

    trainer = make_trainer(tmp_path, report_to="trackio", project="saved", continuous_epochs=[0], **SETTINGS)
    trainer.add_callback(Look())
    trainer.train()
    # Stages without training take one step, their end: no figure hides another.
    assert seen == [3, 4, *(6 + step for step in (3, 6, 8)), *(16 + step for step in (3, 6, 8))]
    assert [step for step, _ in database(trackio, "saved", "tiny")["position_1/perplexity"]] == [6, 15]


def test_another_run_of_the_same_name_gets_a_name_of_its_own(tmp_path):
    settings = {
        "report_to": "tensorboard",
        "max_steps": 1,
        "logging_dir": str(tmp_path / "logs"),
        "save_strategy": "no",
    }
    for folder in ("a", "b"):
        make_trainer(tmp_path / folder, run_name="tiny", **settings).train()
    make_trainer(tmp_path / "a", run_name="tiny", start_over=True, **settings).train()
    assert sorted(path.name for path in (tmp_path / "logs").iterdir()) == ["tiny", "tiny-2", "tiny-3"]
    for name in ("tiny", "tiny-2", "tiny-3"):
        assert [step for step, _ in event_file(tmp_path / "logs" / name)["train/loss"]] == [1, 3, 5, 7, 9]


def test_a_task_and_its_evaluations_follow_the_warm_start(tmp_path):
    trainer = retrieval_trainer(tmp_path / "task", report_to=["tensorboard"], document_epochs=1)
    trainer.train()
    logged = event_file(tmp_path / "task" / "runs" / "task")
    assert [step for step, _ in logged["train/loss"]] == [1, 2, 3, 4, *range(6, 14)]
    assert [step for step, _ in logged["eval/recall@5"]] == [9, 13]
    evaluated = [entry["eval_recall@5"] for entry in trainer.state.log_history if "eval_recall@5" in entry]
    assert [value for _, value in logged["eval/recall@5"]] == pytest.approx(evaluated)


def test_an_adaptation_is_a_run_of_one_stage(tmp_path):
    trainer = adaptation_trainer(tmp_path / "encoder", report_to=["tensorboard"])
    figures = trainer.train()
    logged = event_file(tmp_path / "encoder" / "runs" / "encoder")
    assert [step for step, _ in logged["train/simcse"]] == list(range(1, trainer.state.max_steps + 1))
    assert logged["adaptation/loss_end"] == [(trainer.state.max_steps + 1, pytest.approx(figures["loss_end"]))]


class OtherTracker(TrainerCallback):
    """Stands for transformers' callback of wandb, mlflow, .."""

    seen = []

    def on_train_begin(self, args, state, control, **kwargs):
        self.seen.append("begin")

    def on_log(self, args, state, control, logs=None, **kwargs):
        self.seen.append((state.global_step, logs))


def test_other_trackers_are_left_to_transformers(tmp_path, monkeypatch):
    monkeypatch.setitem(integration_utils.INTEGRATION_TO_CALLBACK, "other", OtherTracker)
    monkeypatch.setattr(OtherTracker, "seen", [])
    make_trainer(tmp_path, report_to=["other", "tensorboard"], max_steps=1, save_strategy="no").train()
    assert OtherTracker.seen.count("begin") == 5
    logged = [(step, logs) for step, logs in (entry for entry in OtherTracker.seen if entry != "begin")]
    assert sum("loss" in logs and "reconstruction" in logs for _, logs in logged) == 5
    assert sum("position_1/perplexity" in logs for _, logs in logged) == 2
    assert {step for step, _ in logged} == {1}


def test_a_tracker_that_is_not_installed_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setattr("trainers.tracking._AVAILABLE", {"trackio": lambda: False, "tensorboard": lambda: True})
    with pytest.raises(ImportError, match=r"report_to names trackio.*lmindexer\[tracking\]"):
        make_trainer(tmp_path, report_to="trackio")


def test_commands_are_those_of_the_shell(tmp_path, trackio, monkeypatch):
    arguments = tiny_arguments(tmp_path, report_to=BOTH, project="R&D 1", logging_dir=str(tmp_path / "my runs"))
    board, tracker = Tracking(tmp_path / "tracking.json", arguments).trackers
    monkeypatch.setattr(trackio, "TRACKIO_DIR", Path("/my runs/trackio"))
    assert board.command == f"tensorboard --logdir '{tmp_path}/my runs'"
    assert tracker.command == "TRACKIO_DIR='/my runs/trackio' trackio show --project 'R&D 1'"
    monkeypatch.setattr("trainers.tracking.ON_WINDOWS", True)
    monkeypatch.setattr(trackio, "TRACKIO_DIR", PureWindowsPath(r"C:\my runs\trackio"))
    assert board.command == f'tensorboard --logdir "{tmp_path}/my runs"'
    assert tracker.command == r'set "TRACKIO_DIR=C:\my runs\trackio" && trackio show --project "R&D 1"'


@pytest.fixture
def fresh_trackio(trackio, tmp_path, monkeypatch):
    """One that is not imported yet, and takes its folder then; the other is back afterwards."""
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "trackio.py").write_text(
        "import os\nfrom pathlib import Path\nTRACKIO_DIR = Path(os.environ.get('TRACKIO_DIR', 'cache/trackio'))\n"
    )
    monkeypatch.syspath_prepend(tmp_path / "modules")
    monkeypatch.delitem(sys.modules, "trackio")
    monkeypatch.setenv("TRACKIO_DIR", "")  # so that it is afterwards what it was
    monkeypatch.delenv("TRACKIO_DIR")
    monkeypatch.setattr(TrackioRun, "chosen_folder", None)


def trackio_run(folder: Path) -> TrackioRun:
    arguments = tiny_arguments(folder, report_to="trackio")
    return Tracking(folder / "tracking.json", arguments).trackers[0]


def test_a_second_run_of_a_process_says_where_trackio_really_writes(tmp_path, fresh_trackio, caplog):
    first, second = tmp_path / "first" / "runs" / "trackio", tmp_path / "second" / "runs" / "trackio"
    for _ in range(2):
        assert f"TRACKIO_DIR={first} " in trackio_run(tmp_path / "first").command
    assert caplog.messages == []
    assert f"TRACKIO_DIR={first} " in trackio_run(tmp_path / "second").command
    assert [message.split(":")[0] for message in caplog.messages] == [f"trackio writes to {first}, not to {second}"]


def test_a_folder_that_the_user_names_is_the_one_that_is_meant(tmp_path, fresh_trackio, caplog, monkeypatch):
    monkeypatch.setenv("TRACKIO_DIR", "named")
    assert "TRACKIO_DIR=named " in trackio_run(tmp_path).command and caplog.messages == []
    monkeypatch.setenv("TRACKIO_DIR", "named too late")
    assert "TRACKIO_DIR=named " in trackio_run(tmp_path).command
    assert [message.split(":")[0] for message in caplog.messages] == ["trackio writes to named, not to named too late"]


def test_trackio_that_was_imported_before_says_where_it_writes(tmp_path, fresh_trackio, caplog):
    import trackio  # noqa: F401

    assert "TRACKIO_DIR=cache/trackio " in trackio_run(tmp_path).command
    assert len(caplog.messages) == 1 and caplog.messages[0].startswith("trackio writes to cache/trackio, not to ")


def test_other_processes_have_no_tracker(tmp_path, monkeypatch):
    arguments = tiny_arguments(tmp_path, report_to=BOTH)
    monkeypatch.setattr(type(arguments), "process_index", 1)
    tracking = Tracking(tmp_path / "tracking.json", arguments)
    tracking.begin_stage(None, "a", 1)
    tracking.end_stage()
    assert tracking.trackers == [] and arguments.report_to == [] and list(tmp_path.iterdir()) == []


def test_names_and_steps_of_a_run(tmp_path):
    run = TrackedRun(tmp_path / "tracking.json", "items")
    run.begin_stage("a", 1)
    run.begin_training(0)
    assert (run.first, run.step(7)) == (1, 7)
    run.end_training(10)
    assert run.step(10) == 11
    run.begin_stage("a", 1)  # after a stop, from a checkpoint
    run.begin_training(6)
    assert (run.first, run.step(7)) == (7, 7)
    run.end_training(10)
    run.end_stage()
    run.begin_stage("b", 2)
    assert (run.first, run.step(10)) == (12, 12)
    logs = {"loss": 1.0, "epoch": 0.5, "train_runtime": 3.0, "stage": "b"}
    assert run.values(logs) == {"train/loss": 1.0, "train/epoch": 0.5, "train/stage": 2}
    assert run.values({"eval_recall@5": 0.1, "epoch": 1}) == {"eval/recall@5": 0.1}
    assert run.values({"b/ami": 0.1, "epoch": 1}) == {"b/ami": 0.1}


@pytest.mark.dist
def test_only_the_main_process_logs_and_a_pipe_gets_whole_lines(tmp_path):
    """What is not asked for is not imported: the other process imports neither."""
    first, second = (part["tracked_run"] for part in launch(tmp_path, 2, "tracked_run"))
    assert first["trackers"] == ["TensorBoardRun", "TrackioRun"] and first["imported"] == ["tensorboard", "trackio"]
    assert second["trackers"] == second["imported"] == []
    said = (tmp_path / "log").read_text(encoding="utf-8")  # of both, and of the launcher
    assert "\r" not in said and "\x1b" not in said and "Trackio" not in said
    stages = [line for line in said.splitlines() if line.startswith("stage ")]
    assert [line[:12] for line in stages] == [f"stage {number} of 5" for number in range(1, 6)]
    assert stages[3].startswith("stage 4 of 5: position 2, continuous: 1 of 1, done in 00:0")
    assert "loss " in stages[3] and "commitment " in stages[3]
    runs = tmp_path / "tracked_run" / "runs"
    assert (runs / "trackio" / "lmindexer.db").exists()
    assert len(list(runs.glob("tracked_run/events*"))) == 1
    logged = event_file(runs / "tracked_run")
    assert [step for step, _ in logged["train/loss"]] == [1, 3, 5, 7, 9]
    assert logged["position_2/codes"] == [(8, 60), (10, 60)]

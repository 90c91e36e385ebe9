"""TensorBoard and trackio for runs of several stages: transformers' own callbacks, but one run from end to end."""

import contextlib
import copy
import io
import os
import shlex
import sqlite3
import sys
from pathlib import Path
from typing import ClassVar

import numpy as np
from transformers import TrainerCallback
from transformers.integrations import TensorBoardCallback, TrackioCallback, is_tensorboard_available
from transformers.integrations.integration_utils import is_trackio_available
from transformers.utils import logging

from modeling_lmindexer.folder import ON_WINDOWS

from .staged_args import StagedTrainingArguments
from .tracked_run import TrackedRun

TRACKIO_FOLDER = "trackio"
logger = logging.get_logger(__name__)


def quoted(text: str) -> str:
    """A word of a command, for a POSIX shell, or on Windows for cmd."""
    if ON_WINDOWS:
        return '"{}"'.format(text.replace('"', '""'))
    return shlex.quote(text)


class OneRun(TrainerCallback):
    """What both trackers have in common: a run is opened at the first thing logged, over which it goes on; and it is
    closed by [`Tracking.close`], not at the end of a training.

    Args:
        run: its name and steps.
        args: settings.
    """

    def __init__(self, run: TrackedRun, args: StagedTrainingArguments):
        self.run, self.folder, self.project = run, Path(args.logging_dir), args.project
        self.took_back = False
        run.taken.append(self.has)
        super().__init__()

    def on_train_begin(self, args, state, control, **kwargs):
        """Nothing: a training is not a run."""

    def on_train_end(self, args, state, control, **kwargs):
        """Nothing: a training is not a run."""

    def on_log(self, args, state, control, logs=None, model=None, **kwargs):
        """Writes what is a number, at the step of the run."""
        values = self.run.values(logs or {})
        if values:
            self.write(args, state, model, values)

    @property
    def command(self) -> str:
        """What shows the run."""
        raise NotImplementedError

    def has(self, name: str) -> bool:
        """Whether it has a run of a name."""
        raise NotImplementedError

    def open(self, args, state, model) -> None:
        """Opens the run, or goes on with it; what it has from `run.first` on is taken back, the first time."""
        raise NotImplementedError

    def write(self, args, state, model, values: dict[str, float]) -> None:
        """Writes figures at the run's present step."""
        raise NotImplementedError

    def write_histogram(self, args, state, model, name: str, counts: np.ndarray) -> None:
        """Writes how often each of `(K,)` numbers from 0 on occurs, at the run's present step."""
        raise NotImplementedError

    def flush(self) -> None:
        """Makes what was written survive a kill."""

    def close(self, args, state, control, model) -> None:
        """Ends the run."""
        raise NotImplementedError


class TensorBoardRun(OneRun, TensorBoardCallback):
    """Event files of one run, in `logging_dir/<run name>`."""

    @property
    def command(self) -> str:
        """See the base class."""
        return f"tensorboard --logdir {quoted(str(self.folder))}"

    def has(self, name: str) -> bool:
        """See the base class."""
        return any((self.folder / name).glob("events.out.tfevents.*"))

    def open(self, args, state, model) -> None:
        """See the base class; a reader drops what was written from the step on where a file begins."""
        if self.tb_writer is not None:
            return
        name = self.run.name()
        is_new, self.logging_dir = not self.has(name), str(self.folder / name)
        lost_from = None if self.took_back else self.run.first
        self.tb_writer, self.took_back = self._SummaryWriter(log_dir=self.logging_dir, purge_step=lost_from), True
        if is_new:
            TensorBoardCallback.on_train_begin(self, args, state, None, model=model)  # settings, as texts

    def write(self, args, state, model, values: dict[str, float]) -> None:
        """See the base class."""
        self.open(args, state, model)
        for name, value in values.items():
            self.tb_writer.add_scalar(name, value, self.run.step(state.global_step))
        self.tb_writer.flush()

    def write_histogram(self, args, state, model, name: str, counts: np.ndarray) -> None:
        """See the base class."""
        self.open(args, state, model)
        values = np.arange(len(counts))
        self.tb_writer.add_histogram_raw(
            name, min=0, max=len(counts) - 1, num=int(counts.sum()), sum=float(counts @ values),
            sum_squares=float(counts @ values**2), bucket_limits=(values + 0.5).tolist(),
            bucket_counts=counts.tolist(), global_step=self.run.step(state.global_step),
        )  # fmt: skip
        self.tb_writer.flush()

    def close(self, args, state, control, model) -> None:
        """See the base class."""
        TensorBoardCallback.on_train_end(self, args, state, control)


class TrackioRun(OneRun, TrackioCallback):
    """A run of trackio, in `args.project`; its folder is `logging_dir/trackio`, unless TRACKIO_DIR names another.

    trackio takes its folder when it is first imported, and for the whole process: what comes later, such as a second
    trainer with another `logging_dir`, writes there, too, and a warning names that folder.
    """

    chosen_folder: ClassVar[str | None] = None  # where TRACKIO_DIR has it from here, and not from the user

    def __init__(self, run: TrackedRun, args: StagedTrainingArguments):
        own = str(Path(args.logging_dir).absolute() / TRACKIO_FOLDER)
        if "trackio" not in sys.modules and "TRACKIO_DIR" not in os.environ:
            os.environ["TRACKIO_DIR"] = TrackioRun.chosen_folder = own
        super().__init__(run, args)
        named = os.environ.get("TRACKIO_DIR")
        expected, used = own if named in (None, self.chosen_folder) else named, self._trackio.TRACKIO_DIR
        if Path(expected) != Path(used) and not args.trackio_space_id:
            logger.warning(
                f"trackio writes to {used}, not to {expected}: it takes one folder for the whole process, when it is "
                "first imported. For another, set TRACKIO_DIR before that, in a process of its own."
            )

    @property
    def command(self) -> str:
        """See the base class."""
        folder, show = str(self._trackio.TRACKIO_DIR), f"trackio show --project {quoted(self.project)}"
        return f'set "TRACKIO_DIR={folder}" && {show}' if ON_WINDOWS else f"TRACKIO_DIR={quoted(folder)} {show}"

    def has(self, name: str) -> bool:
        """See the base class."""
        try:
            return name in [run.name for run in self._trackio.Api().runs(self.project)]
        except ValueError:  # no such project
            return False

    def open(self, args, state, model) -> None:
        """See the base class."""
        if self._initialized:
            return
        with contextlib.redirect_stdout(io.StringIO()):  # where trackio says so every time
            named = copy.copy(args)
            named.run_name = self.run.name()
            if not (self.took_back or args.trackio_space_id):
                self.take_back(named.run_name)
            self.took_back = True
            self.setup(named, state, model)

    def take_back(self, name: str) -> None:
        """Deletes what a run has from `run.first` on, for which trackio has no function."""
        path = self._trackio.SQLiteStorage.get_project_db_path(self.project)
        if path.exists():
            with contextlib.closing(sqlite3.connect(path)) as database, database:
                database.execute("DELETE FROM metrics WHERE run_name = ? AND step >= ?", (name, self.run.first))

    def write(self, args, state, model, values: dict) -> None:
        """See the base class."""
        self.open(args, state, model)
        self._trackio.log(values, step=self.run.step(state.global_step))

    def write_histogram(self, args, state, model, name: str, counts: np.ndarray) -> None:
        """See the base class."""
        bounds = np.arange(len(counts) + 1) - 0.5
        self.write(args, state, model, {name: self._trackio.Histogram(np_histogram=(counts, bounds))})

    def flush(self) -> None:
        """See the base class; trackio writes everything at the end of a run alone, which the next thing logged opens
        again. On a Space that would take too long."""
        if self._initialized and not self._space_id:
            with contextlib.redirect_stdout(io.StringIO()):
                self._trackio.finish()
            self._initialized = False

    def close(self, args, state, control, model) -> None:
        """See the base class."""
        with contextlib.redirect_stdout(io.StringIO()):
            TrackioCallback.on_train_end(self, args, state, control, model=model)


_TRACKERS = {"tensorboard": TensorBoardRun, "trackio": TrackioRun}
_AVAILABLE = {"tensorboard": is_tensorboard_available, "trackio": is_trackio_available}


class Tracking(TrainerCallback):
    """The trackers of a trainer, on its main process; elsewhere nothing.

    Args:
        path: for what [`TrackedRun`] keeps.
        args: settings; `args.report_to` loses the trackers that are taken over from transformers.

    Raises:
        ImportError: one of them is not installed.
    """

    def __init__(self, path: Path, args: StagedTrainingArguments):
        wanted = [name for name in args.report_to if name in _TRACKERS]
        args.report_to = [name for name in args.report_to if name not in _TRACKERS]
        for name in wanted:
            if not _AVAILABLE[name]():
                raise ImportError(
                    f"report_to names {name}, which is not installed: pip install 'lmindexer[tracking]'."
                )
        self.run = TrackedRun(path, args.run_name or Path(args.output_dir).absolute().name)
        self.is_main, self.is_quiet, self.trainer = args.process_index == 0, args.is_quiet, None
        self.trackers = [_TRACKERS[name](self.run, args) for name in wanted if self.is_main]

    def begin_stage(self, trainer, name: str, number: int) -> None:
        """A stage of a trainer begins, the `number`th of the run."""
        if self.trainer is None and not self.is_quiet:
            for tracker in self.trackers:
                print(f"Look at it: {tracker.command}", file=sys.stderr)
        self.trainer = trainer
        if self.is_main:
            self.run.begin_stage(name, number)

    def on_train_begin(self, args, state, control, **kwargs):
        self.run.begin_training(state.global_step)

    def on_train_end(self, args, state, control, **kwargs):
        self.run.end_training(state.global_step)

    def histogram(self, name: str, counts: np.ndarray) -> None:
        """Writes how often each of the numbers from 0 on occurs; `counts` is `(K,)`."""
        for tracker in self.trackers:
            tracker.write_histogram(self.trainer.args, self.trainer.state, self.trainer.model, name, counts)

    def end_stage(self) -> None:
        """All of a stage is logged; to be called before it is marked as done."""
        self.flush()
        if self.is_main:
            self.run.end_stage()

    def flush(self) -> None:
        """Makes what was logged survive a kill; to be called before a checkpoint is marked as complete."""
        for tracker in self.trackers:
            tracker.flush()

    def close(self) -> None:
        """Ends the run, for now or for good."""
        for tracker in self.trackers if self.trainer else []:
            tracker.close(self.trainer.args, self.trainer.state, self.trainer.control, self.trainer.model)

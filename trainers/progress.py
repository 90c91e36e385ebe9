"""Progress of a run and its phases: bars on a terminal, a line now and then elsewhere, nothing on other processes."""

import contextlib
import sys
import threading
from collections.abc import Iterator
from contextvars import ContextVar

from tqdm.asyncio import tqdm as terminal_tqdm
from tqdm.auto import tqdm
from tqdm.std import tqdm as std_tqdm
from transformers import TrainerCallback
from transformers.utils import logging

from .remaining_time import PlannedStage, RemainingTime

SHORT_PHASE = 2.0  # seconds; what takes less shows nothing
_BETWEEN_LINES, _BETWEEN_REDRAWS = 30.0, 0.2  # seconds
_LOSSES = ("loss", "reconstruction", "contrastive", "commitment", "anchor", "choice", "simcse", "mlm", "words")
_quiet: ContextVar[bool] = ContextVar("quiet", default=False)


@contextlib.contextmanager
def quiet(is_quiet: bool = True) -> Iterator[None]:
    """No progress is shown inside, if `is_quiet`; a place that is quiet already stays so."""
    token = _quiet.set(_quiet.get() or is_quiet)
    try:
        yield
    finally:
        _quiet.reset(token)


@contextlib.contextmanager
def without_bars_of_others() -> Iterator[None]:
    """transformers' bars, such as one for every file of weights that a checkpoint writes, are not shown inside."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def shows_bars() -> bool:
    """Whether stderr is a place where a line can be drawn anew: a terminal or a notebook."""
    return tqdm is not terminal_tqdm or sys.stderr.isatty()


class ProgressLines(std_tqdm):
    """A progress bar for files and pipes: whole lines without control characters, at most one every 30 seconds, and
    one at the end, which says whether everything was done."""

    stopped = False  # by an exception

    def __init__(self, *args, delay: float = SHORT_PHASE, **kwargs):
        # tqdm shows what has no delay once before the first step, which says nothing in a file, and a thread of its
        # own shows what it expects to be late, unless it looks at the time after every step.
        kwargs |= {"mininterval": _BETWEEN_LINES, "miniters": 1, "delay": max(delay, 1e-9)}
        super().__init__(*args, **kwargs)

    @staticmethod
    def status_printer(file):
        """What writes a line; tqdm's own begins with a carriage return."""

        def write(text: str) -> None:
            file.write(f"{text}\n")
            file.flush()

        return write

    def display(self, msg=None, pos=None) -> bool:
        """Writes where the phase stands."""
        self.sp(str(self))
        return True

    def __exit__(self, kind, error, traceback) -> None:
        self.stopped |= kind is not None
        super().__exit__(kind, error, traceback)

    def close(self) -> None:
        """Writes the last line, unless the phase was a short one."""
        if not self.disable and self._time() - self.start_t >= self.delay:
            self.sp(self.line(ended=True))
        self.last_print_t = float("-inf")  # tqdm then believes that there is nothing to clear or to leave
        super().close()

    def __str__(self) -> str:
        return self.line()

    def line(self, ended: bool = False) -> str:
        """Steps, time and what the postfix says."""
        shown = self.format_dict
        elapsed, done = self.format_interval(shown["elapsed"]), f"{self.n:,}"
        if self.total:
            done += f" of {self.total:,}"
        parts = [done] if self.n or self.total else []
        if ended or not (self.total and shown["rate"]):
            is_short = self.stopped or self.n < (self.total or 0)
            parts.append(f"{('ended after' if is_short else 'done in') if ended else 'since'} {elapsed}")
        else:
            parts.append(f"{self.format_interval((self.total - self.n) / shown['rate'])} left")
        return ", ".join([f"{self.desc}: {parts[0]}", *parts[1:], *([self.postfix] if self.postfix else [])])


def progress_bar(
    iterable=None, *, description: str, total: int | None = None, disable: bool = False, initial: int = 0,
    delay: float = SHORT_PHASE, **kwargs,
):  # fmt: skip
    """A tqdm bar over `iterable`, or to be updated: redrawn on a terminal, lines in a file, nothing inside [`quiet`].

    Args:
        iterable, total, initial, kwargs: as tqdm's.
        description: what is going on.
        disable: shows nothing.
        delay: seconds before anything is shown.
    """
    options = {"desc": description, "total": total, "initial": initial, "delay": delay}
    options |= {"disable": disable or _quiet.get(), "file": sys.stderr, **kwargs}
    if not shows_bars():
        return ProgressLines(iterable, **options)
    return tqdm(iterable, mininterval=_BETWEEN_REDRAWS, leave=True, dynamic_ncols=True, **options)


@contextlib.contextmanager
def activity(description: str, disable: bool = False) -> Iterator[None]:
    """Shows how long a phase has been going on that has no steps, such as one call of a library."""
    if disable or _quiet.get():
        yield
        return
    ended, stopped = threading.Event(), threading.Event()

    def watch() -> None:
        if ended.wait(SHORT_PHASE):
            return
        with progress_bar(description=description, delay=0, bar_format="{desc}: {elapsed}") as bar:
            bar.start_t -= SHORT_PHASE
            bar.refresh()
            while not ended.wait(bar.mininterval):
                bar.refresh()
            bar.stopped = stopped.is_set()

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    except BaseException:
        stopped.set()
        raise
    finally:
        ended.set()
        watcher.join()


class StageProgress(TrainerCallback):
    """Shows which stage of how many it is, step, losses, and what is left of the stage's time and of the run's."""

    def __init__(self):
        self.title, self.bar, self.losses, self.time = "", None, "", RemainingTime()

    def begin(self, plan: list[PlannedStage], name: str) -> None:
        """The trainer calls it before a stage.

        Args:
            plan: all stages of the run.
            name: of the one that begins.
        """
        number = [stage.name for stage in plan].index(name)
        self.title = f"stage {number + 1} of {len(plan)}: {plan[number].title}"
        self.time.begin(plan, number)

    def on_train_begin(self, args, state, control, **kwargs):
        disable = args.disable_tqdm or not state.is_world_process_zero
        self.bar = progress_bar(
            description=self.title, total=state.max_steps, initial=state.global_step, disable=disable, delay=0
        )
        self.losses = ""
        self.time.start(state.global_step, state.max_steps)

    def on_step_end(self, args, state, control, **kwargs):
        self.time.step(state.global_step)
        self.describe()
        self.bar.update(state.global_step - self.bar.n)

    def on_log(self, args, state, control, logs=None, **kwargs):
        shown = [f"{name} {logs[name]:.3f}" for name in _LOSSES if name in (logs or {})]
        if self.bar is not None and shown:
            self.losses = ", ".join(shown)
            self.describe()

    def describe(self) -> None:
        """Puts losses and the run's remaining time behind the bar."""
        left = self.time.of_the_run()
        of_run = [] if left is None else [f"whole run {std_tqdm.format_interval(left)} left"]
        self.bar.set_postfix_str(", ".join([*([self.losses] if self.losses else []), *of_run]), refresh=False)

    def on_train_end(self, args, state, control, **kwargs):
        self.time.end()
        self.bar.close()
        self.bar = None


class HintEpoch(TrainerCallback):
    """Tells the batch sampler which epoch it is, also where a resumed run hides it behind two wrappers."""

    def __init__(self):
        self.sampler = None

    def on_epoch_begin(self, args, state, control, **kwargs):
        if self.sampler is not None:
            self.sampler.set_epoch(int(state.epoch or 0))

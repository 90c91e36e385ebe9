"""Progress of a run: one bar per stage with the remaining time, quiet on other processes."""

import sys

from tqdm.auto import tqdm
from transformers import TrainerCallback


def progress_bar(
    iterable=None, *, description: str, total: int | None = None, disable: bool = False, initial: int = 0
):
    """A bar that redraws often on a terminal and seldom in a log file."""
    return tqdm(
        iterable,
        desc=description,
        total=total,
        initial=initial,
        disable=disable,
        mininterval=0.2 if sys.stderr.isatty() else 10,
        leave=True,
        dynamic_ncols=True,
    )


class StageProgress(TrainerCallback):
    """Shows the stage, the step, the losses and the remaining time; the trainer sets `title` before a stage."""

    def __init__(self):
        self.title = ""
        self.bar = None

    def on_train_begin(self, args, state, control, **kwargs):
        disable = args.disable_tqdm or not state.is_world_process_zero
        self.bar = progress_bar(
            description=self.title, total=state.max_steps, initial=state.global_step, disable=disable
        )

    def on_step_end(self, args, state, control, **kwargs):
        self.bar.update(state.global_step - self.bar.n)

    def on_log(self, args, state, control, logs=None, **kwargs):
        names = ("loss", "reconstruction", "contrastive", "commitment", "anchor", "choice")
        shown = {name: f"{logs[name]:.3f}" for name in names if name in (logs or {})}
        if self.bar is not None and shown:
            self.bar.set_postfix(shown, refresh=False)

    def on_train_end(self, args, state, control, **kwargs):
        self.bar.close()
        self.bar = None


class HintEpoch(TrainerCallback):
    """Tells the batch sampler which epoch it is, also where a resumed run hides it behind two wrappers."""

    def __init__(self):
        self.sampler = None

    def on_epoch_begin(self, args, state, control, **kwargs):
        if self.sampler is not None:
            self.sampler.set_epoch(int(state.epoch or 0))

"""What makes the trainings of several stages one run for a tracker: its name, and one axis of steps."""

import itertools
from collections.abc import Callable
from pathlib import Path

from transformers.integrations.integration_utils import rewrite_logs

from modeling_lmindexer.folder import write_json

from .run_state import read_object

# Of a single training, not of the run; transformers' TrackioCallback leaves them out, too.
_SUMMARY = {"train_runtime", "train_samples_per_second", "train_steps_per_second", "train_loss", "total_flos"}


class TrackedRun:
    """Name and steps of a run, kept in its folder, so that a run that goes on goes on in the trackers.

    Every stage has its steps and one more, its end, where its figures are: a stage that is stopped before it is done
    has logged nothing that its new start will not log again.

    Args:
        path: of a JSON file, in a folder that goes with the run's state.
        name: asked for.

    Attributes:
        taken: by tracker, whether it has a run of a name.
        stage: number of the stage that has begun, from 1.
        first: the first step that this start of the run will log; what a tracker has from there on was lost.
    """

    def __init__(self, path: Path, name: str):
        self.path, self.asked = path, name
        self.taken: list[Callable[[str], bool]] = []
        self.stage = self.offset = 0
        self.first, self.end, self.is_training, self.stage_name = 1, 1, False, ""

    def read(self) -> dict:
        """`asked`, `name` and, by stage, `ends`, as far as they are known."""
        return read_object(self.path) if self.path.exists() else {}

    def name(self) -> str:
        """The run's name: the one asked for, such as `items`, or `items-2` where a tracker has another run of it."""
        known = self.read()
        if known.get("asked") == self.asked:
            return known["name"]
        names = (self.asked if number == 1 else f"{self.asked}-{number}" for number in itertools.count(1))
        name = next(name for name in names if not any(is_taken(name) for is_taken in self.taken))
        write_json(self.path, known | {"asked": self.asked, "name": name})
        return name

    def begin_stage(self, name: str, number: int) -> None:
        """A stage begins, or goes on: its steps follow those of the stages that are done."""
        ends = self.read().get("ends", {})
        self.stage_name, self.stage = name, number
        self.offset = max((end for stage, end in ends.items() if stage != name), default=0)
        self.first, self.end, self.is_training = self.offset + 1, self.offset + 1, False

    def begin_training(self, step: int) -> None:
        """Its training begins, or goes on after a step."""
        self.first, self.is_training = self.offset + step + 1, True

    def end_training(self, step: int) -> None:
        """Its training has ended after so many steps."""
        self.end, self.is_training = self.offset + step + 1, False

    def end_stage(self) -> None:
        """All of the stage is logged; to be called before it is marked as done."""
        known = self.read()
        write_json(self.path, known | {"ends": known.get("ends", {}) | {self.stage_name: self.end}})

    def step(self, step: int) -> int:
        """A stage's step as one of the run; after the stage's training, its end."""
        return self.offset + step if self.is_training else self.end

    def values(self, logs: dict) -> dict[str, float]:
        """What Trainer logs, by the names that all trackers show: `train/loss`, `eval/recall@10`,
        `position_1/perplexity`; names with a group stay as they are."""
        numbers = {name: value for name, value in logs.items() if isinstance(value, int | float)}
        if "loss" in numbers:
            numbers["stage"] = self.stage
        else:
            numbers.pop("epoch", None)  # there already, at the same step
        grouped = {name: value for name, value in numbers.items() if "/" in name}
        return grouped | rewrite_logs({n: v for n, v in numbers.items() if n not in grouped.keys() | _SUMMARY})

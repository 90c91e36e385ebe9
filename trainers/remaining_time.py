"""How long a run of several stages will still take, from how long its steps took so far."""

import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class PlannedStage:
    """A stage as progress shows it.

    Attributes:
        name: its folder.
        title: what people call it.
        steps: about how many it will have.
        kind: stages of one kind take about the same time a step; default: every stage is of its own.
    """

    name: str
    title: str
    steps: int
    kind: str = ""


class RemainingTime:
    """An estimate in seconds: steps to come at the pace of the newest stage of their kind, or else at the present
    one, and between two stages the mean of what came between those before. It is better after a stage of each kind.

    Args:
        clock: seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self.clock, self.pace, self.between = clock, {}, []
        self.plan: list[PlannedStage] = []
        self.number = self.steps_left = 0
        self.first = self.started = self.ended = self.seconds_a_step = None

    def begin(self, plan: list[PlannedStage], number: int) -> None:
        """A stage begins, the one at `number` of all."""
        self.plan, self.number = plan, number

    def start(self, step: int, max_steps: int) -> None:
        """Its training starts, after `step` of `max_steps` steps."""
        self.first, self.max_steps, self.started = step, max_steps, self.clock()
        self.steps_left, self.seconds_a_step = max_steps - step, None
        if self.ended is not None:
            self.between.append(self.started - self.ended)

    def step(self, step: int) -> None:
        """So many steps are done."""
        self.steps_left = self.max_steps - step
        if step > self.first:
            self.seconds_a_step = (self.clock() - self.started) / (step - self.first)
            if self.plan:
                self.pace[self.kind(self.plan[self.number])] = self.seconds_a_step

    def end(self) -> None:
        """Its training has ended."""
        self.ended = self.clock()

    @staticmethod
    def kind(stage: PlannedStage) -> str:
        """What the pace is kept by."""
        return stage.kind or stage.name

    def of_the_run(self) -> float | None:
        """Seconds left of the whole run; None before the first step."""
        if self.seconds_a_step is None:
            return None
        later = self.plan[self.number + 1 :]
        steps = sum(stage.steps * self.pace.get(self.kind(stage), self.seconds_a_step) for stage in later)
        pause = sum(self.between) / len(self.between) if self.between else 0.0
        return self.steps_left * self.seconds_a_step + steps + pause * (len(later) + 1)

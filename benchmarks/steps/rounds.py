"""Rounds of a step of the trainer, of its floor and of the authors' layout, so that drifts of a machine cancel."""

import copy
import statistics
import time
from collections.abc import Callable
from itertools import islice

import torch
from transformers import Trainer, TrainerCallback, TrainerState

from trainers import SemanticIDTrainer

from .authors_layout import AuthorsLayout
from .floor import Floor, Ready
from .setting import Setting

_WARM_UPS = 2


class Rounds(TrainerCallback):
    """Between the steps of a trainer's own loop, the same batch's step by the others.

    Attributes:
        seconds: of every step after the warm-up, by who made it: `trainer`, and the names of `others`.

    Args:
        others: functions of the step's number.
        clock: seconds so far.
    """

    def __init__(self, others: dict, clock: Callable[[], float]):
        self.others, self.clock, self.started = others, clock, None
        self.seconds = {name: [] for name in ["trainer", *others]}

    def on_step_end(self, args, state, control, **kwargs):
        self.seconds["trainer"].append(self.clock() - self.started)
        for name, step in self.others.items():
            started = self.clock()
            step(state.global_step - 1)
            self.seconds[name].append(self.clock() - started)
        self.started = self.clock()

    def on_epoch_begin(self, args, state, control, **kwargs):
        self.started = self.clock()

    def medians(self) -> dict[str, float]:
        """Seconds a step."""
        return {name: statistics.median(values[_WARM_UPS:]) for name, values in self.seconds.items()}


def updating(losses, parameters: list) -> Callable[[int], None]:
    """A function of the step's number: the loss, its gradients and the step of AdamW, which the trainer uses too."""
    optimizer = torch.optim.AdamW(parameters, lr=1e-5, fused=True)

    def step(number: int) -> None:
        losses(number).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def batches_of(trainer: SemanticIDTrainer, steps: int) -> list[dict[str, torch.Tensor]]:
    """The batches that the trainer's first steps are on."""
    loader = trainer.get_train_dataloader()
    trainer.hint_epoch.on_epoch_begin(trainer.args, TrainerState(epoch=0), None)
    return list(islice(loader, steps))


def measure(
    setting: Setting, tokenizer, stage: str, rounds: int, authors: bool, clock: Callable[[], float] = time.perf_counter
) -> dict[str, float]:
    """Median seconds a step in a stage: of the trainer, its floor and, if asked for, the authors' layout."""
    steps = rounds + _WARM_UPS
    trainer = setting.trainer(tokenizer, stage, steps)
    batches = batches_of(trainer, steps)
    trainer.model.train()
    floor = Floor(copy.deepcopy(trainer.model), trainer.stage, setting.views)
    ready = [Ready.of(batch, floor.model) for batch in batches]
    others = {"floor": updating(lambda number: floor.loss(ready[number]), floor.parameters())}
    if authors:
        layout = AuthorsLayout(
            copy.deepcopy(trainer.model), trainer.stage, trainer.documents, setting.length, tokenizer.pad_token_id
        )
        rows = [batch["documents"].tolist() for batch in batches]

        def loss(number: int) -> torch.Tensor:
            return layout.loss(*layout.collate(rows[number]))

        others["authors' layout"] = updating(loss, layout.parameters())
    callback = Rounds(others, clock)
    trainer.add_callback(callback)
    Trainer.train(trainer)
    return callback.medians()

"""Settings that trainers of several stages have in common, beyond those of transformers."""

import os
from dataclasses import dataclass, field

import torch
from transformers import TrainingArguments


@dataclass
class StagedTrainingArguments(TrainingArguments):
    """What becomes of a run that is in the output folder already, see [`trainers.run_state.RunState.claim`], and how
    batches are shared by several processes.

    Where several processes are started on a machine without an accelerator, they run on its CPU, as with `use_cpu`:
    without it, each would train a model of its own.
    """

    start_over: bool = field(
        default=False, metadata={"help": "Delete what another run left in the output folder, and begin."}
    )
    go_on: bool = field(
        default=False, metadata={"help": "Continue the run in the output folder although settings have changed."}
    )
    global_batch_size: int | None = field(
        default=None,
        metadata={
            "help": "Documents or pairs in a batch of all processes together, in place of "
            "per_device_train_batch_size: the same batches on any number of processes."
        },
    )

    def __post_init__(self):
        several = int(os.environ.get("WORLD_SIZE", 1)) > 1
        self.use_cpu = self.use_cpu or several and not torch.accelerator.is_available()
        super().__post_init__()
        if self.start_over and self.go_on:
            raise ValueError("start_over and go_on exclude each other: choose one.")
        if self.global_batch_size is not None:
            share, rest = divmod(self.global_batch_size, self.world_size)
            if rest or share < 1:
                raise ValueError(
                    f"global_batch_size is {self.global_batch_size} on {self.world_size} processes: it must be "
                    "a multiple of their number, for every one of them gets an equal part."
                )
            self.per_device_train_batch_size = share

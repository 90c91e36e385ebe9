"""Settings that trainers of several stages have in common, beyond those of transformers."""

import os
from dataclasses import dataclass, field
from pathlib import Path

import torch
from transformers import TrainingArguments


@dataclass
class StagedTrainingArguments(TrainingArguments):
    """What becomes of a run that is in the output folder already, see [`trainers.run_state.RunState.claim`], how
    batches are shared by several processes, and where trackers write.

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
    batch_parts: int | None = field(
        default=None,
        metadata={
            "help": "Compute every global batch in so many parts, a power of two, and add them up in one order: the "
            "same result to the bit on 1, 2, 4, .. processes, dropout included. What documents of a batch are "
            "compared with, such as contrastive negatives, is then in their part. With global_batch_size."
        },
    )

    report_to: list[str] = field(
        default_factory=lambda: ["none"],
        metadata={"help": "Trackers, such as tensorboard and trackio; all: those that are installed; none."},
    )
    logging_dir: str | None = field(
        default=None,
        metadata={
            "help": "Folder of TensorBoard's and trackio's files; default: $TENSORBOARD_LOGGING_DIR, or else runs in "
            "output_dir. $TRACKIO_DIR wins for trackio."
        },
    )
    project: str = field(default="lmindexer", metadata={"help": "Project of the run in trackio."})

    def __post_init__(self):
        if self.logging_dir is None:
            self.logging_dir = os.getenv("TENSORBOARD_LOGGING_DIR") or str(Path(self.output_dir) / "runs")
        several = int(os.environ.get("WORLD_SIZE", 1)) > 1
        self.use_cpu = self.use_cpu or several and not torch.accelerator.is_available()
        super().__post_init__()
        if self.start_over and self.go_on:
            raise ValueError("start_over and go_on exclude each other: choose one.")
        if self.batch_parts is not None:
            self.check_batch_parts()
        if self.global_batch_size is not None:
            share, rest = divmod(self.global_batch_size, self.num_parts)
            if rest or share < 1:
                of = f"batch_parts {self.batch_parts}" if self.batch_parts else f"{self.world_size} processes"
                raise ValueError(
                    f"global_batch_size is {self.global_batch_size} on {of}: it must be a multiple of their number, "
                    "for every one of them gets an equal part."
                )
            self.per_device_train_batch_size = share

    def check_batch_parts(self) -> None:
        """Raises ValueError where a batch cannot be computed in parts."""
        parts, processes = self.batch_parts, self.world_size
        if parts < 1 or parts & (parts - 1) or processes & (processes - 1) or parts < processes:
            raise ValueError(
                f"batch_parts is {parts} on {processes} processes: both must be powers of two, and there must be a "
                "part for every process."
            )
        if self.global_batch_size is None or self.gradient_accumulation_steps > 1 or self.fp16 or self.torch_compile:
            raise ValueError(
                f"batch_parts goes with global_batch_size, which is {self.global_batch_size}, with "
                f"gradient_accumulation_steps 1, not {self.gradient_accumulation_steps} (more parts save as much "
                "memory), with bf16, not fp16, and without torch_compile."
            )

    @property
    def is_quiet(self) -> bool:
        """Whether this process shows no progress."""
        return self.disable_tqdm or self.process_index > 0

    @property
    def num_parts(self) -> int:
        """Batches of `per_device_train_batch_size` that a global batch consists of."""
        return self.batch_parts or self.world_size

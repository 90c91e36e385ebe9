"""Settings that trainers of several stages have in common, beyond those of transformers."""

from dataclasses import dataclass, field

from transformers import TrainingArguments


@dataclass
class StagedTrainingArguments(TrainingArguments):
    """What becomes of a run that is in the output folder already; see [`trainers.run_state.RunState.claim`]."""

    start_over: bool = field(
        default=False, metadata={"help": "Delete what another run left in the output folder, and begin."}
    )
    go_on: bool = field(
        default=False, metadata={"help": "Continue the run in the output folder although settings have changed."}
    )

    def __post_init__(self):
        super().__post_init__()
        if self.start_over and self.go_on:
            raise ValueError("start_over and go_on exclude each other: choose one.")

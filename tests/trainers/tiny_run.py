"""A tiny run in a process of its own, for tests that kill it: `python tiny_run.py folder progress_file`.

It appends a line to the progress file for everything it does, and writes `result.json` into the folder at its end.
"""

import argparse
import hashlib
import json
import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2])]

import torch  # noqa: E402
from tiny_training import make_trainer, tiny_indexer  # noqa: E402
from transformers import TrainerCallback  # noqa: E402

from trainers import SemanticIDTrainer  # noqa: E402


class ReportingTrainer(SemanticIDTrainer):
    """Says what it is about to do."""

    progress_file = None

    def say(self, what: str) -> None:
        with open(self.progress_file, "a", encoding="utf-8") as file:
            print(self.stage.name, what, file=file)

    def finish_stage(self, stage):
        self.say("finish")
        return super().finish_stage(stage)

    def save_stage(self, folder, figures):
        self.say("save")
        super().save_stage(folder, figures)

    def _save_checkpoint(self, model, trial):
        self.say(f"checkpoint {self.state.global_step}")
        super()._save_checkpoint(model, trial)


class ReportSteps(TrainerCallback):
    def __init__(self, say):
        self.say = say

    def on_train_begin(self, args, state, control, **kwargs):
        self.say(f"begin {state.global_step}")

    def on_step_end(self, args, state, control, **kwargs):
        self.say(f"step {state.global_step}")


def main() -> None:
    """Runs to the end, or goes on with what is in the folder."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("progress_file", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    trainer = make_trainer(
        arguments.folder, model=tiny_indexer(dropout=0.1), trainer_class=ReportingTrainer,
        save_strategy="steps", save_steps=2, reconstructor_epochs=2,
    )  # fmt: skip
    trainer.progress_file = arguments.progress_file
    trainer.add_callback(ReportSteps(trainer.say))
    trainer.train()
    weights = hashlib.sha256()
    for tensor in trainer.model.state_dict().values():
        weights.update(tensor.contiguous().view(-1).view(torch.uint8).numpy())
    result = {"ids": trainer.index.semantic_ids, "weights": weights.hexdigest(), "figures": trainer.figures}
    (arguments.folder / "result.json").write_text(json.dumps(result), encoding="utf-8")


if __name__ == "__main__":
    main()

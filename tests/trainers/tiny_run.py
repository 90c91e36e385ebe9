"""A tiny run in a process of its own, for tests that stop it: `python tiny_run.py folder progress_file`.

It appends a line to the progress file for everything it is about to do, the kind of moment first, and at its end
writes `result.json` beside its model folder.
"""

import argparse
import hashlib
import json
import os
import sys
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2])]

import torch  # noqa: E402
from safetensors import safe_open  # noqa: E402
from tiny_training import make_trainer, tiny_corpus, tiny_indexer  # noqa: E402
from transformers import TrainerCallback  # noqa: E402

from modeling_lmindexer.folder import file_digest  # noqa: E402
from trainers import SemanticIDTrainer  # noqa: E402
from trainers.model_card import CardContent  # noqa: E402
from trainers.model_folder import save_model_folder  # noqa: E402
from trainers.report import stage_table  # noqa: E402

K_MEANS, ASSIGNMENT, SAVE, INDEX, FOLDER = "k-means", "assignment", "save", "index", "folder"


class ReportingTrainer(SemanticIDTrainer):
    """Says what it is about to do."""

    progress_file = None

    def say(self, kind: str, what: str) -> None:
        with open(self.progress_file, "a", encoding="utf-8") as file:
            print(kind, what, file=file)

    def finish_stage(self, stage):
        self.say(ASSIGNMENT if stage.kind == "discrete" else stage.name, f"after {stage.name}")
        return super().finish_stage(stage)

    def initialize_codebook(self, *arguments):
        self.say(K_MEANS, f"after {self.stage.name}")
        return super().initialize_codebook(*arguments)

    def save_stage(self, folder, figures):
        self.say(SAVE, f"stage {self.stage.name}")
        super().save_stage(folder, figures)

    def build_index(self):
        self.say(INDEX, "build")
        return super().build_index()

    def _save_checkpoint(self, model, trial):
        self.say(self.stage.name, f"checkpoint {self.state.global_step}")
        super()._save_checkpoint(model, trial)


class ReportSteps(TrainerCallback):
    def __init__(self, trainer):
        self.trainer = trainer

    def on_train_begin(self, args, state, control, **kwargs):
        self.trainer.say(self.trainer.stage.name, f"begin {state.global_step}")

    def on_step_end(self, args, state, control, **kwargs):
        self.trainer.say(self.trainer.stage.name, f"step {state.global_step}")


def write_folder(trainer: ReportingTrainer) -> None:
    """The model folder; each of its files is reported before it gets its name, with time for a kill in between."""
    replace = os.replace

    def reported(source, target):
        if Path(target).parent == trainer.run_dir:
            trainer.say(FOLDER, f"{Path(target).name}")
            time.sleep(0.02)
        replace(source, target)

    trainer.say(FOLDER, "begin")
    card = CardContent(
        name="tiny", data="tiny corpus", documents=len(trainer.index), codebook_sizes=[6, 4], positions_table="-",
        stages_table=stage_table(trainer.figures), queries="-", examples="-",
    )  # fmt: skip
    os.replace = reported
    save_model_folder(trainer, {"stages": trainer.figures}, card)
    os.replace = replace


def content_digests(folder: Path) -> dict[str, str]:
    """Hashes of what the model folder holds, by file; of its manifest, whether it is true."""
    names = [path.relative_to(folder) for path in folder.rglob("*") if path.is_file()]
    found = {name.as_posix(): file_digest(folder / name) for name in sorted(names) if name.parts[0] != "stages"}
    listed = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["files"]
    found["manifest.json"] = {name: entry["sha256"] == found[name] for name, entry in listed.items()}
    for name in filter(lambda name: name.endswith(".safetensors"), found):
        with safe_open(folder / name, framework="pt") as file:  # which writes its metadata in any order
            tensors = {key: file.get_tensor(key).tolist() for key in sorted(file.keys())}
            found[name] = hashlib.sha256(repr((sorted(file.metadata().items()), tensors)).encode()).hexdigest()
    return found


def main() -> None:
    """Runs to the end, or goes on with what is in the folder."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("progress_file", type=Path)
    parser.add_argument("--epochs", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    epochs = arguments.epochs
    trainer = make_trainer(
        arguments.folder, model=tiny_indexer(dropout=0.1), corpus=tiny_corpus(), trainer_class=ReportingTrainer,
        save_strategy="steps", save_steps=max(2, 2 * epochs // 3), reconstructor_epochs=epochs,
        num_train_epochs=epochs, continuous_epochs=[float(epochs)],
    )  # fmt: skip
    trainer.progress_file = arguments.progress_file
    trainer.add_callback(ReportSteps(trainer))
    trainer.train()
    weights = hashlib.sha256()
    for tensor in trainer.model.state_dict().values():
        weights.update(tensor.contiguous().view(-1).view(torch.uint8).numpy())
    result = {"ids": trainer.index.semantic_ids, "weights": weights.hexdigest(), "figures": trainer.figures}
    write_folder(trainer)
    result["files"] = content_digests(arguments.folder)
    result["partial"] = [
        path.name for path in arguments.folder.rglob("*") if path.name.startswith((".", "checkpoint"))
    ]
    arguments.folder.with_suffix(".json").write_text(json.dumps(result), encoding="utf-8")


if __name__ == "__main__":
    main()

"""What a run leaves behind so that it can be stopped anywhere: done stages, complete checkpoints, its settings."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

from modeling_lmindexer.folder import write_json

COMPLETE_MARK = "complete"


class ExistingRunError(ValueError):
    """The output folder holds the state of a run with other settings."""


class RunState:
    """The `stages` folder of a run.

    Args:
        output_dir: the model folder; stages live in `output_dir/stages`.
    """

    def __init__(self, output_dir: str | Path):
        self.root = Path(output_dir) / "stages"
        self.settings_path = self.root / "settings.json"

    def claim(self, settings: dict, *, start_over: bool, go_on: bool) -> None:
        """Takes the folder for a run with these settings, or finds that it is that run's already.

        Raises:
            ExistingRunError: another run's state is there, and neither flag says what to do with it.
        """
        settings = json.loads(json.dumps(settings))  # as they will be read
        if start_over and self.root.exists():
            # Moved first: what a stop leaves half deleted must not be taken for this run's.
            deleted = self.root.with_name(".deleted-stages")
            shutil.rmtree(deleted, ignore_errors=True)
            self.root.rename(deleted)
            shutil.rmtree(deleted, ignore_errors=True)
        if self.settings_path.exists() and not go_on:
            found = json.loads(self.settings_path.read_text(encoding="utf-8"))
            if different := differences(found, settings):
                raise ExistingRunError(
                    f"{self.root.parent} holds another run's state ({different}). Set --start_over to delete it and "
                    "begin, --go_on to continue it with the new settings, or choose another output_dir."
                )
        write_json(self.settings_path, settings)

    def folder(self, stage_name: str) -> Path:
        """Where a stage keeps its checkpoints and results."""
        return self.root / stage_name

    def result(self, stage_name: str) -> dict | None:
        """Figures of a stage that is done; `None` when it is not."""
        path = self.folder(stage_name) / "done.json"
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None

    def remember(self, stage_name: str, name: str, compute: Callable[[], dict]) -> dict:
        """A result inside a stage, computed once and found again after a stop; every process takes part in it."""
        path = self.folder(stage_name) / f"{name}.json"
        if path.exists():
            return json.loads(path.read_text(encoding="utf-8"))
        result = compute()
        write_json(path, result)
        return result

    def finish(self, stage_name: str, figures: dict) -> None:
        """Marks a stage as done, and removes the checkpoints inside it."""
        write_json(self.folder(stage_name) / "done.json", figures)
        for checkpoint in self.folder(stage_name).glob("checkpoint-*"):
            shutil.rmtree(checkpoint, ignore_errors=True)

    def complete_checkpoints(self, stage_name: str) -> list[Path]:
        """The checkpoints of a stage in order; those that a kill left incomplete are ignored."""
        marks = self.folder(stage_name).glob(f"checkpoint-*/{COMPLETE_MARK}")
        return sorted((mark.parent for mark in marks), key=lambda path: int(path.name.rpartition("-")[2]))

    def last_checkpoint(self, stage_name: str) -> str | None:
        """The newest complete checkpoint of a stage."""
        complete = self.complete_checkpoints(stage_name)
        return str(complete[-1]) if complete else None

    def complete_checkpoint(self, stage_name: str, step: int, limit: int | None, keep: Path | None = None) -> None:
        """Marks the checkpoint of a step as complete, and only then removes others: incomplete ones, and the oldest
        when there are more than `limit`, but not `keep`."""
        (self.folder(stage_name) / f"checkpoint-{step}" / COMPLETE_MARK).touch()
        kept = [*self.complete_checkpoints(stage_name)[-(limit or 0) :], keep]
        for checkpoint in self.folder(stage_name).glob("checkpoint-*"):
            if checkpoint not in kept:
                shutil.rmtree(checkpoint, ignore_errors=True)


def differences(found: dict, now: dict) -> str:
    """What differs between the settings that were `found` and those of `now`, for a message; "" if nothing does."""
    names = sorted(name for name in found.keys() | now.keys() if found.get(name) != now.get(name))
    return "; ".join(f"{name}: {shorten(found.get(name))} there, {shorten(now.get(name))} now" for name in names)


def shorten(value) -> str:
    """A value as it fits into a message."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."

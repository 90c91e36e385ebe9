"""What a run leaves behind so that it can be stopped anywhere: done stages, complete checkpoints, its settings."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

from modeling_lmindexer.document_ids import IDS_NAME
from modeling_lmindexer.folder import reading_content, write_json
from modeling_lmindexer.index_table import version_of

COMPLETE_MARK = "complete"
START_OVER = "Delete it, or begin the run again with --start_over."


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
            found = read_object(self.settings_path)
            if different := differences(found, settings):
                raise ExistingRunError(
                    f"{self.root.parent} holds another run's state ({different}). Set --start_over to delete it and "
                    "begin, --go_on to continue it with the new settings, or choose another output_dir."
                )
        write_json(self.settings_path, settings)
        for done in self.root.glob("*/done.json"):  # after a stop between the mark of a stage and what follows it
            self.remove_checkpoints(done.parent.name)

    def folder(self, stage_name: str) -> Path:
        """Where a stage keeps its checkpoints and results."""
        return self.root / stage_name

    def result(self, stage_name: str) -> dict | None:
        """Figures of a stage that is done; `None` when it is not."""
        path = self.folder(stage_name) / "done.json"
        return read_object(path) if path.exists() else None

    def remember(self, stage_name: str, name: str, compute: Callable[[], dict]) -> dict:
        """A result inside a stage, computed once and found again after a stop; every process takes part in it."""
        path = self.folder(stage_name) / f"{name}.json"
        if path.exists():
            return read_object(path)
        result = compute()
        write_json(path, result)
        return result

    def finish(self, stage_name: str, figures: dict) -> None:
        """Marks a stage as done, and removes the checkpoints inside it."""
        write_json(self.folder(stage_name) / "done.json", figures)
        self.remove_checkpoints(stage_name)

    def remove_checkpoints(self, stage_name: str) -> None:
        """Those of a stage that is done."""
        for checkpoint in self.folder(stage_name).glob("checkpoint-*"):
            shutil.rmtree(checkpoint, ignore_errors=True)

    def complete_checkpoints(self, stage_name: str) -> list[Path]:
        """The checkpoints of a stage in order; those that a kill left incomplete, or that have lost something since,
        are ignored."""
        marks = self.folder(stage_name).glob(f"checkpoint-*/{COMPLETE_MARK}")
        whole = (
            mark.parent for mark in marks if mark.stat().st_size == 0 or has_files(mark.parent, read_object(mark))
        )
        return sorted(whole, key=lambda path: int(path.name.rpartition("-")[2]))

    def last_checkpoint(self, stage_name: str) -> str | None:
        """The newest complete checkpoint of a stage."""
        complete = self.complete_checkpoints(stage_name)
        return str(complete[-1]) if complete else None

    def complete_checkpoint(self, stage_name: str, step: int, limit: int | None, keep: Path | None = None) -> None:
        """Marks the checkpoint of a step as complete, and only then removes others: incomplete ones, and the oldest
        when there are more than `limit`, but not `keep`."""
        folder = self.folder(stage_name) / f"checkpoint-{step}"
        write_json(folder / COMPLETE_MARK, sizes_of_files(folder))
        kept = [*self.complete_checkpoints(stage_name)[-(limit or 0) :], keep]
        for checkpoint in self.folder(stage_name).glob("checkpoint-*"):
            if checkpoint not in kept:
                shutil.rmtree(checkpoint, ignore_errors=True)


def keep_changed_index(folder: Path) -> None:
    """Raises ExistingRunError for a folder whose index was changed after its run: another one would lose that."""
    version = version_of(folder)
    if version:
        raise ExistingRunError(
            f"{folder} holds an index of version {version}: its documents were changed since it was made, which would "
            f"be lost. Choose another output_dir, or delete {folder / IDS_NAME} first."
        )


def read_object(path: Path) -> dict:
    """A JSON object of a run's own files.

    Raises:
        CorruptedFolderError: a file that cannot be read, or that holds something else.
    """
    with reading_content(path, START_OVER):
        value = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(value, dict):
            raise ValueError(f"a {type(value).__name__} in the place of an object")
    return value


def sizes_of_files(folder: Path) -> dict[str, int]:
    """Bytes of the files of a checkpoint, by name."""
    files = (path for path in sorted(folder.iterdir()) if path.is_file() and path.name != COMPLETE_MARK)
    return {path.name: path.stat().st_size for path in files}


def has_files(folder: Path, sizes: dict[str, int]) -> bool:
    """Whether a folder still has files of these sizes."""
    return sizes.items() <= sizes_of_files(folder).items()


def differences(found: dict, now: dict) -> str:
    """What differs between the settings that were `found` and those of `now`, for a message; "" if nothing does."""
    names = sorted(name for name in found.keys() | now.keys() if found.get(name) != now.get(name))
    return "; ".join(f"{name}: {shorten(found.get(name))} there, {shorten(now.get(name))} now" for name in names)


def shorten(value) -> str:
    """A value as it fits into a message."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."

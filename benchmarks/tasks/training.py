"""Runs `examples/run_retrieval.py` as a user does, in a process of its own; it goes on after a stop."""

import json
import subprocess
import sys
from pathlib import Path

from modeling_lmindexer.folder import write_json
from tasks.plan import TaskSet

SCRIPT = Path(__file__).parents[2] / "examples" / "run_retrieval.py"
SEQUENCES, ITEMS = "sequences.txt.gz", "items.jsonl.gz"


def command_of(entry: TaskSet, data: Path, index: Path, settings: dict, seed: int, folder: Path) -> list[str]:
    """The command line of a run.

    Args:
        entry: data set and task.
        data: folder of the data sets.
        index: folder of the IDs.
        settings: of the script, above those of the set.
        seed: of the run.
        folder: of its output.
    """
    source = data / entry.folder
    own = {"items_file": source / ITEMS, "sequences_file": source / SEQUENCES}
    values = {
        "task": entry.task, "index": index, "seed": seed, "output_dir": folder,
        **(own if entry.task == "recommendation" else {"beir_dir": source}), "report_to": "none",
    } | entry.settings | settings  # fmt: skip
    command = [sys.executable, str(SCRIPT)]
    for name, value in values.items():
        parts = value if isinstance(value, list) else [value]
        command += [f"--{name}", *map(str, parts)]
    return command


def claim(path: Path, made_by: dict) -> None:
    """Writes what something is made by, or raises RuntimeError where it was made by something else."""
    if not path.exists():
        write_json(path, made_by)
    elif json.loads(path.read_text(encoding="utf-8")) != made_by:
        raise RuntimeError(f"{path} is of a run with other settings: name another folder, or remove both.")


def train(command: list[str], folder: Path) -> None:
    """Runs a command whose output folder is not finished yet, with a log beside it.

    Raises:
        RuntimeError: it failed, and the message is the end of its log; or the folder is of another command.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    claim(folder.with_suffix(".json"), {"command": command[1:]})
    if (folder / "metrics.json").exists():
        return
    log = folder.with_suffix(".log")
    with open(log, "a") as file:
        code = subprocess.run(command, stdout=file, stderr=subprocess.STDOUT, check=False).returncode
    if code:
        raise RuntimeError(f"{' '.join(command)}\nended with {code}; the end of {log}:\n{log.read_text()[-2000:]}")

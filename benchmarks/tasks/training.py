"""Runs `examples/run_retrieval.py` as a user does, in a process of its own; it goes on after a stop."""

import subprocess
import sys
from pathlib import Path

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


def train(command: list[str], folder: Path) -> None:
    """Runs a command whose output folder is not finished yet, with a log in it.

    Raises:
        RuntimeError: it failed; the message is the end of its log.
    """
    if (folder / "metrics.json").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    log = folder.with_suffix(".log")
    with open(log, "a") as file:
        code = subprocess.run(command, stdout=file, stderr=subprocess.STDOUT, check=False).returncode
    if code:
        raise RuntimeError(f"{' '.join(command)}\nended with {code}; the end of {log}:\n{log.read_text()[-2000:]}")

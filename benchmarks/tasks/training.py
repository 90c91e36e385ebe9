"""Runs `examples/run_retrieval.py` as a user does, in a process of its own; it goes on after a stop."""

import fcntl
import json
import subprocess
import sys
from pathlib import Path

from modeling_lmindexer.folder import write_json
from tasks.plan import ENCODER, INDEXER, TaskSet

EXAMPLES = Path(__file__).parents[2] / "examples"
SEQUENCES, ITEMS = "sequences.txt.gz", "items.jsonl.gz"


def command_of(entry: TaskSet, data: Path, index: Path, settings: dict, seed: int, folder: Path) -> list[str]:
    """The command line of a run.

    Args:
        entry: data set and task.
        data: folder of the data sets.
        index: folder of the IDs.
        settings: of the script.
        seed: of the run.
        folder: of its output.
    """
    source = data / entry.folder
    own = {"items_file": source / ITEMS, "sequences_file": source / SEQUENCES}
    values = {
        "task": entry.task, "index": index, "seed": seed, "output_dir": folder,
        **(own if entry.task == "recommendation" else {"beir_dir": source}), "report_to": "none",
    } | settings  # fmt: skip
    return command_line("run_retrieval.py", values)


def command_line(script: str, values: dict) -> list[str]:
    """A command line of `examples/`; None leaves an option out."""
    command = [sys.executable, str(EXAMPLES / script)]
    for name, value in values.items():
        parts = value if isinstance(value, list) else [value]
        command += [] if value is None else [f"--{name}", *map(str, parts)]
    return command


def start_from(encoder: Path | None, index: Path, settings: dict, states: Path) -> dict:
    """Settings with a folder in the place of `ENCODER` or `INDEXER`, and where what it makes of the texts is kept.

    Raises:
        ValueError: an encoder is asked for, and none is given; an indexer, and the IDs were not learned by one.
    """
    start = settings.get("model_name_or_path")
    if start == ENCODER and encoder is None:
        raise ValueError("these rows start from the encoder of the IDs: give its folder as --encoder")
    if start == INDEXER and not (index / "config.json").exists():
        raise ValueError(f"{index} holds no indexer: only IDs that a model learned can be written by it")
    folder = {ENCODER: encoder, INDEXER: index}.get(start)
    return settings if folder is None else settings | {"model_name_or_path": folder, "encoder_cache_dir": states}


def make_queries(entry: TaskSet, data: Path, folder: Path) -> Path | None:
    """The file of a set's pseudo queries, made unless it is there; None where it has none."""
    if entry.queries is None:
        return None
    values = {"beir_dir": data / entry.folder, **entry.queries, "output_dir": folder}
    run_logged(command_line("generate_queries.py", values), folder, done="queries.jsonl")
    return folder / "queries.jsonl"


def described(folder: Path) -> Path:
    """The file beside a folder that says what it is made by."""
    return folder.with_name(f"{folder.name}.json")


def claim(path: Path, made_by: dict) -> None:
    """Writes what something is made by, or raises RuntimeError where it was made by something else."""
    if not path.exists():
        write_json(path, made_by)
    elif json.loads(path.read_text(encoding="utf-8")) != made_by:
        raise RuntimeError(f"{path} is of a run with other settings: name another folder, or remove both.")


def run_logged(command: list[str], folder: Path, done: str = "metrics.json", index: Path | None = None) -> None:
    """Runs a command, with a log beside its output folder, unless the file is there that it writes last.

    Raises:
        RuntimeError: it failed, and the message is the end of its log; or the folder is of another command.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    made = json.loads(described(index).read_text()) if index and described(index).exists() else None
    claim(described(folder), {"command": command[1:], "index": made})
    if (folder / done).exists():
        return
    log = folder.with_name(f"{folder.name}.log")
    with open(log, "a") as file:
        try:  # held by the command itself, which may live longer than we do
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RuntimeError(f"{folder} is being written by another process: wait for it, or stop it.") from None
        code = subprocess.run(command, stdout=file, stderr=subprocess.STDOUT, check=False).returncode
    if code:
        raise RuntimeError(f"{' '.join(command)}\nended with {code}; the end of {log}:\n{log.read_text()[-2000:]}")

"""Several processes on this machine, and what each of them found."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import torch

WORKER = Path(__file__).parent / "trainers" / "tiny_worker.py"


def free_port() -> int:
    """A port that nothing listens at."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return free.getsockname()[1]


def run_group(command: list[str], log: Path, timeout: float, **environment: str) -> None:
    """Runs a launcher until it ends, and ends what it started with it; raises RuntimeError where it fails."""
    variables = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"} | environment
    with open(log, "w") as output:
        process = subprocess.Popen(command, env=variables, stdout=output, stderr=output, start_new_session=True)
        try:
            code = process.wait(timeout)
        finally:  # the workers too, where they wait for each other
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    if code:
        raise RuntimeError(f"exit code {code}:\n{log.read_text()[-5000:]}")


def launch(folder: Path, processes: int, *tasks: str, timeout: float = 240, documents: int = 60, **environment: str):
    """What each process found that did some tasks of `trainers/tiny_worker.py`, in order of rank.

    Args:
        folder: for what they write.
        processes: how many; one is started without a launcher.
        tasks: names of functions there.
        timeout: in seconds.
        documents: in the corpus.
        environment: variables, such as those of accelerate.
    """
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable]
    if processes > 1:
        command += ["-m", "torch.distributed.run", "--nproc_per_node", str(processes)]
        command += ["--master_port", str(free_port())]
    command += [str(WORKER), str(folder), str(documents), *tasks]
    run_group(command, folder / "log", timeout, **environment)
    found = [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in range(processes)]
    assert {part["world_size"] for part in found} == {processes}
    return found

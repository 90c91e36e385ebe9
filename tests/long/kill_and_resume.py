"""Kills tiny runs with SIGKILL at seeded moments in every stage, starts them again, and compares how they end.

    python tests/long/kill_and_resume.py --runs 50

Prints one line per run; exits with 1 when one ended with other IDs, weights or figures than a run left alone.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SCRIPT = Path(__file__).parents[1] / "trainers" / "tiny_run.py"


def start(folder: Path, progress_file: Path) -> subprocess.Popen:
    """A run, or its continuation, as a process of its own."""
    progress_file.touch()
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    log = open(folder.with_suffix(".log"), "a")  # noqa: SIM115
    return subprocess.Popen(
        [sys.executable, str(SCRIPT), str(folder), str(progress_file)], env=environment, stdout=log, stderr=log
    )


def finish(folder: Path, progress_file: Path) -> dict:
    """Lets a run end, and reads what it reached."""
    process = start(folder, progress_file)
    if process.wait():
        raise RuntimeError(f"the run failed:\n{folder.with_suffix('.log').read_text()[-3000:]}")
    return json.loads((folder / "result.json").read_text())


def kill_at(folder: Path, progress_file: Path, event: str, delay: float) -> bool:
    """Kills a run `delay` seconds after it reported `event`; False when it ended before."""
    process = start(folder, progress_file)
    while process.poll() is None and event not in progress_file.read_text().splitlines():
        time.sleep(0.002)
    time.sleep(delay)
    process.send_signal(signal.SIGKILL)
    return process.wait() == -signal.SIGKILL


def kill_and_resume(folder: Path, runs: int, kills: int, seed: int, log=print) -> list[str]:
    """Compares runs that are killed with one that is not.

    Args:
        folder: for their files.
        runs: how many; their first kills take turns at the stages.
        kills: how often each is killed.
        seed: of the moments.
        log: called with a line per run.

    Returns:
        what differed, one entry per run that ended differently.
    """
    expected = finish(folder / "alone", folder / "alone.progress")
    events = (folder / "alone.progress").read_text().splitlines()
    stages = sorted({event.split()[0] for event in events})
    failures = []
    for run in range(runs):
        generator = random.Random(f"{seed} {run}")
        own = folder / f"run{run}"
        # The kills of a run go forward, stage by stage where there are several.
        turns = sorted({(run + i * len(stages) // kills) % len(stages) for i in range(kills)})
        moments, resumed = [], []
        for number, turn in enumerate(turns):
            event = generator.choice([event for event in events if event.startswith(stages[turn])])
            delay = generator.choice([0.0, generator.uniform(0, 0.05)])
            progress = folder / f"run{run}.progress{number}"
            killed = kill_at(own, progress, event, delay)
            moments.append(f"{event} + {1000 * delay:.0f} ms" if killed else f"ended before {event}")
        result = finish(own, folder / f"run{run}.progress")
        lines = (folder / f"run{run}.progress").read_text().splitlines()
        resumed = lines[0] if lines else "nothing left to do"
        different = [name for name in expected if result[name] != expected[name]]
        outcome = f"DIFFERENT {', '.join(different)}" if different else "same"
        log(f"run {run}: killed at {'; '.join(moments)}: went on at {resumed}: {outcome}")
        if different:
            failures.append(f"run {run}: {outcome}")
    return failures


def main() -> None:
    """Parses arguments and runs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=50)
    parser.add_argument("--kills", type=int, default=1, help="how often each run is killed")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    began = time.time()
    with tempfile.TemporaryDirectory() as folder:
        failures = kill_and_resume(
            Path(folder), arguments.runs, arguments.kills, arguments.seed, lambda line: print(line, flush=True)
        )
    print(f"{arguments.runs - len(failures)} of {arguments.runs} runs ended the same, {time.time() - began:.0f} s")
    sys.exit(bool(failures))


if __name__ == "__main__":
    main()

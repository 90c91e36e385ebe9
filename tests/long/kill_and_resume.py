"""Stops tiny runs at seeded moments, by SIGKILL or SIGTERM, starts them again, and compares how they end.

    python tests/long/kill_and_resume.py --runs 50 --epochs 40

The moments take turns at every stage's steps and checkpoints, k-means, the assignment of codes, the end of a stage,
the index, and the files of the model folder. Prints one line per run; exits with 1 when one ended with other IDs,
weights, figures or files than a run left alone, or left anything half-written.
"""

import argparse
import collections
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


class TinyRun:
    """A run in a folder, and what is to be known of it.

    Args:
        folder: of the run.
        epochs: per stage.
    """

    def __init__(self, folder: Path, epochs: int):
        self.folder, self.epochs, self.starts = folder, epochs, 0
        self.log = folder.with_suffix(".log")

    @property
    def progress(self) -> Path:
        """What the newest start has reported so far."""
        return self.folder.with_suffix(f".progress{self.starts}")

    def start(self) -> subprocess.Popen:
        """Begins, or goes on, as a process of its own."""
        self.starts += 1
        self.progress.touch()
        environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        command = [sys.executable, str(SCRIPT), str(self.folder), str(self.progress), "--epochs", str(self.epochs)]
        with open(self.log, "a") as log:
            return subprocess.Popen(command, env=environment, stdout=log, stderr=log)

    def finish(self) -> dict:
        """Lets it end, and reads what it reached."""
        if self.start().wait():
            raise RuntimeError(f"the run failed:\n{self.log.read_text()[-3000:]}")
        return json.loads(self.folder.with_suffix(".json").read_text())

    def stop_at(self, event: str, delay: float, number: signal.Signals) -> str:
        """Starts it, and sends it a signal `delay` seconds after it reported `event`; returns how it ended."""
        process = self.start()
        while process.poll() is None and event not in self.progress.read_text().splitlines():
            time.sleep(0.002)
        time.sleep(delay)
        process.send_signal(number)
        status = process.wait()
        if status == 0:
            return f"ended before {event}"
        line = self.log.read_text().strip().splitlines()[-1:] if status == 128 + number else []
        if status != -number and not (line and line[0].startswith(f"Stopped by {number.name} ")):
            raise RuntimeError(f"exit status {status} after {number.name}:\n{self.log.read_text()[-3000:]}")
        return f"{number.name} at {event} + {1000 * delay:.0f} ms" + (f" ({line[0]})" if line else "")


def choose_moments(events: list[str], run: int, kills: int, seed: int) -> list[tuple[str, float]]:
    """Events, in their order, and delays in seconds; the runs' first take turns at the kinds of events."""
    generator = random.Random(f"{seed} {run}")
    kinds = list(dict.fromkeys(event.split()[0] for event in events))
    chosen = sorted({(run + i * len(kinds) // kills) % len(kinds) for i in range(kills)})
    moments = []
    for kind in chosen:
        event = generator.choice([event for event in events if event.split()[0] == kinds[kind]])
        moments.append((event, generator.choice([0.0, generator.uniform(0, 0.05)])))
    return sorted(moments, key=lambda moment: events.index(moment[0]))


def kill_and_resume(
    folder: Path, runs: int, kills: int, seed: int, log=print, epochs: int = 2, signals=(signal.SIGKILL,)
) -> list[str]:
    """Compares runs that are stopped with one that is not.

    Args:
        folder: for their files.
        runs: how many.
        kills: how often each is stopped, at moments of different kinds.
        seed: of the moments.
        log: called with a line per run, and one with the counts of the kinds.
        epochs: per stage; 40 make a run of about 20 seconds.
        signals: in turns.

    Returns:
        what differed, one entry per run that ended differently.
    """
    alone = TinyRun(folder / "alone", epochs)
    began = time.time()
    expected = alone.finish()
    log(f"uninterrupted: {time.time() - began:.1f} s, {len(expected['ids'])} IDs, {len(expected['files'])} files")
    events, failures, kinds = alone.progress.read_text().splitlines(), [], collections.Counter()
    for number in range(runs):
        run, ends = TinyRun(folder / f"run{number}", epochs), []
        for turn, (event, delay) in enumerate(choose_moments(events, number, kills, seed)):
            kinds[event.split()[0]] += 1
            ends.append(run.stop_at(event, delay, signals[(number + turn) % len(signals)]))
        result = run.finish()
        resumed = (run.progress.read_text().splitlines() or ["nothing left to do"])[0]
        different = [name for name in expected if result[name] != expected[name]]
        outcome = f"DIFFERENT {', '.join(different)}" if different else "same"
        log(f"run {number}: {'; '.join(ends)}: went on at {resumed}: {outcome}")
        if different:
            failures.append(f"run {number}: {outcome}")
    log("moments: " + ", ".join(f"{kind} {count}" for kind, count in kinds.items()))
    return failures


def main() -> None:
    """Parses arguments and runs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=50)
    parser.add_argument("--kills", type=int, default=1, help="how often each run is stopped")
    parser.add_argument("--epochs", type=int, default=2, help="per stage: 40 for a run of about 20 seconds")
    parser.add_argument("--signals", nargs="+", default=["SIGKILL"], help="SIGKILL, SIGTERM or both, in turns")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    began = time.time()
    with tempfile.TemporaryDirectory() as folder:
        failures = kill_and_resume(
            Path(folder), arguments.runs, arguments.kills, arguments.seed, lambda line: print(line, flush=True),
            arguments.epochs, [signal.Signals[name] for name in arguments.signals],
        )  # fmt: skip
    print(f"{arguments.runs - len(failures)} of {arguments.runs} runs ended the same, {time.time() - began:.0f} s")
    sys.exit(bool(failures))


if __name__ == "__main__":
    main()

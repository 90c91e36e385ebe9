"""Damages index files, configurations and corpora in seeded ways, and loads them: always a message, never a crash.

    python tests/long/fuzz.py --mutations 10000 --seed 0

Prints how many mutations of each target ended how, and every fault with its number, by which `--only` repeats it.
Exits with 1 where there was one: a crash or a hang of the interpreter, an exception that is not documented, an object
that is not consistent, or a file accepted although it is not the one that its manifest lists. (Without a manifest, a
change that leaves an index consistent cannot be told from another index.)
"""

import argparse
import collections
import contextlib
import io
import logging
import multiprocessing
import os
import random
import resource
import sys
import tempfile
import time
import warnings
from pathlib import Path

os.environ |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
sys.path.insert(0, str(Path(__file__).parent))
TIMEOUT = 30  # seconds for one mutation
MEMORY = 2 << 30  # bytes that a worker may take beyond what it starts with


def serve(connection, base: Path, folder: Path, seed: int) -> None:
    """A worker: takes numbers of mutations, sends outcomes."""
    import datasets
    import transformers
    from fuzz_targets import TARGETS, mutate_and_load

    transformers.logging.set_verbosity(logging.CRITICAL)
    transformers.logging.disable_progress_bar()
    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(logging.CRITICAL)
    warnings.simplefilter("ignore")
    used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, resource.RLIM_INFINITY))
    names = list(TARGETS)
    while (number := connection.recv()) is not None:
        with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
            target = TARGETS[names[number % len(names)]]
            outcome = mutate_and_load(target, base, folder, random.Random(f"{seed} {number}"))
        connection.send(outcome)


class Worker:
    """A process that survives what it loads, or is replaced; forked, so that a new one costs no imports."""

    def __init__(self, folder: Path, seed: int):
        self.folder, self.seed = folder, seed
        self.process = self.connection = None

    def run(self, number: int) -> tuple[str, str]:
        """Outcome of one mutation."""
        if self.process is None:
            context = multiprocessing.get_context("fork")
            self.connection, other = context.Pipe()
            arguments = (other, self.folder / "base", self.folder / "work", self.seed)
            self.process = context.Process(target=serve, args=arguments, daemon=True)
            self.process.start()
            other.close()
        self.connection.send(number)
        try:
            if self.connection.poll(TIMEOUT):
                return self.connection.recv()
            self.stop()
            return "FAULT hang", f"longer than {TIMEOUT} s"
        except EOFError:
            code = self.process.exitcode if self.process.join(5) is None else None
            self.stop()
            return "FAULT crash", f"exit code {code}"

    def stop(self) -> None:
        """Ends the process."""
        if self.process is not None:
            self.process.kill()
            self.process.join()
            self.process = None


def fuzz(folder: Path, numbers: list[int], seed: int, log=print) -> tuple[dict, list[str]]:
    """Counts by target and outcome, and the faults, of mutations by their numbers."""
    from fuzz_targets import TARGETS, prepare

    prepare(folder / "base", folder / "work")
    names, counts, faults, worker = list(TARGETS), collections.Counter(), [], Worker(folder, seed)
    try:
        for number in numbers:
            name = names[number % len(names)]
            outcome, what = worker.run(number)
            counts[name, outcome] += 1
            if outcome.startswith("FAULT"):
                faults.append(f"{number} {name}: {outcome}: {what}")
                log(faults[-1])
    finally:
        worker.stop()
    return counts, faults


def table(counts: dict) -> str:
    """A row per target."""
    names = list(dict.fromkeys(name for name, _ in sorted(counts)))
    outcomes = sorted({outcome for _, outcome in counts})
    rows = [["target", "mutations", *outcomes]]
    for name in names:
        own = [counts[name, outcome] for outcome in outcomes]
        rows.append([name, sum(own), *own])
    totals = [sum(row[column] for row in rows[1:]) for column in range(1, len(rows[0]))]
    rows.append(["all", *totals])
    lines = ["| " + " | ".join(map(str, row)) + " |" for row in rows]
    return "\n".join([lines[0], "|---" * len(rows[0]) + "|", *lines[1:]])


def main() -> None:
    """Parses arguments and runs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mutations", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, nargs="+", help="numbers of mutations to repeat")
    arguments = parser.parse_args()
    began = time.time()
    with tempfile.TemporaryDirectory() as name:
        os.environ["HF_HOME"] = name  # what data sets keep of the corpora
        numbers = arguments.only or list(range(arguments.mutations))
        counts, faults = fuzz(Path(name), numbers, arguments.seed, lambda line: print(line, flush=True))
    print(f"\n{table(counts)}\n\n{len(numbers):,} mutations, {len(faults)} faults, {time.time() - began:.0f} s")
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()

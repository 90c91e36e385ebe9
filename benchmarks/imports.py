"""What importing the library takes beyond what it is built on.

    python benchmarks/imports.py --rounds 7

Each round starts a fresh process for each row, and the rows take turns, so that a busy moment falls on all of them. A
process imports what the row builds on, then ours, and times both; the table has medians over rounds, and the range.
The files are compiled first, as pip does when it installs them, and one round is done before those that count.
"""

import argparse
import compileall
import json
import os
import subprocess
import sys
from pathlib import Path
from statistics import median

from trainers.report import format_table

ROOT = Path(__file__).parents[1]
MODEL = "from transformers import AutoModel, PreTrainedModel, GenerationMixin"
TRAINER = "from transformers import Trainer; import modeling_lmindexer"
# What is imported, and what it is measured beyond.
ROWS = (("import modeling_lmindexer", MODEL), ("import trainers", TRAINER))
TIMED = "import json; from time import {clock} as now; a = now(); {base}; b = now(); {ours}; c = now()"


def timed(ours: str, base: str, clock: str) -> tuple[float, float]:
    """Seconds, by a clock of `time`, of a base in a fresh process, and of what is then imported of ours."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    environment |= {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    code = f"{TIMED.format(clock=clock, base=base, ours=ours)}; print(json.dumps([b - a, c - b]))"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{ours} failed:\n{done.stderr}")
    return tuple(json.loads(done.stdout.splitlines()[-1]))


def rows(rounds: int, clock: str):
    """A row per import, of medians over rounds; the first round warms up."""
    times = {row: [] for row in ROWS}
    for _ in range(rounds + 1):
        for row, found in times.items():
            found.append(timed(*row, clock))
    for (ours, base), found in times.items():
        bases, beyond = zip(*found[1:], strict=True)
        yield [f"`{ours}`", f"`{base}`", median(bases), median(beyond), f"{min(beyond):.2f} to {max(beyond):.2f}"]


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7, help="that count")
    parser.add_argument("--cpu_time", action="store_true", help="CPU seconds: for a busy machine")
    options = parser.parse_args()
    for room in ("modeling_lmindexer", "trainers", "metrics"):
        compileall.compile_dir(ROOT / room, quiet=1)
    clock = "process_time" if options.cpu_time else "perf_counter"
    header = ["import", "after", "seconds of that", "seconds beyond", "range"]
    print(format_table(header, list(rows(options.rounds, clock)), digits=2))


if __name__ == "__main__":
    main()

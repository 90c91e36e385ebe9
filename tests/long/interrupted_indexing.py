"""Kills indexing runs with SIGKILL at seeded moments, starts them again, and compares what they write.

    python tests/long/interrupted_indexing.py --runs 20 --documents 100000

Moments are spread over the whole of a run: reading, the parts, the sorts, and the writing of the folder. Prints one
line per run; exits with 1 when a document was lost or repeated, or a file differs.
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
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq

sys.path.insert(0, str(Path(__file__).parents[2]))
sys.path.insert(0, str(Path(__file__).parents[1]))
from tiny_training import tiny_corpus, tiny_indexer, tiny_tokenizer

from modeling_lmindexer.folder import file_digest

SCRIPT = Path(__file__).parents[2] / "examples" / "index_documents.py"
STEPS = ("parts", "looking for repeated ids", "sorting by codes", "writing table and tree")


def prepare(folder: Path, documents: int) -> None:
    """A model, and documents in three files."""
    tiny_indexer().save_pretrained(folder / "model")
    tiny_tokenizer().save_pretrained(folder / "model")
    texts, size = list(tiny_corpus(20)["text"]), -(-documents // 3)
    for number in range(3):
        with open(folder / f"shard{number}.jsonl", "w") as file:
            for place in range(number * size, min(documents, (number + 1) * size)):
                file.write(json.dumps({"id": place * 7919 % 10**9, "text": texts[place % len(texts)]}) + "\n")


def start(folder: Path, out: Path, part_size: int) -> subprocess.Popen:
    """A run, or its continuation, as a process of its own; what it prints goes to a file, line by line."""
    command = [
        SCRIPT, "--model_name_or_path", folder / "model", "--input_files", folder / "shard*.jsonl",
        "--output_dir", out, "--records_per_part", part_size, "--memory_gb", "0.002", "--use_cpu",
    ]  # fmt: skip
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    with open(out.with_suffix(".log"), "w") as log:
        return subprocess.Popen([sys.executable, *map(str, command)], env=environment, stdout=log, stderr=log)


def progress(out: Path) -> tuple[int, int]:
    """Which step a run is in, and how many parts are done."""
    log = out.with_suffix(".log").read_text()
    step = max((number for number, name in enumerate(STEPS) if name in log), default=0)
    return step, len(list(out.glob("parts/[!.]*/*.parquet")))


def kill(folder: Path, out: Path, part_size: int, step: int, parts: int, delay: float) -> str:
    """Kills a run `delay` seconds after so many parts, or after a step began; says where that was."""
    process = start(folder, out, part_size)
    while process.poll() is None and progress(out) < (step, parts):
        time.sleep(0.002)
    time.sleep(delay)
    process.send_signal(signal.SIGKILL)
    if process.wait() != -signal.SIGKILL:
        return "ended before"
    now = progress(out)
    return f"at {STEPS[now[0]]!r}, {now[1]} parts written"


def finish(folder: Path, out: Path, part_size: int) -> dict[str, str]:
    """Lets a run end; digests of all that it wrote."""
    if start(folder, out, part_size).wait():
        raise RuntimeError(f"the run failed:\n{out.with_suffix('.log').read_text()[-3000:]}")
    files = (path for path in out.rglob("*") if path.is_file() and path.suffix != ".lock")
    return {path.relative_to(out).as_posix(): file_digest(path) for path in sorted(files)}


def documents_of(out: Path) -> Counter:
    """How often each id stands in the table of a finished run."""
    return Counter(pq.read_table(out / "semantic_ids.parquet", columns=["id"])["id"].to_pylist())


def interrupt_and_compare(
    folder: Path, runs: int, documents: int, kills: int = 2, seed: int = 0, log=print
) -> list[str]:
    """Compares runs that are killed with one that is not.

    Args:
        folder: for all files.
        runs: how many; their kills take turns at the steps.
        documents: of the corpus.
        kills: how often each is killed: among its parts and later, or once, in turns.
        seed: of the moments.
        log: called with a line per run.

    Returns:
        what differed, one entry per run.
    """
    prepare(folder, documents)
    part_size = max(10, documents // 40)
    expected, failures = finish(folder, folder / "alone", part_size), []
    total = progress(folder / "alone")[1]
    wanted = documents_of(folder / "alone")
    assert len(wanted) == documents
    for run in range(runs):
        generator, out, moments = random.Random(f"{seed} {run}"), folder / f"run{run}", []
        out.mkdir()
        steps = (0, 1 + run % (len(STEPS) - 1))
        for step in steps if kills == 2 else steps[run % 2 :][:1]:
            parts = generator.randrange(total) if step == 0 else 0
            delay = generator.uniform(0, 0.1) * max(1, documents / 100_000)
            moments.append(kill(folder, out, part_size, step, parts, delay))
        found = finish(folder, out, part_size)
        ids = documents_of(out)
        lost, repeated = len(wanted - ids), len(ids - wanted)
        different = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
        outcome = f"{lost} lost, {repeated} repeated, " + (f"DIFFERENT {different}" if different else "same files")
        log(f"run {run}: killed {'; '.join(moments)}: {outcome}")
        if lost or repeated or different:
            failures.append(f"run {run}: {outcome}")
    return failures


def main() -> None:
    """Parses arguments and runs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--documents", type=int, default=100_000)
    parser.add_argument("--kills", type=int, default=2, choices=[1, 2], help="how often each run is killed")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    began = time.time()
    with tempfile.TemporaryDirectory() as folder:
        failures = interrupt_and_compare(
            Path(folder), options.runs, options.documents, options.kills, options.seed,
            lambda line: print(line, flush=True),
        )  # fmt: skip
    same = options.runs - len(failures)
    print(
        f"{same} of {options.runs} runs of {options.documents:,} documents ended the same, {time.time() - began:.0f} s"
    )
    sys.exit(bool(failures))


if __name__ == "__main__":
    main()

"""Runs every code block of README and guides as it stands, on small stand-ins for the data and models that it names.

    python tests/long/code_blocks.py | tee tests/long/code_blocks.log
    python tests/long/code_blocks.py --pages README.md docs/search.md

Every page has a folder of its own, in which its blocks run one after the other: Python in one session, as doctests in
guides; commands in bash, which ends at the first that fails. Prints a line per block, and exits with 1 where one
failed or took longer than `--minutes`. Blocks that a comment says are not run are listed with the reason.
"""

import argparse
import contextlib
import doctest
import io
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import yaml

# The root as well: beside it, tests/modeling_lmindexer would be taken for the package.
sys.path.insert(0, str(Path(__file__).parents[2]))
sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parent))
import stand_ins
from markdown_blocks import ROOT, SHELL, Block, blocks_of, pages

FLAGS = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
STOPPED = "is stopped: it took longer than --minutes"
TRAINING = ["--train_file", "items.jsonl.gz", "--output_dir", "trained"]


def environment(folder: Path) -> dict[str, str]:
    """Variables of commands: the package and its programs, no network, nothing in the user's caches."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    own = {"PATH": path, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    return os.environ | own | {"HF_DATASETS_CACHE": str(folder / "cache"), "ACCELERATE_USE_CPU": "true"}


def prepare(folder: Path) -> None:
    """What lies in the repository, as links, so that a page's commands write nothing into it."""
    folder.mkdir()
    for path in ROOT.iterdir():
        if not path.name.startswith(".") and path.name != "outputs":
            (folder / path.name).symlink_to(path)


def train(folder: Path) -> None:
    """The indexer that stands for those of the guides."""
    prepare(folder)
    stand_ins.STAND_INS["items.jsonl.gz"](folder / "items.jsonl.gz")
    command = [sys.executable, "examples/run_indexing.py", *TRAINING]
    subprocess.run(command, cwd=folder, env=environment(folder), check=True, capture_output=True)
    stand_ins.TRAINED = folder / "trained"


@contextlib.contextmanager
def at_most(minutes: float) -> Iterator[None]:
    """Raises TimeoutError in what takes longer, waits of other processes included."""

    def stop(*_: object) -> None:
        raise TimeoutError(STOPPED)

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, 60 * minutes)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def run_shell(block: Block, folder: Path) -> str:
    """What went wrong, if anything."""
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", block.text], cwd=folder, env=environment(folder), text=True,
        capture_output=True, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    return "" if done.returncode == 0 else f"exit {done.returncode}: {(done.stderr or done.stdout).strip()[-1500:]}"


def run_python(block: Block, session: dict) -> str:
    """The same: of a doctest, or of code without prompts."""
    if not block.text.startswith(">>> "):
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                exec(compile(block.text, str(block), "exec"), session)
        except Exception as error:
            return f"{type(error).__name__}: {error}"
        return ""
    runner, words = doctest.DocTestRunner(verbose=False, optionflags=FLAGS), io.StringIO()
    test = doctest.DocTestParser().get_doctest(block.text, session, str(block), block.page, block.line)
    test.globs = session  # the parser copies it
    runner.run(test, out=words.write, clear_globs=False)
    return words.getvalue()[-1500:]


def run_block(block: Block, folder: Path, session: dict) -> str:
    """The same, of any block."""
    if block.language in ("yaml", "json"):
        return "" if yaml.safe_load(block.text) else "holds nothing"
    text = block.text
    for name in stand_ins.needed(text, folder):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        stand_ins.STAND_INS[name](folder / name)
    return run_shell(block, folder) if block.language in SHELL else run_python(block, session)


def run_page(page: Path, folder: Path, minutes: float) -> Counter:
    """All blocks of a page, in order, each for so many minutes at most; how many ended how."""
    blocks, ends, session = blocks_of(page), Counter(), {"__name__": "__main__"}
    if blocks:
        prepare(folder)
    for block in blocks:
        if block.language not in ("python", "yaml", "json", *SHELL):
            continue
        began = time.perf_counter()
        with contextlib.chdir(folder), at_most(minutes):
            try:
                wrong = "" if block.reason else run_block(block, folder, session)
            except TimeoutError as error:
                wrong = str(error)
        end = "not run" if block.reason else "failed" if wrong else "ran"
        ends[f"{end} {block.language}"] += 1
        reason = f": {block.reason}" if block.reason else ""
        print(f"{str(block):32} {block.language:7} {time.perf_counter() - began:6.1f} s  {end}{reason}", flush=True)
        if wrong:
            print(wrong, flush=True)
    return ends


def main() -> None:
    """Runs the pages and counts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pages", nargs="+", type=Path, help="some pages; default: README and all guides")
    parser.add_argument("--minutes", type=float, default=20, help="for one block, at most")
    options = parser.parse_args()
    os.environ["HF_HUB_OFFLINE"] = "1"
    began, ends = time.perf_counter(), Counter()
    with tempfile.TemporaryDirectory() as scratch:
        train(Path(scratch) / "training")
        for page in [path.resolve() for path in options.pages] if options.pages else pages():
            folder = Path(scratch) / page.relative_to(ROOT).as_posix().replace("/", "-")
            ends += run_page(page, folder, options.minutes)
    print(f"\n{time.perf_counter() - began:.0f} s; " + ", ".join(f"{n} {end}" for end, n in sorted(ends.items())))
    sys.exit(any(end.startswith("failed") for end in ends))


if __name__ == "__main__":
    main()

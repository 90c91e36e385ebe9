"""Runs `examples/run_indexing.py` on one GPU, and checks that it repeats to the bit, goes on, and runs with FSDP2.

    python tests/long/one_gpu.py

Four small runs: two with `--full_determinism --batch_parts 4`, dropout and bf16, which must end with the same files;
one like them that is stopped by SIGTERM inside a stage and started again, with the same files too; and one by
`accelerate launch` with `examples/accelerate/fsdp2.yaml` on one process, whose model must be on the GPU whenever the
corpus is looked at between two trainings. Prints a line per check; exits with 1 when one does not hold. With `--cpu`
it runs on the CPU, to see that it runs, without FSDP2.
"""

import argparse
import hashlib
import json
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "examples" / "run_indexing.py"
SETTINGS = (
    "--global_batch_size 64 --dropout 0.1 --bf16 --codebook_sizes 32 32 --continuous_epochs 1 1 --num_train_epochs 1 "
    "--reconstructor_epochs 1 --save_strategy steps --save_steps 5 --disable_tqdm True"
).split()
REPEATABLE = ["--full_determinism", "--batch_parts", "4"]
STAGE = "2-continuous"


def command_of(folder: Path, options: argparse.Namespace, *more: str) -> list[str]:
    """Arguments of the script for a run in a folder."""
    documents = ["--max_documents", str(options.documents), "--output_dir", str(folder)]
    return [*SETTINGS, *documents, *more, *(["--use_cpu"] if options.cpu else [])]


def start(command: list[str], log: Path) -> subprocess.Popen:
    """A run whose output is added to a file."""
    with open(log, "a") as output:
        environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
        return subprocess.Popen(command, stdout=output, stderr=output, env=environment)


def stop_inside(process: subprocess.Popen, folder: Path) -> int:
    """Sends SIGTERM after the first checkpoint of a stage, and returns how the run left."""
    while process.poll() is None and not any((folder / "stages" / STAGE).glob("checkpoint-*")):
        time.sleep(0.01)
    process.terminate()
    return process.wait()


def digests(folder: Path) -> dict[str, str]:
    """The files of a model folder that say what it learned, by name."""
    names = [path for path in folder.iterdir() if path.suffix in (".safetensors", ".parquet", ".npy", ".bin")]
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(names)}


def watched(places: Path, arguments: list[str]) -> None:
    """The script itself, in this process; where its model is when it looks at the corpus goes into a file."""
    from trainers import corpus_pass

    found, original = [], corpus_pass.CorpusPass.hidden_states

    def hidden_states(self):
        found.append(str(next(self.model.parameters()).device))
        places.write_text(json.dumps(found))
        return original(self)

    corpus_pass.CorpusPass.hidden_states = hidden_states
    sys.argv = [str(SCRIPT), *arguments]
    sys.path.insert(0, str(SCRIPT.parent))
    runpy.run_path(str(SCRIPT), run_name="__main__")


def repetitions(folder: Path, options: argparse.Namespace) -> dict[str, bool]:
    """Checks of the runs that must end alike."""
    runs = {name: command_of(folder / name, options, *REPEATABLE) for name in ("one", "again", "stopped")}
    logs = {name: folder / f"{name}.log" for name in runs}
    processes = {name: start([sys.executable, str(SCRIPT), *run], logs[name]) for name, run in runs.items()}
    code = stop_inside(processes["stopped"], folder / "stopped")
    processes["stopped"] = start([sys.executable, str(SCRIPT), *runs["stopped"]], logs["stopped"])
    codes = {name: process.wait() for name, process in processes.items()}
    for name in [name for name, code in codes.items() if code]:
        print(f"--- {name}, exit status {codes[name]}\n{logs[name].read_text()[-3000:]}")
    if any(codes.values()):
        return {"the runs ended": False}
    files = {name: digests(folder / name) for name in runs}
    equal = [name for name, value in files["one"].items() if files["again"].get(name) == value]
    print(f"files that say what was learned: {', '.join(files['one'])}; equal in a second run: {', '.join(equal)}")
    return {
        "a second run has the same files to the bit": files["one"] == files["again"],
        f"SIGTERM in stage {STAGE}: exit status {code}": code == 128 + signal.SIGTERM,
        "the run that was stopped and went on has the same files to the bit": files["one"] == files["stopped"],
    }


def sharded(folder: Path, options: argparse.Namespace) -> dict[str, bool]:
    """Checks of a run with FSDP2."""
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", "1", "--main_process_port", "0"]
    config = ["--config_file", str(ROOT / "examples" / "accelerate" / "fsdp2.yaml")]
    places, log = folder / "places.json", folder / "fsdp2.log"
    run = command_of(folder / "fsdp2", options)
    code = start([*launcher, *config, __file__, "--watched", str(places), *run], log).wait()
    if code:
        print(f"--- fsdp2, exit status {code}\n{log.read_text()[-4000:]}")
    found = json.loads(places.read_text()) if places.exists() else []
    return {
        f"FSDP2 on one process: exit status {code}": code == 0,
        f"between its trainings the model is on {', '.join(sorted(set(found)))} ({len(found)} times)": bool(found)
        and all(place.startswith("cuda") for place in found),
    }


def main() -> None:
    """Runs, checks and prints."""
    if "--watched" in sys.argv:
        watched(Path(sys.argv[2]), sys.argv[3:])
        return
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--documents", type=int, default=1500)
    parser.add_argument("--cpu", action="store_true")
    parser.add_argument("--parts", nargs="+", choices=["repetitions", "sharded"], default=["repetitions", "sharded"])
    options = parser.parse_args()
    checks = {}
    with tempfile.TemporaryDirectory() as folder:
        if "repetitions" in options.parts:
            checks |= repetitions(Path(folder), options)
        if "sharded" in options.parts and not options.cpu:
            checks |= sharded(Path(folder), options)
    for line, holds in checks.items():
        print(line + ("" if holds else "   BROKEN"))
    sys.exit(not all(checks.values()))


if __name__ == "__main__":
    main()

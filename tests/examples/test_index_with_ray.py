"""`index_with_ray.py` writes the index that `index_documents.py` writes; skipped where there is no Ray."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tiny_training import tiny_corpus, tiny_indexer, tiny_tokenizer

from modeling_lmindexer import SemanticIndex
from modeling_lmindexer.folder import file_digest
from trainers.folder_lock import FolderLock

pytest.importorskip("ray")
pytestmark = pytest.mark.slow
SCRIPT = Path(__file__).parents[2] / "examples" / "index_with_ray.py"


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    """A model, and 120 documents in two files of each kind, whose ids only look like numbers."""
    folder = tmp_path_factory.mktemp("ray")
    tiny_indexer().save_pretrained(folder / "model")
    tiny_tokenizer().save_pretrained(folder / "model")
    rows = [{"id": f"{i:03}", "text": text} for i, text in enumerate(tiny_corpus(10)["text"])]
    for number in range(2):
        (folder / f"s{number}.jsonl").write_text("\n".join(map(json.dumps, rows[number::2])))
        with open(folder / f"s{number}.csv", "w", newline="") as file:
            writer = csv.DictWriter(file, ["id", "text"])
            writer.writeheader()
            writer.writerows(rows[number::2])
    return folder


def given(base: Path, kind: str, out: Path, *more) -> list[str]:
    arguments = ["--model_name_or_path", base / "model", "--input_files", base / f"s*.{kind}", "--output_dir", out]
    return list(map(str, [*arguments, "--records_per_part", 16, *more]))


def start(arguments: list[str]) -> subprocess.Popen:
    """A process of its own, whose path Ray gives to its workers."""
    environment = os.environ | {"PYTHONPATH": str(SCRIPT.parents[1]), "RAY_USAGE_STATS_ENABLED": "0"}
    command = [sys.executable, str(SCRIPT), *arguments]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_the_same_index(base, run_script, tmp_path, kind):
    run_script("index_documents", *given(base, kind, tmp_path / "plain"))
    process = start(given(base, kind, tmp_path / "ray"))
    printed, log = process.communicate(timeout=400)
    assert process.returncode == 0 and "120 documents in 8 parts" in printed, log
    for name in ("semantic_ids.parquet", "prefix_tree.safetensors"):
        assert file_digest(tmp_path / "ray" / name) == file_digest(tmp_path / "plain" / name)
    assert set(SemanticIndex.from_pretrained(tmp_path / "ray").document_ids) == {f"{i:03}" for i in range(120)}


def test_a_signal_stops_it_and_the_same_command_goes_on(base, run_script, tmp_path):
    out = tmp_path / "out"
    process = start(given(base, "jsonl", out, "--records_per_part", 1, "--actors", 1))
    while not list(out.glob("parts/*/*.parquet")) and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, log = process.communicate(timeout=400)
    assert process.returncode == 143 and "Stopped by SIGTERM between two parts. The same command goes on." in log, log
    assert not (out / "manifest.json").exists()
    done = len(list(out.glob("parts/*/*.parquet")))
    assert 0 < done < 120
    # The parts are those of `index_documents.py`, too.
    printed = run_script("index_documents", *given(base, "jsonl", out, "--records_per_part", 1))
    assert f"{120 - done} documents read" in printed


def test_errors_are_one_line(base, tmp_path):
    out = tmp_path / "out"
    with FolderLock(out / "parts", "shard-0"):
        process = start(given(base, "jsonl", out))
        assert "is in use by another shard-0" in process.communicate(timeout=400)[1].splitlines()[-1]
        assert process.returncode == 1
    (tmp_path / "bad.jsonl").write_text('{"id": 1, "text": "a"}\n{"id": 2, "text": ""}\n')
    process = start(given(base, "jsonl", out, "--input_files", tmp_path / "bad.jsonl"))
    last = process.communicate(timeout=400)[1].splitlines()[-1]
    assert last.startswith("error: ") and f"{tmp_path / 'bad.jsonl'}, row 2, has no text" in last

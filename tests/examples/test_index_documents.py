"""`index_documents.py` as a user runs it: batches, parts and processes that change nothing, stops, and its errors."""

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from tiny_training import tiny_corpus, tiny_indexer, tiny_tokenizer
from transformers import AutoModel

from modeling_lmindexer import SemanticIndex
from modeling_lmindexer.folder import file_digest, read_manifest
from modeling_lmindexer.hub import files_of
from modeling_lmindexer.index_check import check_folder
from trainers.bulk_assignment import BulkAssigner
from trainers.corpus_parts import PartsFolder
from trainers.stop_signals import RunStopped

SCRIPT = Path(__file__).parents[2] / "examples" / "index_documents.py"


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    """A model and 360 documents in three files."""
    folder, corpus = tmp_path_factory.mktemp("data"), tiny_corpus(30)
    tiny_indexer(codebook_fingerprint="f" * 16).save_pretrained(folder / "model")
    tiny_tokenizer().save_pretrained(folder / "model")
    rows = [{"key": i, "text": t} for i, t in zip(corpus["id"], corpus["text"], strict=True)]
    for number in range(3):
        text = "\n".join(map(json.dumps, rows[120 * number : 120 * number + 120]))
        (folder / f"s{number}.jsonl").write_text(text)
    return folder


@pytest.fixture
def run(run_script):
    return partial(run_script, "index_documents")


def arguments(base: Path, out: Path, *more) -> list[str]:
    given = ["--model_name_or_path", base / "model", "--input_files", base / "s*.jsonl", "--output_dir", out]
    return list(map(str, [*given, "--id_column", "key", "--use_cpu", "--records_per_part", 50, *more]))


def written(out: Path) -> dict[str, str]:
    """Digests of the files of a model folder, but for the figures, which name the parts."""
    return {path.name: file_digest(path) for path in out.iterdir() if path.is_file() and path.suffix != ".json"}


@pytest.fixture(scope="module")
def whole(base, tmp_path_factory) -> Path:
    """A folder that nothing disturbed."""
    import index_documents

    out = tmp_path_factory.mktemp("whole") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["index_documents.py", *arguments(base, out)])
        index_documents.main()
    return out


def test_the_folder_searches(base, whole):
    """IDs are those that an index in memory gives; the manifest of parts lists every document once."""
    index = SemanticIndex.from_pretrained(whole)
    corpus = tiny_corpus(30)
    expected = SemanticIndex.from_codes(
        corpus["id"][:], index.attach(*index.load_model()).encode(corpus["text"][:]).numpy() - [1, 7],
        index.position_sizes,
    )  # fmt: skip
    assert dict(zip(index.document_ids, index.semantic_ids, strict=True)) == dict(
        zip(expected.document_ids, expected.semantic_ids, strict=True)
    )
    assert index.codebook_fingerprint == "f" * 16
    model = AutoModel.from_pretrained(whole).eval()
    assert model.config.num_disambiguation_codes == index.position_sizes[-1] > 16
    inputs = tiny_tokenizer()(corpus["text"][0], return_tensors="pt")
    assert len(model.search(index=index, top_k=5, **inputs).documents[0]) == 5
    manifest = json.loads((whole / "parts" / "parts.json").read_text())
    assert manifest["rows"] == 360 and [part["rows"] for part in manifest["parts"]] == [50, 50, 20] * 3
    ids = []
    for part in manifest["parts"]:
        assert file_digest(whole / "parts" / part["file"]) == part["sha256"]
        ids += pq.read_table(whole / "parts" / part["file"])["id"].to_pylist()
    assert ids == corpus["id"][:]
    assert {"semantic_ids.parquet", "prefix_tree.safetensors", "config.json"} <= read_manifest(
        whole / "manifest.json"
    )["files"].keys()


def test_batches_parts_and_budget_change_nothing(base, whole, run, tmp_path):
    printed = run(
        *arguments(base, tmp_path, "--records_per_part", 7, "--tokens_per_batch", 50, "--memory_gb", 0.000001)
    )
    assert "360 documents in 54 parts" in printed and "The model's last position has grown from 16 to" in printed
    assert written(tmp_path) == written(whole)
    again = run(*arguments(base, tmp_path, "--records_per_part", 7))
    assert "documents read" not in again and "sorting" not in again and "360 documents in 54 parts" in again


def test_a_stopped_run_goes_on(base, whole, run, tmp_path, monkeypatch):
    assign, done = BulkAssigner.assign, []

    def killed(self, tokens):
        if len(done) == 4:
            raise KeyboardInterrupt
        done.append(len(tokens))
        return assign(self, tokens)

    monkeypatch.setattr(BulkAssigner, "assign", killed)
    with pytest.raises(KeyboardInterrupt):
        run(*arguments(base, tmp_path))
    assert not (tmp_path / "semantic_ids.parquet").exists()
    done.clear()
    monkeypatch.setattr(BulkAssigner, "assign", lambda self, tokens: done.append(len(tokens)) or assign(self, tokens))
    (tmp_path / "parts" / ".writing-0").mkdir(exist_ok=True)
    (tmp_path / "parts" / ".writing-0" / "left").touch()
    assert "190 documents read" in run(*arguments(base, tmp_path))
    assert done == [50, 20, 50, 50, 20] and written(tmp_path) == written(whole)
    assert not (tmp_path / "parts" / ".writing-0").exists()


def test_processes_share_the_parts(base, whole, run, tmp_path):
    """In any order; the last one builds the index."""
    printed = run(*arguments(base, tmp_path, "--shard_index", 1, "--num_shards", 2))
    assert "Other processes have parts to do" in printed
    first, second = run(*arguments(base, tmp_path, "--num_shards", 2)).splitlines()[-3:], written(tmp_path)
    assert "Model folder" in first[-2] and second == written(whole)


@pytest.mark.dist
def test_two_processes_at_once(base, whole, tmp_path):
    environment = os.environ | {"PYTHONPATH": str(SCRIPT.parents[1]), "WORLD_SIZE": "2"}
    workers = [
        subprocess.Popen(
            [sys.executable, str(SCRIPT), *arguments(base, tmp_path)], env=environment | {"RANK": str(rank)},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for rank in range(2)
    ]  # fmt: skip
    found = [worker.communicate(timeout=120) for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0], found
    assert written(tmp_path) == written(whole)


def test_what_changed_is_refused_or_done_again(base, run, tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    for number in range(2):
        (data / f"s{number}.jsonl").write_text((base / f"s{number}.jsonl").read_text())
    (data / "model").symlink_to(base / "model")
    out = tmp_path / "out"
    run(*arguments(data, out))
    message = run(*arguments(data, out, "--records_per_part", 60), ok=False)
    assert "records_per_part: 50 there, 60 now" in message and "--start_over" in message
    os.utime(data / "s0.jsonl")  # touched, but the same
    assert "documents read" not in run(*arguments(data, out))
    (data / "s1.jsonl").write_text("\n".join((data / "s1.jsonl").read_text().splitlines()[:70]))
    assert "has changed since" in run(*arguments(data, out), ok=False)
    assert "190 documents in 5 parts" in run(*arguments(data, out, "--redo_changed"))
    (data / "s0.jsonl").unlink()
    assert "which is not among the input files" in run(*arguments(data, out), ok=False)
    assert "70 documents in 2 parts" in run(*arguments(data, out, "--redo_changed"))
    assert "70 documents in 1 parts" in run(*arguments(data, out, "--records_per_part", 80, "--start_over"))
    with open(out / "parts" / ".shard-0.lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # as another process would
        assert "is in use by another shard-0" in run(*arguments(data, out), ok=False)


def test_the_folder_is_whole_and_its_parts_stay_here(whole):
    assert check_folder(whole).problems == []
    assert not [name for name in files_of(whole) if name.startswith("parts")]


def test_an_index_that_was_changed_since_is_kept(base, whole, run, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(whole, out)
    index = SemanticIndex.from_pretrained(out)
    index.remove(index.document_ids[:1])
    index.save_pretrained(out)
    message = run(*arguments(base, out), ok=False)
    assert "holds an index of version 1" in message and "delete" in message
    assert len(SemanticIndex.from_pretrained(out)) == 359


def test_one_of_several_processes_deletes_nothing(base, run, tmp_path):
    for flag in ("--start_over", "--redo_changed"):
        message = run(*arguments(base, tmp_path / "o", flag, "--num_shards", 2), ok=False)
        assert "are for one process alone" in message and str(tmp_path / "o" / "parts") in message


def test_a_signal_stops_between_parts(base, run, tmp_path, monkeypatch):
    write = PartsFolder.write

    def write_and_signal(self, *args):
        write(self, *args)
        signal.raise_signal(signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(PartsFolder, "write", write_and_signal)
        patch.setattr(sys, "argv", ["index_documents.py", *arguments(base, tmp_path / "o")])
        with pytest.raises(RunStopped, match="143"):
            __import__("index_documents").main()
    assert len(list((tmp_path / "o" / "parts").glob("*/*.parquet"))) == 1
    assert "310 documents read" in run(*arguments(base, tmp_path / "o"))


def test_what_cannot_be_done(base, run, tmp_path):
    assert "No file matches" in run(*arguments(base, tmp_path / "o", "--input_files", tmp_path / "*.csv"), ok=False)
    assert "would be lost" in run(*arguments(base, base / "model"), ok=False)
    tiny_indexer().config.backbone_config.save_pretrained(tmp_path / "t5")
    given = arguments(base, tmp_path / "o", "--model_name_or_path", tmp_path / "t5")
    assert "is a t5, expected an indexer" in run(*given, ok=False)
    assert "no column id; it has key, text" in run(*arguments(base, tmp_path / "o", "--id_column", "id"), ok=False)
    twice = arguments(base, tmp_path / "p", "--input_files", base / "s0.jsonl", tmp_path / "copy.jsonl")
    (tmp_path / "copy.jsonl").write_text((base / "s0.jsonl").read_text())
    message = run(*twice, ok=False)
    assert "120 rows repeat the id of another one" in message and f"{base / 's0.jsonl'} row 1" in message
    assert not (tmp_path / "p" / "semantic_ids.parquet").exists()
    assert "shard_index is 2" in run(*arguments(base, tmp_path / "o", "--shard_index", 2), ok=False)

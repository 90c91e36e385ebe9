"""The script with a user's arguments: indexes on disk that load, their figures, and its errors."""

import json
import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from tiny_training import WORDS, tiny_tokenizer
from transformers import BertConfig, BertModel

from modeling_lmindexer import PrefixTree, SemanticIndex
from modeling_lmindexer.folder import MANIFEST_NAME, verify_files
from trainers.stop_signals import RunStopped

ROOT = Path(__file__).parents[2]


@pytest.fixture
def run(run_script):
    """The script with arguments; see `run_script`."""
    return partial(run_script, "run_two_stage")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    """48 documents of three kinds, and makers that have nothing to do with them."""
    path = tmp_path_factory.mktemp("corpus") / "items.jsonl"
    rows = []
    for i in range(48):
        kind, maker = i % 3, f"common{i // 3 % 2}"
        words = " ".join(WORDS[6 * kind + (i // 3 + j * j) % 6] for j in range(4 + i % 5))
        rows.append({"id": f"d{i:03d}", "text": f"{maker} {words}", "brand": maker, "category": [f"kind{kind}"]})
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


@pytest.fixture(scope="module")
def encoder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("encoder")
    BertModel(
        BertConfig(vocab_size=64, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32)
    ).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def test_words_alone(run, corpus, tmp_path):
    common = ("--train_file", corpus, "--text_columns", "text", "--excluded_column", "brand", "--codebook_sizes", 3, 2)
    printed = run(*common, "--method", "micro", "--settings", "share=0.5", "restarts=1", "--output_dir", tmp_path)
    for expected in ("48 documents", "| micro | 1        | 1.000", "of the documents share their codes"):
        assert expected in printed
    assert {path.name for path in tmp_path.iterdir()} == {
        "semantic_ids.parquet", "prefix_tree.safetensors", "documents.parquet", "metrics.json", MANIFEST_NAME,
    }  # fmt: skip
    verify_files([path for path in tmp_path.iterdir() if path.name != MANIFEST_NAME], tmp_path / MANIFEST_NAME)
    index = SemanticIndex.from_pretrained(tmp_path)
    assert index.position_sizes == [3, 2, 64] and index.document_ids == [f"d{i:03d}" for i in range(48)]
    assert len(PrefixTree.from_pretrained(tmp_path)) == 48
    assert len({(code, i % 3) for i, code in enumerate(index.codes[:, 0])}) == 3
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["settings"]["share"] == 0.5 and metrics["indexer"]["method"] == "micro"
    assert metrics["codes"]["micro"]["positions"][0]["ami"] == pytest.approx(1)

    assert "| random | 1" in run(*common, "--method", "random", "--output_dir", tmp_path)
    np.testing.assert_array_equal(SemanticIndex.from_pretrained(tmp_path).document_ids, index.document_ids)


def test_collisions_are_resolved_by_other_codes(run, corpus, encoder, tmp_path):
    printed = run(
        "--train_file", corpus, "--encoder", encoder, "--max_source_length", 16, "--method", "hc",
        "--collisions", "reassign", "--codebook_sizes", 4, 12, "--tfidf_weight", 1, "--output_dir", tmp_path,
    )  # fmt: skip
    # As many IDs as documents.
    assert "reassigned: 0.0% of the documents share their codes" in printed
    index = SemanticIndex.from_pretrained(tmp_path)
    assert index.position_sizes == [4, 12, 1] and not index.codes[:, 2].any()
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["codes"].keys() == {"hc", "reassigned"} and metrics["codes"]["hc"]["sharing"] > 0
    assert metrics["reassignment"]["documents_moved"] > 0


def test_an_encoder_adapted_to_the_corpus(run, corpus, encoder, tmp_path):
    run(
        "--train_file", corpus, "--encoder", "simcse", "--base_encoder", encoder, "--max_source_length", 16,
        "--codebook_sizes", 3, "--adaptation_epochs", 1, "--output_dir", tmp_path,
    )  # fmt: skip
    assert (tmp_path / "simcse" / "encoder" / "model.safetensors").exists()
    assert SemanticIndex.from_pretrained(tmp_path).position_sizes == [3, 64]


def test_errors_say_what_to_do(run, corpus, tmp_path):
    for arguments, message in (
        (("--settings", "shares=0.5"), "residual-kmeans has no setting shares"),
        (("--settings", "0.5"), "expected name=value"),
        (("--encoder", "simcse"), "needs --base_encoder"),
        (("--codebook_sizes", 64), "48 documents, 64 codes: set a smaller codebook"),
    ):
        assert message in run("--train_file", corpus, "--output_dir", tmp_path / "out", *arguments, ok=False)
    assert not (tmp_path / "out").exists()
    (tmp_path / "config.json").write_text("{}")
    refused = run("--train_file", corpus, "--codebook_sizes", 3, "--output_dir", tmp_path, ok=False)
    assert "holds a model, whose IDs would be lost" in refused


@pytest.mark.slow
def test_as_a_command(corpus, tmp_path):
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, ROOT / "examples" / "run_two_stage.py", "--train_file", corpus]
    command += ["--codebook_sizes", "3", "--output_dir", tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0 and f"Index: {tmp_path}" in done.stdout, done.stdout + done.stderr


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_it_with_a_line(corpus, tmp_path, monkeypatch, capsys, number, status):
    """At once: there is nothing to save before the end."""
    import run_two_stage

    monkeypatch.setattr(run_two_stage, "embed", lambda *_: signal.raise_signal(number))
    monkeypatch.setattr(sys, "argv", list(map(str, ["x", "--train_file", corpus, "--output_dir", tmp_path / "out"])))
    with pytest.raises(RunStopped, match=str(status)):
        run_two_stage.main()
    line = f"Stopped by {number.name} before it was done: every file is whole, or as it was. The same command begins"
    assert line in capsys.readouterr().err and not (tmp_path / "out").exists()

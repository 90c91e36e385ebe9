"""The script as a user runs it: an encoder from scratch and one from a checkpoint, started again, and its errors."""

import json
import re
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_adaptation import tiny_encoder, tokenizer_with_mask
from tiny_training import tiny_corpus
from transformers import AutoModel, AutoTokenizer

from modeling_lmindexer import LMIndexerForSemanticID

TINY = (
    *("--hidden_size", 16, "--num_hidden_layers", 1, "--num_attention_heads", 2, "--vocab_size", 400),
    *("--num_clusters", 4, "--max_length", 16, "--per_device_train_batch_size", 16, "--learning_rate", "1e-2"),
    *("--min_document_frequency", 1, "--max_document_frequency", 1, "--use_cpu", "--report_to", "none"),
)
KINDS = (
    "apple pear plum fig cherry lemon",
    "bolt screw nail rivet washer hinge",
    "river lake sea pond creek bay",
    "violin flute drum harp oboe cello",
)
COMMON = "the and for with new good set pack"


@pytest.fixture
def adapt(run_script):
    """The script with arguments; see `run_script`."""
    return partial(run_script, "adapt_encoder", *TINY)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    """60 documents of four kinds, each with four words of its kind and four that stand in documents of every kind."""
    path, random = tmp_path_factory.mktemp("corpus") / "items.jsonl", np.random.default_rng(0)
    rows = []
    for i in range(60):
        words = [*random.choice(KINDS[i % 4].split(), 4, replace=False), *random.choice(COMMON.split(), 4)]
        rows.append({"id": i, "text": " ".join(random.permutation(words)), "category": [f"kind {i % 4}"]})
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def row_of(name, printed):
    """The two numbers of a row of the table."""
    return tuple(map(float, re.search(rf"^\| {name} +\| +(\S+) +\| +(\S+)", printed, re.M).groups()))


def test_from_scratch_and_again(adapt, corpus, tmp_path):
    common = "--train_file", corpus, "--objective", "mlm", "simcse", "words", "--output_dir", tmp_path
    printed = adapt(*common)
    assert re.search(r"^60 documents\nBERT from scratch: [\d,]+ parameters, \d\d\d tokens\n", printed)
    assert f"Encoder: {tmp_path}/encoder" in printed
    parts = [row_of(name, printed) for name in ("mlm", "simcse", "words")]
    for end in (0, 1):
        assert row_of("loss", printed)[end] == pytest.approx(sum(part[end] for part in parts), abs=0.01)
    assert row_of("loss", printed)[1] < row_of("loss", printed)[0]
    assert row_of("AMI of 4 clusters", printed)[0] > 0.9
    model = AutoModel.from_pretrained(tmp_path / "encoder")
    assert (model.config.hidden_size, model.config.num_hidden_layers, model.config.num_attention_heads) == (16, 1, 2)
    assert AutoTokenizer.from_pretrained(tmp_path / "encoder").mask_token == "<mask>"
    assert LMIndexerForSemanticID.from_backbone(str(tmp_path / "encoder"), codebook_sizes=[4]).config.hidden_size == 16

    weights = (tmp_path / "encoder" / "model.safetensors").stat().st_mtime_ns
    assert adapt(*common) == printed
    assert (tmp_path / "encoder" / "model.safetensors").stat().st_mtime_ns == weights
    refused = adapt(*common, "--temperature", "0.2", ok=False)
    assert "temperature: 0.05 there, 0.2 now" in refused


def test_a_lexical_start_is_better_than_a_random_one(adapt, corpus, tmp_path):
    """Before any training."""
    start = {}
    for kind in ("True", "False"):
        printed = adapt("--train_file", corpus, "--lexical_start", kind, "--output_dir", tmp_path / kind)
        start[kind] = row_of("AMI of 4 clusters", printed)[0]
    assert start["True"] > 0.9 > start["False"] + 0.3


def test_from_a_checkpoint(adapt, tmp_path):
    base, corpus = tiny_encoder(), tmp_path / "items.jsonl"
    tiny_corpus().to_json(corpus)
    base.save_pretrained(tmp_path / "base")
    tokenizer_with_mask().save_pretrained(tmp_path / "base")
    printed = adapt("--train_file", corpus, "--category_column", "", "--model_name_or_path", tmp_path / "base",
                    "--objective", "simcse", "--pooling", "cls", "--output_dir", tmp_path / "out")  # fmt: skip
    assert f"{tmp_path}/base: " in printed and "AMI" not in printed and "| simcse | start" in printed
    adapted = AutoModel.from_pretrained(tmp_path / "out" / "encoder").state_dict()
    moved = {name for name, value in base.state_dict().items() if not torch.equal(adapted[name], value)}
    assert moved == {name for name in adapted if not name.startswith("pooler")}
    assert len(AutoTokenizer.from_pretrained(tmp_path / "out" / "encoder")) == len(tokenizer_with_mask())


def test_errors_are_one_line(adapt, corpus, tmp_path):
    assert "no.jsonl" in adapt("--train_file", "no.jsonl", "--output_dir", tmp_path, ok=False)
    dropout = adapt("--train_file", corpus, "--dropout", "0.1", "--output_dir", tmp_path, ok=False)
    assert "hidden_dropout_prob=0" in dropout
    twice = adapt("--train_file", corpus, "--objective", "mlm", "mlm", "--output_dir", tmp_path, ok=False)
    assert "give each at most once" in twice
    assert not list(tmp_path.iterdir())

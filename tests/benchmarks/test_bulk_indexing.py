"""The parts of the benchmark of bulk indexing that compute: slopes, corpora, and one small size."""

import json
import sys
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
from tiny_training import tiny_corpus, tiny_indexer, tiny_tokenizer

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import bulk_indexing

from trainers.bulk_assignment import BulkAssigner


def test_slopes():
    rows = [{"documents": n, "linear": 3 * n, "flat": 7} for n in (10, 100, 1000)]
    assert bulk_indexing.slope(rows, "linear") == pytest.approx(1)
    assert bulk_indexing.slope(rows, "flat") == pytest.approx(0)


def test_one_size(tmp_path, capsys):
    texts = list(tiny_corpus(2)["text"])
    shards = bulk_indexing.write_shards(tmp_path, texts, 50, 20)
    assert [sum(len(part.ids) for part in shard.parts(99, lambda _: True)) for shard in shards] == [20, 20, 10]
    tiny_indexer().save_pretrained(tmp_path / "model")
    tiny_tokenizer().save_pretrained(tmp_path / "model")
    capsys.readouterr()
    bulk_indexing.index_once(
        Namespace(folder=tmp_path, tokens_per_batch=200, records_per_part=7, memory_gb=0.001, max_length=32)
    )
    found = json.loads(capsys.readouterr().out)
    assert found["documents"] == 50 and found["tree bytes"] > 0 and found["peak MB"] > 1
    assert 1 <= found["largest group"] <= 50


def test_started_codebooks_tell_documents_apart():
    assigner = BulkAssigner(tiny_indexer().eval(), tiny_tokenizer())
    texts = sorted(set(tiny_corpus(20)["text"]))
    bulk_indexing.start_codebooks(assigner, texts)
    _, groups = np.unique(assigner.assign(assigner.tokenize(texts)), axis=0, return_counts=True)
    assert len(groups) > 6 and groups.max() < len(texts) / 4  # codes of the first position alone: 6


def test_figure(tmp_path):
    names = ("codes s", "index s", "peak MB", "tree bytes", "table bytes")
    rows = [{"documents": n} | dict.fromkeys(names, float(n)) for n in (10, 100)]
    bulk_indexing.draw(rows, dict.fromkeys(names, 1.0), tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 1000

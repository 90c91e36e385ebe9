"""BM25 and a dual encoder against plain loops; the script that ranks with them, and goes on where it was."""

import importlib
import json
import math
import os
import sys
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_training import WORDS, tiny_corpus, tiny_tokenizer
from transformers import BertConfig, BertModel

from metrics.ranking_quality import ranking_figures, read_run
from trainers.embeddings import embed_texts

ROOT = Path(__file__).parents[2]
TEXTS = list(tiny_corpus()["text"])[:12]
IDS = [f"d{i}" for i in range(12)]


@pytest.fixture
def module(monkeypatch):
    """A module of the benchmarks or of the examples by its name."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    monkeypatch.syspath_prepend(ROOT / "examples")
    return importlib.import_module


@pytest.fixture(scope="module")
def encoder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("bert")
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(WORDS) + 3, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=40,
    )  # fmt: skip
    BertModel(config).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture
def beir(tmp_path) -> Path:
    """Products and queries that say two words of theirs."""
    (tmp_path / "qrels").mkdir()
    rows = [{"id": i, "title": "", "description": text} for i, text in zip(IDS, TEXTS, strict=True)]
    (tmp_path / "items.jsonl").write_text("\n".join(map(json.dumps, rows)))
    queries = [{"_id": f"q{i}", "text": " ".join(text.split()[:2])} for i, text in enumerate(TEXTS)]
    (tmp_path / "queries.jsonl").write_text("\n".join(map(json.dumps, queries)))
    for split, numbers in (("train", range(8)), ("dev", (8, 9)), ("test", (10, 11))):
        (tmp_path / "qrels" / f"{split}.tsv").write_text("\n".join(f"q{i}\td{i}\t1" for i in numbers))
    return tmp_path


@given(st.lists(st.integers(0, 4), min_size=1, max_size=30), st.integers(1, 35))
def test_the_best_in_the_order_of_rows(scores, depth):
    sys.path.insert(0, str(ROOT / "benchmarks"))
    from tasks.best import best_rows

    expected = sorted(range(len(scores)), key=lambda row: -scores[row])[:depth]
    assert best_rows(np.array(scores, dtype=float), depth).tolist() == expected


def test_bm25_is_the_formula(module):
    pytest.importorskip("bm25s")
    lexical = module("tasks.lexical")
    texts = ["red red apple", "the green apple tree stands", "blue sky and sea", "blue blue", "sky"]
    search = lexical.BM25(list("abcde"), texts, lexical.BM25Settings(k1=1.2, b=0.5))
    kept = [[word for word in text.split() if word not in ("the", "and")] for text in texts]
    mean = sum(map(len, kept)) / 5
    for query in ("blue apple", "red sky sky", "THE sea", "unknown", ""):
        expected = []
        for words in kept:
            score = 0.0
            for word in [word for word in query.lower().split() if word != "the"]:
                frequency, holders = words.count(word), sum(word in other for other in kept)
                idf = math.log(1 + (5 - holders + 0.5) / (holders + 0.5))
                score += idf * frequency / (frequency + 1.2 * (1 - 0.5 + 0.5 * len(words) / mean))
            expected.append(score)
        order = [row for row in sorted(range(5), key=lambda row: -expected[row]) if expected[row] > 0][:3]
        found = search({"q": query}, 3)
        assert found.documents == {"q": ["abcde"[row] for row in order]}, query
        np.testing.assert_allclose(found.scores["q"], [expected[row] for row in order], rtol=1e-5)


@pytest.mark.slow
@pytest.mark.skipif("LMINDEXER_DATA" not in os.environ, reason="needs the data sets")
def test_bm25_on_nfcorpus(module):
    """NDCG@10 is .308 by another BM25 without stemming, .32 to .325 as published for those with it."""
    pytest.importorskip("bm25s")
    pytest.importorskip("Stemmer")
    lexical, folder = module("tasks.lexical"), Path(os.environ["LMINDEXER_DATA"]) / "nfcorpus"
    beir = module("data.beir").BeirFolder(folder)
    ids, texts, qrels = list(beir.documents["id"]), list(beir.documents["text"]), beir.qrels("test")
    queries = {query: beir.queries[query] for query in qrels}
    for stemmer, expected in ((None, 0.308), ("english", 0.3225)):
        found = lexical.BM25(ids, texts, lexical.BM25Settings(stemmer=stemmer))(queries, 10).documents
        assert ranking_figures(found, qrels, ["ndcg@10"]).means()["ndcg@10"] == pytest.approx(expected, abs=0.005)


def test_stemming_finds_other_forms(module):
    pytest.importorskip("bm25s")
    pytest.importorskip("Stemmer")
    lexical = module("tasks.lexical")
    texts = ["running shoes", "a red hat"]
    assert lexical.BM25([1, 2], texts)({"q": "shoe"}, 2).documents == {"q": []}
    stemmed = lexical.BM25([1, 2], texts, lexical.BM25Settings(stemmer="english"))
    assert stemmed({"q": "shoe runs"}, 2).documents == {"q": [1]}


def test_a_dual_encoder_ranks_by_cosine(module, encoder, monkeypatch):
    dense = module("tasks.dense")
    monkeypatch.setattr(dense, "_QUERIES_AT_ONCE", 2)
    queries = {"a": TEXTS[3], "b": f"{WORDS[0]} {WORDS[5]}", "c": TEXTS[7]}
    found = dense.DualEncoder(IDS, TEXTS, encoder, quiet=True)(queries, 5)
    vectors, texts = (embed_texts(encoder, list(part), quiet=True) for part in (TEXTS, queries.values()))
    for query, vector in zip(queries, texts, strict=True):
        cosines = vectors @ vector / np.linalg.norm(vectors, axis=1) / np.linalg.norm(vector)
        assert found.documents[query] == [IDS[row] for row in np.argsort(-cosines, kind="stable")[:5]]
        np.testing.assert_allclose(found.scores[query], np.sort(cosines)[::-1][:5], rtol=1e-5)
    assert found.documents["a"][0] == "d3" and found.documents["c"][0] == "d7"


@pytest.mark.slow
def test_fine_tuning_brings_queries_to_their_documents(module, encoder, tmp_path):
    pytest.importorskip("sentence_transformers")
    dense = module("tasks.dense")
    queries = [" ".join(text.split()[:2]) for text in TEXTS]
    pairs = datasets.Dataset.from_dict({"query": queries, "document": TEXTS, "target": IDS})
    dense.fine_tune(encoder, pairs, tmp_path / "out", dense.FineTuning(20, batch_size=12, learning_rate=1e-2))
    ranks = []
    for folder in (encoder, tmp_path / "out"):
        found = dense.DualEncoder(IDS, TEXTS, folder, quiet=True)(dict(zip(IDS, queries, strict=True)), 12)
        ranks.append(np.mean([found.documents[own].index(own) for own in IDS]))
    assert ranks[1] < 0.5 * ranks[0]


def call(module, monkeypatch, capsys, *arguments) -> str:
    monkeypatch.setattr(sys, "argv", ["text_rivals.py", *map(str, arguments)])
    module("text_rivals").main()
    return capsys.readouterr().out


def test_the_script(module, monkeypatch, capsys, beir, encoder, tmp_path):
    """A run per split but train; done, nothing is searched again; other settings are refused."""
    arguments = ("--beir_dir", beir, "--method", "dense", "--output_dir", tmp_path / "out", "--encoder", encoder)
    printed = call(module, monkeypatch, capsys, *arguments)
    left = {"metrics.json", "run.dev.trec", "run.test.trec", "settings.json"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == left
    run = read_run(tmp_path / "out" / "run.test.trec")
    assert set(run) == {"q10", "q11"} and all(sorted(row) == sorted(IDS) for row in run.values())
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())["splits"]["test"]
    assert metrics["figures"]["recall@1"] == np.mean([run[f"q{i}"][0] == f"d{i}" for i in (10, 11)])
    assert "| test  | 2       |" in printed
    (tmp_path / "items.jsonl").unlink()
    assert call(module, monkeypatch, capsys, *arguments) == printed
    with pytest.raises(SystemExit, match="is of a run with other settings"):
        call(module, monkeypatch, capsys, *arguments, "--depth", 5)


@pytest.mark.slow
def test_the_script_fine_tunes_first(module, monkeypatch, capsys, beir, encoder, tmp_path):
    """Once: a run that was stopped after it takes the encoder that is there."""
    pytest.importorskip("sentence_transformers")
    out = tmp_path / "out"
    arguments = (
        "--beir_dir",
        beir,
        "--method",
        "dense",
        "--output_dir",
        out,
        "--encoder",
        encoder,
        "--train_epochs",
        2,
    )
    printed = call(module, monkeypatch, capsys, *arguments)
    weights = (out / "encoder" / "model.safetensors").read_bytes()
    assert weights != (encoder / "model.safetensors").read_bytes() and not (out / "encoder.part").exists()
    (out / "metrics.json").unlink()
    assert call(module, monkeypatch, capsys, *arguments).splitlines()[-4:] == printed.splitlines()[-4:]
    assert (out / "encoder" / "model.safetensors").read_bytes() == weights


def test_what_the_script_refuses(module, monkeypatch, capsys, beir, tmp_path):
    with pytest.raises(SystemExit):
        call(module, monkeypatch, capsys, "--beir_dir", beir, "--method", "dense", "--output_dir", tmp_path)
    assert "--method dense needs an --encoder" in capsys.readouterr().err
    for split in ("dev", "test"):
        (beir / "qrels" / f"{split}.tsv").unlink()
    with pytest.raises(SystemExit, match=r"has \['train'\]; expected a split to measure"):
        call(module, monkeypatch, capsys, "--beir_dir", beir, "--method", "bm25", "--output_dir", tmp_path / "out")

"""Recommendation by counting, by hand; and the table of the downstream benchmark."""

import fcntl
import gzip
import importlib
import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from datasets import Dataset
from tiny_training import tiny_tokenizer
from transformers import T5Config

from metrics.ranking_quality import RankingFigures, write_run
from modeling_lmindexer import SemanticIndex
from trainers.reassignment import reassign

ROOT = Path(__file__).parents[2]


@pytest.fixture
def module(monkeypatch):
    """A module of the benchmarks or of the examples by its name."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    monkeypatch.syspath_prepend(ROOT / "examples")
    return importlib.import_module


def test_what_comes_next(module):
    """After 2 came 3 twice and 4 once, after 1 came 2 thrice and 4 once; a user's last two items do not count."""
    counting, history = module("tasks.counting"), module("data.histories").History
    histories = [
        history("a", [1, 2, 3, 8, 8]), history("b", [1, 2, 3, 8, 9]), history("c", [1, 2, 4, 9, 8]),
        history("d", [1, 4, 9, 8]),
    ]  # fmt: skip
    counts, popular = counting.successors(histories), counting.popularity(histories)
    assert counts == {1: {2: 3, 4: 1}, 2: {3: 2, 4: 1}}
    assert popular == [1, 2, 3, 4]
    # 1 is the newest: 2 gets 3, 4 gets 1 + 1/2, 3 gets 2/2.
    assert counting.recommend_next([2, 1], counts, popular, 2) == [4, 3]
    assert counting.recommend_next([1], counts, popular, 2) == [2, 4]
    assert counting.recommend_next([5], counts, popular, 3) == [1, 2, 3], "nothing follows: what is popular"
    assert counting.recommend_next([7, 2, 5, 5, 5], counts, popular, 1) == [1], "only the last three count"
    assert counting.popularity(histories, 1)[-1] == 9 and counting.successors(histories, 1)[3] == {8: 2}
    found = counting.recommendations(histories, 3, with_validation=False)
    assert found["a"] == [4] and set(found) == set("abcd"), "no more items than there are"
    assert counting.recommendations(histories, 3, with_validation=True)["d"][0] == 2
    assert counting.recommendations(histories, 3, with_validation=False, counted=False)["d"] == [2, 3]


def test_what_is_bought_near_by(module):
    """A user's last two items do not count; what came before counts half, what is two away half as well."""
    counting, history = module("tasks.counting"), module("data.histories").History
    histories = [history("a", [1, 2, 3, 8, 8]), history("b", [4, 2, 9, 7]), history("c", [2, 3, 4])]
    near = counting.neighbours(histories)
    expected = {
        1: {2: 1 / 1.5**0.5, 3: 0.5 / 1.5**0.5}, 2: {3: 1 / 2**0.5, 1: 0.5 / 2**0.5, 4: 0.5 / 2**0.5},
        3: {2: 0.5 / 0.75**0.5, 1: 0.25 / 0.75**0.5}, 4: {2: 1.0},
    }  # fmt: skip
    assert near.keys() == expected.keys()
    for item, own in expected.items():
        assert near[item] == pytest.approx(own)
    found = counting.recommendations_at_any_distance(histories, 2)
    assert found["b"] == [3, 1], "of 2: 3, 4 and 1; 4 was had"
    assert found["c"] == [1, 4], "of 3: 1; 4 is the answer, and what is popular fills up"


@pytest.fixture
def data(tmp_path):
    """A data folder with twelve histories in place of Scientific's, and the answers."""
    folder = tmp_path / "data" / "amazon_scientific_2018"
    folder.mkdir(parents=True)
    histories = {f"u{i}": [1 + i % 3, 2 + i % 4, 3, 4 + i % 2, 6 + i] for i in range(12)}
    with gzip.open(folder / "sequences.txt.gz", "wt") as file:
        file.writelines(f"{user} {' '.join(map(str, items))}\n" for user, items in histories.items())
    return folder.parent, {user: [items[-1]] for user, items in histories.items()}


def test_the_tables(module, data, tmp_path, monkeypatch, capsys):
    """A run that finds everything is above counting, beside it stands its fusion; seeds make one row."""
    folder, answers = data
    runs = {"perfect=": answers, "half:0=": answers, "half:1=": {"u0": [7]}}
    argv = ["downstream.py", "record", "--set", "scientific", "--data", str(folder), "--records", str(tmp_path)]
    argv.append("--runs")
    for name, rankings in runs.items():
        own = tmp_path / name.replace(":", "")
        own.mkdir()
        write_run(own / "run.test.trec", rankings, None)
        argv.append(f"{name}{own}")
    monkeypatch.setattr(sys, "argv", argv)
    module("downstream").main()
    monkeypatch.setattr(sys, "argv", ["downstream.py", "tables", "--set", "scientific", "--records", str(tmp_path)])
    module("downstream").main()
    out = capsys.readouterr().out
    lines = {line.split("|")[1].strip(): line for line in out.splitlines() if "|" in line}
    assert "scientific, test, 12 queries" in out
    assert "| 1.0000          | +1.0000 (p 0.0005)" in lines["perfect"]
    assert "| 2     | 0.5000 (0.7071)" in lines["half"]
    assert "perfect + co-occurrence" in lines and "0.0000" in lines["co-occurrence"]


def test_the_tables_of_a_beir_folder(module, tmp_path, monkeypatch, capsys):
    """BM25 beside every run, one table per test split; `dev` and `train` are none."""
    pytest.importorskip("bm25s")
    folder = tmp_path / "data" / "nfcorpus"
    (folder / "qrels").mkdir(parents=True)
    words = ["red apple pie", "green apple tart", "blue cheese dip", "yellow plum jam"]
    rows = [{"_id": f"d{i}", "title": "", "text": text} for i, text in enumerate(words)]
    (folder / "corpus.jsonl").write_text("\n".join(map(json.dumps, rows)))
    queries = [{"_id": f"q{i}", "text": text} for i, text in enumerate(["plum", "cheese", "apple tart", "nothing"])]
    (folder / "queries.jsonl").write_text("\n".join(map(json.dumps, queries)))
    for split, judged in (("test", "q0\td3\t1\nq3\td0\t1\n"), ("test_unseen", "q1\td2\t2\n"), ("dev", "q2\td1\t1\n")):
        (folder / "qrels" / f"{split}.tsv").write_text("query-id\tcorpus-id\tscore\n" + judged)
    run = tmp_path / "run"
    run.mkdir()
    write_run(run / "run.test.trec", {"q3": ["d0"]}, None)
    common = ["--set", "nfcorpus", "--records", str(tmp_path / "records")]
    for more in (["record", *common, "--data", str(folder.parent), "--runs", f"own={run}"], ["tables", *common]):
        monkeypatch.setattr(sys, "argv", ["downstream.py", *more])
        module("downstream").main()
    out = capsys.readouterr().out
    assert "nfcorpus, test, 2 queries" in out and "nfcorpus, test_unseen, 1 queries" in out and "dev" not in out
    found = {line.split("|")[1].strip(): line.split("|")[3].strip() for line in out.splitlines() if "| 1 " in line}
    assert found["own"] == "0.5000" and found["own + BM25"] == "1.0000" and found["BM25"] == "1.0000"


def test_records_keep_the_newest_in_its_place(module, tmp_path):
    records = module("tasks.records").Records(tmp_path, "set")
    with pytest.raises(FileNotFoundError, match="record some runs"):
        records.read("test")
    assert records.splits() == []

    def figures(value, measure="recall@5"):
        return RankingFigures(["a", "b"], {measure: np.array([value, 1.0])})

    for system, seed, own in (("two", 1, figures(0.0)), ("one", 0, figures(0.25)), ("two", 1, figures(0.5, "mrr@5"))):
        records.add("test", system, seed, own)
    records.add("unseen", "one", 0, figures(0.75))
    found = module("tasks.records").Records(tmp_path, "set").read("test")
    assert list(found) == ["two", "one"] and records.splits() == ["test", "unseen"]
    assert found["two"][1].means() == {"mrr@5": 0.75} and found["one"][0].queries == ["a", "b"]


def test_tables_have_the_order_of_the_plan(module):
    plan = SimpleNamespace(rows={"cold": None, "warm": None}, identifiers={"LMIndexer": "", "HC": ""})
    names = ["HC, cold", "HC, cold + BM25", "BM25", "LMIndexer, warm", "LMIndexer, cold", "dense + BM25"]
    found = module("downstream").in_order({name: len(name) for name in names}, plan, " + BM25")
    assert list(found.items()) == [(name, len(name)) for name in (
        "BM25", "dense + BM25", "LMIndexer, cold", "HC, cold", "HC, cold + BM25", "LMIndexer, warm"
    )]  # fmt: skip


def test_what_is_run(module, data, tmp_path):
    """The command line of a run, once."""
    plan, training = module("tasks.plan"), module("tasks.training")
    entry = plan.TaskSet("recommendation", "own", "co-occurrence", [], "ndcg@10")
    settings = {"cutoffs": [5, 10], "history": "text", "queries_file": None}
    command = training.command_of(entry, Path("data"), Path("index"), settings, 3, tmp_path / "run")
    assert command[1].endswith("run_retrieval.py")
    text = " ".join(command[2:])
    assert "--items_file data/own/items.jsonl.gz" in text and "--cutoffs 5 10 --history text" in text
    assert "--seed 3" in text and "beir_dir" not in text and "queries_file" not in text
    script = "import sys; print('it says why'); sys.exit(3)"
    with pytest.raises(RuntimeError, match="(?s)ended with 3.*it says why"):
        training.run_logged([sys.executable, "-c", script], tmp_path / "run")
    (tmp_path / "run").mkdir()
    with open(tmp_path / "run.log") as file, pytest.raises(RuntimeError, match="is being written by another process"):
        fcntl.flock(file, fcntl.LOCK_EX)
        training.run_logged([sys.executable, "-c", script], tmp_path / "run")
    (tmp_path / "run" / "metrics.json").write_text("{}")
    training.run_logged([sys.executable, "-c", script], tmp_path / "run")  # done already
    with pytest.raises(RuntimeError, match="is of a run with other settings"):
        training.run_logged([sys.executable, "-c", "other settings"], tmp_path / "run")
    (tmp_path / "index.json").write_text('{"seed": 1}')
    with pytest.raises(RuntimeError, match="is of a run with other settings"):
        training.run_logged([sys.executable, "-c", script], tmp_path / "run", index=tmp_path / "index")
    assert training.described(tmp_path / "a=0.5-0") != training.described(tmp_path / "a=0.5-1")


def test_runs_that_are_asked_for(module, tmp_path, monkeypatch):
    """Every kind of IDs and seed of a row, with its own codebooks; `index` and `train` mean the same folders."""
    downstream, made, trained, recorded = module("downstream"), [], [], []
    text = (ROOT / "benchmarks" / "downstream.yaml").read_text()
    config = tmp_path / "plan.yaml"
    rows = {
        "new": {"identifiers": ["random", "HC"], "seeds": [0, 1]},
        "two codes": {"identifiers": ["HC"], "sizes": [9, 8], "settings": {"history": "text"}},
        "trials": {"identifiers": ["HC"], "indexer": {"restarts": 9}},
        "elsewhere": {"identifiers": ["HC"], "sets": ["squad"]},
    }
    config.write_text(text[: text.index("\nrows:")] + "\nrows: " + json.dumps(rows))
    monkeypatch.setattr(downstream, "make_index", lambda bench, *values: made.append(values))
    monkeypatch.setattr(downstream, "run_logged", lambda command, folder, index: trained.append(command))
    record = lambda self, records, name, seed, folder: recorded.append((name, seed, folder.name))  # noqa: E731
    monkeypatch.setattr(downstream.Judged, "record", record)
    common = [
        "--config",
        config,
        "--set",
        "beauty",
        "--data",
        tmp_path,
        "--output_dir",
        tmp_path,
        "--records",
        tmp_path,
    ]
    for more in (["index", "--encoder", tmp_path, "--seeds", 0], ["train"], ["train", "--rows", "two codes"]):
        monkeypatch.setattr(sys, "argv", ["downstream.py", *map(str, [more[0], *common, *more[1:]])])
        downstream.main()
    assert [(method, sizes, seed, folder.name) for method, _, sizes, seed, folder, _ in made] == [
        ("random", [128] * 3, 0, "beauty-random-128x128x128-0"), ("hc", [128] * 3, 0, "beauty-hc-128x128x128-0"),
        ("hc", [9, 8], 0, "beauty-hc-9x8-0"), ("hc", [128] * 3, 0, "beauty-hc-128x128x128-restarts=9-0"),
    ]  # fmt: skip
    assert [settings for *_, settings in made] == [{}, {}, {}, {"restarts": 9}]
    names = [(name, seed) for name, seed, _ in recorded]
    once = [
        ("random, new", 0),
        ("HC, new", 0),
        ("random, new", 1),
        ("HC, new", 1),
        ("HC, two codes", 0),
        ("HC, trials", 0),
    ]
    assert names == [*once, once[-2]] and recorded[-1][2] == "beauty-hc-two_codes-0"
    assert str(made[2][-2]) in trained[-1] and str(made[0][-2]) in trained[0]
    history = [" ".join(command).split("--history ")[1].split()[0] for command in trained]
    assert history == ["ids"] * 4 + ["text", "ids", "text"], "settings of the row are above those of the set"


def test_what_a_run_starts_from(module, tmp_path):
    training = module("tasks.training")
    (tmp_path / "config.json").touch()
    for start, folder in (("encoder", tmp_path / "minilm"), ("indexer", tmp_path)):
        settings = {"model_name_or_path": start, "seed": 1}
        found = training.start_from(tmp_path / "minilm", tmp_path, settings, tmp_path / "states")
        assert found == {"model_name_or_path": folder, "seed": 1, "encoder_cache_dir": tmp_path / "states"}
    assert training.start_from(None, tmp_path, {"seed": 1}, tmp_path) == {"seed": 1}
    for start, message in (("encoder", "give its folder as --encoder"), ("indexer", "holds no indexer")):
        with pytest.raises(ValueError, match=message):
            training.start_from(None, tmp_path / "none", {"model_name_or_path": start}, tmp_path)


def test_queries_are_made_once(module, tmp_path, monkeypatch):
    """Those of a set that has none to learn from."""
    plan, training = module("tasks.plan"), module("tasks.training")
    shop = tmp_path / "shop"
    shop.mkdir()
    (shop / "items.jsonl").write_text('{"id": "a", "title": "soap"}\n{"id": "b", "title": "comb"}\n')
    (shop / "queries.jsonl").write_text('{"_id": "q", "text": "wash"}\n')
    entry = plan.TaskSet("search", "shop", "BM25", [], "ndcg@10", queries={"method": ["titles"], "num_queries": 1})
    path = training.make_queries(entry, tmp_path, tmp_path / "made")
    assert [json.loads(line)["text"] for line in path.read_text().splitlines()] == ["soap", "comb"]
    monkeypatch.setattr(training.subprocess, "run", None)
    assert training.make_queries(entry, tmp_path, tmp_path / "made") == path
    assert training.make_queries(replace(entry, queries=None), tmp_path, tmp_path / "other") is None


def test_the_plan_names_what_there_is(module, tmp_path):
    plan = module("tasks.plan")
    read = plan.read_plan(ROOT / "benchmarks" / "downstream.yaml")
    methods = module("quality.plan").read_plan(ROOT / "benchmarks" / "id_quality.yaml").methods
    assert set(read.identifiers.values()) <= set(methods) and read.own in read.identifiers
    studies = plan.read_plan(ROOT / "benchmarks" / "downstream_studies.yaml")
    assert set(studies.identifiers.values()) <= set(methods) and set(studies.sets) <= set(read.sets)
    wrong = tmp_path / "wrong.yaml"
    for text, message in (("sets: {}", "rows"), ("sets: {a: {task: cooking}}\nrows: {}", "missing")):
        wrong.write_text(text)
        with pytest.raises(ValueError, match=message):
            plan.read_plan(wrong)


def test_an_index_is_made_once_and_shares_no_ids(module, tmp_path, monkeypatch):
    """Two documents with the same codes get different ones, and a second call makes nothing."""
    identifiers, found = module("tasks.identifiers"), []
    monkeypatch.setattr(identifiers, "best_of", lambda bench, method: {"choice": method})

    class Bench:
        plan = SimpleNamespace(methods={"hc": SimpleNamespace(learns=True)})

        def key(self, *values):
            return {"key": list(values)}

        def find(self, key):
            found.append(key)
            codes, names = np.array([[0, 1], [0, 1], [1, 0]])[:, : len(key["key"][-2])], ["a", "b", "c"]
            even = lambda position, rows, prefixes: np.ones((len(rows), 2))  # noqa: E731
            unique = lambda: reassign(codes, [2, 2], even, names)  # noqa: E731
            save = lambda folder: (folder / "config.json").touch()  # noqa: E731
            return SimpleNamespace(minutes=None, codes=codes, reassign=unique, save_model=save)

        def corpus(self, name):
            return SimpleNamespace(ids=["a", "b", "c"])

    for _ in range(2):
        identifiers.make_index(Bench(), "hc", "scientific", [2, 2], 5, tmp_path / "index", {"restarts": 9})
    assert found == [{"key": ["downstream", "scientific", "hc", {"choice": "hc", "restarts": 9}, [2, 2], 5]}]
    index = SemanticIndex.from_pretrained(tmp_path / "index")
    assert index.document_ids == ["a", "b", "c"] and not index.has_disambiguation
    assert len(np.unique(index.codes, axis=0)) == 3
    identifiers.make_index(Bench(), "hc", "scientific", [2], 5, tmp_path / "short", {})
    assert (tmp_path / "index" / "config.json").exists()
    short = SemanticIndex.from_pretrained(tmp_path / "short")
    assert short.has_disambiguation and short.codes.tolist() == [[0, 0], [0, 1], [1, 0]]


def test_latency_counts_what_a_search_computes(module):
    """More beams, more operations; IDs that are drawn are all different."""
    latency = module("latency")
    indexes = latency.drawn_indexes(list(range(40)), 0)
    assert {name: index.codes.shape[1] for name, index in indexes.items()} == {"drawn": 3, "drawn, with a counter": 4}
    assert all(len(np.unique(index.codes, axis=0)) == 40 for index in indexes.values())
    texts = Dataset.from_dict({"id": ["0", "1"], "text": ["common1 common2", "common3"], "relevant": [[0], [1]]})
    tokenizer, config = tiny_tokenizer(), T5Config(d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2)
    model = latency.indexer_for(indexes["drawn"], config, 0).eval()
    queries = latency.Queries.of(texts, indexes["drawn"], tokenizer, 8)
    operations = []
    for beams in (2, 8):
        searcher = latency.Searcher(model, indexes["drawn"], 0, num_beams=beams, top_k=beams, quiet=True)
        seconds, gflops = latency.measure(searcher, queries, 1)
        operations.append(gflops)
    assert 0 < operations[0] < operations[1] < 1 and seconds > 0


@pytest.mark.slow
@pytest.mark.skipif("LMINDEXER_DATA" not in os.environ, reason="needs LMINDEXER_DATA")
def test_counting_on_scientific(module):
    """As others counted: R@5 .0831, N@5 .0697, R@10 .0992, N@10 .0748; .0881 and .1047 with validation items."""
    entry = module("tasks.plan").read_plan(ROOT / "benchmarks" / "downstream.yaml").sets["scientific"]
    judged = module("tasks.systems").Judged(entry, Path(os.environ["LMINDEXER_DATA"]))
    figures = {name: judged.figures(found["test"], "test").means() for name, found in judged.untrained.items()}
    assert list(figures["co-occurrence"].values()) == pytest.approx([0.0831, 0.0697, 0.0992, 0.0748], abs=2e-4)
    counted = figures["co-occurrence, validation counted"]
    assert counted["recall@5"] == pytest.approx(0.0881, abs=3e-4)
    assert counted["recall@10"] == pytest.approx(0.1047, abs=3e-4)

"""The comparison of ID qualities on a tiny corpus, from the trials to the tables; its figures are not looked at."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from tiny_training import TOPICS, WORDS, tiny_corpus, tiny_tokenizer
from transformers import BertConfig, BertModel, set_seed

from trainers.rivals import make_indexer

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
PLAN = {
    "families": {
        "pretrained": None,
        "scratch": {"encoder_per_set": True},
        "unfrozen": {"chosen_in": "pretrained", "max_length": 14, "settings": {"freeze_encoder": False}},
    },
    "sets": {"one": {"file": "one.jsonl", "max_length": 16}, "two": {"file": "two.jsonl", "max_length": 12}},
    "chosen_on": "one",
    "sizes": [[6, 12], [8, 8]],
    "matched_sizes": [4, 8],
    "tuning_size": 6,
    "least_share": 0.3,
    "tolerance": 0.3,
    "methods": {
        "lmindexer": {
            "preset": "best",
            "settings": {
                "num_decoder_layers": 1, "num_decoder_heads": 2, "num_train_epochs": 0.5, "continuous_epochs": [0.5],
                "reconstructor_epochs": 0.5, "per_device_train_batch_size": 30, "min_document_frequency": 1,
                "max_document_frequency": 1.0,
            },
            "grid": [{"learning_rate": [0.001, 0.01]}],
        },
        "pq": {"positions": 2, "grid": [{"rotation": ["none", "components"]}]},
        "kmeans-tfidf": {
            "indexer": "residual-kmeans",
            "grid": [{"tfidf_weight": 0.5, "words_without_brands": [False, True]}, {"restarts": [1, 2]}],
            "second": [{"unit_residuals": [False, True]}],
        },
        "random": None,
    },
}  # fmt: skip


@pytest.fixture
def benchmark(monkeypatch):
    """A module of the benchmark by its name."""
    import importlib

    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module


@pytest.fixture
def run(benchmark, monkeypatch, capsys, tmp_path):
    """The benchmark with arguments, and what it prints."""
    tiny_files(tmp_path)

    def call(*arguments) -> str:
        command = [arguments[0], "--config", tmp_path / "plan.yaml", "--output_dir", tmp_path / "out", *arguments[1:]]
        if arguments[0] in ("tune", "compare", "match"):
            command += ["--data", tmp_path, "--encoder", tmp_path / "encoder"]
        monkeypatch.setattr(sys, "argv", ["id_quality.py", *map(str, command)])
        benchmark("id_quality").main()
        return capsys.readouterr().out

    return call


def tiny_files(folder: Path) -> None:
    """Two data sets, a random encoder, the plan."""
    for name, copies in (("one", 5), ("two", 4)):
        rows = [
            {"id": row["id"], "title": row["text"], "brand": WORDS[-1 - i % 3], "categories": row["category"]}
            for i, row in enumerate(tiny_corpus(copies))
        ]
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    set_seed(0)
    shape = {"num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32, "initializer_range": 0.5}
    BertModel(BertConfig(vocab_size=len(WORDS) + 3, hidden_size=16, **shape)).save_pretrained(folder / "encoder")
    tiny_tokenizer().save_pretrained(folder / "encoder")
    (folder / "plan.yaml").write_text(yaml.safe_dump(PLAN, sort_keys=False))


def read_rows(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "out" / "results.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_from_trials_to_tables(benchmark, run, tmp_path):
    run("tune")
    trials = read_rows(tmp_path)
    assert [row["method"] for row in trials] == ["lmindexer"] * 2 + ["pq"] * 2 + ["kmeans-tfidf"] * 6 + ["random"]
    assert all("ami_1" not in row and -1 <= row["ami_for_choices"] <= 1 for row in trials)
    assert {(row["kind"], len(row["sizes"])) for row in trials} == {("tune", 1), ("tune", 2), ("tune second", 2)}
    run("choose")
    best = yaml.safe_load((tmp_path / "out" / "best.yaml").read_text())["pretrained"]
    plan = benchmark("quality.plan").read_plan(tmp_path / "plan.yaml")
    resolved = {name: plan.methods[name].resolved(trial, 1) for name, trial in best.items()}
    assert "unit_residuals" in best["kmeans-tfidf"] and best["random"] == {}
    assert [len(resolved["lmindexer"][name]) for name in ("anchor_smoothing", "code_choice")] == [1, 1]
    for method in ("lmindexer", "pq", "kmeans-tfidf"):
        tried = [row for row in trials if row["method"] == method and row["perplexity"] >= 0.3 * 6]
        tried = [row for row in tried if row["kind"] == "tune"]
        chosen = next(row for row in tried if row["settings"].items() <= resolved[method].items())
        assert chosen["ami_for_choices"] == max(row["ami_for_choices"] for row in tried)

    for seed in (0, 1):
        run("compare", "--set", "one", "--seed", seed, "--sizes", 6, 12)
    run("compare", "--set", "two", "--methods", "kmeans-tfidf", "lmindexer")
    compared = [row for row in read_rows(tmp_path) if row["kind"] == "compare"]
    assert len(compared) == 2 * 4 + 2 * 2
    for row in compared:
        assert row["left_colliding"] == 0 and row["ami_within_2"] <= 1 and row["minutes"] > 0
    assert all("ami_for_choices" not in row for row in compared)

    assert "some sizes are missing" in run("match", "--set", "one")
    run("match", "--set", "two", "--methods", "kmeans-tfidf")
    swept = [row for row in read_rows(tmp_path) if row["kind"] == "sweep"]
    assert {row["sizes"][0] for row in swept if row["method"] == "pq" and row["set"] == "one"} >= {4, 8}
    assert all(("ami_for_choices" in row) == (row["set"] == "one") for row in swept)

    written = (tmp_path / "out" / "results.jsonl").read_bytes()
    for command in (("tune",), ("compare", "--set", "one", "--sizes", 6, 12), ("match", "--set", "one")):
        run(*command)
    assert (tmp_path / "out" / "results.jsonl").read_bytes() == written, "nothing is measured twice"
    assert not any(
        (tmp_path / "out" / name).exists() and any((tmp_path / "out" / name).iterdir()) for name in ("runs", "claims")
    )

    with pytest.raises(SystemExit, match="unfrozen takes over the choices of pretrained"):
        run("tune", "--family", "unfrozen")
    run("compare", "--family", "unfrozen", "--set", "two", "--sizes", 6, 12)
    taken_over = [row for row in read_rows(tmp_path) if row["family"] == "unfrozen"]
    assert [row["method"] for row in taken_over] == list(PLAN["methods"])
    for row in taken_over:
        other = next(old for old in compared if (old["method"], old["sizes"]) == (row["method"], row["sizes"]))
        learned = {"freeze_encoder": False} if row["method"] == "lmindexer" else {}
        assert row["settings"] == other["settings"] | learned and row["device"] == "cpu"

    printed = run("tables", "--figure", tmp_path / "out" / "ami.png")
    assert "unfrozen: two, 6 x 12 codes" in printed and "unfrozen: chosen settings" not in printed
    for expected in (
        "all families: lmindexer and its best rival", "| unfrozen   | two, 6 x 12 codes | 1     |",
        "pretrained: one, 6 x 12 codes", "| lmindexer    | 2     |", "documents left colliding", "minutes of one seed",
        "rivals at their best", "pretrained: chosen settings", "torch ",
    ):  # fmt: skip
        assert expected in printed
    assert (tmp_path / "out" / "ami.png").stat().st_size > 10_000


def test_choices_look_at_half_of_one_set(benchmark, tmp_path):
    tiny_files(tmp_path)
    corpora, plan = benchmark("quality.corpora"), benchmark("quality.plan")
    one = corpora.read_corpus(tmp_path, plan.DataSet("one.jsonl", 16), True)
    two = corpora.read_corpus(tmp_path, plan.DataSet("two.jsonl", 16), False)
    assert one.for_choices.sum() == 30 and (one.for_choices ^ one.reported).all()
    assert not two.for_choices.any() and two.reported.all()
    assert all(brand in text for brand, text in zip(one.brands, one.texts, strict=True))
    assert not any("topic 0" in text for text in one.texts) and len({path[0] for path in one.categories}) == TOPICS
    for table in (one, one):
        assert (
            corpora.read_corpus(tmp_path, plan.DataSet("one.jsonl", 16), True).for_choices == table.for_choices
        ).all()


def test_embeddings_belong_to_an_encoder(benchmark, tmp_path):
    tiny_files(tmp_path)
    corpora, plan = benchmark("quality.corpora"), benchmark("quality.plan")
    corpus = corpora.read_corpus(tmp_path, plan.DataSet("one.jsonl", 16), True)
    vectors = corpora.embed(corpus, tmp_path / "encoder", tmp_path / "one.npy")
    assert vectors.shape == (60, 16)
    assert (corpora.embed(corpus, tmp_path / "encoder", tmp_path / "one.npy") == vectors).all()
    BertModel(BertConfig(vocab_size=64, hidden_size=16, num_hidden_layers=1, num_attention_heads=2)).save_pretrained(
        tmp_path / "encoder"
    )
    with pytest.raises(ValueError, match="give another --output_dir"):
        corpora.embed(corpus, tmp_path / "encoder", tmp_path / "one.npy")


def test_rows_are_shared_by_processes(benchmark, tmp_path):
    rows = benchmark("quality.rows")
    results, beside = rows.Results(tmp_path), rows.Results(tmp_path)
    key = dict.fromkeys(rows.KEY, 1)
    with results._claim(key, wait=False) as claimed:
        assert claimed and beside.row(key, lambda: pytest.fail("it is being measured")) is None
    assert beside.row(key, lambda: {"figure": 2})["figure"] == 2
    assert results.row(key, lambda: pytest.fail("it is there"))["figure"] == 2
    with open(results.path, "a") as file:
        file.write('{"kind": "cut of')
    other = key | {"seed": 2}
    results.row(other, lambda: {"figure": 3})
    assert [row["figure"] for row in rows.Results(tmp_path).rows()] == [2, 3]
    assert beside.rows(seed=2) == [other | {"figure": 3}]


def test_no_goal_is_about_a_control(benchmark):
    plan, tables = benchmark("quality.plan"), benchmark("quality.tables")
    names = {"lmindexer": {}, "pq": {}, "micro": {"control": True}, "random": {}}
    methods = {name: plan.Method(**{"indexer": name, "grid": []} | entry) for name, entry in names.items()}
    bench = type("Bench", (), {"plan": plan.Plan({}, {"one": None}, "one", [[6]], [6], methods)})()
    row = {"perplexity_share_1": 1.0, "neighbours_1": 0.5, "neighbours_chance_1": 0.1, "minutes": 1.0}
    amis = dict(zip(names, (0.5, 0.4, 0.6, 0.0), strict=True))
    group = tables.Group("one", [6], {name: [row | {"ami_1": ami}] for name, ami in amis.items()})
    assert tables.best_rival(bench, group, "ami_1") == "pq"
    assert "micro (control)" in tables.comparison_table(bench, group)
    ratios = {goal[0]: goal[2] for goal in tables.rival_goals(bench, group)}
    assert ratios["AMI over the best rival's"] == 0.5 / 0.4


def test_minutes_are_of_a_cpu(benchmark):
    """Of rows that a GPU did, a line says so."""
    tables = benchmark("quality.tables")
    rows = [{"seed": 0, "minutes": 6.0}, {"seed": 2, "minutes": 0.5, "device": "GPU"}]
    rows += [{"seed": 1, "minutes": 0.6, "device": "GPU"}, {"seed": 3, "minutes": 4.0, "device": "cpu"}]
    group = tables.Group("one", [6], {"lmindexer": rows, "pq": rows[:1]})
    assert group.mean("lmindexer", tables.cpu_minutes) == 5.0
    assert list(tables.elsewhere(group)) == ["lmindexer, seed 1, 2: on GPU."]


def test_bars_of_equal_seeds_have_no_error(benchmark):
    """The mean of three equal values may be above them in the last bit."""
    from matplotlib import pyplot

    value = 0.1
    group = benchmark("quality.tables").Group("one", [6], {"pq": [{"ami_1": value}] * 3})
    assert group.mean("pq", "ami_1") > value
    canvas, axis = pyplot.subplots()
    benchmark("quality.figure").draw(axis, group, "lmindexer")
    pyplot.close(canvas)


def test_sizes_lead_to_a_perplexity(benchmark, monkeypatch):
    matching = benchmark("quality.matching")
    asked = []

    def measure(bench, name, method, size, seed):
        asked.append(size)
        return {"perplexity_1": 0.9 * size**0.9}

    monkeypatch.setattr(matching, "measure", measure)
    bench = type("Bench", (), {"plan": type("Plan", (), {"tolerance": 0.01}), "corpus": lambda self, name: self})()
    bench.texts = [""] * 2000
    for perplexity in (5, 90, 300):
        asked.clear()
        size = matching.size_of_perplexity(bench, "one", "micro", 0, perplexity)
        assert abs(0.9 * size**0.9 / perplexity - 1) <= (0.01 if perplexity > 5 else 0.1) and len(asked) <= 5
    assert matching.size_of_perplexity(bench, "one", "micro", 0, 5000) == 1000


def test_plans_say_what_is_wrong(benchmark, tmp_path):
    read = benchmark("quality.plan").read_plan
    assert read(BENCHMARKS / "id_quality.yaml").trials == 20
    for change, message in (
        ({"chosen_on": "three"}, "the sets are one, two"),
        ({"trials": 1}, "lmindexer has 2 trials; every method has 1 at most"),
        ({"metods": {}}, "unexpected keyword argument 'metods'; a plan has families, sets"),
        ({"families": {"one": {"chosen_in": "two"}}}, "chosen_in of one is 'two'; the families are one"),
    ):
        (tmp_path / "plan.yaml").write_text(yaml.safe_dump(PLAN | change, sort_keys=False))
        with pytest.raises(ValueError, match=message):
            read(tmp_path / "plan.yaml")


def test_the_control_clusters_what_neighbours_of_other_brands_share(benchmark):
    """By hand: the mean of a document's vector and those of its five nearest of other brands, on length 1."""
    methods, corpora = benchmark("quality.methods"), benchmark("quality.corpora")
    documents = tiny_corpus(5).map(lambda row, i: {"excluded": WORDS[-1 - i % 3]}, with_indices=True)
    everything = np.ones(len(documents), dtype=bool)
    corpus = corpora.Corpus(documents, 16, everything, everything)
    vectors = np.random.default_rng(0).normal(size=(len(documents), 8)).astype(np.float32)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    cosines = np.where(np.arange(len(unit))[:, None] % 3 == np.arange(len(unit)) % 3, -2, unit @ unit.T)
    means = unit + unit[np.argsort(-cosines, axis=1)[:, :5]].sum(axis=1)
    expected = make_indexer("residual-kmeans", {}).fit(means, [6], 1).codes
    found = methods.run_rival("residual-kmeans", {"neighbour_steps": 1}, corpus, vectors, [6], 1)
    np.testing.assert_array_equal(found.codes, expected)
    plain = methods.run_rival("residual-kmeans", {"neighbour_steps": 0}, corpus, vectors, [6], 1)
    assert (plain.codes != found.codes).any()

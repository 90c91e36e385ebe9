"""Figures of rankings against definitions written out, and TREC files."""

import itertools
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import ir_measures
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metrics.ranking_quality import (
    RankingError,
    confidence_interval,
    expected_figures,
    fuse,
    paired_test,
    ranking_figures,
    read_qrels,
    read_run,
    write_qrels,
    write_run,
)

DOCUMENTS = list("abcdefg")
K = (1, 3, 10)
judgements = st.dictionaries(st.sampled_from(DOCUMENTS), st.integers(0, 3)).filter(lambda row: any(row.values()))
rankings = st.lists(st.sampled_from(DOCUMENTS), unique=True)


def by_hand(ranking, gains):
    """Every measure of one ranking, by its definition."""
    relevant = {doc for doc, gain in gains.items() if gain > 0}
    found = {}
    for k in K:
        hits = [doc in relevant for doc in ranking[:k]]
        precisions = [sum(hits[: rank + 1]) / (rank + 1) for rank, hit in enumerate(hits) if hit]
        gained = sum(gains.get(doc, 0) / math.log2(rank + 2) for rank, doc in enumerate(ranking[:k]))
        ideal = sum(gain / math.log2(rank + 2) for rank, gain in enumerate(sorted(gains.values(), reverse=True)[:k]))
        found |= {
            f"recall@{k}": sum(hits) / len(relevant), f"hit@{k}": float(any(hits)), f"precision@{k}": sum(hits) / k,
            f"map@{k}": sum(precisions) / len(relevant), f"ndcg@{k}": gained / ideal,
            f"mrr@{k}": max((1 / (rank + 1) for rank, hit in enumerate(hits) if hit), default=0.0),
        }  # fmt: skip
    return found


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.none() | rankings, judgements), min_size=1, max_size=4))
def test_measures_by_their_definitions(rows):
    """Queries without a ranking count too; ids may be numbers."""
    qrels = {query: gains for query, (_, gains) in enumerate(rows)}
    ranked = {query: ranking for query, (ranking, _) in enumerate(rows) if ranking is not None}
    expected = [by_hand(ranking or [], gains) for ranking, gains in rows]
    figures = ranking_figures(ranked, qrels, list(expected[0]))
    assert figures.queries == [str(query) for query in qrels]
    for name, values in figures.values.items():
        np.testing.assert_allclose(values, [row[name] for row in expected], atol=1e-12)
        assert figures.means()[name] == pytest.approx(values.mean())
    part = figures.subset([0])
    assert part.queries == ["0"] and part.means()["recall@3"] == pytest.approx(expected[0]["recall@3"])


@settings(max_examples=60, deadline=None)
@given(rankings, st.lists(st.integers(0, 2), min_size=7, max_size=7), judgements)
def test_documents_that_share_a_place(documents, borders, gains):
    """The mean over all orders inside the groups."""
    groups, rest = [], documents
    for size in borders:
        groups, rest = [*groups, rest[:size]], rest[size:]
    orders = itertools.product(*(list(itertools.permutations(group)) for group in groups))
    every = [by_hand([doc for group in order for doc in group], gains) for order in orders]
    found = expected_figures({"q": groups}, {"q": gains}, K)
    for name, value in found.items():
        assert value == pytest.approx(np.mean([row[name] for row in every]))


def test_single_places_are_a_plain_ranking():
    ranked, qrels = {1: ["b", "a"], 2: []}, {1: {"a": 1}, 2: {"a": 2}, 3: {"b": 1}}
    plain = ranking_figures(ranked, qrels, ["recall@2", "ndcg@2"]).means()
    assert expected_figures({query: [[doc] for doc in row] for query, row in ranked.items()}, qrels, [2]) == plain


@pytest.mark.parametrize(
    ("ranked", "qrels", "measures", "message"),
    [
        ({1: ["a", "b", "a"]}, {1: {"a": 1}}, ["recall@1"], "Query 1 has document 'a' twice"),
        ({2: ["a"]}, {1: {"a": 1}}, ["recall@1"], "Query 2 has a ranking and no judgement"),
        ({1: ["a"]}, {1: {"a": 0}}, ["recall@1"], "Query 1 has no relevant document"),
        ({}, {}, ["recall@1"], "no judged queries"),
        ({1: ["a"]}, {1: {"a": 1}}, ["recal@1"], "no measure 'recal@1'; there are recall@k"),
        ({1: ["a"]}, {1: {"a": 1}}, ["recall@0"], "no measure 'recall@0'"),
        ({1: ["a"]}, {1: {"a": 1}}, ["recall@1", "recall@01"], "no measure 'recall@01'"),
        ({1: ["a"]}, {1: {"a": 0.5}}, ["recall@1"], "Query 1 has a gain that is no whole number"),
        ({1: ["a"]}, {1: {"a": 1}}, ["recall"], "no measure 'recall'"),
    ],
)
def test_what_cannot_be_evaluated(ranked, qrels, measures, message):
    with pytest.raises(RankingError, match=message):
        ranking_figures(ranked, qrels, measures)


def test_a_document_of_two_ids():
    with pytest.raises(RankingError, match="Query 1 has document 'a' twice"):
        expected_figures({1: [["a", "b"], ["a"]]}, {1: {"a": 1}}, [1])


def figures_of(values):
    """MRR of so many queries; every value is 1 or 0."""
    ranked = {query: ["a" if value else "b"] for query, value in enumerate(values)}
    return ranking_figures(ranked, {query: {"a": 1} for query in range(len(values))}, ["mrr@1"])


def test_paired_tests():
    """Of n queries that all say the same, 2 of the 2^n signs are as extreme."""
    better, worse = figures_of([1] * 8 + [0] * 4), figures_of([0] * 12)
    found = paired_test(better, worse, "mrr@1")
    assert found.difference == pytest.approx(8 / 12) and found.p_value == pytest.approx(2 / 2**8)
    assert paired_test(worse, better, "mrr@1") == (-found.difference, found.p_value)
    assert paired_test(better, better, "mrr@1") == (0.0, 1.0)
    many = figures_of([1, 0] * 2000), figures_of([0, 1] * 2000)
    assert paired_test(*many, "mrr@1").p_value > 0.9
    with pytest.raises(RankingError, match="the same queries"):
        paired_test(better, figures_of([1]), "mrr@1")
    with pytest.raises(RankingError, match="There is no map@1; there are mrr@1"):
        paired_test(better, worse, "map@1")


def test_intervals():
    """Of a share of n, about 1.96 standard errors to both sides."""
    values = np.repeat([1.0, 0.0], [300, 700])
    low, high = confidence_interval(values)
    error = 1.96 * math.sqrt(0.3 * 0.7 / 1000)
    assert low == pytest.approx(0.3 - error, abs=0.004) and high == pytest.approx(0.3 + error, abs=0.004)
    assert confidence_interval(values) == (low, high)
    assert confidence_interval(np.ones(5)) == (1.0, 1.0)


@settings(max_examples=30, deadline=None)
@given(
    st.dictionaries(st.sampled_from(["1", "u2"]), st.lists(st.sampled_from(DOCUMENTS), unique=True, min_size=1)),
    st.lists(st.sampled_from([0.0, -1.25, -1.250001, -1e3, -54321.0]), min_size=7, max_size=7),
)
def test_runs_are_read_as_they_were_ranked(tmp_path_factory, ranked, scores):
    """Also by tools that sort by score in single precision, with equal scores."""
    path = tmp_path_factory.mktemp("run") / "run.trec"
    falling = sorted(scores, reverse=True)
    write_run(path, ranked, {query: falling[: len(row)] for query, row in ranked.items()})
    assert read_run(path) == ranked
    for query, row in ranked.items():
        theirs = [one for one in ir_measures.read_trec_run(str(path)) if one.query_id == query]
        order = sorted(theirs, key=lambda one: (np.float32(one.score), one.doc_id), reverse=True)
        assert [one.doc_id for one in order] == row
    write_run(path, ranked, None)
    assert read_run(path) == ranked and not path.with_name("run.trec.part").exists()


def test_wrong_files(tmp_path):
    path = tmp_path / "file"
    for text, message in (
        ("q Q0 a 1 1.0 x\nq Q0 b 1 0.5 x\n", "line 2: query q has rank 1 twice, for a and b"),
        ("q Q0 a 1 1.0 x\nq Q0 a 2 0.5 x\n", "line 2: query q ranks a twice"),
        ("q Q0 a 1 1.0 x\n\nq a 2\n", "line 3: 'q a 2'; expected query Q0 document rank score name"),
    ):
        path.write_text(text)
        with pytest.raises(RankingError, match=message):
            read_run(path)
    path.write_text("query-id\tcorpus-id\tscore\nq\ta\tmany\n")
    with pytest.raises(RankingError, match="line 2: 'q a many'; expected"):
        read_qrels(path)
    with pytest.raises(RankingError, match="document id 'a b' has white space"):
        write_run(path, {"q": ["a b"]}, None)


def test_qrels_of_both_kinds(tmp_path):
    trec, beir = tmp_path / "qrels.trec", tmp_path / "qrels.tsv"
    trec.write_text("1 0 a 2\n1 0 b 0\n2 0 a -1\n")
    beir.write_text("query-id\tcorpus-id\tscore\n1\ta\t2\n1\tb\t0\n2\ta\t-1\n")
    judged = {"1": {"a": 2, "b": 0}, "2": {"a": -1}}
    assert read_qrels(trec) == read_qrels(beir) == judged
    beir.write_text("1\ta\t2\n1\ta\t2\n1\ta\t0\n")
    with pytest.raises(RankingError, match="line 3: query 1 judges a a second time, as 0; it was 2"):
        read_qrels(beir)
    write_qrels(tmp_path / "written.tsv", judged)
    assert read_qrels(tmp_path / "written.tsv") == judged


def test_fused_rankings():
    """By hand: 1/61 + 1/62 above 1/61, and that above 1/62."""
    assert fuse([{"q": ["a", "b"]}, {"q": ["c", "a"], "r": ["b"]}], 3) == {"q": ["a", "c", "b"], "r": ["b"]}
    assert fuse([{"q": ["a"]}, {"q": ["b"]}], 1) == {"q": ["a"]}


SHELL = """
import json, sys, evaluate
quality = evaluate.load(sys.argv[1])
quality.add_batch(predictions=[["a", "b"]], references=[["b"]])
quality.add_batch(predictions=[["a"]], references=[["c"]])
found = [quality.compute(measures=["recall@1", "mrr@5"])]
found.append(quality.compute(predictions=[["b", "a"]], references=[["a", "b"]], gains=[[2, 1]], measures=["ndcg@2"]))
try:
    quality.compute(predictions=[["a", "a"]], references=[["a"]])
except ValueError as error:
    found.append(str(error))
print(json.dumps(found))
"""


def test_evaluate_loads_the_folder_without_the_package(tmp_path):
    """Offline, from elsewhere, with nothing of ours on the path."""
    folder = Path(__file__).parents[2] / "metrics" / "ranking_quality"
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    environment |= {"HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1", "HF_EVALUATE_OFFLINE": "1"}
    command = [sys.executable, "-c", SHELL, str(folder)]
    run = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    means, gains, error = json.loads(run.stdout.splitlines()[-1])
    assert means == {"recall@1": 0.0, "mrr@5": 0.25} and "document 'a' twice" in error
    assert gains["ndcg@2"] == pytest.approx((1 + 2 / math.log2(3)) / (2 + 1 / math.log2(3)))

"""The figures of semantic IDs against brute force and scikit-learn, and the `evaluate` shell around them."""

import itertools
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import coo_array, csr_array
from sklearn.metrics import f1_score

import metrics.semantic_id_quality
from metrics.semantic_id_quality import (
    agreement_within,
    category_agreement,
    category_ami,
    code_perplexity,
    collision_density,
    collisions,
    difference_ratios,
    fan_out,
    id_quality,
    macro_f1,
    multilabel_macro_f1,
    neighbour_agreement,
    prefix_purity,
    used_codes,
    used_share,
)

FOLDER = Path(metrics.semantic_id_quality.__file__).parent


@st.composite
def corpora(draw, max_positions=3):
    """`(N, positions)` codes with many collisions; large codes, so that no table may be indexed by them."""
    positions = draw(st.integers(1, max_positions))
    row = st.lists(st.sampled_from([0, 1, 2, 40_000]), min_size=positions, max_size=positions)
    return np.array(draw(st.lists(row, min_size=1, max_size=25)), dtype=np.int64)


@settings(deadline=None, max_examples=60)
@given(corpora())
def test_difference_ratios_count_pairs_and_groups(codes):
    prefix, last = codes[:, :-1], codes[:, -1]
    pairs = [
        last[i] != last[j] for i, j in itertools.combinations(range(len(codes)), 2) if (prefix[i] == prefix[j]).all()
    ]
    groups = {}
    for row in codes.tolist():
        groups.setdefault(tuple(row[:-1]), []).append(row[-1])
    per_group = [len(set(group)) / len(group) for group in groups.values() if len(group) >= 2]

    ratios = difference_ratios(prefix, last)

    np.testing.assert_allclose(ratios.pairs, np.mean(pairs) if pairs else np.nan)
    np.testing.assert_allclose(ratios.groups, np.mean(per_group) if per_group else np.nan)


def test_the_two_difference_ratios_differ():
    """Four documents, three of one code: 3 of 6 pairs differ, 2 codes for 4 documents."""
    assert difference_ratios(np.zeros((4, 0), dtype=int), np.array([7, 7, 7, 1])) == (0.5, 0.5)
    assert difference_ratios(np.zeros((5, 1), dtype=int), np.array([7, 7, 7, 1, 2])) == (0.7, 0.6)


@settings(deadline=None, max_examples=60)
@given(corpora())
def test_collisions_count_groups(codes):
    rows = [tuple(row) for row in codes.tolist()]
    sizes = [rows.count(row) for row in rows]

    result = collisions(codes)

    assert result.sharing == pytest.approx(np.mean([size >= 2 for size in sizes]))
    assert result.crowded == pytest.approx(np.mean([size > 5 for size in sizes]))
    assert (result.distinct, result.largest) == (len(set(rows)), max(sizes))
    density = collision_density(codes)
    assert density.size.tolist() == sorted(set(sizes))
    assert density.documents.tolist() == [sizes.count(size) for size in density.size]
    assert (density.ids * density.size == density.documents).all()


def test_crowded_begins_at_six():
    assert collisions(np.repeat([[1, 2], [3, 4]], [5, 6], axis=0)).crowded == 6 / 11


@settings(deadline=None, max_examples=40)
@given(corpora(max_positions=1))
def test_perplexity_is_the_exponential_of_the_entropy(codes):
    values = codes[:, 0].tolist()
    entropy = -sum(values.count(v) / len(values) * math.log(values.count(v) / len(values)) for v in set(values))
    assert code_perplexity(codes[:, 0]) == pytest.approx(math.exp(entropy))
    assert used_codes(codes[:, 0]) == len(set(values))


def test_used_share_needs_codes_of_the_codebook():
    assert used_share(np.array([0, 3, 3]), 4) == 0.5
    for wrong in ([0, 4], [-1, 0]):
        with pytest.raises(ValueError, match="outside a codebook of 4"):
            used_share(np.array(wrong), 4)


@settings(deadline=None, max_examples=40)
@given(corpora())
def test_fan_out_counts_next_codes(codes):
    following = {}
    for row in codes.tolist():
        following.setdefault(tuple(row[:-1]), set()).add(row[-1])
    numbers = [len(codes) for codes in following.values()]
    assert fan_out(codes[:, :-1], codes[:, -1]) == (pytest.approx(np.mean(numbers)), max(numbers))


def test_perplexity_of_even_codes_is_their_number():
    assert code_perplexity(np.arange(100) % 8 * 5) == pytest.approx(8, rel=2e-3)
    assert code_perplexity(np.full(9, 3)) == 1


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(*[st.sampled_from([0, 1, 2, 32_000])] * 2), min_size=1, max_size=30))
def test_macro_f1_is_scikit_learns(tokens):
    predicted, actual = np.array(tokens).T
    expected = f1_score(actual, predicted, average="macro", zero_division=0)
    assert macro_f1(predicted, actual) == pytest.approx(expected)


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**32 - 1), st.sampled_from([0.1, 0.5]))
def test_multilabel_macro_f1_is_scikit_learns(seed, density):
    rng = np.random.default_rng(seed)
    predicted, actual = rng.random((2, 6, 9)) < density
    words = np.flatnonzero(predicted.any(axis=0) | actual.any(axis=0))

    result = multilabel_macro_f1(csr_array(predicted), actual)

    if len(words):
        expected = f1_score(actual, predicted, average="macro", labels=words, zero_division=0)
        assert result == pytest.approx(expected)
    else:
        assert math.isnan(result)


def test_multilabel_takes_a_word_as_there_or_not():
    """Counts, words stored twice and stored zeros describe the same sets."""
    twice = csr_array((np.ones(3, np.int8), np.array([0, 0, 2]), np.array([0, 2, 3])), shape=(2, 3))
    with_zero = coo_array((np.array([5, 0, 1]), (np.array([0, 0, 1]), np.array([0, 1, 2]))), shape=(2, 3))
    assert multilabel_macro_f1(twice, with_zero) == 1
    assert multilabel_macro_f1(twice, np.array([[1, 0, 1], [0, 0, 1]])) == pytest.approx((1 + 2 / 3) / 2)


def test_f1_needs_equal_shapes():
    with pytest.raises(ValueError, match="cannot be compared"):
        macro_f1(np.zeros(2, int), np.zeros((2, 1), int))
    with pytest.raises(ValueError, match="cannot be compared"):
        multilabel_macro_f1(np.ones((2, 3)), np.ones((1, 3)))


def test_nothing_to_measure_is_nan():
    none = np.zeros((0, 2), dtype=np.int64)
    assert math.isnan(code_perplexity(none[:, 0]))
    assert math.isnan(macro_f1(none, none))
    assert math.isnan(fan_out(none[:, :1], none[:, 1]).mean)
    assert [len(column) for column in collision_density(none)] == [0, 0, 0]
    assert math.isnan(collisions(none).sharing)
    assert all(map(math.isnan, difference_ratios(none[:, :1], none[:, 1])))


def test_a_large_corpus_needs_no_square_matrix():
    """300,000 documents in pairs: 45 billion pairs of documents, or 45 billion cells of a one-hot, would not fit."""
    number = np.arange(300_000)
    codes = np.stack([number // 4, number // 2, number], axis=1)
    assert difference_ratios(codes[:, :1], codes[:, 1]) == (pytest.approx(4 / 6), 0.5)
    assert collisions(codes[:, :2]) == (1, 0, 150_000, 2)
    assert code_perplexity(number) == pytest.approx(300_000)
    assert macro_f1(number, number // 2 * 2) == pytest.approx(2 / 3 / 2)


SHELL = """
import json, sys, evaluate, numpy
quality = evaluate.load(sys.argv[1])
codes = [[0, 1], [0, 2], [1, 0], [1, 0], [1, 3]]
quality.add_batch(predictions=codes[:2], references=["a", "a"])
quality.add_batch(predictions=codes[2:], references=["b > c", "b > c", ""])
result = quality.compute()
try:
    quality.compute(predictions=[[0], [0, 1]], references=["a", "b"])
except ValueError as error:
    result["error"] = str(error)
vectors = numpy.repeat(numpy.eye(2), [5, 16], axis=0)
near = quality.compute(predictions=[[0]] * 5 + [[1]] * 16, references=["a"] * 21, vectors=vectors)
result["near"] = near["neighbours_1"], near["neighbours_chance_1"]
print(json.dumps(result))
"""


def test_evaluate_loads_the_folder_without_the_package(tmp_path):
    """As a user of the folder alone does: offline, from elsewhere, with nothing of ours on the path."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    environment |= {"HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1", "HF_EVALUATE_OFFLINE": "1"}
    command = [sys.executable, "-c", SHELL, str(FOLDER)]
    run = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    result = json.loads(run.stdout.splitlines()[-1])
    codes = np.array([[0, 1], [0, 2], [1, 0], [1, 0], [1, 3]])
    paths = ["a", "a", ["b", "c"], ["b", "c"], None]
    assert result.pop("error") == "all documents need equally many codes, these have [1, 2]"
    # Five documents have four neighbours of their code, and sixteen have ten.
    assert result.pop("near") == pytest.approx([(5 * 0.4 + 16) / 21, (5 * 4 + 16 * 15) / (21 * 20)])
    assert result == {name: pytest.approx(value, nan_ok=True) for name, value in id_quality(codes, paths).items()}
    assert {name: result[name] for name in ("sharing", "crowded", "distinct", "largest")} == {
        "sharing": 0.4, "crowded": 0, "distinct": 4, "largest": 2,
    }  # fmt: skip
    assert result["ami_1"] == pytest.approx(1) and result["ami_2"] == pytest.approx(category_ami(codes, paths))
    assert result["perplexity_2"] == pytest.approx(code_perplexity(codes[:, 1]))


def test_all_figures_have_their_names():
    """Every figure is the single function's, at its depth, its level and over its documents."""
    rng = np.random.default_rng(0)
    codes = rng.integers(0, [5, 4, 3], (400, 3))
    paths = [[label, str(number)][: 1 + number % 2] for label, number in zip("abcd" * 100, codes[:, 1], strict=True)]
    mask, vectors = rng.random(400) < 0.5, rng.standard_normal((400, 8))

    result = id_quality(codes, paths, codebook_sizes=[5, 4, 6], vectors=vectors, documents=mask, seed=1)

    expected = collisions(codes)._asdict()
    near = neighbour_agreement(codes, vectors, seed=1)
    for t, size in ((1, 5), (2, 4), (3, 6)):
        before, column = codes[:, : t - 1], codes[:, t - 1]
        ratios, branches = difference_ratios(before, column), fan_out(before, column)
        expected |= {
            f"perplexity_{t}": code_perplexity(column), f"perplexity_share_{t}": code_perplexity(column) / size,
            f"used_{t}": used_codes(column), f"used_share_{t}": used_share(column, size),
            f"difference_ratio_pairs_{t}": ratios.pairs, f"difference_ratio_groups_{t}": ratios.groups,
            f"fan_out_mean_{t}": branches.mean, f"fan_out_max_{t}": branches.max,
            f"distinct_prefixes_{t}": collisions(codes[:, :t]).distinct,
            f"neighbours_{t}": near.share[t - 1], f"neighbours_chance_{t}": near.chance[t - 1],
        }  # fmt: skip
        for level, end in ((None, ""), (1, "_level_1"), (2, "_level_2")):
            chosen = {"level": level, "documents": mask}
            whole = category_agreement(codes[:, :t], paths, **chosen)._asdict()
            del whole["documents"]
            expected |= {f"{name}_{t}{end}": value for name, value in whole.items()}
            expected[f"purity_{t}{end}"] = prefix_purity(codes[:, :t], paths, **chosen)
            if t > 1:
                within = agreement_within(before, column, paths, **chosen)._asdict()
                expected |= {f"{name}_within_{t}{end}": value for name, value in within.items()}
    assert result == {name: pytest.approx(value) for name, value in expected.items()}
    assert all(type(value) in (int, float) for value in result.values())


def test_figures_need_no_categories():
    codes = np.array([[0, 1], [0, 2], [1, 0]])
    names = id_quality(codes).keys()
    assert not [name for name in names if name.startswith(("ami", "purity", "neighbours", "used_share"))]
    unknown = id_quality(codes, [None] * 3)
    assert unknown.keys() > names and math.isnan(unknown["ami_1"]) and math.isnan(unknown["purity_2"])


def test_codes_and_sizes_have_a_shape():
    with pytest.raises(ValueError, match=r"\(documents, positions\), not \(3,\)"):
        id_quality(np.zeros(3, int))
    with pytest.raises(ValueError, match="1 codebook sizes are given for 2 positions"):
        id_quality(np.zeros((3, 2), int), codebook_sizes=[4])

"""Agreement of codes and categories against scikit-learn and brute force."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import (
    adjusted_mutual_info_score,
    homogeneity_completeness_v_measure,
    normalized_mutual_info_score,
)

from metrics.semantic_id_quality import (
    agreement_within,
    category_agreement,
    category_ami,
    category_paths,
    prefix_purity,
)
from metrics.semantic_id_quality.chance import expected_x_log_x


@st.composite
def judged_corpora(draw):
    """Codes `(N, 2)`, some of them large, and category paths of up to two labels, some of them not known."""
    rows = st.tuples(st.sampled_from([0, 1, 40_000]), st.sampled_from([0, 1, 2, 3]))
    paths = st.one_of(st.none(), st.lists(st.sampled_from("abc"), max_size=2))
    corpus = draw(st.lists(st.tuples(rows, paths), min_size=1, max_size=40))
    return np.array([row for row, _ in corpus], dtype=np.int64), [path for _, path in corpus]


def texts(codes: np.ndarray, paths: list, level: int | None = None) -> tuple[list[str], list[str]]:
    """What scikit-learn takes: prefixes and categories of the documents with a category, as words."""
    known = [i for i in range(len(codes)) if paths[i]]
    return [str(codes[i]) for i in known], [">".join(paths[i][:level]) for i in known]


@settings(deadline=None, max_examples=60)
@given(judged_corpora(), st.sampled_from([None, 1, 2, 3]))
def test_prefixes_against_paths_are_scikit_learns(corpus, level):
    codes, paths = corpus
    prefixes, categories = texts(codes, paths, level)

    result = category_agreement(codes, paths, level=level)

    assert category_ami(codes, paths, level=level) == pytest.approx(result.ami, nan_ok=True)
    if len(set(categories)) < 2:
        assert all(map(math.isnan, result[:4]))
        return
    # Where all documents are alone on both sides scikit-learn divides two rounding errors.
    alone = len(set(prefixes)) == len(set(categories)) == len(prefixes)
    expected = 1 if alone else adjusted_mutual_info_score(categories, prefixes)
    homogeneity, completeness, _ = homogeneity_completeness_v_measure(categories, prefixes)
    assert result.ami == pytest.approx(expected, abs=1e-9)
    assert result.nmi == pytest.approx(normalized_mutual_info_score(categories, prefixes), abs=1e-9)
    assert result[2:] == (
        pytest.approx(homogeneity, abs=1e-9),
        pytest.approx(completeness, abs=1e-9),
        len(categories),
    )


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**32 - 1), st.sampled_from([2, 7, 60, 900]), st.sampled_from([2, 12, 300]))
def test_ami_of_larger_corpora_is_scikit_learns(seed, num_codes, num_categories):
    """Of sizes that need overlaps to be left out; skewed, and related or not."""
    rng = np.random.default_rng(seed)
    codes = (num_codes * rng.random(1500) ** 3).astype(int)
    categories = (num_categories * rng.random(1500) ** 2).astype(int)
    related = rng.random(1500) < rng.choice([0, 0.2, 0.9])
    categories[related] = codes[related] % num_categories
    expected = adjusted_mutual_info_score(categories, codes)
    assert category_ami(codes, categories) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(
    "total, a, b", [(30_000, 600, 500), (30_000, 20_000, 900), (400, 399, 200), (9, 9, 4), (90_000, 300, 2), (5, 2, 2)]
)
def test_expected_overlaps_are_exact(total, a, b):
    """Against binomial coefficients in whole numbers; the first two leave most overlaps out."""
    overlaps = range(max(0, a + b - total), min(a, b) + 1)
    ways = [math.comb(a, n) * math.comb(total - a, b - n) for n in overlaps]
    exact = sum(
        float(Fraction(w, math.comb(total, b))) * n * math.log(n) for w, n in zip(ways, overlaps, strict=True) if n
    )
    triples = np.array([[total, a, b], [total, b, a], [2, 1, 1]]).T  # not alone, to be computed beside narrower ones
    assert expected_x_log_x(*triples) == pytest.approx([exact, exact, 0], rel=1e-12)


def test_identical_and_trivial_partitions():
    assert category_ami(np.arange(50), np.arange(50)) == 1
    assert category_ami(np.arange(50) % 7, np.arange(50) % 7) == 1
    assert category_ami(np.arange(50), np.arange(50) % 7) == 0
    assert category_ami(np.zeros(50, int), np.arange(50) % 7) == pytest.approx(0, abs=1e-12)


def test_ami_of_labels_and_of_unknown_categories():
    codes = np.array([0, 0, 1, 1, 0])
    assert category_ami(codes, ["a", "a", "b", "b", ""]) == pytest.approx(1)
    assert category_ami(codes, [3, 3, 4, 4, float("nan")]) == pytest.approx(1)
    assert category_ami(codes, ["a", "a", "b", "b", "b"]) < 0.7
    # Paths that differ in their last label alone are different categories.
    assert category_ami(codes[:4], [["x", "a"], ["x", "a"], ["x", "b"], ["x", "b"]]) == pytest.approx(1)
    with pytest.raises(ValueError, match="5 documents have codes and 2"):
        category_ami(codes, ["a", "b"])


def test_ami_falls_as_codes_tell_documents_apart():
    categories = ["a", "b"] * 20
    assert category_ami(np.arange(40), categories) == pytest.approx(0, abs=1e-9)
    assert category_ami(np.arange(40) % 2, categories) == pytest.approx(1)


def test_levels_count_the_first_labels():
    paths = category_paths([["x", "a", "i"], ["x", "a", "k"], ["x"], None, ["y", "a"], ["x", "b"]])
    assert len(paths) == 6 and len(paths.levels) == 3 and category_paths(paths) is paths
    assert paths.labels(1).tolist() == [0, 0, 0, -1, 1, 0]
    # A shorter path stays whole; labels below different ones are different.
    assert paths.labels(2).tolist() == [0, 0, 1, -1, 2, 3]
    assert paths.labels(3).tolist() == paths.labels(8).tolist() == paths.labels().tolist() == [0, 1, 2, -1, 3, 4]
    with pytest.raises(ValueError, match="level 0"):
        paths.labels(0)
    assert category_paths([None, "", []]).labels(1).tolist() == [-1, -1, -1]


@settings(deadline=None, max_examples=40)
@given(judged_corpora(), st.integers(0, 2**32 - 1))
def test_a_mask_judges_as_if_the_other_documents_were_not_there(corpus, seed):
    codes, paths = corpus
    mask = np.random.default_rng(seed).random(len(codes)) < 0.6
    part = [path for path, kept in zip(paths, mask, strict=True) if kept]
    for figure in (category_agreement, prefix_purity):
        assert np.array_equal(figure(codes, paths, documents=mask), figure(codes[mask], part), equal_nan=True)
    within = agreement_within(codes[:, :1], codes[:, 1], paths, documents=mask)
    assert np.array_equal(within, agreement_within(codes[mask, :1], codes[mask, 1], part), equal_nan=True)


def test_a_mask_is_one_boolean_per_document():
    for wrong in (np.array([0, 2]), np.array([True, False])):
        with pytest.raises(ValueError, match="one boolean for each of the 3 documents"):
            category_ami(np.zeros(3, int), ["a", "b", "c"], documents=wrong)


@settings(deadline=None, max_examples=60)
@given(judged_corpora(), st.sampled_from([None, 1]))
def test_agreement_within_is_the_mean_over_prefixes_that_tell_something(corpus, level):
    codes, paths = corpus
    groups = {}
    for row, path in zip(codes.tolist(), paths, strict=True):
        if path:
            groups.setdefault(row[0], []).append((row[1], ">".join(path[:level])))
    figures, sizes = [], []
    for group in groups.values():
        inner, categories = zip(*group, strict=True)
        if 1 < len(set(categories)) < len(group):
            homogeneity, completeness, nmi = homogeneity_completeness_v_measure(categories, inner)
            figures.append([adjusted_mutual_info_score(categories, inner), nmi, homogeneity, completeness])
            sizes.append(len(group))

    result = agreement_within(codes[:, :1], codes[:, 1], paths, level=level)

    assert result.documents == sum(sizes)
    expected = np.average(figures, axis=0, weights=sizes) if sizes else np.full(4, np.nan)
    np.testing.assert_allclose(result[:4], expected, atol=1e-9)


def test_pairs_of_different_categories_say_nothing_about_the_codes():
    """Random codes split them nearly always, which scikit-learn's AMI takes for agreement."""
    rng = np.random.default_rng(0)
    prefix, codes = np.repeat(np.arange(500), 2), rng.integers(0, 500, 1000)
    result = agreement_within(prefix[:, None], codes, ["a", "b"] * 500)
    assert math.isnan(result.ami) and result.documents == 0


def test_random_codes_agree_by_chance_alone():
    rng = np.random.default_rng(0)
    prefix, codes, categories = (rng.integers(0, size, 20_000) for size in (3000, 4, 5))
    result = agreement_within(prefix[:, None], codes, categories)
    assert abs(result.ami) < 0.01 < result.nmi
    assert abs(category_ami(np.stack([prefix, codes], axis=1), categories)) < 0.01


def test_within_the_empty_prefix_is_the_whole():
    codes, categories = np.arange(30) % 4, np.arange(30) % 6
    found = agreement_within(np.zeros((30, 0), int), codes, categories)
    assert found == pytest.approx(category_agreement(codes, categories))


@settings(deadline=None, max_examples=40)
@given(judged_corpora(), st.sampled_from([None, 1]))
def test_purity_counts_the_commonest_category(corpus, level):
    codes, paths = corpus
    prefixes, categories = texts(codes, paths, level)
    groups = {}
    for prefix, category in zip(prefixes, categories, strict=True):
        groups.setdefault(prefix, []).append(category)
    hits = sum(max(map(group.count, group)) for group in groups.values())
    expected = hits / len(prefixes) if prefixes else math.nan
    assert prefix_purity(codes, paths, level=level) == pytest.approx(expected, nan_ok=True)


def test_no_documents_agree_with_nothing():
    none = np.zeros((0, 2), dtype=np.int64)
    assert math.isnan(category_ami(none, [])) and math.isnan(prefix_purity(none, []))
    assert math.isnan(agreement_within(none[:, :1], none[:, 1], []).ami)


def test_a_large_corpus_needs_no_table_of_codes_and_categories():
    """300,000 documents, 150,000 codes: with 1,000 categories the table would have 150 million cells."""
    number = np.arange(300_000)
    pairs = category_agreement(number // 2, number // 2 % 1000)
    assert pairs.homogeneity == 1 and 0 < pairs.ami < pairs.nmi < 1
    assert agreement_within(number[:, None] // 4, number // 2, number // 2 % 1000).ami == 1

"""The codes that learned ones are compared with, and the rivals by name."""

import numpy as np
import pytest
from sklearn.metrics import adjusted_rand_score

from trainers.micro_clusters import MicroClusters
from trainers.rivals import INDEXERS, RandomIDs, distinct_random_codes, make_indexer, random_codes, tfidf_kmeans_codes


def topical_texts(documents_of_each):
    """Documents of 4 topics and, across them, of 3 kinds: eight words of the topic, two of the kind, one of any."""
    rng = np.random.default_rng(0)
    topics, kinds = (labels.ravel() for labels in np.mgrid[:4, :3, :documents_of_each][:2])
    texts = []
    for topic, kind in zip(topics, kinds, strict=True):
        words = [f"topic{topic}word{i}" for i in rng.choice(9, 8, replace=False)]
        words += [f"kind{kind}word{i}" for i in rng.choice(3, 2, replace=False)]
        texts.append(" ".join([*words, f"any{rng.integers(40)}"]))
    return texts, topics, kinds


def test_random_codes_fill_their_codebooks():
    codes = random_codes(5000, [4, 7], seed=3)
    assert codes.shape == (5000, 2) and codes.dtype == np.int64
    for position, size in enumerate([4, 7]):
        counts = np.bincount(codes[:, position], minlength=size)
        assert len(counts) == size
        np.testing.assert_allclose(counts, 5000 / size, rtol=0.15)
    np.testing.assert_array_equal(codes, random_codes(5000, [4, 7], seed=3))
    assert (codes != random_codes(5000, [4, 7], seed=4)).any()


@pytest.mark.parametrize("documents_of_each", [20, 90])
def test_each_position_tells_what_the_earlier_leave_over(documents_of_each):
    """Below and above the size from which rare and common words are left out: first the topics, then the kinds."""
    texts, topics, kinds = topical_texts(documents_of_each)
    codes = tfidf_kmeans_codes(texts, [4, 3], seed=0)
    assert codes.shape == (len(texts), 2) and codes.dtype == np.int64
    assert adjusted_rand_score(topics, codes[:, 0]) > 0.95
    assert adjusted_rand_score(kinds, codes[:, 1]) > 0.9
    np.testing.assert_array_equal(codes, tfidf_kmeans_codes(texts, [4, 3], seed=0))


def test_a_corpus_of_common_words_alone_is_coded():
    """1,000 documents whose every word is in more than half of them."""
    words = np.array(["red", "green", "blue", "white", "black"])
    kept = np.random.default_rng(1).random((1000, 5)) < 0.7
    texts = [" ".join(words[row]) or "red" for row in kept]
    codes = tfidf_kmeans_codes(texts, [3, 3], seed=0)
    assert set(codes[:, 0]) == set(codes[:, 1]) == {0, 1, 2}
    equal = {}
    for text, code in zip(texts, codes.tolist(), strict=True):
        assert equal.setdefault(text, code) == code


def test_documents_without_a_word_that_counts_are_coded():
    texts = topical_texts(90)[0] + ["unheard", "of"]
    assert tfidf_kmeans_codes(texts, [4, 4], seed=0)[-2:, 0].tolist() == [0, 0]


@pytest.mark.parametrize(("number", "sizes"), [(60, [4, 15]), (24, [4, 3, 2]), (50, [4, 15]), (300, [256] * 9)])
def test_random_codes_may_all_be_different(number, sizes):
    """Also where there are no more of them than documents, and more than numbers."""
    codes = distinct_random_codes(number, sizes, seed=0)
    assert codes.shape == (number, len(sizes)) and codes.dtype == np.int64
    assert len(np.unique(codes, axis=0)) == number
    assert codes.min() >= 0 and (codes.max(axis=0) < np.array(sizes)).all()
    np.testing.assert_array_equal(distinct_random_codes(number, sizes, seed=0), codes)
    assert (distinct_random_codes(number, sizes, seed=1) != codes).any(axis=1).sum() > number / 2


def test_more_documents_than_ids_cannot_differ():
    with pytest.raises(ValueError, match="13 documents, but only 12 IDs"):
        distinct_random_codes(13, [4, 3], seed=0)


def test_too_few_documents_are_an_error():
    with pytest.raises(ValueError, match="3 documents, 4 codes"):
        tfidf_kmeans_codes(["one word", "two words", "three words"], [4], seed=0)
    with pytest.raises(ValueError, match="distinct"):
        tfidf_kmeans_codes(["same text"] * 6, [4], seed=0)


def test_rivals_have_names_and_settings():
    for name, kind in INDEXERS.items():
        assert make_indexer(name, {}) == kind()
    assert make_indexer("ward", {"settling": 5}) == MicroClusters(share=1.0, settling=5)
    assert make_indexer("micro", {"share": 1}) == MicroClusters(share=1)
    for name, settings, message in (
        ("kmeans", {}, "unknown method 'kmeans': expected one of rq-vae, hc"),
        ("hc", {"share": 0.5, "restarts": 2}, "hc has no setting share: it has inputs, iterations, restarts"),
        ("micro", {"share": "half"}, "micro: share='half' is no float, such as 0.35"),
        ("hc", {"restarts": True}, "hc: restarts=True is no int, such as 3"),
    ):
        with pytest.raises(ValueError, match=message):
            make_indexer(name, settings)


def test_random_ids_of_new_documents_are_drawn_anew():
    vectors = np.zeros((300, 0), dtype=np.float32)
    assignment = RandomIDs().fit(vectors, [8, 8], seed=3)
    np.testing.assert_array_equal(assignment.codes, random_codes(300, [8, 8], seed=3))
    new = assignment.assign(vectors)
    assert new.shape == (300, 2) and 0.05 < (new == assignment.codes).mean() < 0.2

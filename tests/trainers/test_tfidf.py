"""The words of documents as vectors."""

import numpy as np
import pytest

from trainers.tfidf import TfidfProjection, leave_out_words

TEXTS = ["red apple pie", "red apple tart", "blue bolt nut", "blue bolt screw", "Acme nut"]


def test_vectors_are_near_where_words_are_shared():
    vectors = TfidfProjection(TEXTS, seed=0)(TEXTS)
    assert vectors.shape == (5, 5) and vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-6)
    similarity = vectors @ vectors.T
    assert similarity[0, 1] > 0.4 and similarity[2, 3] > 0.4 and abs(similarity[:2, 2:]).max() < 1e-5
    assert TfidfProjection(TEXTS, seed=0, size=2)(TEXTS).shape == (5, 2)


def test_other_documents_get_the_same_projection():
    words = TfidfProjection(TEXTS, seed=0, size=3)
    np.testing.assert_array_equal(words(TEXTS)[1:4], words(TEXTS[1:4]))
    np.testing.assert_array_equal(words(["unheard of"]), np.zeros((1, 3)))
    np.testing.assert_array_equal(TfidfProjection(TEXTS, seed=0, size=3)(TEXTS), words(TEXTS))


def test_excluded_words_do_not_count_in_their_document():
    texts = ["Acme nut, made by ACME", "Acme bolt", "nut bolt"]
    excluded = ["Acme Inc.", "", "bolt"]
    assert leave_out_words(texts, excluded) == ["nut made by", "acme bolt", "nut"]
    without = TfidfProjection(texts, seed=0, excluded_texts=excluded)
    same = TfidfProjection(["nut made by", "acme bolt", "nut"], seed=0)
    np.testing.assert_array_equal(without(texts, excluded), same(["nut made by", "acme bolt", "nut"]))
    assert leave_out_words(texts, None) == texts


def test_one_text_to_leave_out_for_each_document():
    with pytest.raises(ValueError, match="5 documents, 1 texts to leave out"):
        TfidfProjection(TEXTS, seed=0, excluded_texts=["Acme"])
    with pytest.raises(ValueError, match="empty vocabulary"):
        TfidfProjection(["nut", "bolt"], seed=0, excluded_texts=["nut", "bolt"])

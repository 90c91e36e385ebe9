"""Embeddings before they are clustered: lengths, mean, components, words."""

import numpy as np
import pytest
from sklearn.decomposition import PCA

from trainers.cluster_inputs import ClusterInputs, leading_components, on_unit_length
from trainers.tfidf import TfidfProjection

TEXTS = [f"word{i % 7} other{i % 5}" for i in range(40)]


@pytest.fixture(scope="module")
def vectors():
    rng = np.random.default_rng(0)
    return (rng.normal(size=(40, 6)) * [5, 3, 1, 1, 1, 1] + 2).astype(np.float32)


def prepared(vectors, **settings):
    return ClusterInputs(**settings).fit(vectors, 0)(vectors)


def test_unit_length_is_the_default(vectors):
    expected = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    np.testing.assert_allclose(prepared(vectors), expected, rtol=1e-6)
    assert prepared(vectors.astype(np.float64)).dtype == np.float32
    np.testing.assert_array_equal(on_unit_length(np.zeros((2, 3), np.float32)), np.zeros((2, 3)))


def test_raw_lengths_stay_in_units_of_their_mean(vectors):
    raw = prepared(vectors, normalization="raw")
    np.testing.assert_allclose(raw / raw[:1], vectors / vectors[:1], rtol=1e-5)
    assert np.linalg.norm(raw, axis=1).mean() == pytest.approx(1, rel=1e-5)


def test_centred_vectors_have_lost_their_mean(vectors):
    unit = prepared(vectors)
    expected = on_unit_length(unit - unit.mean(axis=0))
    np.testing.assert_allclose(prepared(vectors, normalization="centred"), expected, atol=1e-6)


def test_components_are_taken_out(vectors):
    """scikit-learn's, up to their sign; nothing is left in their directions."""
    unit = prepared(vectors)
    components = PCA(2).fit(unit).components_
    centred = unit - unit.mean(axis=0)
    expected = on_unit_length(centred - centred @ components.T @ components)
    removed = prepared(vectors, removed_components=2)
    np.testing.assert_allclose(removed, expected, atol=1e-5)
    assert abs(removed @ components.T).max() < 1e-5
    raw = prepared(vectors, normalization="raw", removed_components=1)
    assert abs(raw.mean(axis=0)).max() < 1e-5 and np.linalg.matrix_rank(raw, tol=1e-4) == 5


def test_directions_have_one_sign(vectors):
    centred = vectors - vectors.mean(axis=0)
    components = leading_components(centred, 6)
    assert (np.take_along_axis(components, abs(components).argmax(axis=1)[:, None], axis=1) > 0).all()
    np.testing.assert_allclose(components @ components.T, np.eye(6), atol=1e-6)
    np.testing.assert_allclose(leading_components(-centred, 3), components[:3], atol=1e-6)


def test_words_stand_beside_the_embedding_with_their_weight(vectors):
    joined = ClusterInputs(tfidf_weight=0.5, tfidf_size=4).fit(vectors, 3, TEXTS)(vectors, TEXTS)
    np.testing.assert_array_equal(joined[:, :6], prepared(vectors))
    np.testing.assert_allclose(joined[:, 6:], 0.5 * TfidfProjection(TEXTS, 3, size=4)(TEXTS), rtol=1e-6)
    excluded = ["word0 other0"] * 40
    without = ClusterInputs(tfidf_weight=0.5).fit(vectors, 3, TEXTS, excluded)(vectors, TEXTS, excluded)
    np.testing.assert_array_equal(without[0, 6:], 0)  # a document of these words alone
    assert (without[1, 6:] != 0).any()


def test_other_documents_get_the_corpus_s_mean_and_components(vectors):
    settings = ClusterInputs(normalization="centred", removed_components=1, tfidf_weight=1.0)
    fitted = settings.fit(vectors, 0, TEXTS)
    np.testing.assert_allclose(fitted(vectors[5:9], TEXTS[5:9]), fitted(vectors, TEXTS)[5:9], atol=1e-6)


@pytest.mark.parametrize("texts", [None, TEXTS[:3]])
def test_words_need_a_text_for_each_document(vectors, texts):
    with pytest.raises(ValueError, match="40 vectors and .* texts: the words' part"):
        ClusterInputs(tfidf_weight=1.0).fit(vectors, 0, texts)


@pytest.mark.parametrize(
    "settings", [{"normalization": "l1"}, {"removed_components": -1}, {"tfidf_weight": -0.5}, {"tfidf_size": 0}]
)
def test_settings_are_checked(settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        ClusterInputs(**settings)

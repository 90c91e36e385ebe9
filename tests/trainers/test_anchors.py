"""The embeddings that documents start with, their words, and their neighbours, against what is computed one by one."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_training import make_trainer, tiny_arguments, tiny_corpus, tiny_indexer

from trainers.anchors import (
    anchor_vectors,
    find_anchors,
    kept_anchors,
    lexical_vectors,
    nearest_neighbours,
    neighbourhood_means,
)
from trainers.corpus_pass import CorpusPass

# The first three words of every document are left out in it.
CORPUS = tiny_corpus().map(lambda row: {"excluded": " ".join(row["text"].split()[:3])})


def corpus_of(folder, corpus=CORPUS, model=None, **settings):
    trainer = make_trainer(folder, corpus=corpus, model=model, **settings)
    return CorpusPass(trainer.model.eval(), trainer.documents, trainer.collator(), trainer.args, "start")


def bags_by_hand(documents):
    """Weights of each document's words, of length 1: `(N, vocabulary)`."""
    bags = np.zeros((len(documents), len(documents.target_weights.weights)))
    for row, text in enumerate(CORPUS["text"]):
        words = text.split()
        for token, word in zip(documents.tokens_of(row), words, strict=False):
            if word not in words[:3]:
                bags[row, token] += documents.target_weights.weights[token]
    if documents.target_weights.by_count:
        counts = np.where(bags > 0, bags / np.maximum(documents.target_weights.weights, 1e-9), 0).round()
        bags = documents.target_weights.weights * np.log1p(counts)
    return bags / np.linalg.norm(bags, axis=1, keepdims=True).clip(1e-12)


@pytest.mark.parametrize(("kind", "pooling"), [("t5", "mean"), ("bert", "cls")])
def test_embeddings_are_those_of_each_document_alone(tmp_path, kind, pooling):
    corpus = corpus_of(tmp_path, model=tiny_indexer(kind, pooling=pooling))
    found = anchor_vectors(corpus, 0.0)
    assert found.shape == (60, 16) and found.dtype == np.float32
    for row in range(0, 60, 7):
        tokens = torch.from_numpy(corpus.documents.tokens_of(row).astype(np.int64))[None]
        states = corpus.model.encode(tokens)[0][0].detach()
        embedding = states[0] if pooling == "cls" else states.mean(0)
        torch.testing.assert_close(torch.from_numpy(found[row]), embedding / embedding.norm(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("target", ["tokens", "words"])
@pytest.mark.parametrize("idf", [True, False])
def test_words_are_weighed_as_in_the_reconstruction_without_the_excluded(tmp_path, target, idf):
    """As many dimensions as words: cosines are those of the bags."""
    documents = corpus_of(tmp_path, model=tiny_indexer(reconstruction_target=target), idf_weights=idf).documents
    found = lexical_vectors(documents)
    assert len(found) == 60 and found.dtype == np.float32
    bags = bags_by_hand(documents)
    np.testing.assert_allclose(found @ found.T, bags @ bags.T, atol=1e-5)
    assert (bags.sum(axis=1) > 0).all() and (found @ found.T < 0.99).any()
    # Hints of a stage have no say.
    documents.hint_ratio = 0.9
    np.testing.assert_array_equal(lexical_vectors(documents), found)


def test_a_document_all_of_whose_words_are_excluded_has_none(tmp_path):
    corpus = CORPUS.map(lambda row, place: {"excluded": row["text"]} if place == 5 else {}, with_indices=True)
    found = lexical_vectors(corpus_of(tmp_path, corpus).documents)
    assert not found[5].any()
    np.testing.assert_allclose(np.linalg.norm(np.delete(found, 5, axis=0), axis=1), 1, rtol=1e-5)


def test_words_are_joined_to_the_embedding_at_their_weight(tmp_path):
    corpus = corpus_of(tmp_path)
    joined, plain = anchor_vectors(corpus, 0.5), anchor_vectors(corpus, 0.0)
    np.testing.assert_array_equal(joined[:, :16], plain)
    np.testing.assert_allclose(joined[:, 16:], 0.5 * lexical_vectors(corpus.documents))
    assert joined.dtype == np.float32


def test_a_run_computes_them_once(tmp_path):
    corpus, path = corpus_of(tmp_path), tmp_path / "anchors.safetensors"
    first = kept_anchors(corpus, 0.5, path, anew=False)
    assert path.exists()
    torch.nn.init.ones_(corpus.model.get_input_embeddings().weight)
    np.testing.assert_array_equal(kept_anchors(corpus, 0.0, path, anew=False), first)
    anew = kept_anchors(corpus, 0.0, path, anew=True)
    np.testing.assert_array_equal(anew, anchor_vectors(corpus, 0.0))
    assert anew.shape != first.shape
    np.testing.assert_array_equal(kept_anchors(corpus, 0.0, path, anew=False), anew)


@settings(max_examples=60, deadline=None, database=None)
@given(st.data())
def test_neighbours_are_the_nearest_others(data):
    """Of coarse vectors, many of them equal, and zero ones: near ties may come in any order, but no document twice."""
    point = st.tuples(st.integers(-2, 2), st.integers(-2, 2))
    vectors = np.array(data.draw(st.lists(point, min_size=2, max_size=30)), dtype=np.float32)
    number = data.draw(st.integers(1, len(vectors) - 1))
    found = nearest_neighbours(vectors, number)
    assert found.shape == (len(vectors), number) and found.dtype == np.int64
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit = np.divide(vectors, lengths, where=lengths > 0, out=np.zeros_like(vectors))
    cosines = unit @ unit.T
    for row, neighbours in enumerate(found.tolist()):
        assert row not in neighbours and len(set(neighbours)) == number
        others = np.sort(np.delete(cosines[row], row))[::-1]
        np.testing.assert_allclose(cosines[row, neighbours], others[:number], atol=1e-6)


def test_smoothing_is_the_mean_of_a_neighbourhood():
    """Step by step, with the neighbours of the start; in plain numbers."""
    vectors = np.random.default_rng(0).normal(size=(9, 4)).astype(np.float32)
    neighbours = nearest_neighbours(vectors, 3)
    expected = vectors.tolist()
    for steps in range(3):
        np.testing.assert_allclose(neighbourhood_means(vectors, neighbours, steps), expected, rtol=1e-4, atol=1e-5)
        sums = [
            [expected[row][i] + sum(expected[other][i] for other in neighbours[row]) for i in range(4)]
            for row in range(9)
        ]
        expected = [[value / np.linalg.norm(row) for value in row] for row in sums]


@pytest.mark.parametrize(
    ("settings", "smooth", "near"),
    [
        ({}, False, False),
        ({"anchor_smoothing": 2}, True, True),
        ({"contrastive_views": "neighbours"}, False, True),
        ({"anchor_weights": [0.0], "anchor_smoothing": 2, "contrastive_views": "neighbours"}, True, True),
    ],
)
def test_what_the_settings_ask_for(tmp_path, settings, smooth, near):
    settings = {"anchor_weights": [1.0], "anchor_lexical_weight": 0.5, "num_neighbours": 4} | settings
    corpus = corpus_of(tmp_path, **settings)
    arguments = tiny_arguments(tmp_path, **settings)
    anchors, neighbours = find_anchors(corpus, arguments, tmp_path / "anchors.safetensors")
    plain = anchor_vectors(corpus, 0.5)
    nearest = nearest_neighbours(plain, 4)
    np.testing.assert_array_equal(anchors, neighbourhood_means(plain, nearest, 2) if smooth else plain)
    assert (neighbours is not None) == near
    if near:
        np.testing.assert_array_equal(neighbours, nearest)


def test_more_neighbours_than_documents_are_an_error():
    with pytest.raises(ValueError, match="4 documents have no 4 neighbours each: set num_neighbours lower"):
        nearest_neighbours(np.eye(4, dtype=np.float32), 4)

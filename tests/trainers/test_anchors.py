"""The embeddings that documents start with, their words, and what of them a position is pulled to."""

import numpy as np
import pytest
import torch
from tiny_training import make_trainer, tiny_arguments, tiny_corpus, tiny_indexer

from trainers.anchors import Anchors, anchor_vectors, find_anchors, kept_anchors, left_over, lexical_vectors
from trainers.corpus_pass import CorpusPass
from trainers.neighbourhoods import nearest_neighbours, neighbourhood_means

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


@pytest.mark.parametrize(
    ("settings", "near"),
    [
        ({}, False),
        ({"anchor_smoothing": [2]}, True),
        ({"contrastive_views": "neighbours"}, True),
        ({"anchor_weights": [0.0], "anchor_smoothing": [0, 2], "contrastive_views": "neighbours"}, True),
    ],
)
def test_neighbours_are_found_where_settings_ask_for_them(tmp_path, settings, near):
    settings = {"anchor_weights": [1.0], "anchor_lexical_weight": 0.5, "num_neighbours": 4} | settings
    corpus = corpus_of(tmp_path, **settings)
    anchors = find_anchors(corpus, tiny_arguments(tmp_path, **settings), tmp_path / "anchors.safetensors")
    np.testing.assert_array_equal(anchors.vectors, anchor_vectors(corpus, 0.5))
    assert (anchors.neighbours is not None) == near
    if near:
        np.testing.assert_array_equal(anchors.neighbours, nearest_neighbours(anchors.vectors, 4))


def test_neighbours_may_have_to_differ_in_what_is_excluded(tmp_path):
    """Every third document has a brand; the others have none, and are free to be each other's neighbours."""
    brands = CORPUS.map(lambda row, place: {"excluded": "Acme " if place % 3 == 0 else ""}, with_indices=True)
    settings = {"anchor_weights": [1.0], "anchor_smoothing": [1], "num_neighbours": 4}
    corpus = corpus_of(tmp_path, corpus=brands, **settings)
    for across in (False, True):
        arguments = tiny_arguments(tmp_path, neighbours_across_excluded=across, **settings)
        found = find_anchors(corpus, arguments, tmp_path / "anchors.safetensors")
        unlike = corpus.documents.excluded_groups if across else None
        np.testing.assert_array_equal(found.neighbours, nearest_neighbours(found.vectors, 4, unlike))
        assert (found.neighbours[::3] % 3 == 0).any() != across


def test_positions_are_pulled_to_what_their_settings_say(tmp_path):
    """Smoothing per position, the last for all beyond; what is left over from the second position on."""
    vectors = np.random.default_rng(0).normal(size=(12, 5)).astype(np.float32)
    neighbours, groups = nearest_neighbours(vectors, 3), np.arange(12) % 4
    arguments = tiny_arguments(tmp_path, anchor_smoothing=[2, 1, 0])
    smooth = [neighbourhood_means(vectors, neighbours, steps) for steps in (2, 1, 0, 0)]
    anchors = Anchors(vectors, neighbours, arguments)
    for position, expected in enumerate(smooth):
        np.testing.assert_array_equal(anchors.at(position, groups), expected)
    arguments.anchor_residuals = True
    np.testing.assert_array_equal(anchors.at(0, groups), smooth[0])
    for position, expected in enumerate(smooth[1:], 1):
        np.testing.assert_array_equal(anchors.at(position, groups), left_over(expected, groups))
    np.testing.assert_array_equal(Anchors(vectors, None, tiny_arguments(tmp_path)).at(0, groups), vectors)


def test_what_is_left_over_is_the_distance_to_the_peers_mean():
    """In plain numbers: two peers in opposite directions, three in a row, a document alone, and two equal ones."""
    vectors = np.array([[1, 0], [0, 1], [1, 1], [2, 1], [6, 1], [0, 3], [1, 1], [1, 1]], dtype=np.float32)
    groups = np.array([7, 7, 2, 2, 2, 5, 0, 0])
    half = np.sqrt(0.5)
    expected = [[half, -half], [-half, half], [-1, 0], [-1, 0], [1, 0], [0, 1], [0, 0], [0, 0]]
    found = left_over(vectors, groups)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_stages_are_pulled_to_the_anchors_of_their_position(tmp_path):
    """What every stage of a run sees, against the anchors by hand from the codes of that time."""
    settings = {"anchor_weights": [1.0], "anchor_smoothing": [2, 0], "num_neighbours": 4, "anchor_residuals": True}
    trainer, seen = make_trainer(tmp_path, corpus=CORPUS, **settings), {}
    prepare = trainer.prepare_stage

    def look(stage):
        prepare(stage)
        seen[stage.name] = trainer.documents.anchors, trainer.documents.prefix_groups()

    trainer.prepare_stage = look
    trainer.train()
    start = trainer.anchors.vectors
    assert list(seen) == ["0-reconstructor", "1-continuous", "1-discrete", "2-continuous", "2-discrete"]
    assert seen["0-reconstructor"][0] is None
    smooth = neighbourhood_means(start, nearest_neighbours(start, 4), 2)
    for name, (anchors, groups) in seen.items():
        if name[0] == "1":
            np.testing.assert_array_equal(anchors, smooth)
        if name[0] == "2":
            assert len(np.unique(groups)) > 1
            np.testing.assert_array_equal(anchors, left_over(start, groups))

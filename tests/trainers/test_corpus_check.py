"""What a run could not end with is refused at its start."""

import pytest
from tiny_training import make_trainer, tiny_corpus, tiny_indexer

from trainers import UnusableCorpusError, corpus_check

WORDS = {"reconstruction_target": "words"}


@pytest.mark.parametrize(
    ("model", "settings", "message"),
    [
        ({"num_disambiguation_codes": 0}, {}, "collisions='counter' counts at a last position, which the model lacks"),
        (
            {"codebook_sizes": [3, 4, 4]},
            {"collisions": "reassign"},
            "60 documents, and codebooks of 3 x 4 x 4 codes make only 48 IDs without a last position",
        ),
        (
            {},
            {"code_choice": ["expectation"]},
            "the model predicts tokens one by one: .*reconstruction_target='words'",
        ),
        ({}, {"contrastive_views": "neighbours", "num_neighbours": 60}, "60 documents have no 60 neighbours each"),
        (
            {},
            {"codebook_init": "ward"},
            "'ward' .* 60 clusters; at most 50 fit: set codebook_init to 'micro' and micro",
        ),
        (
            {},
            {"codebook_init": "micro", "micro_share": 0.9},
            "'micro' codebooks compare all pairs of 54 clusters; at most 50 fit: set micro_share to 0.83 or less",
        ),
        ({}, {"codebook_init": ["kmeans", "ward"]}, "'ward' .* 60 clusters"),
        ({}, {"anchor_weights": [1.0], "anchor_smoothing": [1], "num_neighbours": 99}, "no 99 neighbours each"),
    ],
)
def test_settings_that_do_not_fit(tmp_path, monkeypatch, model, settings, message):
    monkeypatch.setattr(corpus_check, "MOST_POINTS", 50)
    with pytest.raises(UnusableCorpusError, match=message):
        make_trainer(tmp_path, model=tiny_indexer(**model), **settings)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("model", "settings"),
    [
        ({"num_disambiguation_codes": 0}, {"collisions": "reassign", "codebook_sizes": [6, 10]}),
        ({}, {"collisions": "reassign", "codebook_sizes": [6, 10]}),
        (WORDS, {"code_choice": ["expectation"]}),
        ({}, {"contrastive_views": "neighbours", "num_neighbours": 59}),
        ({}, {"num_neighbours": 60, "anchor_smoothing": [1]}),
        ({"codebook_sizes": [6]}, {"codebook_init": ["kmeans", "ward"]}),
        ({}, {"codebook_init": "micro", "micro_share": 0.8}),
    ],
)
def test_settings_that_just_fit(tmp_path, monkeypatch, model, settings):
    """60 documents have 60 IDs of 6 x 10 codes."""
    monkeypatch.setattr(corpus_check, "MOST_POINTS", 50)
    shape = {name: settings.pop(name) for name in ("codebook_sizes",) if name in settings}
    assert len(tiny_corpus()) == 60
    make_trainer(tmp_path, model=tiny_indexer(**model, **shape), **settings)


def test_neighbours_of_other_brands_need_other_brands(tmp_path):
    """55 of 60 documents are of one brand: each of them has five others to be near to."""
    corpus = tiny_corpus().map(lambda row, place: {"excluded": "Acme" if place < 55 else None}, with_indices=True)
    settings = {"anchor_weights": [1.0], "anchor_smoothing": [1]}
    across = settings | {"neighbours_across_excluded": True}
    make_trainer(tmp_path / "fits", corpus=corpus, num_neighbours=5, **across)
    make_trainer(tmp_path / "all", corpus=corpus, num_neighbours=6, **settings)
    with pytest.raises(UnusableCorpusError, match="no 6 neighbours each of another excluded text: set num_neighbours"):
        make_trainer(tmp_path / "more", corpus=corpus, num_neighbours=6, **across)
    assert not (tmp_path / "more").exists()


CORPUS = tiny_corpus()


@pytest.mark.parametrize(
    ("corpus", "message"),
    [
        (CORPUS.remove_columns("text"), r"lacks the columns \['text'\]"),
        (CORPUS.rename_column("id", "name"), r"lacks the columns \['id'\]; it has \['name', 'text', 'category'\]"),
        (CORPUS.select([]), "empty"),
        (CORPUS.map(lambda row: {"text": " " if row["id"] == "d000" else row["text"]}), r"no text: \['d000'\]"),
        (CORPUS.map(lambda row: {"text": None if row["id"] == "d000" else row["text"]}), r"no text: \['d000'\]"),
        (CORPUS.map(lambda row: {"id": row["id"][:3]}), "more than once"),
        (CORPUS.map(lambda row, place: {"id": place / 2}, with_indices=True), "integers or all strings"),
        (CORPUS.select(range(5)), "5 documents are fewer than the 6 codes"),
    ],
)
def test_a_corpus_that_cannot_be_indexed(tmp_path, corpus, message):
    with pytest.raises(ValueError, match=message):
        make_trainer(tmp_path, corpus=corpus)
    assert not list(tmp_path.iterdir())


def test_a_model_without_reconstructor_learns_no_ids(tmp_path):
    with pytest.raises(ValueError, match="no reconstructor: load it with num_reconstructor_layers=1"):
        make_trainer(tmp_path, model=tiny_indexer(num_reconstructor_layers=0))

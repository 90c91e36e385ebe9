"""What is reported of a run: codes beside codes to compare with, queries, and tables."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tiny_training import tiny_corpus, tiny_indexer, tiny_tokenizer
from transformers import BatchEncoding

from modeling_lmindexer import SemanticIndex
from trainers.report import (
    Queries,
    compare_codes,
    find_rate,
    format_table,
    position_table,
    query_figures,
    random_index,
    sample_queries,
    stage_table,
)


@pytest.fixture(scope="module")
def comparison():
    """Of codes that are the corpus's topics and kinds: 12 groups of 5 documents."""
    corpus = tiny_corpus()
    codes = np.array([[int(document[1]), int(document[2])] for document in corpus["id"]])
    return compare_codes(codes, list(corpus["text"]), list(corpus["category"]), [4, 3], seed=0)


def test_codes_are_compared_with_those_of_other_methods(comparison):
    assert list(comparison) == ["lmindexer", "tfidf_kmeans", "random"]
    first, second = comparison["lmindexer"]["positions"]
    assert second["ami_prefix"] == pytest.approx(1)
    assert first["ami"] > 0.5 and first["distinct_prefixes"] == 4 and second["distinct_prefixes"] == 12
    assert first["perplexity"] == pytest.approx(4) and second["perplexity"] == pytest.approx(3)
    # Every document shares its codes, and none is in a group of more than five.
    assert [comparison["lmindexer"][name] for name in ("sharing", "crowded", "largest_group")] == [1, 0, 5]
    amis = {name: method["positions"][1]["ami_prefix"] for name, method in comparison.items()}
    assert amis["random"] < 0.2 < amis["tfidf_kmeans"] < 1


def test_position_table(comparison):
    lines = position_table(comparison).splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert cells[0][:3] == ["position", "codes", "AMI of the code"] and set(lines[1]) == {"|", "-"}
    assert [row[:2] for row in cells[2:]] == [
        [position, method] for position in "12" for method in ("LMIndexer", "TF-IDF + k-means", "random IDs")
    ]
    assert cells[5][3:] == ["1.000", "3.000", "0.714", "12"]
    assert len({len(line) for line in lines}) == 1


def test_texts_without_words_leave_one_method_out():
    """A report must not fail on a corpus that the run itself could index."""
    comparison = compare_codes(np.arange(8)[:, None] % 2, ["a"] * 8, None, [2], seed=0)
    assert list(comparison) == ["lmindexer", "random"]
    assert len(position_table(comparison).splitlines()) == 4


def test_stage_table():
    figures = {
        "0-reconstructor": {"loss_start": 4.0, "loss_end": 3.25, "reconstruction_f1": 0.125},
        "1-continuous": {"perplexity": 5.0, "ami": float("nan")},
    }
    assert stage_table(figures).splitlines() == [
        "| stage           | loss, start | loss, end | reconstruction F1 | perplexity | AMI |",
        "|-----------------|-------------|-----------|-------------------|------------|-----|",
        "| 0-reconstructor | 4.000       | 3.250     | 0.125             | -          | -   |",
        "| 1-continuous    | -           | -         | -                 | 5.000      | -   |",
    ]


def test_a_table_shows_numbers_as_they_are_read():
    assert format_table(["a", "b"], [[12345, 0.5], ["text", None]]).splitlines()[2:] == [
        "| 12,345 | 0.500 |",
        "| text   | -     |",
    ]


def test_a_sample_of_queries():
    ids, texts = list("abcdefgh"), ["1", "2", "", "4", None, "6", "7", "8"]
    queries = sample_queries(ids, texts, 4, seed=0)
    assert len(queries.texts) == len(set(queries.targets)) == 4
    assert all(texts[ids.index(target)] == text for text, target in zip(queries.texts, queries.targets, strict=True))
    assert sample_queries(ids, texts, 4, seed=0) == queries != sample_queries(ids, texts, 4, seed=1)
    assert sorted(sample_queries(ids, texts, 100, seed=0).targets) == ["a", "b", "d", "f", "g", "h"]


class FoundByRank:
    """Stands for a model: the query `3` finds the documents `d3, d4, ..`."""

    device = "cpu"

    def search(self, *, index, num_beams, top_k, input_ids, attention_mask):
        assert num_beams >= top_k and attention_mask.shape == input_ids.shape
        return SimpleNamespace(documents=[[f"d{row + i}" for i in range(top_k)] for row in input_ids[:, 0].tolist()])


def test_find_rate():
    def tokenizer(texts, **_):
        ids = torch.tensor([[int(text)] for text in texts])
        return BatchEncoding({"input_ids": ids, "attention_mask": torch.ones_like(ids)})

    queries = Queries(["0", "5", "9", "9", "2"], ["d0", "d6", "d5", "d12", "d4"])
    rates = [
        find_rate(FoundByRank(), tokenizer, None, queries, top_k=k, num_beams=5, batch_size=2, quiet=True)
        for k in (1, 2, 3, 4)
    ]
    assert rates == [0.2, 0.4, 0.6, 0.8]
    assert math.isnan(find_rate(FoundByRank(), tokenizer, None, Queries([], []), quiet=True))


def test_figures_of_queries():
    corpus, model = tiny_corpus(), tiny_indexer(num_disambiguation_codes=60).eval()
    inputs = tiny_tokenizer()(list(corpus["text"]), padding=True, return_tensors="pt")
    codes = model.assign(inputs["input_ids"], inputs["attention_mask"]).numpy() - [1, 7]
    index = SemanticIndex.from_codes(list(corpus["id"]), codes, model.config.position_sizes)
    queries = Queries(list(corpus["text"])[:20], list(corpus["id"])[:20])
    figures = query_figures(model, tiny_tokenizer(), index, queries, seed=0, quiet=True)
    found = 0
    for text, target in zip(queries.texts, queries.targets, strict=True):
        one = tiny_tokenizer()([text], return_tensors="pt")
        result = model.search(index=index, input_ids=one["input_ids"], attention_mask=one["attention_mask"])
        found += target in result.documents[0]
    assert figures["recall_at_10"] == found / 20
    assert figures["queries"] == 20 and figures["recall_at_10_by_chance"] == pytest.approx(1 / 6)
    assert 0 <= figures["recall_at_10_random_ids"] <= 1
    # Random IDs that need more room than the last position has are left out.
    ids = [f"d{i}" for i in range(60)]
    full = SemanticIndex(ids, np.stack([*np.divmod(np.arange(60), 4)[::-1], np.zeros(60, int)], 1), [4, 15, 1])
    crowded = tiny_indexer(codebook_sizes=[4, 15], num_disambiguation_codes=1).eval()
    figures = query_figures(crowded, tiny_tokenizer(), full, queries, seed=0, quiet=True)
    assert figures["recall_at_10_random_ids"] is None and figures["recall_at_10"] >= 0


def test_figures_of_queries_without_a_last_position():
    """Random IDs must be unique, too: here there are as many as documents."""
    corpus, model = tiny_corpus(), tiny_indexer(codebook_sizes=[4, 15], num_disambiguation_codes=0).eval()
    codes = np.stack(np.divmod(np.random.default_rng(1).permutation(60), 15), axis=1)
    index = SemanticIndex.from_codes(list(corpus["id"]), codes, [4, 15], has_disambiguation=False)
    random = random_index(index, seed=0)
    assert random.document_ids == index.document_ids and random.position_sizes == [4, 15]
    assert not random.has_disambiguation and len(np.unique(random.codes, axis=0)) == 60
    assert (random.codes != index.codes).any(axis=1).sum() > 40
    np.testing.assert_array_equal(random_index(index, seed=0).codes, random.codes)
    queries = Queries(list(corpus["text"])[:20], list(corpus["id"])[:20])
    figures = query_figures(model, tiny_tokenizer(), index, queries, seed=0, quiet=True)
    assert 0 <= figures["recall_at_10_random_ids"] <= 1

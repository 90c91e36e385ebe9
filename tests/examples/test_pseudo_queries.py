"""Queries made of the documents, and the file of pseudo queries as judgements of a BEIR folder."""

import json

import numpy as np
import pytest
from data import CorpusError
from data.beir import BeirFolder
from data.pseudo_queries import (
    add_pseudo_queries,
    in_turns,
    key_phrases,
    leading_sentences,
    make_queries,
    origin_of_pairs,
    write_queries,
)

TEXTS = ["Red kettle\nA kettle of the finest steel. It boils fast!", "Blue mug\nFor tea of the day.", "Mug"]
TITLES = ["Red kettle", "Blue mug", ""]


def test_methods_take_turns():
    assert in_turns([["a", "b", "c"], [], ["x", "y"]]) == ["a", "x", "b", "y", "c"]
    made = make_queries(TEXTS, TITLES, ["titles", "leading_sentences"], 3)
    assert made == [
        ["Red kettle", "A kettle of the finest steel.", "It boils fast!"], ["Blue mug", "For tea of the day."], [],
    ]  # fmt: skip
    assert make_queries(TEXTS, TITLES, ["leading_sentences", "titles"], 1)[0] == ["A kettle of the finest steel."]
    assert make_queries(["Mug\nMug"], ["Mug"], ["titles", "titles"], 5) == [["Mug"]]
    with pytest.raises(CorpusError, match="the documents have none"):
        make_queries(TEXTS, None, ["titles"], 3)


def test_leading_sentences():
    assert leading_sentences("Made by Dr. Ann Day.\nShort.\nEnd of it") == ["Made by Dr. Ann Day."]
    assert leading_sentences("これは赤いやかんであり、速く沸く。二番目の文もここに書いてあります。") == [
        "これは赤いやかんであり、速く沸く。",
        "二番目の文もここに書いてあります。",
    ]
    assert leading_sentences(" ".join(map(str, range(100)))) == [" ".join(map(str, range(24)))]
    assert leading_sentences("") == []


def test_key_phrases_are_what_sets_a_document_apart():
    texts = [f"the tool of size {i % 7} has cold steel" for i in range(20)]
    texts[3] = "the tool of green granite, green granite, has cold steel"
    phrases = key_phrases(texts, 5)
    assert phrases[3] == ["green granite"] and len(phrases) == 20
    assert phrases[0] == [], "one figure is no word, and the rest is common"


def test_no_phrase_of_a_document_has_all_the_words_of_another():
    random = np.random.default_rng(0)
    texts = [" ".join(f"word{i}" for i in random.integers(30, size=8)) for _ in range(20)]
    for text, own in zip(texts, key_phrases(texts, 3), strict=True):
        assert len(own) == 3 and all(phrase in text for phrase in own)
        assert not any(set(one.split()) <= set(other.split()) for one in own for other in own if one != other)


def test_phrases_of_a_large_corpus_are_shared():
    texts = [f"w{i // 2}x thing{i} word{i % 40}" for i in range(1000)]
    assert key_phrases(texts, 9)[10] == ["w5x", "word10"]


@pytest.mark.parametrize("texts", [[], ["", "?"], ["same words", "same words"]])
def test_documents_without_phrases(texts):
    assert key_phrases(texts, 3) == [[] for _ in texts]


@pytest.fixture
def folder(tmp_path) -> BeirFolder:
    rows = [{"_id": name, "title": f"title {name}", "text": "t"} for name in "abc"]
    (tmp_path / "corpus.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "queries.jsonl").write_text(json.dumps({"_id": "q", "text": "red"}))
    return BeirFolder(tmp_path)


def test_a_text_of_several_documents_is_one_query(folder, tmp_path):
    path = tmp_path / "queries file.jsonl"
    write_queries(path, ["a", "b"], [["red", "größer"], ["red", "red"]])
    assert path.read_text(encoding="utf-8").splitlines()[1] == '{"document_id": "a", "text": "größer"}'
    qrels = add_pseudo_queries(folder, path)
    assert list(qrels.values()) == [{"a": 1, "b": 1}, {"a": 1}]
    assert [folder.queries[name] for name in qrels] == ["red", "größer"] and folder.queries["q"] == "red"
    assert origin_of_pairs({"q": {"a": 2, "c": 0}}, qrels) == (
        "1 of judged queries, 3 of pseudo queries for 2 documents, of which 1 have no judged one"
    )


def test_ids_that_are_numbers(tmp_path, folder):
    path = tmp_path / "own.csv"
    path.write_text("document_id,text\na,one\n")
    assert list(add_pseudo_queries(folder, path).values()) == [{"a": 1}]
    (tmp_path / "corpus.jsonl").write_text('{"_id": 7, "text": "t"}')
    (tmp_path / "own.jsonl").write_text('{"document_id": 7, "text": "one"}')
    assert list(add_pseudo_queries(BeirFolder(tmp_path), tmp_path / "own.jsonl").values()) == [{"7": 1}]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"document_id": "a", "text": "x"}\n{"document_id": "z", "text": "x"}', "row 2: document 'z' is not in"),
        ('{"document_id": "a", "text": " "}', "row 1: the query of document 'a' is empty"),
        ('{"document_id": "a", "text": null}', "row 1: the query of document 'a' is empty"),
        ('{"document": "a", "text": "x"}', "no column document_id; it has document, text"),
        (None, "own.jsonl is not a file"),
    ],
)
def test_files_that_cannot_be_used(folder, tmp_path, text, message):
    if text is not None:
        (tmp_path / "own.jsonl").write_text(text)
    with pytest.raises((CorpusError, FileNotFoundError), match=message):
        add_pseudo_queries(folder, tmp_path / "own.jsonl")

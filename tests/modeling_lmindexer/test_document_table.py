"""The table of documents: what comes back, what a damaged file says, and what it never stands in the way of."""

import os
import re

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modeling_lmindexer import CorruptedFolderError, DocumentTable
from modeling_lmindexer.document_table import DOCUMENTS_NAME, shared_levels, shortened
from modeling_lmindexer.folder import MANIFEST_NAME, read_manifest, update_manifest

PATHS = st.lists(st.lists(st.sampled_from("abc"), max_size=4).map(tuple), min_size=1, max_size=6)


def some_table(ids=("a", "b")) -> DocumentTable:
    return DocumentTable(ids, ["red shoes", "blue hat\n"], [["Shop", "Shoes"], None])


@pytest.mark.parametrize("ids", [("a", "b"), (7, 2**40)])
def test_what_was_written_comes_back(tmp_path, ids):
    some_table(ids).save_pretrained(tmp_path)
    table = DocumentTable.from_pretrained(tmp_path)
    assert table.document_ids == list(ids) and len(table) == 2 and ids[1] in table
    assert [table.text_of(i) for i in ids] == ["red shoes", "blue hat\n"]
    assert [table.category_of(i) for i in ids] == [("Shop", "Shoes"), ()]
    assert table.text_of("elsewhere") is None and table.category_of("elsewhere") == ()
    assert table.label_of("elsewhere") is None and "elsewhere" not in table


def test_equal_tables_are_equal_files_and_a_manifest_lists_them(tmp_path):
    update_manifest(tmp_path, [])
    some_table().save_pretrained(tmp_path)
    before = (tmp_path / DOCUMENTS_NAME).read_bytes()
    some_table().save_pretrained(tmp_path)
    assert (tmp_path / DOCUMENTS_NAME).read_bytes() == before
    assert list(read_manifest(tmp_path / MANIFEST_NAME)["files"]) == [DOCUMENTS_NAME]


def test_of_documents_keeps_the_beginning_of_texts():
    table = DocumentTable.of([{"id": 1, "text": "one two three", "category": ["x"]}, {"id": 2, "text": "four"}], 8)
    assert table.texts == ["one two…", "four"] and table.categories == [("x",), ()]
    assert shortened("abc", 3) == "abc" and shortened("abc", None) == "abc" and shortened("a bcd", 3) == "a…"


@given(PATHS)
def test_shared_levels_are_those_of_every_path_unless_nothing_is_left_to_tell_apart(paths):
    known = [path for path in paths if path]
    same = 0
    while known and all(len(path) > same and path[: same + 1] == known[0][: same + 1] for path in known):
        same += 1
    assert shared_levels(paths) == (0 if len(set(known)) <= 1 else same)


def test_labels_begin_where_documents_differ():
    table = DocumentTable([1, 2, 3], ["", "", ""], [["s", "x", "y"], ["s", "z"], ["s"]])
    assert [table.label_of(i) for i in (1, 2, 3)] == ["x", "z", None]
    assert [table.label_of(i, depth=2) for i in (1, 2, 3)] == ["x > y", "z", None]


@pytest.mark.parametrize("texts, categories", [(["x"], None), (["x", "y"], [["a"]])])
def test_other_lengths_are_refused(texts, categories):
    with pytest.raises(ValueError, match="for each of 2 documents"):
        DocumentTable(["a", "b"], texts, categories)


@pytest.mark.parametrize("max_characters", [None, 5])
@pytest.mark.parametrize("value", [None, float("nan"), b"red", ["red"]])
def test_texts_are_strings(value, max_characters):
    documents = [{"id": "a", "text": "red"}, {"id": "b", "text": value}, {"id": "c", "text": value}]
    message = re.escape(f"2 of 3 texts are no strings, such as that of 'b': {value!r}. Give '' for none.")
    with pytest.raises(ValueError, match=message):
        DocumentTable.of(documents, max_characters)


def test_empty_texts_come_back(tmp_path):
    DocumentTable.of([{"id": 1, "text": ""}, {"id": 2, "text": "red"}], 5).save_pretrained(tmp_path)
    assert DocumentTable.from_pretrained(tmp_path).texts == ["", "red"]


@pytest.mark.parametrize("ids", [[None, "b"], [1.5, 2.5], ["a", 2], [b"a", b"b"]])
def test_ids_are_of_one_kind(ids):
    with pytest.raises(ValueError, match="must be all integers or all strings"):
        DocumentTable(ids, ["", ""])


def test_a_category_is_a_list_of_labels():
    assert DocumentTable([1, 2], ["", ""], [np.array(["s", "x"]), None]).categories == [("s", "x"), ()]
    for category in ("Shoes", b"Shoes", ["s", None], ["s", b"x"], 3):
        with pytest.raises(ValueError, match="expected a list of labels"):
            DocumentTable([1], [""], [category])


def damage_bytes(path):
    path.write_bytes(path.read_bytes()[:-20])


def drop_column(path):
    pyarrow.parquet.write_table(pyarrow.parquet.read_table(path).drop_columns(["category"]), path)


def no_text(path):
    table = pyarrow.parquet.read_table(path)
    pyarrow.parquet.write_table(table.set_column(1, "text", pyarrow.array([None, "x"], pyarrow.string())), path)


def same_id(path):
    table = pyarrow.parquet.read_table(path)
    pyarrow.parquet.write_table(table.set_column(0, "id", pyarrow.array(["a", "a"])), path)


def category_text(path):
    table = pyarrow.parquet.read_table(path)
    pyarrow.parquet.write_table(table.set_column(2, "category", pyarrow.array(["Shoes", "Hats"])), path)


@pytest.mark.parametrize("damage", [damage_bytes, drop_column, no_text, same_id, category_text, os.remove])
@pytest.mark.parametrize("listed", [False, True])
def test_damage_is_named_with_the_path_and_what_to_do(tmp_path, damage, listed):
    some_table().save_pretrained(tmp_path)
    if listed:
        update_manifest(tmp_path, [DOCUMENTS_NAME])
    damage(tmp_path / DOCUMENTS_NAME)
    with pytest.raises((CorruptedFolderError, FileNotFoundError), match="documents.parquet.*(?s:.)*folder"):
        DocumentTable.from_pretrained(tmp_path)

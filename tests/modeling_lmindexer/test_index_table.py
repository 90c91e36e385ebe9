"""The table of IDs: any column that is not what it should be is named, whatever the size of the table."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modeling_lmindexer import CorruptedFolderError, SemanticIndex, index_table
from modeling_lmindexer.document_ids import IDS_NAME
from modeling_lmindexer.index_changes import CHANGES_NAME, read_changes
from modeling_lmindexer.index_table import IndexTable

SIZES = {"position_sizes": "[4, 5, 3]"}
IDS, CODES = pa.array(["a", "b"]), pa.array([[0, 1, 0], [3, 4, 2]])


def write(path, ids=IDS, codes=CODES, metadata=SIZES, **more):
    table = pa.table({"id": ids, "codes": codes} | more).replace_schema_metadata(metadata)
    pyarrow.parquet.write_table(table, path)
    return path


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"ids": pa.array(["a", None])}, "row 1 has no id"),
        ({"ids": pa.array([0.5, 1.5])}, "column id is of type double"),
        ({"ids": pa.array([[1], [2]])}, "column id is of type list"),
        ({"ids": pa.array([1, 2**63], pa.uint64())}, f"the id {2**63}"),
        ({"ids": pa.array(["a", "a"])}, "occur more than once"),
        ({"codes": pa.array([[0, 1, 0], [3, 4]])}, "a document has 2 codes, position_sizes names 3"),
        ({"codes": pa.array([[0, 1, 0], None])}, "1 documents have no codes"),
        ({"codes": pa.array([[0, 1, None], [3, 4, 2]])}, "1 codes are missing"),
        ({"codes": pa.array([[0, 1, 2**63], [3, 4, 2]], pa.list_(pa.uint64()))}, "not in range"),
        ({"codes": pa.array([[0, 1, 2**62], [3, 4, 2]])}, "is not a table of semantic IDs"),
        ({"codes": pa.array([[0, 1, -1], [3, 4, 2]])}, r"codes \[0, 1, -1\]"),
        ({"codes": pa.array([["0", "1", "0"]] * 2)}, "holds string, expected whole numbers"),
        ({"codes": pa.array([1, 2])}, "column codes is of type int64"),
        ({"codes": pa.array([[0, 1, 0]] * 2)}, "2 documents have only 1 different IDs"),
        ({"metadata": {}}, "lacks position_sizes"),
        *(
            ({"metadata": SIZES | {name: value}}, f"its {name}")
            for name, value in [
                ("position_sizes", "[]"), ("position_sizes", "[0, 5, 3]"), ("position_sizes", "[4.0, 5, 3]"),
                ("position_sizes", "7"), ("position_sizes", f"[4, 5, {2**62}]"), ("has_disambiguation", "1"),
                ("codebook_fingerprint", "3"), ("version", "-1"), ("version", '"1"'), ("num_changes", "true"),
            ]
        ),
        ({"metadata": {"position_sizes": "["}}, "is not a table of semantic IDs"),
        ({"metadata": {"position_sizes": "[" * 100_000}}, "is not a table of semantic IDs"),
        ({"ids": pa.array([], pa.string()), "codes": pa.array([], pa.list_(pa.int64()))}, "There are no documents"),
    ],
)  # fmt: skip
def test_a_wrong_column_is_named(tmp_path, changed, message):
    write(tmp_path / IDS_NAME, **changed)
    with pytest.raises(CorruptedFolderError, match=f"(?s){message}.*Download or write the folder again"):
        SemanticIndex.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("ids", "codes"),
    [
        (pa.array([1, 2], pa.int32()), pa.array([[0, 1, 0], [3, 4, 2]], pa.list_(pa.int8()))),
        (pa.array(["a", "b"], pa.large_string()), pa.array([[0, 1, 0], [3, 4, 2]], pa.large_list(pa.uint64()))),
        (pa.array(["a", "b"]), pa.array([[0, 1, 0], [3, 4, 2]], pa.list_(pa.int32(), 3))),
    ],
)
def test_tables_of_other_writers_are_read(tmp_path, ids, codes):
    write(tmp_path / IDS_NAME, ids, codes)
    index = SemanticIndex.from_pretrained(tmp_path)
    assert index.document_ids == ids.to_pylist() and index.codes.tolist() == [[0, 1, 0], [3, 4, 2]]
    assert index.version == 0 and index.codebook_fingerprint is None and list(index.changes()) == []


@pytest.mark.parametrize("rows", [1, 6, 7, 8, 22])
def test_chunks_are_put_together(tmp_path, monkeypatch, rows):
    monkeypatch.setattr(index_table, "CHUNK", 7)
    codes = np.random.default_rng(0).integers(0, 9, (rows, 3))
    table = IndexTable([f"d{i}" for i in range(rows)], codes, [9, 9, 9], False, "abc", 4, 11)
    table.write(tmp_path / IDS_NAME)
    read = IndexTable.read(tmp_path / IDS_NAME, with_texts=True)
    assert (read.document_ids, read.codes.tolist()) == (table.document_ids, codes.tolist())
    assert [getattr(read, name) for name in IndexTable.METADATA] == [[9, 9, 9], False, "abc", 4, 11]


@settings(max_examples=60, deadline=None, database=None)
@given(st.data())
def test_a_changed_byte_is_noticed_or_means_nothing(data):
    """Without a manifest, too: pages have checksums."""
    import tempfile
    from pathlib import Path

    index = SemanticIndex.from_codes([f"d{i}" for i in range(50)], np.arange(100).reshape(50, 2) % 4, [4, 4, 50])
    index.remove(["d3"])
    with tempfile.TemporaryDirectory() as folder:
        index.save_pretrained(folder)
        for name in (IDS_NAME, CHANGES_NAME):
            path = Path(folder, name)
            content = bytearray(path.read_bytes())
            content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
            path.write_bytes(content)
        try:
            loaded = SemanticIndex.from_pretrained(folder)
            changes = list(read_changes(Path(folder, CHANGES_NAME)))
        except CorruptedFolderError:
            return
        assert len(loaded.document_ids) == len(loaded.codes) and all(len(batch) for batch in changes)


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        ("version", pa.array([2, 1]), "versions do not ascend from 1"),
        ("version", pa.array([0, 1]), "versions do not ascend from 1"),
        ("version", pa.array([1, None]), "rows without a version"),
        ("version", pa.array(["1", "2"]), "it has the columns"),
        ("action", pa.array(["add", "rename"]), r"it has the actions \['rename'\]"),
        ("other", pa.array([1, 2]), "it has the columns"),
    ],
)
def test_a_wrong_changelog_is_named(tmp_path, column, values, message):
    good = {
        "version": pa.array([1, 2]), "action": pa.array(["add", "remove"]), "id": IDS,
        "before": pa.array([None, "<0>"]), "after": pa.array(["<1>", None]),
    }  # fmt: skip
    pyarrow.parquet.write_table(pa.table(good), tmp_path / "good")
    assert sum(map(len, read_changes(tmp_path / "good"))) == 2
    pyarrow.parquet.write_table(pa.table(good | {column: values}), tmp_path / "bad")
    with pytest.raises(CorruptedFolderError, match=message):
        list(read_changes(tmp_path / "bad"))


def test_an_index_that_never_changed_is_written_as_before(tmp_path):
    SemanticIndex.from_codes(["a"], [[0, 1]], [4, 5, 3]).save_pretrained(tmp_path)
    metadata = pyarrow.parquet.read_schema(tmp_path / IDS_NAME).metadata
    assert {name: json.loads(value) for name, value in metadata.items()} == {
        b"position_sizes": [4, 5, 3], b"has_disambiguation": True
    }  # fmt: skip

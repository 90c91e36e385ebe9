"""Rows come out sorted, all of them, whatever the budget and however the keys are distributed."""

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainers.external_sort import ExternalSort, read_batches

KEYS = st.one_of(st.integers(-3, 3), st.integers(-(2**62), 2**62))
TEXTS = st.one_of(st.sampled_from(["", "a", "é", "\U0001f600", "\uffff"]), st.text(max_size=5))


def batches_of(rows: list[tuple], size: int, names=("a", "b")):
    schema = pa.schema([(name, pa.string() if name == "b" else pa.int64()) for name in names])
    table = pa.table(dict(zip(names, zip(*rows, strict=True), strict=True)), schema=schema) if rows else None
    return lambda: iter([] if table is None else table.to_batches(max_chunksize=size))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(KEYS, TEXTS), max_size=200), st.integers(1, 50), st.sampled_from([1, 200, 3000, 10**6]),
)  # fmt: skip
def test_sorted_as_in_memory(tmp_path_factory, rows, size, memory):
    folder = tmp_path_factory.mktemp("sort") / "files"
    tables = list(ExternalSort(["a", "b"], memory, folder)(batches_of(rows, size)))
    found = [row for table in tables for row in zip(*(table[n].to_pylist() for n in "ab"), strict=True)]
    assert found == sorted(rows)  # Python compares text by code points, arrow by the bytes of UTF-8: the same order
    assert not folder.exists()


@pytest.mark.parametrize("value", ["same", "different"])
def test_tables_keep_to_the_budget(tmp_path, value):
    """Except where one key alone is larger."""
    rows = [(0 if value == "same" else row * 7919 % 5000, f"{row:06d}") for row in range(5000)]
    tables = list(ExternalSort(["a", "b"], 40_000, tmp_path / "files")(batches_of(rows, 500)))
    assert sum(map(len, tables)) == 5000
    assert max(table.nbytes for table in tables) < 20_000  # of which the sort has several copies


def test_what_a_killed_sort_left_is_not_read(tmp_path):
    rows, sort = [(row, "x") for row in range(100)], ExternalSort(["a"], 500, tmp_path / "files")
    next(sort(batches_of(rows, 10)))
    assert any((tmp_path / "files").iterdir())
    assert sum(map(len, sort(batches_of(rows, 10)))) == 100


def test_batches_of_a_file(tmp_path):
    table = pa.table({"a": list(range(10))})
    with pa.ipc.new_file(tmp_path / "rows.arrow", table.schema) as writer:
        writer.write_table(table, max_chunksize=4)
    assert [batch["a"].to_pylist() for batch in read_batches(tmp_path / "rows.arrow")] == [
        [0, 1, 2, 3], [4, 5, 6, 7], [8, 9],
    ]  # fmt: skip

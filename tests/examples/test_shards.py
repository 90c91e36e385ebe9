"""Files read in parts give what `load_corpus` makes of them, and errors name file and row."""

import gzip
import json

import pandas
import pyarrow as pa
import pytest
from data import CorpusArguments, CorpusError, load_corpus
from data.shards import ShardFile, find_shards

ROWS = [
    {"id": i, "title": f"Item {i}", "description": [f"<b>of kind</b> {i % 3}", "a & b"] if i % 2 else None}
    for i in range(11)
]


def write(folder, kind: str, rows=ROWS):
    path = folder / f"items.{kind}"
    if kind == "parquet":
        pandas.DataFrame(rows).to_parquet(path, row_group_size=4)
    elif kind.startswith("csv"):
        rows = [row | {"description": "one,\ntwo" if row["description"] else ""} for row in rows]
        pandas.DataFrame(rows).to_csv(path, index=False)
    else:
        with (gzip.open if kind.endswith("gz") else open)(path, "wt") as file:
            file.write("\n\n".join(map(json.dumps, rows)) + "\n")
    return path


def everything(number: int) -> bool:
    return True


@pytest.mark.parametrize("kind", ["jsonl", "jsonl.gz", "csv", "csv.gz", "parquet"])
@pytest.mark.parametrize("size", [1, 4, 11, 50])
def test_parts_together_are_the_corpus(tmp_path, kind, size):
    path = write(tmp_path, kind)
    corpus = load_corpus(CorpusArguments(train_file=str(path)))
    parts = list(ShardFile(path, "id").parts(size, everything))
    assert [i for part in parts for i in part.ids] == list(corpus["id"])
    assert [text for part in parts for text in part.texts] == list(corpus["text"])
    assert [part.is_last for part in parts] == [False] * (len(parts) - 1) + [True]
    assert [part.first_row for part in parts] == list(range(0, 11, size)) and parts[0].typed == ("csv" not in kind)
    wanted = list(ShardFile(path, "id").parts(size, lambda number: number % 2 == 1))
    assert wanted == parts[1::2]


def test_an_empty_file_has_one_empty_part(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text("\n")
    [part] = ShardFile(path, "id").parts(5, everything)
    assert part.ids == [] and part.is_last


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (['{"id": 1, "title": "a"}', '{"id": null, "title": "a"}'], "row 2, has id=None; expected a whole number"),
        (['{"id": 1, "title": "a"}', '{"title": "a"}'], "row 2, has id=None"),
        (['{"id": 1, "title": "a"}', '{"id": 2, "title": " "}'], "row 2, has no text in title"),
        (['{"id": 1, "title": "a"}', '{"id": "x", "title": "a"}'], "row 2, has text as its id, rows before it whole"),
        (['{"id": "x", "title": "a"}', '{"id": 1, "title": "a"}'], "row 2, has a whole number as its id"),
        (['{"id": 1, "title": "a"}', "{"], "row 2, is not JSON"),
        (["[1]"], "row 1, is not a JSON object"),
        (['{"key": 1, "title": "a"}'], "has no column id; it has key, title"),
        (['{"id": 1, "name": "a"}'], "has no column title or description or brand or text; it has id, name"),
    ],
)
def test_rows_that_cannot_be_used(tmp_path, rows, message):
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(rows))
    with pytest.raises(CorpusError) as error:
        list(ShardFile(path, "id").parts(10, everything))
    assert message in str(error.value) and str(path) in str(error.value)


def test_columns_that_are_missing(tmp_path):
    for kind in ("jsonl", "csv", "parquet"):
        with pytest.raises(CorpusError, match="no column headline; it has id, title, description"):
            list(ShardFile(write(tmp_path, kind), "id", ["headline"]).parts(10, everything))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.parquet", b"PAR1 no", "cannot be read as parquet"),
        ("a.jsonl.gz", gzip.compress(b'{"id": 1, "title": "a"}\n' * 99, mtime=0)[:-20], "cannot be read as json"),
        ("a.jsonl", b'{"id": 1, "title": "\xff"}', "cannot be read as json: UnicodeDecodeError"),
        ("a.csv", b"id,title\n1,a,b\n", "row 1, has more or fewer values than the header"),
    ],
)
def test_files_that_cannot_be_read(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CorpusError, match=message):
        list(ShardFile(tmp_path / name, "id").parts(10, everything))


def test_finding_files(tmp_path):
    for name in ("b.jsonl", "a.jsonl", "[1].csv"):
        (tmp_path / name).write_text("")
    found = find_shards([str(tmp_path / "*.jsonl"), str(tmp_path / "a.jsonl")], "id", None)
    assert [shard.path.name for shard in found] == ["a.jsonl", "b.jsonl"]
    assert len(find_shards([str(tmp_path / "[1].csv")], "id", None)) == 1
    with pytest.raises(CorpusError, match="No file matches"):
        find_shards([str(tmp_path / "*.parquet")], "id", None)
    with pytest.raises(CorpusError, match="several types"):
        find_shards([str(tmp_path / "*")], "id", None)


def test_types_of_parquet_ids(tmp_path):
    """Numbers of any width are numbers; a float is none."""
    path = tmp_path / "a.parquet"
    pa.parquet.write_table(pa.table({"id": pa.array([1, 2], pa.int16()), "text": ["a", "b"]}), path)
    assert next(ShardFile(path, "id").parts(5, everything)).ids == [1, 2]
    pa.parquet.write_table(pa.table({"id": [1.5, 2.0], "text": ["a", "b"]}), path)
    with pytest.raises(CorpusError, match="row 1, has id=1.5"):
        next(ShardFile(path, "id").parts(5, everything))


def test_rows_that_no_wanted_part_has_are_not_read(tmp_path, monkeypatch):
    """Row groups of 4: part 2 of size 3 has the rows 6 to 8, which are in the groups 1 and 2."""
    path, read, iter_batches = write(tmp_path, "parquet"), [], pa.parquet.ParquetFile.iter_batches

    def noted(self, *args, row_groups, **settings):
        read.append(row_groups)
        return iter_batches(self, *args, row_groups=row_groups, **settings)

    monkeypatch.setattr(pa.parquet.ParquetFile, "iter_batches", noted)
    [part] = ShardFile(path, "id").parts(3, lambda number: number == 2)
    assert part.ids == [6, 7, 8] and part.first_row == 6 and not part.is_last
    assert read == [[1], [2]]


@pytest.mark.parametrize(("kind", "known"), [("jsonl", None), ("csv", None), ("parquet", 3)])
def test_the_number_of_parts(tmp_path, kind, known):
    assert ShardFile(write(tmp_path, kind), "id").number_of_parts(4) == known
    if known:
        columns = {"id": pa.array([], pa.int64()), "text": pa.array([], pa.string())}
        pa.parquet.write_table(pa.table(columns), tmp_path / "e.parquet")
        assert ShardFile(tmp_path / "e.parquet", "id").number_of_parts(4) == 1


@pytest.mark.parametrize("row", ['{"id": 2, "title": "a\\ud800b"}', '{"id": "\\ud800", "title": "a"}'])
def test_half_of_a_character(tmp_path, row):
    path = tmp_path / "a.jsonl"
    path.write_text('{"id": 1, "title": "a \\ud83d\\ude00"}\n' + row)
    with pytest.raises(CorpusError) as error:
        list(ShardFile(path, "id").parts(10, everything))
    assert f"{path}, row 2, has half of a character, '\\ud800'" in str(error.value) and "anew" in str(error.value)
    path.write_text(path.read_text().replace('"id": 1,', '"id": "1",'))
    with pytest.raises(CorpusError, match="Row 2 has half of a character"):
        load_corpus(CorpusArguments(train_file=str(path)))

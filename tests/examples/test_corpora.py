"""Corpora from files and data sets: what the documents look like, and what is said of those that cannot be used."""

import gzip
import json
import os
import re
from pathlib import Path

import pytest
from data import CorpusArguments, CorpusError, load_corpus
from data.corpora import category_path, clean_text
from datasets import Dataset, Features, List, Value
from transformers import HfArgumentParser

ROWS = [
    {"id": 7, "title": "Blue  pot", "description": "It <b>holds</b> 2&nbsp;l.", "brand": None, "categories": ["Home"]},
    {"id": 3, "title": "Fork", "description": None, "brand": "Acme &amp; Co", "categories": []},
    {"id": 5, "title": "Spoon\n", "description": "", "brand": "", "categories": None},
]
TEXTS = ["Blue pot\nIt holds 2 l.", "Fork\nAcme & Co", "Spoon"]


def write(path: Path, content: str) -> str:
    """`content` in a file, packed if its name says so; returns the path as an argument."""
    data = content.encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return str(path)


def json_lines(rows: list[dict]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def corpus_of(tmp_path: Path, rows: list[dict], **arguments) -> Dataset:
    return load_corpus(CorpusArguments(train_file=write(tmp_path / "rows.jsonl", json_lines(rows)), **arguments))


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.json", "lines.json", "a.json.gz", "a.parquet"])
def test_typed_files(tmp_path, name):
    if name.endswith("parquet"):
        file = str(tmp_path / name)
        Dataset.from_list(ROWS).to_parquet(file)
    else:
        is_list = name in ("a.json", "a.json.gz")
        file = write(tmp_path / name, json.dumps(ROWS, indent=1) if is_list else json_lines(ROWS))
    corpus = load_corpus(CorpusArguments(train_file=file))
    assert corpus.features == Features(
        {"id": Value("int64"), "text": Value("string"), "category": List(Value("string"))}
    )
    assert corpus[:] == {"id": [7, 3, 5], "text": TEXTS, "category": [["Home"], [], []]}


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz"])
def test_csv(tmp_path, name):
    file = write(tmp_path / name, '\ufeffid,title,category,n\n1,"NA, ""x""\ny",Home > Kitchen,1.5\n12,None,,\n')
    corpus = load_corpus(CorpusArguments(train_file=file, query_column="n"))
    assert corpus[:] == {
        "id": [1, 12],
        "text": ['NA, "x" y', "None"],
        "category": [["Home", "Kitchen"], []],
        "query": ["1.5", ""],
    }


@pytest.mark.parametrize(("ids", "expected"), [("1,-20,0", [1, -20, 0]), ("1,007", ["1", "007"]), ("1,b", ["1", "b"])])
def test_csv_ids_are_numbers_if_they_can_be_written_back(tmp_path, ids, expected):
    file = write(tmp_path / "a.csv", "id,text\n" + "".join(f"{value},words\n" for value in ids.split(",")))
    assert load_corpus(CorpusArguments(train_file=file))["id"][:] == expected


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        ([1, 2], [1, 2]),
        (["1", "2"], ["1", "2"]),
        ([1, "b"], ["1", "b"]),
        (["2024-01-01", "2024-01-02"], ["2024-01-01", "2024-01-02"]),
        ([1, 2**64], ["1", str(2**64)]),
    ],
)
def test_json_ids_keep_their_type(tmp_path, ids, expected):
    rows = [{"id": value, "text": "2024-01-01T00:00:00"} for value in ids]
    corpus = corpus_of(tmp_path, rows)
    assert corpus["id"][:] == expected
    assert corpus["text"][0] == "2024-01-01T00:00:00"


def test_columns_that_begin_late_or_change_their_type(tmp_path):
    filler = "word " * 400_000  # datasets' own JSON loader settles the types by the first 10 MB
    rows = [{"id": index, "text": filler, "brand": None, "categories": []} for index in range(6)]
    rows += [{"id": "x", "text": "late", "brand": "Acme", "categories": "Home > Kitchen", "title": 12}]
    corpus = corpus_of(tmp_path, rows)
    assert corpus[6] == {"id": "x", "text": "12\nAcme\nlate", "category": ["Home", "Kitchen"]}
    assert corpus["id"][:2] == ["0", "1"]


def test_text_columns_in_the_order_asked_for(tmp_path):
    rows = [{"id": 1, "title": "a", "text": "b", "features": ["c", None, "d"], "price": 2.5}]
    assert corpus_of(tmp_path, rows)["text"][:] == ["a\nb"]
    asked = ["price", "features", "title"]
    assert corpus_of(tmp_path, rows, text_columns=asked)["text"][:] == ["2.5\nc d\na"]


def test_category_column(tmp_path):
    rows = [{"id": 1, "text": "a", "category": "A/B", "categories": [["C", "D"], ["E"]], "label": 4}]
    assert corpus_of(tmp_path, rows)["category"][:] == [["C", "D"]]
    assert corpus_of(tmp_path, rows, category_column="category")["category"][:] == [["A/B"]]
    assert corpus_of(tmp_path, rows, category_column="label")["category"][:] == [["4"]]
    assert corpus_of(tmp_path, rows, category_column="").column_names == ["id", "text"]


def test_max_documents_takes_the_first_rows(tmp_path):
    assert corpus_of(tmp_path, ROWS, max_documents=2)["id"][:] == [7, 3]
    assert corpus_of(tmp_path, ROWS, max_documents=9)["id"][:] == [7, 3, 5]
    with pytest.raises(ValueError, match="max_documents=0"):
        CorpusArguments(max_documents=0)


def test_a_changed_file_is_read_again(tmp_path):
    assert corpus_of(tmp_path, ROWS)["id"][:] == [7, 3, 5]
    assert corpus_of(tmp_path, ROWS[1:])["id"][:] == [3, 5]


def test_paths_are_not_patterns(tmp_path):
    (tmp_path / "run [1] *").mkdir()
    assert len(corpus_of(tmp_path / "run [1] *", ROWS)) == 3


def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path):
    for name, content in (("a.jsonl", json_lines(ROWS)), ("a.json", json.dumps(ROWS))):
        file = write(tmp_path / name, "\ufeff" + content)
        assert load_corpus(CorpusArguments(train_file=file))["id"][:] == [7, 3, 5]


def test_blank_lines_are_no_documents(tmp_path):
    file = write(tmp_path / "a.jsonl", '{"id": 1, "text": "a"}\n\n  \r\n{"id": 2, "text": "b\u2028c"}\n\n')
    assert load_corpus(CorpusArguments(train_file=file))[:] == {"id": [1, 2], "text": ["a", "b c"]}


def test_a_data_set_in_a_local_folder(tmp_path):
    (tmp_path / "set").mkdir()
    write(tmp_path / "set" / "train.jsonl", json_lines(ROWS))
    write(tmp_path / "set" / "test.jsonl", json_lines(ROWS[:1]))
    name = str(tmp_path / "set")
    assert load_corpus(CorpusArguments(dataset_name=name))["text"][:] == TEXTS
    assert load_corpus(CorpusArguments(dataset_name=name, dataset_split="test"))["id"][:] == [7]


def test_a_data_set_of_the_hub(monkeypatch):
    def load_dataset(name, config, split):
        assert (name, config, split) == ("org/set", "en", "validation")
        return Dataset.from_list([{"key": "a", "body": "words", "kind": "x > y", "unused": {"b": 1}}])

    monkeypatch.setattr("data.corpora.load_dataset", load_dataset)
    arguments = CorpusArguments(
        dataset_name="org/set",
        dataset_config_name="en",
        dataset_split="validation",
        id_column="key",
        text_columns=["body"],
        category_column="kind",
    )
    assert load_corpus(arguments).to_list() == [{"id": "a", "text": "words", "category": ["x", "y"]}]


def test_without_a_source_the_standard_library(documentation, monkeypatch):
    monkeypatch.setattr("data.corpora.python_docs", lambda: documentation)  # saves reading it again
    corpus = load_corpus(CorpusArguments(max_documents=3))
    assert corpus[:] == documentation[:3]


def test_arguments_come_from_command_line_and_configuration():
    parser = HfArgumentParser(CorpusArguments)
    (given,) = parser.parse_args_into_dataclasses(["--text_columns", "title", "brand", "--drop_empty_texts"])
    assert (given.text_columns, given.drop_empty_texts) == (["title", "brand"], True)
    (given,) = parser.parse_dict({"text_columns": "title", "max_documents": 5})
    assert (given.text_columns, given.max_documents, given.drop_empty_texts) == (["title"], 5, False)
    with pytest.raises(ValueError, match="not both"):
        CorpusArguments(train_file="a.jsonl", dataset_name="b")


# What cannot be used, and what is said of it.


def test_missing_files_and_folders(tmp_path):
    for file in (tmp_path / "none.jsonl", tmp_path):
        with pytest.raises(FileNotFoundError, match=re.escape(str(file))):
            load_corpus(CorpusArguments(train_file=str(file)))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", "words", r"a\.txt: unknown extension '\.txt', expected one of \.jsonl"),
        ("a.parquet.gz", "words", r"unknown extension '\.parquet\.gz'"),
        ("a.jsonl", '{"id": 1, "text": "a"}\n\n{"id": 2, "te\n', r"a\.jsonl, line 3 is not JSON .*'\{\"id\": 2"),
        ("a.jsonl", '{"id": 1}\n[1, 2]\n', r"line 2 is not a JSON object but '\[1, 2\]'"),
        ("a.json", '{\n  "id": 1\n}\n', "line 1 is not JSON"),
        ("a.json", '[{"id": 1}, 5]', "element 2 is not a JSON object but '5'"),
        ("a.json", '[{"id": 1}', r"a\.json cannot be read as json: JSONDecodeError"),
        ("a.csv", "id,text\n1,a,b\n", r"a\.csv cannot be read as csv: ParserWarning: Length of header"),
        ("a.csv", "id,text\n1,a\n2,a,b\n", "ParserError: .*line 3"),
        ("a.parquet", "words", r"a\.parquet cannot be read as parquet: ArrowInvalid"),
        ("a.jsonl", "", r"a\.jsonl holds no rows"),
        ("a.jsonl", "\n\n", r"a\.jsonl holds no rows"),
        ("a.json", "[]", r"a\.json holds no rows"),
        ("a.csv", "id,text\n", r"a\.csv holds no rows"),
        ("a.csv", "", "EmptyDataError"),
    ],
)
def test_files_that_cannot_be_read(tmp_path, name, content, message):
    with pytest.raises(CorpusError, match=message):
        load_corpus(CorpusArguments(train_file=write(tmp_path / name, content)))


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.jsonl.gz", b'{"id": 1}', "BadGzipFile"),
        ("a.jsonl.gz", gzip.compress(b'{"id": 1, "text": "a"}', mtime=0)[:-12], "EOFError"),
        ("a.jsonl", '{"id": 1, "text": "é"}'.encode("latin-1"), "UnicodeDecodeError.*UTF-8"),
        ("a.csv", "id,text\n1,é\n".encode("latin-1"), "UnicodeDecodeError.*UTF-8"),
    ],
)
def test_files_that_are_not_what_they_seem(tmp_path, name, data, message):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(CorpusError, match=message):
        load_corpus(CorpusArguments(train_file=str(tmp_path / name)))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"id_column": "_id"}, "no column _id; it has id, title, description, brand, categories.*--id_column"),
        ({"text_columns": ["title", "body"]}, "no column body; .*--text_columns"),
        ({"category_column": "genre"}, "no column genre; .*--category_column"),
        ({"query_column": "question"}, "no column question; .*--query_column"),
    ],
)
def test_missing_columns(tmp_path, arguments, message):
    with pytest.raises(CorpusError, match=message):
        corpus_of(tmp_path, ROWS, **arguments)


def test_no_text_column_to_fall_back_on(tmp_path):
    with pytest.raises(CorpusError, match="no column title or description or brand or text; it has id, body"):
        corpus_of(tmp_path, [{"id": 1, "body": "a"}])


@pytest.mark.parametrize("value", [None, "", " ", 1.5, True, ["a"]])
def test_rows_without_an_id(tmp_path, value):
    with pytest.raises(CorpusError, match=f"Row 2 has id={re.escape(repr(value))}; expected"):
        corpus_of(tmp_path, [{"id": 1, "text": "a"}, {"id": value, "text": "b"}])


def test_repeated_ids(tmp_path):
    rows = [{"id": value, "text": "a"} for value in (4, 5, 4, 6, 5, 4)]
    with pytest.raises(CorpusError, match="2 ids in column id stand for several documents: 4, 5. "):
        corpus_of(tmp_path, rows)
    with pytest.raises(CorpusError, match="1 ids .* documents: '1'"):
        corpus_of(tmp_path, [{"id": value, "text": "a"} for value in (1, "1", "b")])


def test_empty_texts(tmp_path):
    rows = [{"id": index, "title": " ", "brand": "<br/>"} for index in range(7)] + [{"id": 9, "title": "a"}]
    with pytest.raises(CorpusError, match="7 of 8 documents have no text in title, brand: ids 0, 1, 2, 3, 4 and 2 mo"):
        corpus_of(tmp_path, rows)
    assert corpus_of(tmp_path, rows, drop_empty_texts=True)[:] == {"id": [9], "text": ["a"]}
    with pytest.raises(CorpusError, match="7 of 7 documents have no text"):
        corpus_of(tmp_path, rows[:7], drop_empty_texts=True)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("<p class='x'>A<br/>B</p>", "A B"),
        ("p < 0.05 and q > 1", "p < 0.05 and q > 1"),
        ("Vec<T>, <anchor>", "Vec<T>, <anchor>"),
        ("&lt;b&gt; <!-- no\nnote --> x", "<b> x"),
        ("5&#39; 6&quot;", "5' 6\""),
        (0, "0"),
        ([], ""),
    ],
)
def test_clean_text(value, expected):
    assert clean_text(value) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, []),
        ("", []),
        ("A>B", ["A>B"]),
        ("A > B &amp; C > D", ["A", "B & C", "D"]),
        (["A", None, "", " B "], ["A", "B"]),
        ([[]], []),
    ],
)
def test_category_path(value, expected):
    assert category_path(value) == expected


# The real data sets.

needs_data = pytest.mark.skipif("LMINDEXER_DATA" not in os.environ, reason="LMINDEXER_DATA names no folder of data")


@needs_data
@pytest.mark.parametrize(
    ("name", "count", "empty", "num_paths"),
    [
        ("amazon_beauty_2014", 12_101, 7, 254),
        ("amazon_scientific_2018", 4_344, 0, 765),  # the path of nothing is one of them
        ("chorus_icecat_search", 19_406, 0, 1),
    ],
)
def test_counts_of_the_product_corpora(name, count, empty, num_paths):
    file = Path(os.environ["LMINDEXER_DATA"], name, "items.jsonl.gz")
    if not file.is_file():
        pytest.skip(f"{name} is not there")
    if empty:
        with pytest.raises(CorpusError, match=f"{empty} of {count} documents have no text"):
            load_corpus(CorpusArguments(train_file=str(file)))
    corpus = load_corpus(CorpusArguments(train_file=str(file), drop_empty_texts=True))
    assert len(corpus) == count - empty
    assert len({tuple(path) for path in corpus["category"][:]}) == num_paths


@needs_data
@pytest.mark.parametrize(("name", "count"), [("squad_retrieval", 20_958), ("nfcorpus", 3_633)])
def test_counts_of_the_retrieval_corpora(name, count):
    file = Path(os.environ["LMINDEXER_DATA"], name, "corpus.jsonl.gz")
    if not file.is_file():
        pytest.skip(f"{name} is not there")
    corpus = load_corpus(CorpusArguments(train_file=str(file), id_column="_id"))
    assert len(corpus) == count
    assert corpus.column_names == ["id", "text"]

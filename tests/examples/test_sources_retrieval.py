"""Converters of search and retrieval data, on tiny files in the downloads' own formats."""

from pathlib import Path

import pytest
from data import CorpusError
from data.beir import BeirFolder
from data.sources.natural_questions import title_form
from data.sources.paper import PAPER
from tiny_sources import convert, lines, write

# ESCI.


def esci(tmp_path: Path, examples: list[tuple], products: list[tuple]) -> dict[str, Path]:
    from pyarrow import Table, parquet

    names = ("query_id", "query", "product_id", "product_locale", "esci_label", "small_version", "split")
    tables = {"examples": [{"example_id": i} | dict(zip(names, row, strict=True)) for i, row in enumerate(examples)]}
    names = ("product_id", "product_title", "product_description", "product_brand", "product_locale")
    rest = {"product_bullet_point": None, "product_color": "red"}
    tables["products"] = [dict(zip(names, row, strict=True)) | rest for row in products]
    for name, rows in tables.items():
        parquet.write_table(Table.from_pylist(rows), tmp_path / f"{name}.parquet", row_group_size=3)
    return {name: tmp_path / f"{name}.parquet" for name in tables}


EXAMPLES = [
    *[(q, f"query {q}", f"p{q}", "us", "E", int(q % 2), "train") for q in range(20)],
    (0, "query 0", "p1", "us", "S", 0, "train"),
    (0, "query 0", "p2", "us", "C", 0, "train"),
    (0, "query 0", "p3", "us", "I", 0, "train"),
    (30, "kein S", "p1", "us", "S", 1, "train"),
    (40, "jab\u00f3n &amp; more", "p0", "us", "E", 1, "test"),
    (41, "jab\u00f3n", "p0", "es", "E", 1, "test"),
    (41, "jab\u00f3n", "p99", "es", "E", 1, "test"),
]
PRODUCTS = [(f"p{i}", f"T&amp;{i}", "<p>text</p>", "Ohara" if i else None, "us") for i in range(21)]
PRODUCTS += [("p0", "T0 es", None, None, "es"), ("p99", "T99", None, None, "es")]


def test_esci(tmp_path):
    counts = convert("esci", tmp_path / "out", **esci(tmp_path, EXAMPLES, PRODUCTS))
    assert counts == {
        "documents": 20, "train queries": 17, "train labels": 17, "dev queries": 3, "dev labels": 3,
        "test queries": 1, "test labels": 1,
    }  # fmt: skip
    folder = BeirFolder(tmp_path / "out")
    assert (
        folder.documents[1] == {"id": "p1", "text": "T&1\ntext Ohara red"} and folder.queries["40"] == "jabón & more"
    )
    assert folder.qrels("test") == {"40": {"p0": 1}} and not folder.qrels("train").keys() & folder.qrels("dev").keys()
    convert("esci", tmp_path / "other", {"seed": 1}, **esci(tmp_path, EXAMPLES, PRODUCTS))
    assert BeirFolder(tmp_path / "other").qrels("dev") != folder.qrels("dev")


def test_esci_with_all_that_is_judged(tmp_path):
    settings = {"gains": "graded", "locale": "all"}
    counts = convert("esci", tmp_path / "out", settings, **esci(tmp_path, EXAMPLES, PRODUCTS))
    folder = BeirFolder(tmp_path / "out")
    judged = folder.qrels("train") | folder.qrels("dev")
    assert judged["0"] == {"p0": 100, "p1": 10, "p2": 1, "p3": 0} and "30" not in judged
    assert counts["test labels"] == 3 and counts["documents"] == 21
    assert folder.documents[0]["text"].startswith("T&0"), "the first locale's"
    small = convert("esci", tmp_path / "small", {"small_version": True}, **esci(tmp_path, EXAMPLES, PRODUCTS))
    assert small["train queries"] + small["dev queries"] == 10 and small["documents"] == 11


def test_esci_on_the_items_of_recommendation(tmp_path):
    """The paper's product search: all items are documents, and queries are those that one of them answers."""
    items = [
        {"id": 7, "asin": "p0", "title": "T0", "description": "d", "brand": "b"},
        {"id": 8, "asin": "p1", "title": "T1"},
    ]
    items += [{"id": 9, "asin": "unsought", "title": "T9"}]
    files = esci(tmp_path, EXAMPLES, PRODUCTS)
    file = write(tmp_path / "items.jsonl.gz", lines(items))
    counts = convert("esci", tmp_path / "out", examples=files["examples"], items=file)
    assert counts["documents"] == 3 and counts["train queries"] + counts["dev queries"] == 2
    assert BeirFolder(tmp_path / "out").qrels("test") == {"40": {"7": 1}}
    with pytest.raises(CorpusError, match="either products or items"):
        convert("esci", tmp_path / "both", items=file, **files)


@pytest.mark.parametrize("queries", [1199, 1485, 1155])
def test_an_eighth_is_rounded_as_in_the_paper(tmp_path, queries):
    """Table 6: 1,049 / 150, 1,299 / 186, 1,010 / 145."""
    examples = [(q, "q", "p1", "us", "E", 1, "train") for q in range(queries)] + EXAMPLES[-3:]
    counts = convert("esci", tmp_path / "out", **esci(tmp_path, examples, PRODUCTS))
    shared = [(row["train queries"], row["dev queries"]) for row in PAPER.values() if "dev queries" in row]
    assert (counts["train queries"], counts["dev queries"]) in shared


@pytest.mark.parametrize(
    ("examples", "settings", "message"),
    [
        ([(1, "q", "p1", "us", "X", 1, "train")], {}, "examples.parquet, row 1 has label 'X' and split 'train'"),
        (EXAMPLES[:1] * 2 + [(0, "q", "p0", "us", "S", 1, "train")], {"gains": "graded"}, "row 3: query 0 .*two ways"),
        (EXAMPLES[:4], {}, "4 training and 0 test queries have an exact product"),
        (EXAMPLES, {"locale": "uk"}, "locale='uk': expected one of us, es, jp, all"),
        (EXAMPLES + [(50, "q", "p77", "us", "E", 1, "test")], {}, "test have document p77, which is not in the coll"),
    ],
)
def test_wrong_files_of_esci(tmp_path, examples, settings, message):
    with pytest.raises(ValueError, match=message):
        convert("esci", tmp_path / "out", settings, **esci(tmp_path, examples, PRODUCTS))


def test_columns_of_esci(tmp_path):
    files = esci(tmp_path, EXAMPLES, PRODUCTS)
    with pytest.raises(
        CorpusError, match="products.parquet has no query_id, query, .*; it has product_id, product_ti"
    ):
        convert("esci", tmp_path / "out", examples=files["products"], products=files["products"])
    with pytest.raises(CorpusError, match="products.parquet cannot be read as parquet"):
        convert("esci", tmp_path / "o", examples=files["examples"], products=write(files["products"], "no"))


# Natural Questions.

BODY = "<H1> {} </H1> <Table> </Table> <P> It is . </P> More <Ul> a </Ul> text <Ul> b </Ul> links <Ul> c </Ul> end"


def natural_questions(tmp_path: Path) -> dict[str, Path]:
    """Google's two files, one with text and one with tokens."""
    train = [("q1 ?", 11, "Caf\u00e9 (film)"), ("q2", 12, "Other"), ("q3", 13, "cafe ( Film )")]
    rows = [{"question_text": q, "example_id": i, "document_text": BODY.format(t)} for q, i, t in train]
    tokens = [{"token": token, "html_token": token[0] == "<"} for token in BODY.format("other").split()]
    test = {"question_text": "q4", "example_id": 14, "document_title": "OTHER", "document_tokens": tokens}
    new = {"question_text": "q5", "example_id": 15, "document_title": "New", "document_tokens": tokens[:5]}
    return {
        "train": write(tmp_path / "v1.0-simplified_simplified-nq-train.jsonl.gz", lines(rows)),
        "test": write(tmp_path / "v1.0-simplified_nq-dev-all.jsonl.gz", lines([test, new])),
    }


def test_natural_questions(tmp_path):
    """Pages with the same title, but for case, accents and punctuation, are one: the first."""
    counts = convert("nq320k", tmp_path / "out", **natural_questions(tmp_path))
    assert counts == {"documents": 3, "train queries": 3, "train labels": 3, "test queries": 2, "test labels": 2}
    folder = BeirFolder(tmp_path / "out")
    assert folder.documents[0] == {"id": "0", "text": "Café (film)\nIt is . More a text b"}
    assert folder.documents["id"][:] == ["0", "1", "2"] and folder.documents[2]["text"] == "New\nother"
    assert folder.qrels("train") == {"11": {"0": 1}, "12": {"1": 1}, "13": {"0": 1}}
    assert folder.qrels("test") == {"14": {"1": 1}, "15": {"2": 1}}


def test_the_tables_of_nci(tmp_path):
    """As pandas writes them: quotes where there is a quote or a line end in a value, doubled inside."""
    table = 'q "1"\t11\t\t\tA\tIt is.\tMore\tno\ten\n'.replace('q "1"', '"q ""1"""')
    table += 'q2\t12\t\t\ta\tx\t"y\nz' + "w" * 200_000 + '"\tno\ten\n'
    train, test = (
        write(tmp_path / "nq_train.tsv", table),
        write(tmp_path / "nq_dev.tsv.gz", table.replace("\t1", "\t2")),
    )
    counts = convert("nq320k", tmp_path / "out", train=train, test=test)
    assert counts["documents"] == 1 and counts["test queries"] == 2
    folder = BeirFolder(tmp_path / "out")
    assert folder.documents[0]["text"] == "A\nIt is. More" and folder.queries["11"] == 'q "1"'
    with pytest.raises(CorpusError, match=r"nq_train.tsv, row 1: question 11 is there already"):
        convert("nq320k", tmp_path / "twice", train=train, test=train)
    with pytest.raises(CorpusError, match=r"row 1 has 2 values; expected 9: query, id, long_answer"):
        convert("nq320k", tmp_path / "short", train=write(tmp_path / "a.tsv", "q\t1\n"), test=test)


def test_titles_as_a_tokenizer_writes_them(tmp_path):
    """Words that it does not know are all the same; without one they differ."""
    from transformers import BertTokenizer

    words = ["[UNK]", "[SEP]", "[PAD]", "[CLS]", "[MASK]", "the", "cat"]
    BertTokenizer(vocab={word: i for i, word in enumerate(words)}).save_pretrained(tmp_path)
    bert, plain = title_form(str(tmp_path)), title_form(None)
    assert bert("The cat \u2665") == bert("the CAT \u2666") and bert("cat") != bert("the cat")
    assert plain("The cat \u2665") != plain("the CAT \u2666") and plain("Th\u00e9-cat") == plain("the - Cat")


# MS MARCO.


def msmarco(tmp_path: Path, splits: dict[str, str], passages: str) -> dict[str, Path]:
    queries = "".join(f"{q}\tquery {q}\n" for q in range(10))
    files = {"collection": write(tmp_path / "collection.tsv", passages)}
    for split, qrels in splits.items():
        files[f"{split}_queries"] = write(tmp_path / f"queries.{split}.tsv", queries)
        files[f"{split}_qrels"] = write(tmp_path / f"qrels.{split}.tsv.gz", qrels)
    return files


PASSAGES = "".join(f"{i}\tpassage  {i} \u0085\r with more\n" for i in range(100))
JUDGED = {
    "train": "0\t0\t7\t1\n1\t0\t8\t1\n1\t0\t9\t1\n",
    "test": "2\t0\t8\t1\n3\t0\t50\t1\n",
    "test_dl19": "4 Q0 7 3\n4 Q0 60 2\n4 Q0 8 0\n5 Q0 61 3\n",
    "test_dl20": "".join(f"6 0 {i} 1\n" for i in range(100)),
}


def test_msmarco(tmp_path):
    files = msmarco(tmp_path, JUDGED, PASSAGES)
    counts = convert("msmarco", tmp_path / "out", {"documents": 10}, **files)
    folder = BeirFolder(tmp_path / "out")
    ids = folder.documents["id"][:]
    assert len(ids) == 10 and {"7", "8", "9", "50"} <= set(ids) and ids == sorted(ids, key=int)
    assert folder.documents[0]["text"] == f"passage {ids[0]} with more"
    assert counts["train labels"] == 3 and counts["test queries"] == 2 and counts["test_dl20 labels"] == 10
    assert folder.qrels("test_dl20") == {"6": dict.fromkeys(ids, 1)}
    kept = {d: g for d, g in {"7": 3, "60": 2, "8": 0}.items() if d in ids}
    assert folder.qrels("test_dl19")["4"] == kept and counts["test_dl20 judgements outside dropped"] == 90
    assert counts["test_dl labels"] == counts["test_dl19 labels"] + 10
    assert set(folder.queries) == set().union(*(folder.qrels(split) for split in folder.splits()))


def test_draws_of_msmarco(tmp_path):
    files = msmarco(tmp_path, JUDGED, PASSAGES)

    def ids(name: str, **settings) -> list[str]:
        convert("msmarco", tmp_path / name, settings, **files)
        return BeirFolder(tmp_path / name).documents["id"][:]

    first = ids("first", documents=20)
    assert first != ids("second", documents=20, seed=1) and set(first) < set(ids("more", documents=30))
    assert len(ids("all", documents=0)) == 100 and len(ids("least", documents=4)) == 4
    for documents in (3, 101):
        with pytest.raises(CorpusError, match=f"documents={documents}: .* has 100, and 4 of them are relevant"):
            ids("wrong", documents=documents)


def test_msmarco_documents(tmp_path):
    """Four columns, the url left out; without judgements of TREC."""
    splits = {name: JUDGED[name] for name in ("train", "test")}
    documents = "".join(f"{i}\thttp://x/{i}\ttitle {i}\tbody {i}\n" for i in range(60))
    counts = convert("msmarco", tmp_path / "out", {"documents": 0}, **msmarco(tmp_path, splits, documents))
    assert BeirFolder(tmp_path / "out").documents[3] == {"id": "3", "text": "title 3\nbody 3"}
    assert counts["documents"] == 60 and not any("dl" in name for name in counts)


@pytest.mark.parametrize(
    ("role", "content", "message"),
    [
        ("collection", "7\ta\n8\tb\tc\n", "collection.tsv, line 2 has 3 values.* Expected 2 with tabs .*id, passage"),
        ("collection", "", "4 of 4 relevant documents are not in"),
        ("collection", "7\ta\n8\tb\n", "2 of 4 relevant documents are not in"),
        ("collection", PASSAGES + "20\tagain\n", "Document 20 is there twice"),
        ("collection", PASSAGES + "7\tagain\n", "relevant documents are not in .*, or are there twice"),
        ("train_queries", "0\tquery\n1\n", r"queries.train.tsv, line 2 has 1 values"),
        ("train_queries", "0\tquery\n", "judgements of train have query 1, whose text is in no file"),
        ("train_qrels", "0\t0\t7\t1\n1\t8\t1\n", r"qrels.train.tsv.gz, line 2 is .*; expected query, 0, document and"),
        ("test_qrels", "2\t0\t8\tyes\n", "line 1: the gain is 'yes'"),
    ],
)
def test_wrong_files_of_msmarco(tmp_path, role, content, message):
    files = msmarco(tmp_path, {name: JUDGED[name] for name in ("train", "test")}, PASSAGES)
    write(files[role], content)
    with pytest.raises(CorpusError, match=message):
        convert("msmarco", tmp_path / "out", {"documents": 0}, **files)

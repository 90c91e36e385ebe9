"""Converters of recommendation data, on tiny files in the downloads' own formats, with what they are known to hold."""

import json
import os
from pathlib import Path

import pytest
from data import CorpusArguments, CorpusError, load_corpus
from data.histories import read_histories, training_windows
from data.sources.files import text_lines
from data.sources.paper import PAPER
from tiny_sources import convert, lines, rows_of, write

# Amazon.

ASINS = [f"B00000000{i}" for i in range(6)]


def amazon_2014(tmp_path: Path, reviews: list[tuple], meta: list[dict], end: str = "\n") -> dict[str, Path]:
    """reviews_X_5.json.gz and meta_X.json.gz: JSON, and literals of Python."""
    rows = [{"reviewerID": u, "asin": i, "overall": 5.0, "unixReviewTime": t} for u, i, t in reviews]
    return {
        "reviews": write(tmp_path / "reviews_X_5.json.gz", lines(rows, end=end)),
        "meta": write(tmp_path / "meta_X.json.gz", lines(meta, dump=repr, end=end)),
    }


def everybody(users: str = "PQR", items: list[str] = ASINS[:4]) -> list[tuple]:
    """Every user has every item, day after day."""
    return [(user, item, day) for day, item in enumerate(items) for user in users]


META = [
    {"asin": ASINS[0], "title": "O&#39;Hara &amp; Co\u2028soap", "description": "<b>It's</b> \"mild\"",
     "brand": "Ohara", "categories": [["Beauty", "Soap"], ["Home"]], "related": {"also_bought": [ASINS[1]]}},
    {"asin": "B0000OTHER", "title": "no item of ours"},
    {"asin": ASINS[1], "title": "Caf\xe9 \x92 cream", "price": 2.5, "categories": []},
    {"asin": ASINS[1], "title": "the same again"},
]  # fmt: skip


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_amazon_2014(tmp_path, end):
    counts = convert("amazon_2014", tmp_path / "out", {"core": 3}, **amazon_2014(tmp_path, everybody(), META, end))
    assert rows_of(tmp_path / "out" / "items.jsonl.gz") == [
        {"id": ASINS[0], "title": "O'Hara & Co soap", "description": "It's \"mild\"", "brand": "Ohara",
         "categories": ["Beauty", "Soap"]},
        {"id": ASINS[1], "title": "Café \x92 cream", "description": "", "brand": "", "categories": []},
        *[{"id": item, "title": "", "description": "", "brand": "", "categories": []} for item in ASINS[2:4]],
    ]  # fmt: skip
    assert counts == {
        "items": 4, "users": 3, "interactions": 12, "train histories": 15, "dev histories": 3, "test histories": 3,
        "repeated reviews dropped": 0, "interactions outside the core dropped": 0, "items without title": 2,
        "items without description": 3, "items without any text": 2,
    }  # fmt: skip
    histories = read_histories(tmp_path / "out" / "sequences.txt.gz", ASINS)
    assert [(h.user, h.items) for h in histories] == [(user, ASINS[:4]) for user in "PQR"]
    arguments = CorpusArguments(train_file=str(tmp_path / "out" / "items.jsonl.gz"), drop_empty_texts=True)
    assert load_corpus(arguments)["id"][:] == ASINS[:2]


def test_events_of_a_day_keep_the_order_of_the_file(tmp_path):
    """And of two reviews of one item the earlier counts, which may stand later."""
    mixed = [("P", ASINS[3], 7), ("P", ASINS[0], 7), ("P", ASINS[2], 9), ("P", ASINS[1], 7), ("P", ASINS[2], 1)]
    others = everybody("QR")
    counts = convert("amazon_2014", tmp_path / "out", {"core": 3}, **amazon_2014(tmp_path, mixed + others, META))
    found = read_histories(tmp_path / "out" / "sequences.txt.gz", None)
    assert found[0].items == [ASINS[2], ASINS[3], ASINS[0], ASINS[1]] and counts["repeated reviews dropped"] == 1


def test_repeated_reviews_do_not_make_a_core(tmp_path):
    """The user S has three reviews, of two items; without S the item has too few, and so on."""
    reviews = [*everybody(), ("S", ASINS[0], 1), ("S", ASINS[4], 2), ("S", ASINS[4], 3), ("P", ASINS[4], 3)]
    counts = convert("amazon_2014", tmp_path / "out", {"core": 3}, **amazon_2014(tmp_path, reviews, META))
    assert counts["items"] == 4 and counts["users"] == 3 and counts["interactions outside the core dropped"] == 3
    with pytest.raises(CorpusError, match="Nothing is left of 15 interactions when all users and items have 5"):
        convert("amazon_2014", tmp_path / "none", **amazon_2014(tmp_path, reviews, META))
    with pytest.raises(ValueError, match="core=2"):
        convert("amazon_2014", tmp_path / "none", {"core": 2})


RATINGS = {
    "amazon_2014": lambda u, i, t: f"{u},{i},5.0,{t}",
    "amazon_2018": lambda u, i, t: f"{i},{u},5.0,{t}",
    "amazon_2023": lambda u, i, t: f"{u},{i},5.0,{t},B00000000X B00000000Y",
}
NEW_META = {
    "amazon_2018": {"asin": ASINS[0], "title": "Soap", "description": ["Mild.", "Very mild."], "brand": "Ohara",
                    "category": ["Beauty", "Soap &amp; more"], "feature": ["100 g"]},
    "amazon_2023": {"main_category": "All Beauty", "title": "Soap", "features": ["100 g"], "store": "Ohara",
                    "description": ["Mild.", "Very mild."], "categories": ["Beauty", "Soap & more"],
                    "details": {"Brand": "x"}, "parent_asin": ASINS[0]},
}  # fmt: skip


@pytest.mark.parametrize("name", NEW_META)
def test_later_releases(tmp_path, name):
    """Ratings of several files; half of an emoji in a title, and a title that is a script."""
    rows = [RATINGS[name](*event) for event in everybody()]
    header = "user_id,parent_asin,rating,timestamp,history\r\n" if name == "amazon_2023" else ""
    files = [
        write(tmp_path / f"{part}.csv", header + lines(own, dump=str, end="\r\n"))
        for part, own in (("test", rows[9:]), ("train", rows[:9]))
    ]
    key = "asin" if name == "amazon_2018" else "parent_asin"
    odd = [{key: ASINS[1], "title": "a \ud83d"}, {key: ASINS[2], "title": "var x = new Date().getTime();"}]
    meta = write(tmp_path / "meta_X.jsonl.gz", lines([NEW_META[name], *odd]))
    convert(name, tmp_path / "out", {"core": 3}, reviews=files, meta=meta)
    found = rows_of(tmp_path / "out" / "items.jsonl.gz")
    assert found[0] == {
        "id": ASINS[0], "title": "Soap", "description": "Mild. Very mild.", "brand": "Ohara",
        "categories": ["Beauty", "Soap & more"], "features": "100 g",
    }  # fmt: skip
    assert [row["title"] for row in found[1:]] == ["a ?", "", ""]
    assert read_histories(tmp_path / "out" / "sequences.txt.gz", None)[2].items == ASINS[:4]


def test_reviews_of_2023(tmp_path):
    rows = [
        {"rating": 5.0, "title": "!", "asin": "variant", "parent_asin": i, "user_id": u, "timestamp": 10**12 + t}
        for u, i, t in everybody()
    ]
    reviews = write(tmp_path / "X.jsonl.gz", lines(rows))
    meta = write(tmp_path / "meta_X.jsonl.gz", lines([NEW_META["amazon_2023"]]))
    counts = convert("amazon_2023", tmp_path / "out", {"core": 3}, reviews=reviews, meta=meta)
    assert counts["interactions"] == 12 and counts["items without any text"] == 3


@pytest.mark.parametrize(
    ("name", "file", "content", "message"),
    [
        ("amazon_2014", "r.json", '{"asin": 1}\n', r"r\.json, line 1 has no reviewerID, unixReviewTime; it has asin"),
        ("amazon_2014", "r.json", "\n{1\n", r"r\.json, line 2 is neither JSON nor a Python literal .*'\{1'"),
        ("amazon_2014", "r.json", "__import__('os').abort()\n", "line 1 is neither JSON nor a Python literal"),
        ("amazon_2014", "r.json", "[1]\n", r"line 1 is no object but '\[1\]'"),
        ("amazon_2014", "r.csv", "B000000000,P,5.0,1\n", "line 1 is 'B000000000,P.* Is the file of another year"),
        ("amazon_2018", "r.csv", "P,B000000000,5.0,1\n", "expected asin,reviewerID,overall,unixReviewTime"),
        ("amazon_2014", "r.csv", "P,B000000000,5.0,1\nP,B000000000,5.0\n", "line 2 is"),
        ("amazon_2014", "r.csv", "P,B000000000,5.0,new\n", "line 1: unixReviewTime is 'new'; expected a whole number"),
        ("amazon_2023", "r.csv", "P,B000000000,5.0,1\n", "line 1 has no user_id, parent_asin, rating, timestamp; it"),
        ("amazon_2023", "r.csv", "user,item,rating,timestamp\n", "has no user_id, parent_asin; it has user, item"),
        ("amazon_2014", "r.csv", b"P,B000000000,5.0,1\nP\xe9,B000000000,5.0,1\n", r"r\.csv, line 2 is not UTF-8"),
    ],
)  # fmt: skip
def test_wrong_lines_are_named(tmp_path, name, file, content, message):
    with pytest.raises(CorpusError, match=message):
        convert(name, tmp_path / "out", reviews=write(tmp_path / file, content), meta=write(tmp_path / "m.json", ""))


def test_a_download_that_broke_off(tmp_path):
    files = amazon_2014(tmp_path, everybody(), META)
    for role, file in files.items():
        whole = file.read_bytes()
        file.write_bytes(whole[: len(whole) // 2])
        with pytest.raises(CorpusError, match=f"{role}_X.* breaks off after line .*download it again"):
            convert("amazon_2014", tmp_path / "out", {"core": 3}, **files)
        file.write_bytes(whole)
    file = write(tmp_path / "plain.json.gz".replace(".gz", ""), lines(META)).rename(tmp_path / "plain.json.gz")
    with pytest.raises(CorpusError, match="breaks off after line 0"):
        list(text_lines(file))


# P5.


def p5(tmp_path: Path, sequences: str, item2id: dict) -> dict[str, Path]:
    return {
        "sequences": write(tmp_path / "sequential_data.txt", sequences),
        "datamaps": write(tmp_path / "datamaps.json", json.dumps({"user2id": {}, "item2id": item2id})),
        "meta": write(tmp_path / "meta.json.gz", lines(META, dump=repr)),
    }


def test_p5(tmp_path):
    files = p5(tmp_path, "1 1 2 3\r\n2 3 2 1 10\r\n", {ASINS[0]: "1", ASINS[1]: "2", ASINS[2]: 10, ASINS[3]: "3"})
    counts = convert("p5", tmp_path / "out", **files)
    rows = rows_of(tmp_path / "out" / "items.jsonl.gz")
    assert [(row["id"], row["asin"]) for row in rows] == [
        (1, ASINS[0]), (2, ASINS[1]), (3, ASINS[3]), (10, ASINS[2]),
    ]  # fmt: skip
    assert rows[0]["brand"] == "Ohara" and rows[0]["categories"] == ["Beauty", "Soap"]
    assert counts["items without any text"] == 2 and counts["train histories"] == 5, "the first has no pair to learn"
    found = read_histories(tmp_path / "out" / "sequences.txt.gz", [1, 2, 3, 10])
    assert [(h.user, h.items) for h in found] == [("1", [1, 2, 3]), ("2", [3, 2, 1, 10])]


@pytest.mark.parametrize(
    ("sequences", "message"),
    [
        ("1 1 2\n2 1 9\n", "sequential_data.txt, line 2: item 9 is not in item2id of .*datamaps.json"),
        ("1 1 x\n", "line 1: an id is 'x'; expected a whole number"),
        ("1 1 1\n1 1 1\n", "line 2: user 1 has a line already"),
    ],
)
def test_wrong_files_of_p5(tmp_path, sequences, message):
    files = p5(tmp_path, sequences, {ASINS[0]: "1", ASINS[1]: "2"})
    with pytest.raises(CorpusError, match=message):
        convert("p5", tmp_path / "out", **files)
    write(files["datamaps"], '{"id2item": {}}')
    with pytest.raises(CorpusError, match="datamaps.json has no item2id; it has id2item"):
        convert("p5", tmp_path / "out", **files)


@pytest.mark.slow
@pytest.mark.skipif("LMINDEXER_DATA" not in os.environ, reason="LMINDEXER_DATA names no folder of data")
def test_beauty_as_the_download_and_back(tmp_path):
    """The real set, written as the reviews and metadata that it is from, two events a day: the paper's counts."""
    folder = Path(os.environ["LMINDEXER_DATA"], "amazon_beauty_2014")
    if not folder.is_dir():
        pytest.skip("amazon_beauty_2014 is not there")
    items = {row["id"]: row for row in rows_of(folder / "items.jsonl.gz")}
    histories = read_histories(folder / "sequences.txt.gz", list(items))
    reviews = [
        (f"A{history.user}", items[item]["asin"], place // 2)
        for history in histories
        for place, item in enumerate(history.items)
    ]
    meta = [
        row | {"title": row["title"].replace("&", "&amp;"), "categories": [row["categories"]]}
        for row in items.values()
    ]
    counts = convert("amazon_2014", tmp_path / "out", **amazon_2014(tmp_path, reviews, meta))
    paper = PAPER["Amazon-Beauty"]
    assert {name: counts[name] for name in paper if name in counts} == {
        name: count for name, count in paper.items() if "histories" in name or name in ("items", "users")
    }
    assert counts["interactions"] == 198_502 and counts["items without title"] == counts["items without any text"] == 7
    assert sum(1 for _ in training_windows(histories, "paper", 0)) == counts["train histories"]
    found = {h.user: h.items for h in read_histories(tmp_path / "out" / "sequences.txt.gz", None)}
    assert found == {f"A{h.user}": [items[item]["asin"] for item in h.items] for h in histories}
    texts = {row["id"]: row for row in rows_of(tmp_path / "out" / "items.jsonl.gz")}
    assert all(texts[row["asin"]]["title"] == row["title"] for row in items.values())

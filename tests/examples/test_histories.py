"""User histories as pairs and queries, by hand."""

import gzip

import pytest
from data import CorpusError
from data.histories import History, history_text, read_histories, read_histories_as, training_windows

LINES = "u1 1 2 3 4 5\n\nu2 5 1 2\nu3 2 3 2 1\n"


@pytest.fixture
def histories(tmp_path):
    with gzip.open(tmp_path / "sequences.txt.gz", "wt") as file:
        file.write(LINES)
    return read_histories(tmp_path / "sequences.txt.gz", [1, 2, 3, 4, 5])


def test_lines_are_users(histories, tmp_path):
    """Ids are those of the corpus: whole numbers, or text."""
    assert histories == [History("u1", [1, 2, 3, 4, 5]), History("u2", [5, 1, 2]), History("u3", [2, 3, 2, 1])]
    (tmp_path / "plain.txt").write_text("u a b 07\n")
    assert read_histories(tmp_path / "plain.txt", ["a", "b", "07"]) == [History("u", ["a", "b", "07"])]


def test_windows(histories):
    """Nothing of validation and test; five of each user who has more than one item left."""
    assert list(training_windows(histories, "sliding", 0)) == [([1], 2), ([1, 2], 3), ([2], 3)]
    drawn = list(training_windows(histories, "paper", 0))
    assert len(drawn) == 10 and drawn[5:] == [([2], 3)] * 5
    assert set(map(str, drawn[:5])) == {str(([1], 2)), str(([1, 2], 3))}
    assert drawn == list(training_windows(histories, "paper", 0)) != list(training_windows(histories, "paper", 1))


def test_leave_one_out(histories):
    pairs, validation, test = read_histories_as(
        histories, lambda items: " ".join(map(str, items)), [1, 2, 3, 4, 5], "sliding", 0
    )
    assert pairs.to_list() == [{"text": "1", "target": 2}, {"text": "1 2", "target": 3}, {"text": "2", "target": 3}]
    assert validation[0] == {"id": "u1", "text": "1 2 3", "relevant": [4], "hidden": [1, 2, 3]}
    assert test[0] == {"id": "u1", "text": "1 2 3 4", "relevant": [5], "hidden": [1, 2, 3, 4]}
    assert validation[2] == {"id": "u3", "text": "2 3", "relevant": [2], "hidden": [2, 3]}, "nothing twice"
    assert test[2]["hidden"] == [2, 3] and test["id"][:] == ["u1", "u2", "u3"]
    again = read_histories_as(histories, str, [1, 2, 3, 4, 5], "sliding", 0, repeats=True)
    assert again[1][2]["hidden"] == [] and again[1]["relevant"] == validation["relevant"]


@pytest.mark.parametrize(
    ("ids", "words", "expected"),
    [(False, 2, "c d a b"), (True, 0, "<3> <1>"), (True, 1, "<3> c <1> a")],
)
def test_the_newest_comes_first(ids, words, expected):
    texts = {1: "a b", 2: "x", 3: "c d e"} if words else {}
    render = history_text(texts, {1: "<1>", 2: "<2>", 3: "<3>"} if ids else None, 2, words)
    assert render([2, 1, 3]) == expected


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("u 1 2 3\nv 1 9 2\n", "line 2: item 9 has no semantic ID. Index it, remove it, or set --skip_missing"),
        ("u 1 2\n", "line 1: user u has 2 items; expected at least 3"),
        ("u 1 2 3\nu 3 2 1\n", "line 2: user u has line 1 already"),
        ("u 1 2 3\nv 8 9 1 2\n", "line 2: item 8 has no"),
        ("\n", "holds no histories"),
    ],
)
def test_wrong_lines(tmp_path, lines, message):
    (tmp_path / "sequences.txt").write_text(lines)
    with pytest.raises(CorpusError, match=message):
        read_histories(tmp_path / "sequences.txt", [1, 2, 3])
    with pytest.raises(FileNotFoundError, match="sequences_file='none.txt' is not a file"):
        read_histories("none.txt", [1])


def test_a_user_of_whom_nothing_can_be_read(tmp_path):
    (tmp_path / "sequences.txt").write_text("u 1 2 3\nv 8 9 1 2\n")
    with pytest.raises(CorpusError, match="line 2: user v has no item with a semantic ID before the last two"):
        read_histories(tmp_path / "sequences.txt", [1, 2, 3], skip_missing=True)


def test_nothing_to_learn(tmp_path):
    with pytest.raises(CorpusError, match="No history is longer than three items"):
        read_histories_as([History("u", [1, 2, 3])], str, [1, 2, 3], "sliding", 0)


def test_items_without_an_id(tmp_path):
    """They are read nowhere and hide nothing; as an answer they stay."""
    (tmp_path / "sequences.txt").write_text("u1 1 9 2 3 9\nu2 9 1 2 9\n")
    histories = read_histories(tmp_path / "sequences.txt", [1, 2, 3], skip_missing=True)
    pairs, validation, test = read_histories_as(histories, str, [1, 2, 3], "sliding", 0)
    assert pairs.to_list() == [{"text": "[1]", "target": 2}]
    assert validation[1] == {"id": "u2", "text": "[1]", "relevant": [2], "hidden": [1]}
    assert test[0] == {"id": "u1", "text": "[1, 2, 3]", "relevant": [9], "hidden": [1, 2, 3]}
    (tmp_path / "sequences.txt").write_text("u1 1 2 3 x9\nu2 1 2 3 03\nu3 1 2 3 x9\n")
    found = [one.items[-1] for one in read_histories(tmp_path / "sequences.txt", [1, 2, 3], skip_missing=True)]
    assert found[0] == found[2] != found[1] and not {1, 2, 3} & set(found), "03 is not the item 3"


def test_files_that_cannot_be_read(tmp_path):
    path = tmp_path / "sequences.txt"
    path.write_bytes(b"\xef\xbb\xbfu1 1 2 3\n")
    assert read_histories(path, [1, 2, 3])[0].user == "u1", "a mark of UTF-8 is no part of the first user"
    path.write_bytes(b"u1 1 2 \xff\n")
    with pytest.raises(CorpusError, match="sequences.txt: 'utf-8' codec.*Expected text in UTF-8"):
        read_histories(path, [1, 2, 3])
    (tmp_path / "sequences.txt.gz").write_bytes(b"u1 1 2 3\n")
    with pytest.raises(CorpusError, match="sequences.txt.gz: Not a gzipped file"):
        read_histories(tmp_path / "sequences.txt.gz", [1, 2, 3])

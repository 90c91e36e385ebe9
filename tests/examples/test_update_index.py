"""The script with a user's arguments: what it prints, what it leaves, its errors and its exit status."""

import fcntl
import json
import sys

import pytest
from tiny_index import TEXTS, learned_index, write_folder

from modeling_lmindexer import SemanticIndex
from modeling_lmindexer.document_ids import IDS_NAME
from modeling_lmindexer.index_check import check_folder


@pytest.fixture
def folder(tmp_path):
    write_folder(tmp_path / "model", learned_index())
    return tmp_path / "model"


@pytest.fixture
def run(run_script, folder):
    """The script on the folder; see `run_script`."""
    return lambda *arguments, **settings: run_script("update_index", folder, *arguments, **settings)


def jsonl(path, numbers, texts=None):
    rows = [{"id": f"doc{i:02}", "text": TEXTS[j]} for i, j in zip(numbers, texts or numbers, strict=True)]
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def test_changes_are_made_together(run, folder, tmp_path):
    (tmp_path / "gone.txt").write_text("doc03\n\ndoc07\n")
    (tmp_path / "changed.csv").write_text(f"sku,title\ndoc05,{TEXTS[20]}\ndoc06,{TEXTS[6]}\n")
    printed = run(
        "--remove", tmp_path / "gone.txt", "--update", tmp_path / "changed.csv", "--id_column", "sku",
        "--text_columns", "title", "--changes", 1,
    )  # fmt: skip
    assert "removed 2 documents\nupdated 2 documents, 1 with another ID\n" in printed
    assert f"{folder}: version 0 became 2, 28 documents" in printed
    rows = [line.split() for line in printed.splitlines() if "  update  " in line]
    assert [row[-1] for row in rows] == ["doc05", "doc06"] and rows[1][2] == rows[1][4]
    assert "  remove  " not in printed
    new = jsonl(tmp_path / "new.jsonl", range(30, 40))
    printed = run("--add", new, "--verify", "--train_file", jsonl(tmp_path / "old.jsonl", range(30)))
    assert "added 10 documents\n" in printed and "version 2 became 3, 38 documents" in printed
    assert printed.count("ok  ") == 9 and "problem" not in printed
    assert len(SemanticIndex.from_pretrained(folder)) == 38


def test_more_room_goes_to_the_model_too(run, folder, tmp_path):
    crowd = jsonl(tmp_path / "crowd.jsonl", range(40, 53), [0] * 13)
    before = (folder / IDS_NAME).read_bytes()
    assert "room for 12: call model.resize_disambiguation" in run("--add", crowd, ok=False)
    assert (folder / IDS_NAME).read_bytes() == before
    printed = run("--add", crowd, "--room", 40, "--verify")
    assert (
        "the last position has room for 40 codes" in printed and "4 x 5 x 40 codes, unique IDs, the model's" in printed
    )


def test_another_index_joins(run, folder, tmp_path):
    other = learned_index(range(25, 40), room=30)
    other.save_pretrained(tmp_path / "other")
    error = run("--merge", tmp_path / "other", ok=False)
    assert "5 documents are in both indexes" in error
    printed = run("--merge", tmp_path / "other", "--on_conflict", "keep", "--verify")
    assert "merged 10 documents, " in printed and "version 0 became 1, 40 documents" in printed
    assert "4 x 5 x 30 codes, unique IDs, the model's" in printed and "problem" not in printed


def test_what_is_wrong_is_printed_and_told_to_the_shell(run, folder, monkeypatch, capsys):
    assert "problem" not in run("--verify")
    (folder / IDS_NAME).write_bytes(b"PAR1")
    monkeypatch.setattr(sys, "argv", ["update_index.py", str(folder), "--verify"])
    with pytest.raises(SystemExit) as left:
        __import__("update_index").main()
    printed = capsys.readouterr().out
    assert left.value.code == 1
    assert "problem: manifest: semantic_ids.parquet has 4 bytes" in printed and "problem: table: " in printed


def test_new_documents_are_compared(run, folder, tmp_path):
    new, old = jsonl(tmp_path / "new.jsonl", range(30, 40)), jsonl(tmp_path / "old.jsonl", range(30))
    printed = run("--drift", new, "--train_file", old, "--sample", 20)
    assert "10 new documents beside 30 known ones" in printed and "of known documents -" in printed
    assert printed.strip().splitlines()[-1].startswith(("Keep the model", "Retrain"))
    assert SemanticIndex.from_pretrained(folder).version == 0 and check_folder(folder).problems == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--remove", "no.txt"), "No such file"),
        (("--add", "no.jsonl"), "no.jsonl"),
        (("--merge", "nowhere"), "nowhere is no local folder"),
        (("--changes", 3), "There is no version 3"),
        (("--room", 3), "cannot shrink to 3"),
    ],
)
def test_errors_of_one_line(run, arguments, message):
    assert message in run(*arguments, ok=False)


def test_no_folder_is_made(run_script, tmp_path):
    error = run_script("update_index", tmp_path / "org" / "name", "--remove", "no.txt", ok=False)
    assert "is no local folder: download it first" in error and not (tmp_path / "org").exists()


def test_a_folder_that_somebody_writes_into_is_left_alone(run, folder, tmp_path):
    (tmp_path / "gone.txt").write_text("doc03\n")
    with open(folder / ".run.lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # as another process would
        assert "is in use by another run" in run("--remove", tmp_path / "gone.txt", ok=False)
    assert "removed 1 documents" in run("--remove", tmp_path / "gone.txt")


def test_ids_of_numbers_and_of_text(run_script, tmp_path):
    index = learned_index(range(4))
    numbered = SemanticIndex.from_codes([1, 2, 3, 4], index.codes[:, :2], [4, 5, 12])
    numbered.save_pretrained(tmp_path / "numbers")
    (tmp_path / "gone.txt").write_text("2\n")
    assert "removed 1 documents" in run_script("update_index", tmp_path / "numbers", "--remove", tmp_path / "gone.txt")
    (tmp_path / "gone.txt").write_text("two\n")
    error = run_script("update_index", tmp_path / "numbers", "--remove", tmp_path / "gone.txt", ok=False)
    assert "'two' is no id like those of the index, which are whole numbers" in error


def test_libraries_show_no_bars(folder, tmp_path, monkeypatch, capsys):
    import datasets
    import update_index
    from transformers.utils import logging

    datasets.enable_progress_bars()
    logging.enable_progress_bar()
    new, old = jsonl(tmp_path / "new.jsonl", range(30, 40)), jsonl(tmp_path / "old.jsonl", range(30))
    arguments = [folder, "--add", new, "--verify", "--train_file", old, "--drift", new]
    monkeypatch.setattr(sys, "argv", ["update_index.py", *map(str, arguments)])
    capsys.readouterr()
    update_index.main()
    printed = capsys.readouterr()
    assert printed.err == "" and "added 10 documents" in printed.out

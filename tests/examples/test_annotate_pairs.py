"""The annotation script with a user's arguments: a sheet is drawn, filled, and scored."""

import csv
import json
from functools import partial

import numpy as np
import pytest

from modeling_lmindexer import SemanticIndex


@pytest.fixture
def run(run_script):
    """The script with arguments; see `run_script`."""
    return partial(run_script, "annotate_pairs")


@pytest.fixture
def drawn(tmp_path, run):
    """Two indexes of twelve documents, and the sheet that was drawn of them."""
    ids = [f"d{i}" for i in range(12)]
    rows = [{"id": document, "text": f"=text of {document}"} for document in ids]
    (tmp_path / "items.jsonl").write_text("\n".join(map(json.dumps, rows)))
    for name, divisor in (("one", 4), ("two", 3)):
        codes = np.arange(12)[:, None] // divisor
        SemanticIndex.from_codes(ids, codes, [4, 16]).save_pretrained(tmp_path / name)
    arguments = ["draw", "--indexes", tmp_path / "one", tmp_path / "two", "--train_file", tmp_path / "items.jsonl"]
    arguments += ["--pairs", 6, "--annotators", "anna", "ben", "--sheet", tmp_path / "sheet" / "pairs.csv"]
    return tmp_path, arguments, run(*arguments)


def test_draw_fill_and_score(drawn, run):
    folder, arguments, printed = drawn
    assert "12 pairs of 2 indexes" in printed and "pairs.key.csv" in printed
    sheet = folder / "sheet" / "pairs.csv"
    with open(sheet, encoding="utf-8-sig", newline="") as file:
        rows = list(csv.reader(file))
    assert all(row[1].startswith("'=text of d") for row in rows[1:])
    assert "neither 1" in run("score", "--sheet", sheet, ok=False)
    with open(sheet, "w", newline="") as file:
        csv.writer(file).writerows([rows[0], *([*row[:3], "1", "0"] for row in rows[1:])])
    scores = run("score", "--sheet", sheet)
    for index in ("one", "two"):
        lines = [[cell.strip() for cell in line.split("|")] for line in scores.splitlines() if f"/{index} " in line]
        assert [line[2:5] for line in lines[:3]] == [
            ["anna", "6", "1.000"], ["ben", "6", "0.000"], ["majority", "6", "0.000"],
        ] and lines[3][2] == "0.500"  # fmt: skip
    assert "anna and ben" in scores
    assert "may have been filled" in run(*arguments, ok=False)


def test_wrong_arguments(drawn, run, tmp_path):
    folder, arguments, _ = drawn
    other = [*arguments[:-1], folder / "other.csv"]
    assert "set fewer pairs" in run(*other, "--pairs", 1000, ok=False)
    assert "each once" in run(*other, "--indexes", folder / "one", folder / "one", ok=False)
    assert run("draw", "--sheet", folder / "other.csv", ok=False).startswith("error: --indexes")
    assert "error" in run("score", "--sheet", folder / "nothing.csv", ok=False)
    assert not (folder / "other.csv").exists()

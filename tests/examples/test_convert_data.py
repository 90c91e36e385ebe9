"""The converting script with a user's arguments: a folder that the other scripts read, and what it was made of."""

import gzip
import hashlib
import json
from functools import partial

import pytest


@pytest.fixture
def run(run_script):
    """The script with arguments; see `run_script`."""
    return partial(run_script, "convert_data")


@pytest.fixture
def p5(tmp_path):
    """The arguments of a conversion of a tiny set of P5's."""
    (tmp_path / "sequential_data.txt").write_text("1 1 2 3\n2 3 2 1\n")
    (tmp_path / "datamaps.json").write_text('{"item2id": {"A": "1", "B": "2", "C": "3"}}')
    (tmp_path / "meta.json.gz").write_bytes(gzip.compress(b"{'asin': 'A', 'title': 'soap'}\n"))
    files = {"sequences": "sequential_data.txt", "datamaps": "datamaps.json", "meta": "meta.json.gz"}
    return ["p5", "--output_dir", tmp_path / "out", "--input", *(f"{k}={tmp_path / v}" for k, v in files.items())]


def test_a_folder_and_what_it_was_made_of(p5, run, tmp_path):
    printed = run(*p5, "--paper", "Amazon-Beauty")
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in printed.splitlines() if "|" in line]
    assert ["items", "3", "12,101", "differs"] in cells and ["interactions", "6", "-", ""] in cells
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "SOURCE.json", "items.jsonl.gz", "sequences.txt.gz",
    ] and not list(tmp_path.glob(".out*"))  # fmt: skip
    source = json.loads((tmp_path / "out" / "SOURCE.json").read_text())
    assert source["counts"]["users"] == 2 and source["source"] == "p5" and source["settings"] == {}
    data = (tmp_path / "datamaps.json").read_bytes()
    assert source["inputs"][1] == {
        "role": "datamaps", "file": "datamaps.json", "sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data),
    }  # fmt: skip
    unpacked = b"1 1 2 3\n2 3 2 1\n"
    assert source["outputs"][1] == {
        "file": "sequences.txt.gz", "sha256": hashlib.sha256(unpacked).hexdigest(), "bytes": len(unpacked),
    }  # fmt: skip
    assert "paper" not in run(*p5[:2], tmp_path / "again", *p5[3:])
    for name in ("items.jsonl.gz", "sequences.txt.gz", "SOURCE.json"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "out" / name).read_bytes()


def test_the_same_data_as_somebody_else(p5, run, tmp_path):
    run(*p5)
    theirs = tmp_path / "out" / "SOURCE.json"
    again = [*p5[:2], tmp_path / "again", *p5[3:], "--expect"]
    sums = [row["sha256"] for row in json.loads(theirs.read_text())["inputs"]]
    run(*again, theirs)
    run(*p5[:2], tmp_path / "by sums", "--input", *p5[:3:-1], "--expect", *sums[::-1])
    assert "--expect has 2 sums and --input 3 files" in run(*p5[:2], tmp_path / "x", *again[3:], *sums[1:], ok=False)
    changed = json.loads(theirs.read_text())
    changed["outputs"][0]["sha256"] = "0" * 64
    (tmp_path / "changed.json").write_text(json.dumps(changed))
    other = [*p5[:2], tmp_path / "other", *again[3:]]
    assert "items.jsonl.gz differs: it has sha256" in run(*other, tmp_path / "changed.json", ok=False)
    (tmp_path / "sequential_data.txt").write_text("1 1 2 3\n2 3 2 1 1\n")
    assert "sequential_data.txt differs: it has sha256" in run(*other, theirs, ok=False)
    assert "sequential_data.txt differs" in run(*other, *sums, ok=False)
    assert not (tmp_path / "other").exists() and not list(tmp_path.glob(".other*"))


def test_other_settings_are_other_data(run, tmp_path):
    (tmp_path / "r.csv").write_text("".join(f"{u},B00000000{i},5.0,{i}\n" for u in "PQRST" for i in range(5)))
    (tmp_path / "m.json").write_text("{'asin': 'B000000000', 'title': 'soap'}\n")
    arguments = ["--input", f"reviews={tmp_path / 'r.csv'}", f"meta={tmp_path / 'm.json'}"]
    run("amazon_2014", *arguments, "--output_dir", tmp_path / "a", "--core", 3)
    expect = ["--expect", tmp_path / "a" / "SOURCE.json", "--output_dir", tmp_path / "b"]
    assert "settings is {'core': 5}; expected {'core': 3}" in run("amazon_2014", *arguments, *expect, ok=False)
    assert "source is amazon_2018; expected amazon_2014" in run("amazon_2018", *arguments, *expect, ok=False)


def test_wrong_arguments(p5, run, tmp_path):
    assert "no source: expected one of amazon_2014" in run(ok=False)
    assert "p6: expected one of" in run("p6", ok=False)
    head, files = p5[:4], p5[4:]
    assert "expected role=path with one of sequences, datamaps, meta." in run(*head, "reviews=x", ok=False)
    assert "there is no file" in run(*head, f"meta={tmp_path / 'none'}", ok=False)
    assert "0 files as meta; expected one" in run(*head, *files[:2], ok=False)
    assert "2 files as meta; expected one" in run(*p5, files[2], ok=False)
    assert "paper='Beauty': expected one of Amazon-Beauty" in run(*p5, "--paper", "Beauty", ok=False)
    assert "--expect is one SOURCE.json" in run(*p5, "--expect", "a", "b", ok=False)
    assert "is not JSON" in run(*p5, "--expect", tmp_path / "sequential_data.txt", ok=False)
    run(*p5)
    assert "is there already: remove it" in run(*p5, ok=False)


def test_help_names_the_downloads(run):
    printed = run("--help")
    assert "--input reviews=" in printed and "amazon_2014, amazon_2018" in printed


def test_nothing_is_left_of_a_conversion_that_fails(p5, run, tmp_path):
    (tmp_path / "sequential_data.txt").write_text("1 1 2 9\n")
    assert "line 1: item 9 is not in item2id" in run(*p5, ok=False)
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob(".out*"))

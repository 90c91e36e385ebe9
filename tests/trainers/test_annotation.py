"""The annotation sheet: fair pairs, blind, plain data in a spreadsheet, and scores of what was filled in."""

import csv
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import cohen_kappa_score

from modeling_lmindexer import SemanticIndex
from trainers.annotation import (
    SheetError,
    as_cell,
    draw_blind,
    draw_pairs,
    read_csv,
    score_sheet,
    write_csv,
    write_sheet,
)

TEXTS = {f"d{i}": f'text {i}, with "quotes"\nand; a second line' for i in range(12)}


def index_of(codes) -> SemanticIndex:
    return SemanticIndex.from_codes(list(TEXTS), np.array(codes), [4, 3, 16])


@pytest.fixture
def indexes():
    halves = [[i % 2, i % 3] for i in range(12)]
    thirds = [[i // 4, 0] for i in range(12)]
    return {"halves": index_of(halves), "thirds": index_of(thirds)}


def fill(path, judge, columns=("similar",), separator=","):
    """The sheet as it comes back; `judge` says what stands in a column of a pair."""
    rows = read_csv(path, ["pair"])
    for row in rows:
        row.update({column: judge(row["pair"], column) for column in columns})
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter=separator)
        writer.writerows([list(rows[0]), *(list(row.values()) for row in rows)])


def owners(key) -> dict[str, list[str]]:
    return {row["pair"]: [other["index"] for other in key if other["pair"] == row["pair"]] for row in key}


@given(st.lists(st.integers(0, 3), min_size=2, max_size=12), st.integers(0, 5), st.data())
def test_pairs_share_their_prefix_and_are_different_ones(first, seed, data):
    second = data.draw(st.lists(st.integers(0, 1), min_size=len(first), max_size=len(first)))
    codes = np.column_stack([first, second])
    for depth in (1, 2):
        rows = range(len(codes))
        every = {(a, b) for a in rows for b in rows if a < b and (codes[a, :depth] == codes[b, :depth]).all()}
        drawn = draw_pairs(codes, depth, len(every), seed)
        assert {tuple(sorted(pair)) for pair in drawn.tolist()} == every
        with pytest.raises(ValueError, match=f"only {len(every)} pairs"):
            draw_pairs(codes, depth, len(every) + 1, seed)


def test_every_pair_is_equally_likely_and_so_is_every_order():
    codes = np.array([[0], [0], [0], [1], [1]])
    drawn = Counter(tuple(draw_pairs(codes, 1, 1, seed)[0].tolist()) for seed in range(2000))
    assert len(drawn) == 8 and all(180 < count < 320 for count in drawn.values())


def test_large_groups_are_not_listed():
    codes = np.zeros((1_000_000, 1), dtype=np.int64)
    pairs = draw_pairs(codes, 1, 1000, seed=0)
    assert (pairs[:, 0] != pairs[:, 1]).all() and pairs.min() >= 0 and pairs.max() < len(codes)
    assert 0.4 < pairs.mean() / len(codes) < 0.6


def test_a_depth_that_ids_do_not_have():
    with pytest.raises(ValueError, match="IDs have 2 learned positions"):
        draw_pairs(np.zeros((4, 2), dtype=np.int64), 3, 1, 0)


def test_the_sheet_is_blind_and_the_same_for_the_same_seed(indexes, tmp_path):
    for name in ("a", "b"):
        key_path = write_sheet(draw_blind(indexes, 1, 9, seed=5), TEXTS, tmp_path / f"{name}.csv")
    assert key_path == tmp_path / "b.key.csv"
    for end in (".csv", ".key.csv"):
        assert (tmp_path / f"a{end}").read_bytes() == (tmp_path / f"b{end}").read_bytes()
    content = (tmp_path / "a.csv").read_text(encoding="utf-8-sig")
    assert "halves" not in content and "thirds" not in content and "d1" not in content
    sheet, key = read_csv(tmp_path / "a.csv", []), read_csv(key_path, [])
    assert list(sheet[0]) == ["pair", "text_a", "text_b", "similar"] and {row["similar"] for row in sheet} == {""}
    assert Counter(row["index"] for row in key) == {"halves": 9, "thirds": 9}
    by_pair = owners(key)
    assert set(by_pair) == {row["pair"] for row in sheet} and len(by_pair) == len(sheet)
    assert any(len(indexes_of) == 2 for indexes_of in by_pair.values()), "a pair of both is asked once"
    # Neither the order of the rows nor the names of the pairs tell the index.
    first = [by_pair[row["pair"]][0] for row in sheet]
    assert first != sorted(first) and first != sorted(first, reverse=True)
    # Texts are those of the documents that the key names, in either order for a pair that both have.
    shown = {row["pair"]: {row["text_a"], row["text_b"]} for row in sheet}
    assert all(shown[row["pair"]] == {TEXTS[row["document_a"]], TEXTS[row["document_b"]]} for row in key)


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_a_filled_sheet_is_scored(indexes, tmp_path, separator):
    path = tmp_path / "pairs.csv"
    key = read_csv(write_sheet(draw_blind(indexes, 1, 10, seed=1), TEXTS, path), [])
    by_pair = owners(key)
    # All pairs that `halves` has are called similar, and of the others none.
    fill(path, lambda pair, column: " 1" if "halves" in by_pair[pair] else "0", separator=separator)
    found = score_sheet(path, tmp_path / "pairs.key.csv")
    both = sum(len(names) == 2 for names in by_pair.values())
    assert found.accuracy == {"halves": 1.0, "thirds": both / 10} and found.kappa == {}
    scores = {score.index: score for score in found.scores}
    assert {score.annotator for score in found.scores} == {"similar"} and scores["thirds"].similar == both
    # Wilson, by hand: centre and half width with z = 1.96.
    z, n = 1.959964, 10
    for score in scores.values():
        p = score.accuracy
        centre, half = p + z**2 / (2 * n), z * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
        np.testing.assert_allclose(
            [score.low, score.high], (centre + np.array([-half, half])) / (1 + z**2 / n), rtol=1e-5
        )


def test_several_annotators(indexes, tmp_path):
    path, people = tmp_path / "pairs.csv", ("anna", "ben", "cem")
    write_sheet(draw_blind(indexes, 2, 5, seed=2), TEXTS, path, annotators=people)
    rng = np.random.default_rng(0)
    said = {}

    def judge(pair, column):
        return said.setdefault((pair, column), "01"[int(rng.integers(2))])

    fill(path, judge, [f"similar_{name}" for name in people])
    found = score_sheet(path, tmp_path / "pairs.key.csv")
    pairs = sorted({pair for pair, _ in said})
    given_by = {name: [int(said[pair, f"similar_{name}"]) for pair in pairs] for name in people}
    assert found.kappa == {
        (one, other): pytest.approx(cohen_kappa_score(given_by[one], given_by[other]))
        for one, other in (("anna", "ben"), ("anna", "cem"), ("ben", "cem"))
    }
    own = {score.annotator: score for score in found.scores if score.index == "thirds"}
    assert set(own) == {*people, "majority"}
    assert found.accuracy["thirds"] == pytest.approx(np.mean([own[name].accuracy for name in people]))
    of_index = [row["pair"] for row in read_csv(tmp_path / "pairs.key.csv", []) if row["index"] == "thirds"]
    votes = [sum(int(said[pair, f"similar_{name}"]) for name in people) for pair in of_index]
    assert own["majority"].similar == sum(vote >= 2 for vote in votes)


def test_a_tie_is_no_majority_and_constants_have_no_kappa(indexes, tmp_path):
    path = tmp_path / "pairs.csv"
    write_sheet(draw_blind(indexes, 1, 4, seed=0), TEXTS, path, annotators=["anna", "ben"])
    fill(path, lambda pair, column: "1" if column == "similar_anna" else "0", ["similar_anna", "similar_ben"])
    found = score_sheet(path, tmp_path / "pairs.key.csv")
    assert {score.similar for score in found.scores if score.annotator == "majority"} == {0}
    assert found.accuracy == {"halves": 0.5, "thirds": 0.5} and found.kappa == {("anna", "ben"): 0.0}
    fill(path, lambda pair, column: "1", ["similar_anna", "similar_ben"])
    assert np.isnan(score_sheet(path, tmp_path / "pairs.key.csv").kappa["anna", "ben"])


@pytest.mark.parametrize("cell", ["", "2", "yes", "1.0", "-1", "10"])
def test_unfilled_and_strange_cells(indexes, tmp_path, cell):
    path = tmp_path / "pairs.csv"
    key = write_sheet(draw_blind(indexes, 1, 4, seed=0), TEXTS, path)
    chosen = read_csv(path, [])[2]["pair"]
    fill(path, lambda pair, column: cell if pair == chosen else "1")
    with pytest.raises(SheetError, match=f"1 cells of .* neither 1 .* {chosen}, similar: {cell!r}"):
        score_sheet(path, key)


def test_sheets_that_do_not_fit_their_key(indexes, tmp_path):
    path = tmp_path / "pairs.csv"
    key = write_sheet(draw_blind(indexes, 1, 4, seed=0), TEXTS, path)
    fill(path, lambda pair, column: "1")
    whole = path.read_text()
    other = write_sheet(draw_blind(indexes, 1, 4, seed=1), TEXTS, tmp_path / "other.csv")
    with pytest.raises(SheetError, match="pairs of .* are not in .*other.key.csv"):
        score_sheet(path, other)
    lines = list(csv.reader(whole.splitlines(keepends=True)))
    for rows, message in (
        (lines[:-1], "0 pairs of .* are not in .* and 1 of the key not in the sheet"),
        ([*lines, lines[-1]], f"a pair in two rows: {lines[-1][0]}"),
        ([*lines, [*lines[-1], "more"]], "more or fewer cells"),
        ([[*line[:3]] for line in lines], "no column similar"),
        ([line[1:] for line in lines], "and not pair"),
        ([], "and not pair"),
        (lines[:1], "no rows"),
    ):
        with open(path, "w", newline="") as file:
            csv.writer(file).writerows(rows)
        with pytest.raises(SheetError, match=message):
            score_sheet(path, key)
    path.write_bytes(whole.encode("utf-16"))
    with pytest.raises(SheetError, match="save it as 'CSV UTF-8'"):
        score_sheet(path, key)


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@sum(a1)", "\t=1", " \n=1", "\x00=1", "＝1", "\r@x"])
def test_a_text_is_never_a_formula(text, tmp_path):
    write_csv(tmp_path / "cells.csv", ["cell"], [[as_cell(text)]])
    cell = read_csv(tmp_path / "cells.csv", ["cell"])[0]["cell"]
    assert cell == f"'{text.strip()[-len(cell) + 1 :]}" and cell[1] in "=+-@＝"


@given(st.text())
def test_cells_survive_a_spreadsheet(text):
    cell = as_cell(text, 30)
    assert len(cell) <= 31 and not cell.startswith(tuple("=+-@\t\r"))
    assert all(c.isprintable() or c == "\n" for c in cell)
    assert as_cell('a plain text, <b>as it is</b> & "quoted"') == 'a plain text, <b>as it is</b> & "quoted"'


@given(st.lists(st.text(), min_size=1, max_size=5))
def test_tables_are_read_as_they_were_written(tmp_path_factory, texts):
    path = tmp_path_factory.mktemp("tables") / "table.csv"
    cells = [as_cell(text) for text in texts]
    write_csv(path, ["pair", "text"], [["p", cell] for cell in cells])
    assert [row["text"] for row in read_csv(path, ["pair"])] == cells


def test_what_cannot_be_written(indexes, tmp_path):
    pairs = draw_blind(indexes, 1, 4, seed=0)
    with pytest.raises(SheetError, match="documents of the indexes have no text"):
        write_sheet(pairs, {}, tmp_path / "pairs.csv")
    for annotators in (["anna", "anna"], ["anna", ""]):
        with pytest.raises(SheetError, match="annotators need different names"):
            write_sheet(pairs, TEXTS, tmp_path / "pairs.csv", annotators=annotators)
    with pytest.raises(ValueError, match="halves: only 30 pairs"):
        draw_blind(indexes, 1, 31, seed=0)
    assert not list(tmp_path.iterdir())

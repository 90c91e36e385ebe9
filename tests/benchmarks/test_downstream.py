"""Recommendation by counting, by hand; and the table of the downstream benchmark."""

import importlib
import os
import sys
from pathlib import Path

import pytest

from metrics.ranking_quality import write_run

ROOT = Path(__file__).parents[2]


@pytest.fixture
def module(monkeypatch):
    """A module of the benchmarks or of the examples by its name."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    monkeypatch.syspath_prepend(ROOT / "examples")
    return importlib.import_module


def test_what_comes_next(module):
    """After 2 came 3 twice and 4 once, after 1 came 2 thrice and 4 once; a user's last two items do not count."""
    counting, history = module("tasks.counting"), module("data.histories").History
    histories = [
        history("a", [1, 2, 3, 8, 8]), history("b", [1, 2, 3, 8, 9]), history("c", [1, 2, 4, 9, 8]),
        history("d", [1, 4, 9, 8]),
    ]  # fmt: skip
    counts, popular = counting.successors(histories), counting.popularity(histories)
    assert counts == {1: {2: 3, 4: 1}, 2: {3: 2, 4: 1}}
    assert popular == [1, 2, 3, 4]
    # 1 is the newest: 2 gets 3, 4 gets 1 + 1/2, 3 gets 2/2.
    assert counting.recommend_next([2, 1], counts, popular, 2) == [4, 3]
    assert counting.recommend_next([1], counts, popular, 2) == [2, 4]
    assert counting.recommend_next([5], counts, popular, 3) == [1, 2, 3], "nothing follows: what is popular"
    assert counting.recommend_next([7, 2, 5, 5, 5], counts, popular, 1) == [1], "only the last three count"
    assert counting.popularity(histories, 1)[-1] == 9 and counting.successors(histories, 1)[3] == {8: 2}
    found = counting.recommendations(histories, 3, with_validation=False)
    assert found["a"] == [4] and set(found) == set("abcd"), "no more items than there are"
    assert counting.recommendations(histories, 3, with_validation=True)["d"][0] == 2
    assert counting.recommendations(histories, 3, with_validation=False, counted=False)["d"] == [2, 3]


def test_the_table(module, tmp_path, monkeypatch, capsys):
    """A run that finds everything is above counting; its fusion stands below it."""
    data = tmp_path / "amazon_scientific_2018"
    data.mkdir()
    histories = {f"u{i}": [1 + i % 3, 2 + i % 4, 3, 4 + i % 2, 6 + i] for i in range(12)}
    import gzip

    with gzip.open(data / "sequences.txt.gz", "wt") as file:
        file.writelines(f"{user} {' '.join(map(str, items))}\n" for user, items in histories.items())
    run = tmp_path / "run"
    run.mkdir()
    write_run(run / "run.test.trec", {user: [items[-1]] for user, items in histories.items()}, None)
    argv = ["downstream.py", "--set", "scientific", "--data", str(tmp_path), "--runs", f"perfect={run}"]
    monkeypatch.setattr(sys, "argv", argv)
    module("downstream").main()
    lines = {line.split("|")[1].strip(): line for line in capsys.readouterr().out.splitlines() if "|" in line}
    assert "1.0000   | 1.0000 | 1.0000    | 1.0000  | +1.0000 (p 0.0005)" in lines["perfect"]
    assert "perfect + co-occurrence" in lines and "0.0000" in lines["co-occurrence"]


@pytest.mark.slow
@pytest.mark.skipif("LMINDEXER_DATA" not in os.environ, reason="needs LMINDEXER_DATA")
def test_counting_on_scientific(module):
    """As others counted: R@5 .0831, N@5 .0697, R@10 .0992, N@10 .0748; .0881 and .1047 with validation items."""
    downstream, read = module("downstream"), module("data.histories").read_histories
    file = Path(os.environ["LMINDEXER_DATA"]) / downstream.SETS["scientific"] / "sequences.txt.gz"
    figures = downstream.figures_of_systems(read(file, None), {})
    assert list(figures["co-occurrence"].means().values()) == pytest.approx([0.0831, 0.0697, 0.0992, 0.0748], abs=2e-4)
    counted = figures["co-occurrence, validation counted"].means()
    assert counted["recall@5"] == pytest.approx(0.0881, abs=3e-4)
    assert counted["recall@10"] == pytest.approx(0.1047, abs=3e-4)

"""A small sample of `tests/long/interrupted_indexing.py`: killed, started again, and nothing lost or repeated."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "long"))
from interrupted_indexing import interrupt_and_compare


@pytest.mark.slow
@pytest.mark.dist
def test_killed_runs_end_like_one_left_alone(tmp_path):
    lines = []
    assert interrupt_and_compare(tmp_path, runs=1, documents=600, kills=2, log=lines.append) == []
    assert len(lines) == 1 and "0 lost, 0 repeated, same files" in lines[0]

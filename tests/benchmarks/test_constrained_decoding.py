"""The benchmark of constrained decoding runs through and leaves every row; what it measures is not looked at."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# Rows of one setting, two vocabularies, two batches and one model.
ROWS = {
    "structure": 3, "constraint": 2 * 2, "filters": 2 * 2, "filtered_steps": 2 * (2 * 2 + 2),
    "updates": 2 * 2, "pending_steps": 2 * 2 * 2, "search": 2 * 2 * 2 * 2,
}  # fmt: skip
MAY_BE_MISSING = {"sorted", "input GB", "peak GB", "search, codes' head", "packed, codes' head"}


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(ROOT / "benchmarks" / "constrained_decoding.py"), "--quick"]
    command += ["--settings", "A", "--models", "tiny", "--output_dir", str(folder), *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=600)


@pytest.mark.slow
def test_quick_run_leaves_every_row_and_is_not_repeated(tmp_path):
    done = run(tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    written = (tmp_path / "results.json").read_text()
    tables = json.loads(written)["tables"]
    assert {name: len(rows) for name, rows in tables.items()} == ROWS
    for table, rows in tables.items():
        for name, row in rows.items():
            assert "left out" not in row, f"{table}: {name}: {row}"
            for column, value in row.items():
                where = f"{table}: {name}: {column} is {value}"
                if isinstance(value, (int, float)):
                    assert math.isfinite(value) and value >= 0, where
                elif value is None:
                    assert column in MAY_BE_MISSING, where
            assert row.get("same IDs", 1.0) == 1.0, f"{name}: the search finds other IDs than generate"
    assert all(tables["structure"][f"A {layout}"]["bytes / document"] > 0 for layout in ("fast", "compact"))
    assert (tmp_path / "results.png").stat().st_size > 10_000
    for expected in ("The worst rows", "generate with the processor", "Whole runs"):
        assert expected in done.stdout

    again = run(tmp_path)
    assert again.returncode == 0, again.stderr
    assert (tmp_path / "results.json").read_text() == written
    other = run(tmp_path, "--seed", "1")
    assert other.returncode == 1 and "give another --output_dir" in other.stderr
    assert (tmp_path / "results.json").read_text() == written

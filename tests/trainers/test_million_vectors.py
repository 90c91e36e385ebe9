"""A small sample of `tests/long/million_vectors.py`: k-means in parts, its codes, and its memory."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "long" / "million_vectors.py"


@pytest.mark.slow
def test_codes_and_memory_of_many_vectors():
    """A process of its own, to see its memory: all scores would be 1.2 GB, of which it may take half."""
    command = [sys.executable, SCRIPT, "--vectors", "40000", "--centroids", "8000", "--dimensions", "16"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "8,000 of 8,000 codes are used\n" in done.stdout and "BROKEN" not in done.stdout
    assert "0 of 2,000 sampled vectors have another code" in done.stdout

"""A seeded sample of `tests/long/fuzz.py`: damaged files are refused with a message, or what they give is sound."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "long" / "fuzz.py"


@pytest.mark.slow
def test_a_sample_of_damaged_files():
    command = [sys.executable, str(SCRIPT), "--mutations", "154", "--seed", "7"]
    result = subprocess.run(command, env=os.environ, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0 and "154 mutations, 0 faults" in result.stdout, result.stdout[-3000:]

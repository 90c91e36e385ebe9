"""Settings of all tests, and the data sets that some of them need."""

import os
import sys
from pathlib import Path

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"
# Tiny models are faster on one thread, and the processes that tests start do not fight over the cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

# Test helpers of one folder import each other by name; importlib mode does not put them on the path.
sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Folder of the real data sets; tests that need it skip where there is none."""
    folder = os.environ.get("LMINDEXER_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("LMINDEXER_DATA names no folder of data sets")
    return Path(folder)

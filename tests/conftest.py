"""Settings of all tests."""

import logging
import os
import sys
from pathlib import Path

import hypothesis
import pytest

ROOT = Path(__file__).parents[1]
os.environ["HF_HUB_OFFLINE"] = "1"
# Tiny models are faster on one thread, and the processes that tests start do not fight over the cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# As in setup.cfg, for scripts that run as processes of their own; a variable can name no more than whole modules.
GOING_AWAY = ("DeprecationWarning", "PendingDeprecationWarning", "FutureWarning")
os.environ.setdefault("PYTHONWARNINGS", ",".join(f"error::{category}:__main__" for category in GOING_AWAY))

# No test is timed: a busy machine is no error.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")

# Test helpers of one folder import each other by name; importlib mode does not put them on the path.
sys.path.insert(0, str(Path(__file__).parent))


def pytest_configure(config):
    """Deprecations in scripts that tests import by name are errors; files start in the order of their tests."""
    config.option.loadscopereorder = False  # or --dist loadfile begins with the files of most tests, not the longest
    scripts = [path.stem for room in ("examples", "benchmarks") for path in sorted((ROOT / room).iterdir())]
    for category in GOING_AWAY:
        config.addinivalue_line("filterwarnings", rf"error::{category}:({'|'.join(scripts)})\b")


def pytest_collection_modifyitems(items):
    """Files whose tests start processes come first, then those with slow ones: what is long must not begin last."""
    marks: dict[Path, set[str]] = {}
    for item in items:
        marks.setdefault(item.path, set()).update(mark.name for mark in item.iter_markers())
    items.sort(key=lambda item: next((i for i, name in enumerate(("dist", "slow")) if name in marks[item.path]), 2))


@pytest.fixture(autouse=True)
def nothing_that_transformers_says_will_go():
    """Fails a test in which transformers logs a deprecation; it does so once per process, for the first use."""
    from logged_deprecations import Deprecations  # found since the line on the path above

    handler, logger = Deprecations(), logging.getLogger("transformers")
    logger.addHandler(handler)
    yield
    logger.removeHandler(handler)
    assert not handler.found, "\n".join(handler.found)

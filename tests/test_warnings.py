"""What goes away and is still used by our code is an error in the tests, wherever it is said."""

import subprocess
import sys
import warnings

import pytest
from logged_deprecations import Deprecations
from transformers.utils import logging


def warned_in(module: str, category: type[Warning]) -> None:
    """Warns as code of a module does."""
    exec("warnings.warn('it goes', category)", {"__name__": module, "warnings": warnings, "category": category})


@pytest.mark.parametrize("category", [DeprecationWarning, PendingDeprecationWarning, FutureWarning])
@pytest.mark.parametrize(
    "module",
    ["modeling_lmindexer.search", "trainers", "metrics.ranking_quality", "run_indexing", "data.rows", "latency"],
)
def test_a_deprecation_in_our_code_is_an_error(module, category):
    with pytest.raises(category, match="it goes"):
        warned_in(module, category)


@pytest.mark.filterwarnings("default")
def test_one_in_other_people_s_code_is_none():
    with pytest.warns(FutureWarning, match="it goes"):
        warned_in("trainers_of_others", FutureWarning)


def test_one_in_a_script_is_an_error():
    code = "import warnings; warnings.warn('it goes', FutureWarning)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1 and "FutureWarning: it goes" in done.stderr


def test_one_that_transformers_logs_fails_the_test():
    handler, logger = Deprecations(), logging.get_logger("transformers.modeling_utils")
    logger.addHandler(handler)
    logger.warning("something else")
    assert not handler.found
    logger.removeHandler(handler)
    handler.handle(logger.makeRecord(logger.name, 30, __file__, 1, "`%s` is deprecated", ("it",), None))
    assert handler.found == ["transformers.modeling_utils: `it` is deprecated"]

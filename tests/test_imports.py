"""Importing is cheap because it brings in nothing that is not there already: counted in packages, not in seconds.

`benchmarks/imports.py` has the seconds.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CODE = """
import json, sys
def packages():
    return {name.partition(".")[0] for name in sys.modules} - set(sys.stdlib_module_names)
BASE
before = packages()
OURS
after = packages()
print(json.dumps([sorted(before), sorted(after)]))
"""


def packages(base: str, ours: str) -> tuple[set[str], set[str]]:
    """Packages that a base imports into a fresh process, and those that ours adds, but for their compiled parts."""
    code = CODE.replace("BASE", base).replace("OURS", ours)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    before, after = map(set, json.loads(done.stdout.splitlines()[-1]))
    return before, {name for name in after - before if not name.startswith("_")}


@pytest.mark.slow
def test_importing_the_model_adds_no_package_to_what_transformers_imports():
    before, added = packages(
        "from transformers import AutoModel, GenerationMixin, PreTrainedModel", "import modeling_lmindexer"
    )
    assert added == {"modeling_lmindexer"}
    assert "torch" in before


@pytest.mark.slow
def test_importing_the_trainers_adds_none_that_only_some_runs_need():
    """`Trainer` itself imports datasets, and with it pandas and pyarrow."""
    before, added = packages("from transformers import Trainer", "import modeling_lmindexer, trainers")
    assert "datasets" in before
    assert added <= {"filelock", "jinja2", "markupsafe", "metrics", "modeling_lmindexer", "trainers"}
    assert {"metrics", "modeling_lmindexer", "trainers"} <= added

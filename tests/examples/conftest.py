"""The scripts' folder on the path, as `python examples/run_indexing.py` has it; no network, no cache of the user's."""

import importlib
import os
import sys
from pathlib import Path

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"
EXAMPLES = Path(__file__).parents[2] / "examples"
sys.path.insert(0, str(EXAMPLES))


@pytest.fixture(scope="session", autouse=True)
def datasets_cache(tmp_path_factory):
    import datasets

    patch = pytest.MonkeyPatch()
    patch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("datasets"))
    patch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    yield
    patch.undo()


@pytest.fixture
def examples_folder() -> Path:
    return EXAMPLES


@pytest.fixture(scope="session")
def documentation():
    """`python_docs()`, read once."""
    from data import python_docs

    return python_docs()


@pytest.fixture
def run_script(monkeypatch, capsys):
    """The `main` of a script with arguments, and what it prints; where it must fail, its last words."""

    def call(name: str, *arguments, ok: bool = True) -> str:
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *map(str, arguments)])
        main = importlib.import_module(name).main
        if ok:
            main()
            return capsys.readouterr().out
        with pytest.raises(SystemExit) as left:
            main()
        assert str(left.value).startswith("error: ")
        return str(left.value)

    return call

"""The standard library as a corpus: what is in it, what is kept out of it, and that it is always the same."""

import gc
import sys
import time

import pytest
from data import python_docs

SOURCE = '''"""A module's summary line.

One two three four.
"""


def raw_decode(text):
    """Decode the first line.

    The   rest is kept,\twith its spaces collapsed.
    """

    def inner():
        """Nested definitions are

        left out for they have no qualified name.
        """


def short():
    """Only a line, and

    three words more."""


class JSONDecoder:
    """

    Starts after empty lines.

    Alpha beta gamma delta.
    """

    def __init__(self):
        """Dunder names are

        left out, as everybody knows them."""

    @property
    def _private(self):
        """Private names are kept.

        They hold documentation as the others do."""


if True:
    def raw_decode():
        """A second definition.

        Of a name that is taken already."""
else:
    async def other():
        """Definitions in branches.

        Are found in both of the branches."""
'''


@pytest.fixture
def library(tmp_path, monkeypatch):
    """A standard library with SOURCE as the module `pack.mod`."""
    (tmp_path / "pack").mkdir()
    (tmp_path / "pack" / "mod.py").write_text(SOURCE)
    monkeypatch.setattr("sysconfig.get_paths", lambda: {"stdlib": str(tmp_path)})
    return tmp_path


def test_documents_of_a_module(library):
    rows = {row["id"]: row for row in python_docs()}
    assert list(rows) == [
        "pack.mod",
        "pack.mod.JSONDecoder",
        "pack.mod.JSONDecoder._private",
        "pack.mod.other",
        "pack.mod.raw_decode",
    ]
    assert rows["pack.mod.raw_decode"] == {
        "id": "pack.mod.raw_decode",
        "text": "raw decode\nThe rest is kept, with its spaces collapsed.",
        "query": "Decode the first line.",
        "category": ["pack", "mod"],
    }
    assert rows["pack.mod.JSONDecoder"]["text"] == "JSON Decoder\nAlpha beta gamma delta."
    assert rows["pack.mod.JSONDecoder"]["query"] == "Starts after empty lines."


def test_min_words_counts_the_words_after_the_first_line(library):
    assert "pack.mod.short" in python_docs(min_words=3)["id"]
    assert "pack.mod.short" not in python_docs(min_words=4)["id"]


def test_packages_are_named_by_their_folder_and_shadowed_by_nothing(library):
    (library / "pack" / "__init__.py").write_text('"""A package.\n\nWith some words to say."""')
    (library / "pack" / "__main__.py").write_text('"""A command.\n\nWith some words to say."""')
    rows = {row["id"]: row for row in python_docs()}
    assert rows["pack"]["category"] == ["pack"]
    assert not any("__" in name for name in rows)


@pytest.mark.parametrize("folder", ["test", "pack/tests", "site-packages", "config-3.11-x86_64"])
def test_folders_that_are_not_the_library_are_skipped(library, folder):
    before = python_docs()["id"][:]
    (library / folder).mkdir()
    (library / folder / "extra.py").write_text(SOURCE)
    assert python_docs()["id"][:] == before
    (library / "pack" / "extra.py").write_text(SOURCE)
    assert len(python_docs()) == 2 * len(before)


@pytest.mark.parametrize(
    "content", [b"def broken(:\n", b"print 'Python 2'\n", b"x = '\0'\n", b"# coding: no-such\nx\n"]
)
def test_files_that_do_not_parse_are_skipped(library, content):
    before = python_docs()["id"][:]
    (library / "broken.py").write_bytes(content)
    assert python_docs()["id"][:] == before
    assert gc.isenabled()


def test_the_library_of_this_python(documentation):
    ids = documentation["id"][:]
    assert ids == sorted(set(ids))
    assert all(name.startswith(".".join(path)) for name, path in zip(ids, documentation["category"], strict=True))
    assert not any("\n" in query or not query for query in documentation["query"])
    assert {"json.decoder.JSONDecoder.raw_decode", "textwrap.dedent", "collections.Counter"} <= set(ids)
    assert 3000 < len(ids) < 6000
    if sys.version_info[:2] == (3, 11) and {"idlelib.colorizer", "lib2to3.pytree", "tkinter.ttk"} <= set(ids):
        assert abs(len(ids) - 4262) < 50  # the patch releases differ by a few docstrings


def test_the_query_is_kept_out_of_the_text(documentation):
    # a docstring may say the same thing twice of its own accord; the first line itself must not be carried over
    repeated = sum(row["query"] in row["text"] for row in documentation.select(range(0, len(documentation), 4)))
    assert repeated < 0.02 * len(documentation) / 4


def test_reading_is_fast_and_the_same_every_time(documentation):
    start = time.perf_counter()
    again = python_docs()
    assert time.perf_counter() - start < 20  # 1.5 seconds on a free machine
    assert again[:] == documentation[:]

"""The site is built without a warning, and loads nothing from other hosts."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    built = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    return folder


@pytest.mark.slow
def test_pages_load_nothing_from_elsewhere(site):
    pages = list(site.rglob("*.html"))
    assert len(pages) > len(list((ROOT / "docs").rglob("*.md")))  # one each, and those of the files that they link to
    for page in pages:
        text = page.read_text(encoding="utf-8")
        loaded = re.findall(r"<(?:script|img|iframe|source)\b[^>]*?\bsrc=\"((?:https?:)?//[^\"]+)", text)
        loaded += re.findall(r"<link\b[^>]*?\bhref=\"((?:https?:)?//[^\"]+)", text)
        assert not loaded, f"{page.name} loads {loaded}"


@pytest.mark.slow
def test_references_in_docstrings_are_links(site):
    """`[`Name`]` in a docstring would otherwise show its brackets, and several arguments of one line would be lost."""
    text = (site / "api" / "model.html").read_text(encoding="utf-8")
    assert not re.search(r"\[<code>[\w.~]+</code>\]", text)
    assert re.search(r'href="search.html#modeling_lmindexer.PrefixTree', text)


@pytest.mark.slow
def test_files_outside_of_the_guides_are_shown(site):
    page = (site / "source" / "tests" / "long" / "million_vectors.log.html").read_text(encoding="utf-8")
    first = (ROOT / "tests" / "long" / "million_vectors.log").read_text(encoding="utf-8").splitlines()[0]
    assert first[:20] in page
    assert 'href="source/tests/long/million_vectors.log.html"' in (site / "scaling.html").read_text(encoding="utf-8")

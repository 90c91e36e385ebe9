"""Every example of the guides runs as it stands, and prints what the guide says."""

import doctest
import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"
FLAGS = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS


@pytest.mark.parametrize("guide", sorted(DOCS.glob("*.md")), ids=lambda path: path.stem)
def test_examples_print_what_the_guide_says(guide):
    text = guide.read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    # Code without a prompt would never be run, and without the empty line the fence would count as output.
    assert blocks and all(block.startswith(">>> ") and block.endswith("\n\n") for block in blocks)
    failed, attempted = doctest.testfile(str(guide), module_relative=False, optionflags=FLAGS, encoding="utf-8")
    assert failed == 0 and attempted == len(re.findall("^>>> ", text, re.MULTILINE))


@pytest.mark.parametrize("page", sorted([*DOCS.rglob("*.md"), *DOCS.parent.glob("*.md")]), ids=lambda path: path.stem)
def test_links_to_files_and_headings_lead_somewhere(page):
    def headings(path):
        names = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
        return {re.sub(r"[^\w\- ]", "", name.lower()).replace(" ", "-") for name in names}

    for target, heading in re.findall(r"\]\((?!https?:)([^)#\s]*)#?([^)\s]*)\)", page.read_text(encoding="utf-8")):
        path = (page.parent / target) if target else page
        assert path.exists(), f"{page.name} links to {target}"
        assert not heading or heading in headings(path), f"{page.name} links to {target}#{heading}"

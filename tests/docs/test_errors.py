"""The messages that the guide to errors quotes are still those of the source."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
GUIDE = ROOT / "docs" / "errors.md"
FOLDERS = ("modeling_lmindexer", "trainers", "metrics", "examples")


def quoted_messages():
    """The first cell of every row whose table is about messages."""
    tables = re.findall(r"^\| message \|.*\n\|[-|]+\|\n((?:\|.*\n)+)", GUIDE.read_text(encoding="utf-8"), re.MULTILINE)
    return [row.split("`")[1] for table in tables for row in table.splitlines()]


def texts_of_source():
    """Every text of the source, with `\\0` where an f-string puts a value in."""
    for folder in FOLDERS:
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    yield node.value
                elif isinstance(node, ast.JoinedStr):
                    yield "".join(part.value if isinstance(part, ast.Constant) else "\0" for part in node.values)


@pytest.fixture(scope="module")
def source():
    return sorted(set(texts_of_source()))


@pytest.mark.parametrize("message", quoted_messages())
def test_the_source_still_says_so(message, source):
    pattern = re.compile(".*".join(map(re.escape, message.split("..."))), re.DOTALL)
    assert any(pattern.search(text) for text in source), f"no text of the source has {message!r}"


def test_there_are_messages_and_none_is_quoted_twice():
    messages = quoted_messages()
    assert len(messages) >= 40 and len(set(messages)) == len(messages)

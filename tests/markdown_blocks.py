"""The code blocks of README and guides, and the commands in them."""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
SHELL, CODE = ("bash", "sh"), ("python", "bash", "sh", "yaml", "json")
BLOCK = re.compile(
    r"(?:<!-- (?P<mark>[^\n]*) -->\n)?^```(?P<language>\w*)[^\n]*\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL
)
SYNTAX = ("for", "while", "if", "do", "done", "fi")
# What a block may be marked with, in a comment above it: why it is not run.
NOT_RUN = "not run: "
BY_CI = "command"  # .ci/run runs these two of the README, and nothing else


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
        page: its file, from the repository's root.
        line: of its fence.
        language: as it says; empty where it does not.
        text: what is between the fences.
        reason: why it is not run; empty where it is.
    """

    page: str
    line: int
    language: str
    text: str
    reason: str

    def __str__(self):
        return f"{self.page}:{self.line}"


def pages() -> list[Path]:
    """README, the files beside it, and the guides."""
    return sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])


def blocks_of(page: Path) -> list[Block]:
    """The fenced blocks of a page, in order."""
    text, blocks = page.read_text(encoding="utf-8"), []
    for found in BLOCK.finditer(text):
        mark, reason = found["mark"] or "", ""
        if mark == BY_CI:
            reason = "run by .ci/run, in an environment of its own"
        elif mark.startswith(NOT_RUN):
            reason = mark.removeprefix(NOT_RUN)
        line = text.count("\n", 0, found.start("language")) + 1
        blocks.append(Block(str(page.relative_to(ROOT)), line, found["language"], found["text"], reason))
    return blocks


def commands(text: str) -> list[list[str]]:
    """The commands of a shell block, each as a list of words, without what only sets a variable.

    Raises:
        ValueError: quotes that are not closed, or a shell's loop, condition or substitution, which this does not read.
    """
    found = []
    for line in text.replace("\\\n", " ").splitlines():
        words = shlex.shlex(line, posix=True, punctuation_chars="&;|<>()")
        words.whitespace_split = True
        command: list[str] = []
        for word in [*words, ";"]:
            if set(word) & set("()`") or word in SYNTAX:
                raise ValueError(f"{word!r} in {line!r}: write plain commands, one after the other.")
            if set(word) <= set("&;|"):
                found.append(command)
                command = []
            elif command or not re.fullmatch(r"\w+=.*", word):
                command.append(word)
    return [_without_files(command) for command in found if command]


def _without_files(command: list[str]) -> list[str]:
    """What stands before the first redirection."""
    return command[: next((place for place, word in enumerate(command) if set(word) <= set("<>")), None)]

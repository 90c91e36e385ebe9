"""Tiny downloads, and what the converters make of them."""

import gzip
import json
from pathlib import Path

from data.sources import SOURCES
from data.sources.files import text_lines


def write(path: Path, content: str | bytes) -> Path:
    data = content.encode() if isinstance(content, str) else content
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def lines(rows: list, dump=json.dumps, end: str = "\n") -> str:
    return "".join(dump(row) + end for row in rows)


def convert(name: str, folder: Path, settings: dict | None = None, **inputs) -> dict[str, int]:
    """Writes what a source makes of files, one or a list by role, and returns the counts."""
    source = SOURCES[name]
    by_role = {role: inputs.get(role, []) for role in source.roles}
    by_role = {role: files if isinstance(files, list) else [files] for role, files in by_role.items()}
    folder.mkdir(exist_ok=True)
    return source.convert(by_role, source.settings(**settings or {})).write(folder)


def rows_of(file: Path) -> list[dict]:
    return [json.loads(line) for _, line in text_lines(file)]

"""The documentation of Python's standard library as a corpus: about 4,250 documents that need no download.

The docstrings are read from the sources that come with the running Python, so the documents differ a little between
Python versions and between distributions that leave modules out; on one installation they are always the same.
"""

import ast
import gc
import inspect
import os
import re
import sysconfig
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from datasets import Dataset, Features, List, Value

MIN_WORDS = 4  # after a docstring's first line; leaves 4,262 documents on Python 3.11
SKIPPED_FOLDERS = {"test", "tests", "idle_test", "site-packages", "dist-packages", "lib-dynload", "__pycache__"}
FEATURES = Features(
    {"id": Value("string"), "text": Value("string"), "query": Value("string"), "category": List(Value("string"))}
)

_Definition = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
_WORD_BORDER = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z]{2})|_+")


def python_docs(min_words: int = MIN_WORDS) -> Dataset:
    """The docstrings of the standard library's modules, classes, functions and methods, ordered by id.

    Args:
        min_words: a docstring counts as a document when at least so many words follow its first line.

    Returns:
        A data set with the columns `id` (qualified name, unique: `json.decoder.JSONDecoder.raw_decode`), `text` (the
        words of the name's last part, then the docstring without its first line), `query` (the docstring's first
        line, which the text does not hold) and `category` (the module's path: `["json", "decoder"]`).
    """
    documents = {}
    for module, path in sorted(_modules(Path(sysconfig.get_paths()["stdlib"]))):
        for name, docstring in _docstrings(path, ".".join(module)):
            query, _, rest = docstring.partition("\n")
            if len(rest.split()) < min_words or name in documents:
                continue
            words = " ".join(_WORD_BORDER.sub(" ", name.rpartition(".")[2]).split())
            text = f"{words}\n{' '.join(rest.split())}"
            documents[name] = {"id": name, "text": text, "query": query.strip(), "category": list(module)}
    return Dataset.from_list([documents[name] for name in sorted(documents)], features=FEATURES)


def _modules(root: Path) -> Iterator[tuple[tuple[str, ...], Path]]:
    """Each module below `root` as (its path's parts, its file): (("json", "decoder"), .../json/decoder.py)."""
    for folder, subfolders, files in os.walk(root):
        subfolders[:] = [name for name in subfolders if name not in SKIPPED_FOLDERS and name.isidentifier()]
        for file in files:
            if file.endswith(".py"):
                path = Path(folder, file)
                parts = path.relative_to(root).with_suffix("").parts
                yield (parts[:-1] if parts[-1] == "__init__" else parts), path


def _docstrings(path: Path, module: str) -> list[tuple[str, str]]:
    """(qualified name, docstring) of the module and of what it defines; nothing for a file that does not parse."""
    try:
        with warnings.catch_warnings(), _without_garbage_collection():
            warnings.simplefilter("ignore")  # invalid escapes in other people's files
            tree = ast.parse(path.read_bytes())
            return list(_walk(tree, module))
    except (SyntaxError, ValueError):
        return []


def _walk(node: ast.AST, name: str) -> Iterator[tuple[str, str]]:
    if name.rpartition(".")[2].startswith("__"):
        return
    if isinstance(node, _Definition | ast.Module):
        docstring = ast.get_docstring(node, clean=False)
        if docstring and docstring.strip():
            yield name, inspect.cleandoc(docstring).strip()
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        return
    for child in ast.iter_child_nodes(node):
        if isinstance(child, _Definition):
            yield from _walk(child, f"{name}.{child.name}")
        elif isinstance(child, ast.If | ast.Try):
            yield from _walk(child, name)  # definitions for one platform, or for want of an accelerated module


@contextmanager
def _without_garbage_collection() -> Iterator[None]:
    """A syntax tree is thousands of new objects and no cycle: the collector's scans would take half of the time."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()

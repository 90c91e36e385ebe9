"""Every public name is on one page of the API, and its docstring says what goes in."""

import importlib
import inspect
import re
from collections import Counter
from dataclasses import fields, is_dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROOMS = ("modeling_lmindexer", "trainers", "metrics.ranking_quality", "metrics.semantic_id_quality")
PUBLIC = {f"{room}.{name}": room for room in ROOMS for name in importlib.import_module(room).__all__}
OURS = ("modeling_lmindexer", "trainers", "metrics")


def test_every_public_name_is_on_one_page():
    pages = "\n".join(page.read_text(encoding="utf-8") for page in (ROOT / "docs" / "api").glob("*.md"))
    assert Counter(re.findall(r"^::: (\S+)$", pages, re.MULTILINE)) == Counter(PUBLIC.keys())


# "Arguments and errors as of `category_ami`", "As [`~PrefixTree.mask_scores`]": another docstring has the others.
ELSEWHERE = re.compile(r"\b[Aa]rguments and errors as of `\w+`|\bAs \[`~?[\w.]+`\]")


def is_named(parameter: str, text: str) -> bool:
    """Whether a docstring has the word, or says where it is."""
    return ELSEWHERE.search(text) is not None or re.search(rf"\b{parameter}\b", text) is not None


def parameters(function) -> list[str]:
    """What a function takes, or the construction of a class."""
    if is_dataclass(function):
        return [field.name for field in fields(function) if field.init and field.name in function.__annotations__]
    names = inspect.signature(function).parameters
    return [name for name in names if name not in ("self", "cls") and not name.startswith("_")]


def docstring(item) -> str:
    """Of a function; of a class with that of its construction, and the help of its fields."""
    texts = [item.__doc__]
    if isinstance(item, type):
        texts += [item.__init__.__doc__]
        if is_dataclass(item):
            texts += [f"{field.name}: {field.metadata['help']}" for field in fields(item) if "help" in field.metadata]
    return "\n".join(filter(None, texts))


def methods(cls: type):
    """Name and function of every public method and property of a class and its bases of ours."""
    for name in dir(cls):
        owner = next((base for base in cls.__mro__ if name in vars(base)), object)
        member = vars(owner).get(name)
        function = getattr(member, "__func__", getattr(member, "fget", member))
        if not name.startswith("_") and owner.__module__.split(".")[0] in OURS and inspect.isfunction(function):
            yield name, function


def of_transformers(cls: type, name: str) -> set[str]:
    """The parameters that the method has in a base that is not ours, whose documentation has them."""
    bases = [base for base in cls.__mro__ if base.__module__.split(".")[0] not in OURS and name in vars(base)]
    functions = [getattr(vars(base)[name], "__func__", vars(base)[name]) for base in bases]
    return {word for function in functions if inspect.isfunction(function) for word in parameters(function)}


def missing(full_name: str) -> list[str]:
    """What the docstrings of a public name leave out."""
    item = getattr(importlib.import_module(PUBLIC[full_name]), full_name.rpartition(".")[2])
    if not callable(item):
        return []
    own = docstring(item)
    found = [] if own else [f"{full_name} has no docstring"]
    is_error = isinstance(item, type) and issubclass(item, Exception)
    words = [] if is_error else parameters(item)
    found += [f"{full_name}: {word}" for word in words if not is_named(word, own)]
    for name, function in methods(item) if isinstance(item, type) else ():
        text = function.__doc__ or ""
        found += [] if text else [f"{full_name}.{name} has no docstring"]
        words = set(parameters(function)) - of_transformers(item, name)
        found += [f"{full_name}.{name}: {word}" for word in sorted(words) if not is_named(word, f"{text} {own}")]
    return found


@pytest.mark.parametrize("name", PUBLIC)
def test_docstrings_say_what_goes_in(name):
    assert not missing(name)

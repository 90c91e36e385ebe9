"""What the site makes of our docstrings, which are written for `help()`: references become links, settings a list."""

import ast
import re
from pathlib import Path

import griffe

API = Path(__file__).parents[1] / "api"
REFERENCE = re.compile(r"\[`(~?)([\w.]+)`\](?![\[(])")
SEVERAL = re.compile(r"^( +)([\w*]+(?:, [\w*]+)+):( .*(?:\n\1 +.*)*)", re.MULTILINE)


def public_names() -> dict[str, str]:
    """Where the API pages have a name: its last part -> the identifier on the page."""
    found = re.findall(r"^::: (\S+)$", "\n".join(page.read_text() for page in sorted(API.glob("*.md"))), re.MULTILINE)
    return {identifier.rpartition(".")[2]: identifier for identifier in found}


def linked(text: str, names: dict[str, str]) -> str:
    """References as Hugging Face writes them, [`Name`] or [`~Class.method`], as links where a page has the name."""

    def link(match):
        short, name = match[1], match[2]
        shown = f"`{name.rpartition('.')[2] if short else name}`"
        first, _, member = name.partition(".")
        return f"[{shown}][{names[first]}{'.' * bool(member)}{member}]" if first in names else shown

    return REFERENCE.sub(link, text)


def one_by_one(text: str) -> str:
    """`a, b: what they are` in a list of arguments, as one entry each."""
    return SEVERAL.sub(lambda found: "\n".join(f"{found[1]}{n}:{found[3]}" for n in found[2].split(", ")), text)


def settings(cls: griffe.Class) -> str:
    """The `help` of a dataclass's fields, as a list of arguments."""
    lines = []
    for name, member in cls.members.items():
        value = getattr(member, "value", None)
        if isinstance(value, griffe.ExprCall) and str(value.function) == "field":
            metadata = [k.value for k in value.arguments if getattr(k, "name", None) == "metadata"]
            if metadata:
                found = ast.parse(str(metadata[0]), mode="eval").body
                (text,) = (v.value for k, v in zip(found.keys, found.values, strict=True) if k.value == "help")
                lines.append(f"    {name}: {' '.join(text.split())}")
    return "\n\nArgs:\n" + "\n".join(lines) if lines else ""


class SiteDocstrings(griffe.Extension):
    """Rewrites the docstrings of a package once it is loaded."""

    def on_package(self, *, pkg, loader, **kwargs):
        self.visit(pkg, public_names())

    def visit(self, item, names: dict[str, str]):
        for member in item.members.values():
            if member.is_alias:
                continue
            if member.docstring:
                text = member.docstring.value
                if member.is_class:
                    text += settings(member)
                    if "__init__" not in member.members:  # settings of a strict configuration, say
                        text = re.sub(r"^Args:$", "Attributes:", text, flags=re.MULTILINE)
                member.docstring.value = linked(one_by_one(text), names)
            self.visit(member, names)

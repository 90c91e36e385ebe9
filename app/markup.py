"""Pieces of HTML that several parts of the page show. Ids, labels and texts come from anywhere: all are escaped."""

from collections.abc import Sequence
from html import escape


def text(value) -> str:
    """Any value as text that no browser takes for markup, and no template for a placeholder."""
    escaped = escape(str(value), quote=True)
    for sign in "{}$`":
        escaped = escaped.replace(sign, f"&#{ord(sign)};")
    return escaped


def id_chips(codes: Sequence[int], shared: int = 0) -> str:
    """An ID, code by code; the first `shared` are marked."""
    chips = [f'<span class="lm-code{" lm-shared" * (i < shared)}">{code}</span>' for i, code in enumerate(codes)]
    return f'<span class="lm-id" aria-label="ID {text(" ".join(map(str, codes)))}">{"".join(chips)}</span>'


def percent(share: float) -> str:
    """A share for people: `12 %`, `0.3 %`, `under 0.1 %`."""
    if 0 < share < 0.001:
        return "under 0.1 %"
    return f"{100 * share:.0f} %" if share >= 0.0995 or share == 0 else f"{100 * share:.1f} %"


def count(number: int, noun: str) -> str:
    """`1 document`, `4,262 documents`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def bar(share: float) -> str:
    """A share as a bar; the number stands beside it, so that a screen reader need not see it."""
    return (
        f'<span class="lm-bar" aria-hidden="true"><i style="width:{100 * min(1, max(share, 0.005)):.1f}%"></i></span>'
    )


def note(message: str, kind: str = "note") -> str:
    """A message: `note`, or `error`, which is read out at once."""
    return f'<p class="lm-{kind}" role="{"alert" if kind == "error" else "status"}">{text(message)}</p>'


def about(categories: Sequence[tuple[str, int]], documents: int, most: int = 2) -> str:
    """The most frequent categories with their shares, as one line."""
    named = [f"{text(label)} {percent(number / documents)}" for label, number in categories[:most]]
    return ", ".join(named)


def label(category: str) -> str:
    """A category, if there is one."""
    return f'<span class="lm-label">{text(category)}</span>' if category else ""

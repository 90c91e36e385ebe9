"""The tree of IDs, one level at a time: a map of the prefixes under a prefix, its categories and its documents."""

from collections import Counter
from collections.abc import Sequence

from finding import codes_from
from loaded_model import LoadedModel
from markup import bar, count, id_chips, percent, text
from treemap import Rectangle, squarified

from modeling_lmindexer import PrefixOverview

NUM_COLOURS = 8
SHOWN_DOCUMENTS, SHOWN_CATEGORIES = 12, 8
WHOLE = Rectangle(0, 0, 160, 100)


def place_named(loaded: LoadedModel, typed: str, is_named: bool = True) -> tuple[int, ...]:
    """Codes of what was typed: with `is_named` a document's id, or a prefix. Raises ValueError for anything else."""
    document = loaded.document_named(typed) if is_named else None
    try:
        codes = codes_from(typed) if document is None else loaded.codes_of(document)
        loaded.tree.overview(codes, num_samples=0)
    except (KeyError, ValueError):
        raise ValueError(f"{typed!r} is neither the beginning of an ID, such as <12><40>, nor a document.") from None
    return codes


def tree_html(loaded: LoadedModel, codes: Sequence[int] = ()) -> str:
    """Map, categories and documents under a prefix; every prefix in it is a button with its codes in `data-codes`."""
    here = loaded.tree.overview(codes, num_samples=0)
    children = loaded.tree.children(codes)
    colours = colours_of(children)
    legend = categories_html(categories_of(here, children), here.documents, colours)
    aside = legend + documents_html(loaded, here)
    if children:
        aside = f'<div class="lm-columns"><div>{map_html(children, colours)}</div><div>{aside}</div></div>'
    return f'<div class="lm-tree">{breadcrumb(here)}{aside}</div>'


def breadcrumb(here: PrefixOverview) -> str:
    """The way down to a prefix, each step of which leads back."""
    steps = ['<button type="button" data-codes="">All IDs</button>']
    for length in range(1, len(here.codes) + 1):
        codes = here.codes[:length]
        steps.append(f'<button type="button" data-codes="{spaced(codes)}">&lt;{codes[-1]}&gt;</button>')
    steps[-1] = steps[-1].replace("<button", '<button aria-current="true"', 1)
    links = '<span aria-hidden="true">›</span>'.join(steps)
    number = f"<span>{count(here.documents, 'document')}</span>"
    return f'<nav class="lm-crumbs" aria-label="Path in the tree">{links}{number}</nav>'


def dominating(prefix: PrefixOverview) -> str | None:
    """The most frequent category under a prefix, `None` where none is known."""
    return prefix.categories[0][0] if prefix.categories else None


def colours_of(children: Sequence[PrefixOverview]) -> dict[str, int]:
    """Number of the colour of each category that dominates most documents; the others have none."""
    documents: Counter = Counter()
    for child in children:
        documents[dominating(child)] += child.documents
    documents.pop(None, None)
    ranked = sorted(documents.items(), key=lambda item: (-item[1], item[0]))
    return {label: number for number, (label, _) in enumerate(ranked[:NUM_COLOURS])}


def map_html(children: Sequence[PrefixOverview], colours: dict[str, int]) -> str:
    """A treemap of prefixes: area for documents, colour for the dominating category, its depth for that one's share.

    Prefixes with the same dominating category lie together, under its name.
    """
    regions: dict[str | None, list[PrefixOverview]] = {}
    for child in sorted(children, key=lambda child: (-child.documents, child.codes)):
        label = dominating(child)
        regions.setdefault(label if label in colours else None, []).append(child)
    ordered = sorted(regions.items(), key=lambda item: -sum(child.documents for child in item[1]))
    areas = squarified([sum(child.documents for child in members) for _, members in ordered], WHOLE)
    drawn = "".join(
        region(label, members, area, colours, is_first=not i)
        for i, ((label, members), area) in enumerate(zip(ordered, areas, strict=True))
    )
    return f'<div class="lm-map" role="group" aria-label="Prefixes; arrow keys move, Enter opens">{drawn}</div>'


def region(
    label: str | None, members: Sequence[PrefixOverview], area: Rectangle, colours: dict[str, int], is_first: bool
) -> str:
    """Prefixes with one dominating category; with `None`, those of all categories without a colour."""
    places = squarified([child.documents for child in members], Rectangle(0, 0, area.width, area.height))
    tiles = "".join(
        tile(child, label is not None, box(place, area), is_first=is_first and not i)
        for i, (child, place) in enumerate(zip(members, places, strict=True))
    )
    title = short(label) if label else "others" if colours else "all"
    return (
        f'<div class="lm-region lm-colour-{colours.get(label, NUM_COLOURS)}" style="{box(area, WHOLE)}">'
        f"<b>{text(title)}</b><div>{tiles}</div></div>"
    )


def box(place: Rectangle, whole: Rectangle) -> str:
    """A place as shares of the whole, for a style."""
    return (
        f"left:{100 * place.left / whole.width:.3f}%;top:{100 * place.top / whole.height:.3f}%;"
        f"width:{100 * place.width / whole.width:.3f}%;height:{100 * place.height / whole.height:.3f}%"
    )


def tile(child: PrefixOverview, is_named: bool, place: str, is_first: bool) -> str:
    """A prefix as a button on the map; `is_named` where its region already names its dominating category."""
    share = child.categories[0][1] / child.documents if child.categories else 0.0
    described = f"{child.semantic_id}: {count(child.documents, 'document')}"
    named = "; ".join(f"{name} {percent(number / child.documents)}" for name, number in child.categories[:3])
    hover = text(f"{described}. {named}" if named else described)
    what = percent(share) if is_named else text(short(dominating(child) or ""))
    return (
        f'<button type="button" class="lm-tile" style="{place};--share:{0.25 + 0.75 * share:.2f}" '
        f'data-codes="{spaced(child.codes)}" tabindex="{0 if is_first else -1}" title="{hover}" '
        f'aria-label="{hover}"><span><b>{child.codes[-1]}</b><small>{what}</small></span></button>'
    )


def spaced(codes: Sequence[int]) -> str:
    """Codes as `data-codes` has them."""
    return " ".join(map(str, codes))


def short(label: str) -> str:
    """The last level of a category's path."""
    return label.rsplit(" > ", 1)[-1]


def categories_of(here: PrefixOverview, children: Sequence[PrefixOverview]) -> list[tuple[str, int]]:
    """Categories under a prefix, as finely as the map below it tells them apart."""
    finer: Counter = Counter()
    for child in children:
        finer.update(dict(child.categories))
    return sorted(finer.items(), key=lambda item: (-item[1], item[0])) or list(here.categories)


def categories_html(categories: list[tuple[str, int]], documents: int, colours: dict[str, int]) -> str:
    """Categories with their shares of so many documents."""
    if not categories:
        return ""
    largest = categories[0][1]
    rows = "".join(
        f'<li><i class="lm-dot lm-colour-{colours.get(name, NUM_COLOURS)}" aria-hidden="true"></i>'
        f"<span>{text(name)}</span>{bar(number / largest)}"
        f'<span class="lm-number">{percent(number / documents)}</span></li>'
        for name, number in categories[:SHOWN_CATEGORIES]
    )
    hidden = len(categories) - SHOWN_CATEGORIES
    more = f'<p class="lm-hint">and {hidden:,} more</p>' if hidden > 0 else ""
    return f'<h3>Categories</h3><ul class="lm-categories">{rows}</ul>{more}'


def documents_html(loaded: LoadedModel, here: PrefixOverview) -> str:
    """Some of the documents under a prefix, evenly spread; all of them where they are few, one with its text."""
    shown = loaded.tree.overview(here.codes, num_samples=SHOWN_DOCUMENTS).samples
    rows = ""
    for document in shown:
        codes = loaded.codes_of(document)
        whole = f"<p>{text(loaded.text_of(document))}</p>" if len(shown) == 1 else ""
        name = f'<button type="button" data-codes="{spaced(codes)}">{text(document)}</button>'
        rows += f"<li>{name}{id_chips(codes, len(here.codes))}{whole}</li>"
    title = "Documents" if here.documents == len(shown) else f"{len(shown)} of {here.documents:,} documents"
    return f'<h3>{title}</h3><ul class="lm-documents">{rows}</ul>'

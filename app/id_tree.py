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


def place_named(loaded: LoadedModel, typed: str) -> tuple[int, ...]:
    """Codes of what was typed: a document's id, or a prefix. Raises ValueError for anything else."""
    document = loaded.document_named(typed)
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
    legend = categories_html(here, colours)
    return (
        f'<div class="lm-tree">{breadcrumb(here)}<div class="lm-columns"><div>{map_html(children, colours)}</div>'
        f"<div>{legend}{documents_html(loaded, here)}</div></div></div>"
    )


def breadcrumb(here: PrefixOverview) -> str:
    """The way down to a prefix, each step of which leads back."""
    steps = ['<button type="button" data-codes="">All IDs</button>']
    for length in range(1, len(here.codes) + 1):
        codes = here.codes[:length]
        steps.append(f'<button type="button" data-codes="{" ".join(map(str, codes))}">&lt;{codes[-1]}&gt;</button>')
    steps[-1] = steps[-1].replace("<button", '<button aria-current="true"', 1)
    links = '<span aria-hidden="true">›</span>'.join(steps)
    return f'<nav class="lm-crumbs" aria-label="Path in the tree">{links}<span>{count(here.documents, "document")}</span></nav>'


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
    """A treemap of prefixes: area for documents, colour for the dominating category, its depth for that one's share."""
    if not children:
        return '<p class="lm-hint">This is a whole ID: one document has it.</p>'
    regions: dict[int, list[PrefixOverview]] = {}
    for child in sorted(children, key=lambda child: (-child.documents, child.codes)):
        regions.setdefault(colours.get(dominating(child), NUM_COLOURS), []).append(child)
    ordered = sorted(regions.items(), key=lambda item: -sum(child.documents for child in item[1]))
    areas = squarified([sum(child.documents for child in members) for _, members in ordered], WHOLE)
    tiles = [
        (child, colour, rectangle)
        for (colour, members), area in zip(ordered, areas, strict=True)
        for child, rectangle in zip(members, squarified([c.documents for c in members], area), strict=True)
    ]
    buttons = "".join(tile(*parts, is_first=not i) for i, parts in enumerate(tiles))
    return f'<div class="lm-map" role="group" aria-label="Prefixes; arrow keys move, Enter opens">{buttons}</div>'


def tile(child: PrefixOverview, colour: int, place: Rectangle, is_first: bool) -> str:
    """A prefix as a button on the map."""
    label, share = dominating(child), child.categories[0][1] / child.documents if child.categories else 0.0
    described = f"{child.semantic_id}: {count(child.documents, 'document')}"
    named = "; ".join(f"{name} {percent(number / child.documents)}" for name, number in child.categories[:3])
    hover = text(f"{described}. {named.replace('&lt;', '<')}" if named else described)
    box = (
        f"left:{100 * place.left / WHOLE.width:.3f}%;top:{100 * place.top / WHOLE.height:.3f}%;"
        f"width:{100 * place.width / WHOLE.width:.3f}%;height:{100 * place.height / WHOLE.height:.3f}%"
    )
    return (
        f'<button type="button" class="lm-tile lm-colour-{colour}" style="{box};--share:{0.25 + 0.75 * share:.2f}" '
        f'data-codes="{" ".join(map(str, child.codes))}" tabindex="{0 if is_first else -1}" title="{hover}" '
        f'aria-label="{hover}"><span><b>{text(short(label or child.semantic_id))}</b>'
        f"<small>{text(f'<{child.codes[-1]}>')} · {child.documents:,}</small></span></button>"
    )


def short(label: str) -> str:
    """The last level of a category's path."""
    return label.rsplit(" > ", 1)[-1]


def categories_html(here: PrefixOverview, colours: dict[str, int]) -> str:
    """Categories under a prefix with their shares."""
    if not here.categories:
        return ""
    rows = "".join(
        f'<li><i class="lm-dot lm-colour-{colours.get(label, NUM_COLOURS)}" aria-hidden="true"></i><span>{text(label)}</span>'
        f'{bar(number / here.documents)}<span class="lm-number">{percent(number / here.documents)}</span></li>'
        for label, number in here.categories[:SHOWN_CATEGORIES]
    )
    hidden = len(here.categories) - SHOWN_CATEGORIES
    more = f'<p class="lm-hint">and {hidden:,} more</p>' if hidden > 0 else ""
    return f'<h3>Categories</h3><ul class="lm-categories">{rows}</ul>{more}'


def documents_html(loaded: LoadedModel, here: PrefixOverview) -> str:
    """Some of the documents under a prefix, evenly spread; all of them where they are few."""
    shown = loaded.tree.overview(here.codes, num_samples=SHOWN_DOCUMENTS).samples
    rows = "".join(
        f'<li><button type="button" data-codes="{" ".join(map(str, loaded.codes_of(document)))}">{text(document)}</button>'
        f"{id_chips(loaded.codes_of(document), len(here.codes))}{excerpt(loaded, document, len(shown))}</li>"
        for document in shown
    )
    hidden = here.documents - len(shown)
    title = "Documents" if hidden <= 0 else f"{len(shown)} of {here.documents:,} documents"
    return f'<h3>{title}</h3><ul class="lm-documents">{rows}</ul>'


def excerpt(loaded: LoadedModel, document, shown: int) -> str:
    """The text of a document that is alone; nothing beside others."""
    return f"<p>{text(loaded.text_of(document))}</p>" if shown == 1 else ""

"""Two documents or texts beside each other: where their IDs part, and which words they share."""

import re
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache

from loaded_model import LoadedModel
from markup import about, count, id_chips, label, percent, text

SAMPLE, EVERYDAY = 500, 0.05
WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class Side:
    """A document, or a text that is none (`name` is `None`): its text, and the codes of its ID.

    The codes of a text are those that the model gives it at the learned positions.
    """

    name: object
    text: str
    codes: tuple[int, ...]


def side_of(loaded: LoadedModel, typed: str) -> Side:
    """The document with this id, or else the text itself. Raises ValueError for nothing."""
    if not typed.strip():
        raise ValueError("Give two document ids or texts.")
    document = loaded.document_named(typed)
    if document is not None:
        return Side(document, loaded.text_of(document), loaded.codes_of(document))
    flat = loaded.model.assign(**loaded.tokens_of(typed))[0].tolist()
    offsets = loaded.index.offsets.tolist()
    return Side(None, typed, tuple(code - offset for code, offset in zip(flat, offsets, strict=False)))


def shared_codes(one: tuple[int, ...], other: tuple[int, ...]) -> int:
    """How many codes two IDs have in common before they part.

    ```python
    >>> shared_codes((3, 1, 0), (3, 1, 2)), shared_codes((3,), (4,)), shared_codes((3, 1), (3, 1, 2))
    (2, 0, 2)

    ```
    """
    pairs = zip(one, other, strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))


def words_of(passage: str) -> set[str]:
    """Words of a text of at least three letters, in lower case."""
    return {word for word in WORD.findall(passage.lower()) if len(word) > 2}


@lru_cache(maxsize=4)
def everyday_words(name: str, texts: tuple[str, ...]) -> frozenset[str]:
    """Words that say little, because more than a twentieth of the documents have them."""
    counts = Counter(word for passage in texts for word in words_of(passage))
    return frozenset(word for word, number in counts.items() if number > max(5, EVERYDAY * len(texts)))


def shared_words(loaded: LoadedModel, one: str, other: str) -> tuple[set[str], float]:
    """Words that both texts have, without everyday ones, and their share among the words of either."""
    texts = loaded.table.texts if loaded.table else []
    sample = tuple(texts[:: max(1, len(texts) // SAMPLE)])
    little = everyday_words(loaded.name, sample)
    first, second = words_of(one) - little, words_of(other) - little
    both = first & second
    return both, len(both) / max(1, len(first | second))


def marked(passage: str, words: set[str]) -> str:
    """A text with some of its words marked."""
    pieces, end = [], 0
    for match in WORD.finditer(passage):
        if match[0].lower() in words:
            pieces += [text(passage[end : match.start()]), f"<mark>{text(match[0])}</mark>"]
            end = match.end()
    return "".join([*pieces, text(passage[end:])])


def comparison_html(loaded: LoadedModel, first: str, second: str) -> str:
    """Both sides and what they have in common. Raises ValueError where one is empty."""
    sides = [side_of(loaded, typed) for typed in (first, second)]
    common = shared_codes(*(side.codes for side in sides))
    words, share = shared_words(loaded, *(side.text for side in sides))
    columns = "".join(
        f'<section class="lm-card"><h3>{text("Your text" if side.name is None else side.name)}</h3>'
        f'<div class="lm-facts">{id_chips(side.codes, common)}{label(category_of(loaded, side))}</div>'
        f"<p>{marked(side.text, words)}</p></section>"
        for side in sides
    )
    named = ", ".join(sorted(words)[:12]) or "none"
    return (
        f'<div class="lm-comparison"><p class="lm-verdict">{verdict(loaded, sides, common)}</p>'
        f'<p class="lm-verdict">{count(len(words), "word")} in common, {percent(share)} of the words of either: '
        f'{text(named)}{" …" if len(words) > 12 else ""}</p><div class="lm-pair">{columns}</div></div>'
    )


def category_of(loaded: LoadedModel, side: Side) -> str:
    """Category of a document; a text has none."""
    return "" if side.name is None else loaded.category_of(side.name)


def verdict(loaded: LoadedModel, sides: list[Side], common: int) -> str:
    """Where two IDs part, and what is under the prefix that they share."""
    one, other = (side.codes for side in sides)
    if common == min(len(one), len(other)):
        return "The IDs are the same." if one == other else "The IDs are the same as far as the model chooses them."
    if common == 0:
        return "The IDs part at the first code."
    part = f"The IDs part at code {common + 1} of {max(len(one), len(other))}."
    try:
        overview = loaded.tree.overview(one[:common], num_samples=0)
    except KeyError:  # two texts, like no document
        return f"{part} No document's ID begins with {id_chips(one[:common], common)}."
    named = about(overview.categories, overview.documents)
    what = f" ({named})" if named else ""
    return (
        f"{part} Under {id_chips(one[:common], common)} there "
        f"{'is' if overview.documents == 1 else 'are'} {count(overview.documents, 'document')}{what}."
    )

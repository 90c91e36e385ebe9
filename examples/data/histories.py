"""User histories become pairs of what was bought and what was bought next: leave-one-out, as in the literature."""

import gzip
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from datasets import Dataset, Features, List, Value

from .rows import CorpusError

WINDOWS = ("sliding", "paper")
_PAPER_WINDOWS = 5  # per user; Table 6: 111,815 training histories of 22,363 users of Beauty
_LEAST = 3  # items of a history: one to read, one for validation, one for the test


@dataclass(frozen=True)
class History:
    """The items of a user, oldest first. The last one is for the test, the one before for validation."""

    user: str
    items: list


def read_histories(file: str | Path, item_ids: list | None, skip_missing: bool = False) -> list[History]:
    """The lines of a file, `user item item ...`, oldest first, also as .gz.

    Args:
        file: text in UTF-8, white space between ids.
        item_ids: that have an ID, as written there; None for all, as text.
        skip_missing: whether histories may have other items; see [`read_histories_as`].

    Raises:
        CorpusError: a line with an item that has no ID, with fewer than three items, or of a user that has a line
            already; with its number.
    """
    path = Path(file).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"sequences_file={str(file)!r} is not a file (looked for {path.absolute()}).")
    known, found, users = {str(item): item for item in item_ids or []}, [], {}
    others = _Others(item_ids)
    for number, line in enumerate(_lines_of(path), start=1):
        if not line.strip():
            continue
        user, *items = line.split()
        unknown = [item for item in items if item not in known] if item_ids is not None else []
        if unknown and not skip_missing:
            raise CorpusError(
                f"{path}, line {number}: item {unknown[0]} has no semantic ID. Index it, remove it, or set "
                "--skip_missing: it is then read nowhere, and counts as not found."
            )
        if len(items) < _LEAST:
            raise CorpusError(
                f"{path}, line {number}: user {user} has {len(items)} items; expected at least {_LEAST}, the last "
                "for the test, the one before for validation."
            )
        if unknown and not any(item in known for item in items[:-2]):
            raise CorpusError(
                f"{path}, line {number}: user {user} has no item with a semantic ID before the last two, so that "
                "there is nothing to read: remove the line."
            )
        if user in users:
            raise CorpusError(f"{path}, line {number}: user {user} has line {users[user]} already.")
        users[user] = number
        found.append(History(user, [known[item] if item in known else others[item] for item in items]))
    if not found:
        raise CorpusError(f"{path} holds no histories; expected a line per user: user item item ...")
    return found


def _lines_of(path: Path) -> Iterator[str]:
    """Lines of a text, packed or not.

    Raises:
        CorpusError: it is not in UTF-8, or not packed as its name says.
    """
    with (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8-sig") as lines:
        try:
            yield from lines
        except (UnicodeDecodeError, gzip.BadGzipFile, EOFError) as error:
            raise CorpusError(f"{path}: {error}. Expected text in UTF-8, or a whole .gz of it.") from error


class _Others(dict):
    """What stands for an item that has no ID: of the type of those that have one, and none of them.

    A number for what is none, such as 007 beside the item 7, is one that nothing is called.
    """

    def __init__(self, item_ids: list | None):
        super().__init__()
        self.are_numbers = bool(item_ids) and isinstance(item_ids[0], int)

    def __missing__(self, item: str) -> str | int:
        if not self.are_numbers:
            self[item] = item
        else:
            self[item] = int(item) if re.fullmatch(r"0|-?[1-9]\d{0,17}", item, re.ASCII) else -(2**62) - len(self)
        return self[item]


def training_windows(histories: list[History], windows: str, seed: int) -> Iterator[tuple[list, object]]:
    """Items and the next one, from what is neither for validation nor for the test.

    Args:
        histories: of all users.
        windows: `sliding`: every item but a user's first, with all before it; `paper`: five per user, drawn with the
            seed and the user's place, of the same ones.
        seed: of the paper's windows.
    """
    for place, history in enumerate(histories):
        known = history.items[:-2]
        ends = range(1, len(known))
        if windows == "paper" and len(known) > 1:
            ends = np.random.default_rng([seed, place]).integers(1, len(known), size=_PAPER_WINDOWS)
        for end in ends:
            yield known[:end], known[end]


def read_histories_as(
    histories: list[History],
    render: Callable[[list], str],
    item_ids: list,
    windows: str,
    seed: int,
    repeats: bool = False,
) -> tuple[Dataset, Dataset, Dataset]:
    """Histories as the downstream trainer takes them: training pairs, validation queries and test queries.

    What a user had before is `hidden` in a query: no item is recommended twice, and an answer that the user has had
    counts as not found, unless `repeats`. Items without an ID are left out of what is read, and are no targets of
    training; as the answer to a query they stay, and nobody finds them.

    Args:
        histories: of all users.
        render: items, oldest first, as text.
        item_ids: that have an ID.
        windows, seed: see [`training_windows`].
        repeats: whether things are bought again: nothing is hidden then.
    """
    known = set(item_ids)

    def shown(items: list) -> list:
        return [item for item in items if item in known]

    pairs = [
        {"text": render(shown(items)), "target": item}
        for items, item in training_windows(histories, windows, seed)
        if item in known and shown(items)
    ]
    if not pairs:
        raise CorpusError("No history is longer than three items: there is nothing to learn from.")
    ids = Value("int64") if isinstance(pairs[0]["target"], int) else Value("string")
    features = {"id": Value("string"), "text": Value("string"), "relevant": List(ids), "hidden": List(ids)}
    queries = []
    for last in (2, 1):
        rows = []
        for history in histories:
            before, hidden = shown(history.items[:-last]), []
            if not repeats:
                hidden = list(dict.fromkeys(before))
            answer = [history.items[-last]]
            rows.append({"id": history.user, "text": render(before), "relevant": answer, "hidden": hidden})
        queries.append(Dataset.from_list(rows, features=Features(features)))
    return Dataset.from_list(pairs, features=Features({"text": Value("string"), "target": ids})), *queries


def history_text(texts: dict, id_texts: dict | None, max_items: int, max_words: int) -> Callable[[list], str]:
    """How a history is read: the newest item first, so that what is cut off is the oldest.

    Args:
        texts: of items, by id; their first `max_words` words are read. Empty for IDs alone.
        id_texts: of items, their semantic IDs as text; None for text alone.
        max_items: the newest so many.
        max_words: see above.
    """
    short = {item: " ".join(text.split()[:max_words]) for item, text in texts.items()}
    sources = [source for source in (id_texts, short) if source]

    def render(items: list) -> str:
        return " ".join(source[item] for item in items[::-1][:max_items] for source in sources)

    return render

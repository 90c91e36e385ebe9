"""Amazon's reviews of 2014, 2018 and 2023 with their metadata: items and the histories of users.

Events of one user at the same time, which for 2014 and 2018 means on the same day, stay in the order of the file: that
is what S3-Rec, P5 and the paper's authors do, as their sort by time is stable.
"""

import re
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ..corpora import category_path, clean_text
from ..histories import History
from ..rows import CorpusError
from .draws import core
from .files import check_columns, record, text_lines, whole_number
from .forms import Recommendation

_ASIN = re.compile(r"[0-9A-Z]{10}")
_SCRIPT = "getTime"  # in titles of 2018 that are a page's script


@dataclass(frozen=True)
class Release:
    """How the files of a year name things.

    Attributes:
        user, item, time: keys of a review, and columns of a ratings file.
        ratings: columns of a ratings file.
        has_header: whether it begins with their names.
        brand, categories: keys of the metadata, which name the item as reviews do.
        features: key of the metadata's list of features, if there is one.
    """

    user: str
    item: str
    time: str
    ratings: tuple[str, ...]
    has_header: bool
    brand: str
    categories: str
    features: str | None


_OLD = {"user": "reviewerID", "item": "asin", "time": "unixReviewTime", "has_header": False, "brand": "brand"}
RELEASES = {
    "2014": Release(
        ratings=("reviewerID", "asin", "overall", "unixReviewTime"), categories="categories", features=None, **_OLD
    ),
    "2018": Release(
        ratings=("asin", "reviewerID", "overall", "unixReviewTime"), categories="category", features="feature", **_OLD
    ),
    "2023": Release(
        user="user_id", item="parent_asin", time="timestamp",
        ratings=("user_id", "parent_asin", "rating", "timestamp"), has_header=True,
        brand="store", categories="categories", features="features",
    ),
}  # fmt: skip


@dataclass
class AmazonSettings:
    """Which users and items are kept."""

    core: int = field(
        default=5,
        metadata={
            "help": "Users and items with fewer interactions are left out, again and again until all have as many. "
            "A published 5-core without repeated reviews stays as it is."
        },
    )

    def __post_init__(self) -> None:
        if self.core < 3:
            raise ValueError(f"core={self.core}: expected at least 3, as a history is for learning, validation, test.")


def convert_amazon(release: Release, inputs: dict[str, list[Path]], settings: AmazonSettings) -> Recommendation:
    """Items and histories of a category.

    Of several reviews of one item by one user the earliest counts. Items are in the order of their ids, and so are
    users; items without metadata stay, with empty texts.

    Args:
        release: one of `RELEASES`.
        inputs: `reviews`, one or more files of reviews (JSON) or ratings (.csv), and `meta`.
        settings: see there.

    Raises:
        CorpusError: a line that is none, of another release, or nothing left.
    """
    events = _Events()
    for path in inputs["reviews"]:
        name = path.name.removesuffix(".gz")
        for user, item, time in (_ratings if name.endswith(".csv") else _reviews)(release, path):
            events.add(user, item, time)
    users, items, repeated = events.ordered()
    kept = core(users, items, settings.core)
    if not kept.any():
        raise CorpusError(
            f"Nothing is left of {len(users)} interactions when all users and items have {settings.core}."
        )
    histories: dict[str, list[str]] = {user: [] for user in sorted(events.users[i] for i in np.unique(users[kept]))}
    for user, item in zip(users[kept].tolist(), items[kept].tolist(), strict=True):
        histories[events.users[user]].append(events.items[item])
    counts = {"repeated reviews dropped": repeated, "interactions outside the core dropped": int((~kept).sum())}
    (meta,) = inputs["meta"]
    texts = item_texts(release, meta, {events.items[i] for i in np.unique(items[kept])})
    counts |= text_counts(texts)
    rows = [{"id": item} | texts[item] for item in sorted(texts)]
    return Recommendation(rows, [History(*pair) for pair in histories.items()], counts)


class _Events:
    """Interactions as numbers, 24 bytes each: whole categories have tens of millions."""

    def __init__(self):
        self.columns = [array("q") for _ in range(3)]
        self.numbers: list[dict[str, int]] = [{}, {}]

    def add(self, user: str, item: str, time: int) -> None:
        for column, known, name in zip(self.columns, self.numbers, (user, item), strict=False):
            column.append(known.setdefault(name, len(known)))
        self.columns[2].append(time)

    def ordered(self) -> tuple[np.ndarray, np.ndarray, int]:
        """Users and items `(interactions,)`, by user, then time, then file, without repetitions, and their number."""
        self.users, self.items = map(list, self.numbers)
        users, items, times = (np.frombuffer(column, dtype=np.int64) for column in self.columns)
        order = np.lexsort((times, users))  # stable
        users, items = users[order], items[order]
        first = np.sort(np.unique(users * max(1, len(self.items)) + items, return_index=True)[1])
        return users[first], items[first], len(users) - len(first)


def _reviews(release: Release, path: Path) -> Iterator[tuple[str, str, int]]:
    needed = (release.user, release.item, release.time)
    for number, line in text_lines(path):
        where = f"{path}, line {number}"
        user, item, time = (record(line, where, needed)[name] for name in needed)
        yield user, item, whole_number(time, where, release.time)


def _ratings(release: Release, path: Path) -> Iterator[tuple[str, str, int]]:
    """Rows of a .csv; of 2023's last-out files the history column is not read: train, valid and test have it all."""
    places = [release.ratings.index(name) for name in (release.user, release.item, release.time)]
    for number, line in text_lines(path):
        where, values = f"{path}, line {number}", line.split(",")
        if release.has_header and number == 1:
            check_columns(values, release.ratings, where)
            places = [values.index(name) for name in (release.user, release.item, release.time)]
            continue
        if len(values) <= max(3, *places) or not _ASIN.fullmatch(values[places[1]]):
            raise CorpusError(
                f"{where} is {line[:80]!r}; expected {','.join(release.ratings)}, {release.item} of ten digits and "
                "capitals. Is the file of another year?"
            )
        user, item, time = (values[place] for place in places)
        yield user, item, whole_number(time, where, release.time)


def item_texts(release: Release, meta: Path, wanted: set[str]) -> dict[str, dict]:
    """Texts of the wanted items: `title`, `description`, `brand`, `categories`, `features` where the release has them.

    Of several records of an item the first counts. Lines of other items are not parsed.
    """
    key = re.compile(rf"""['"]{release.item}['"]\s*:\s*['"]([^'"]*)['"]""")
    found: dict[str, dict] = {}
    for number, line in text_lines(meta):
        match = key.search(line)
        if match and (match[1] not in wanted or match[1] in found):
            continue
        row = record(line, f"{meta}, line {number}", (release.item,))
        if row[release.item] in wanted:
            found.setdefault(row[release.item], _texts(release, row))
    return {item: found.get(item) or _texts(release, {}) for item in wanted}


def _texts(release: Release, row: dict) -> dict:
    title = clean_text(row.get("title"))
    texts = {
        "title": "" if _SCRIPT in title else title,
        "description": clean_text(row.get("description")),
        "brand": clean_text(row.get(release.brand)),
        "categories": category_path(row.get(release.categories)),
    }
    return texts | ({"features": clean_text(row.get(release.features))} if release.features else {})


def text_counts(texts: dict[str, dict]) -> dict[str, int]:
    """Items without this and that; those without any text are what `--drop_empty_texts` leaves out."""
    counts = {
        f"items without {name}": sum(not row[name] for row in texts.values()) for name in ("title", "description")
    }
    return counts | {
        "items without any text": sum(
            not any(text for name, text in row.items() if name != "categories") for row in texts.values()
        )
    }

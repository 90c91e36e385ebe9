"""Recommendation by counting: what is bought most, and what is bought next."""

from collections import Counter, defaultdict

from data.histories import History

_WEIGHTS = (1.0, 1 / 2, 1 / 3)  # of the last items of a history, the newest first


def popularity(histories: list[History], left_out: int = 2) -> list:
    """Items by how often they occur, the most frequent first; equal ones in the order in which they came.

    Args:
        histories: of all users.
        left_out: items at a history's end that do not count: 2 for those of validation and test.
    """
    counts = Counter(item for history in histories for item in history.items[:-left_out])
    return [item for item, _ in counts.most_common()]


def successors(histories: list[History], left_out: int = 2) -> dict[object, Counter]:
    """By item, how often others came directly after it; `left_out` as in [`popularity`]."""
    counts: dict[object, Counter] = defaultdict(Counter)
    for history in histories:
        known = history.items[:-left_out]
        for item, after in zip(known, known[1:], strict=False):
            counts[item][after] += 1
    return counts


def recommend_next(items: list, counts: dict[object, Counter], popular: list, depth: int) -> list:
    """What came most often after the last three items, weighted 1, 1/2 and 1/3; popular items fill up.

    Args:
        items: of a user, oldest first; they are not recommended again.
        counts: see [`successors`].
        popular: see [`popularity`].
        depth: items that are recommended.
    """
    sums: Counter = Counter()
    for item, weight in zip(items[::-1], _WEIGHTS, strict=False):
        for after, count in counts.get(item, {}).items():
            sums[after] += weight * count
    seen = set(items)
    found = [item for item, _ in sums.most_common() if item not in seen][:depth]
    chosen = seen | set(found)
    return found + [item for item in popular[: depth + len(chosen)] if item not in chosen][: depth - len(found)]


def recommendations(histories: list[History], depth: int, with_validation: bool, counted: bool = True) -> dict:
    """Rankings of all users for the test item.

    Args:
        histories: of all users.
        depth: items per user.
        with_validation: whether the validation items are counted too; they are read in any case.
        counted: whether what comes next is; else popularity alone.
    """
    left_out = 1 if with_validation else 2
    counts, popular = successors(histories, left_out) if counted else {}, popularity(histories, left_out)
    return {h.user: recommend_next(h.items[:-1], counts, popular, depth) for h in histories}

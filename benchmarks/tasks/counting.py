"""Recommendation by counting: what is bought most, and what is bought next."""

from collections import Counter, defaultdict

from data.histories import History

# Of the last items of a history, the newest first.
_WEIGHTS = (1.0, 1 / 2, 1 / 3)
_FADING = tuple(0.7**age for age in range(10))
_BACKWARDS = 0.5  # what came before, beside what came after; both by NDCG of Scientific's validation items


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


def neighbours(histories: list[History], left_out: int = 2) -> dict[object, Counter]:
    """By item, the others of its histories: 1 / distance for one that came later, half of that for one before; all of
    an item's over the root of their sum, so that a popular one does not outvote the rest. `left_out` as in
    [`popularity`]."""
    sums: dict[object, Counter] = defaultdict(Counter)
    for history in histories:
        known = history.items[:-left_out]
        for first, item in enumerate(known):
            for distance, after in enumerate(known[first + 1 :], start=1):
                sums[item][after] += 1 / distance
                sums[after][item] += _BACKWARDS / distance
    return {
        item: Counter({other: weight / own.total() ** 0.5 for other, weight in own.items()})
        for item, own in sums.items()
    }


def recommend_next(
    items: list, counts: dict[object, Counter], popular: list, depth: int, weights: tuple = _WEIGHTS
) -> list:
    """What came most often after the last items; popular items fill up.

    Args:
        items: of a user, oldest first; they are not recommended again.
        counts: see [`successors`] and [`neighbours`].
        popular: see [`popularity`].
        depth: items that are recommended.
        weights: of the last items, the newest first.
    """
    sums: Counter = Counter()
    for item, weight in zip(items[::-1], weights, strict=False):
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


def recommendations_at_any_distance(histories: list[History], depth: int) -> dict:
    """As [`recommendations`], by [`neighbours`] of the last ten items, each with .7 of the weight of the one after."""
    counts, popular = neighbours(histories), popularity(histories)
    return {h.user: recommend_next(h.items[:-1], counts, popular, depth, _FADING) for h in histories}

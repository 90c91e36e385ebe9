"""Who is near to whom, and what neighbours have in common."""

import numpy as np


def group_texts(texts: list[str] | None, number: int) -> np.ndarray:
    """`(number,)` int64, equal for texts that are, but for spaces and capitals; an empty one is equal to no other."""
    groups: dict = {}
    names = [" ".join((text or "").lower().split()) for text in texts or [""] * number]
    return np.array([groups.setdefault(name or row, len(groups)) for row, name in enumerate(names)], dtype=np.int64)


def neighbourhood_means(vectors: np.ndarray, neighbours: np.ndarray, steps: int) -> np.ndarray:
    """Every document's vector averaged with its neighbours', `steps` times, each time on length 1.

    What is peculiar to a document goes, what it shares with those near to it stays.

    Args:
        vectors: `(N, D)`.
        neighbours: `(N, number)`, rows.
        steps: how often.
    """
    for _ in range(steps):
        means = vectors.copy()
        for column in neighbours.T:
            means += vectors[column]
        vectors = means / np.linalg.norm(means, axis=1, keepdims=True).clip(1e-12)
    return vectors


def nearest_neighbours(vectors: np.ndarray, number: int, unlike: np.ndarray | None = None) -> np.ndarray:
    """The nearest other documents of each by cosine.

    Args:
        vectors: `(N, D)`.
        number: of neighbours.
        unlike: `(N,)` numbers of groups, such as brands: only documents of other groups are neighbours.

    Returns:
        `(N, number)` int64, nearest first.

    Raises:
        ValueError: fewer other documents than `number`.
    """
    import faiss

    groups = np.arange(len(vectors)) if unlike is None else unlike
    order = np.argsort(groups, kind="stable")
    starts = np.flatnonzero(np.diff(groups[order], prepend=-np.inf))
    ends = np.append(starts[1:], len(order))
    if number > len(order) - (ends - starts).max(initial=0):
        raise ValueError(
            f"{len(vectors)} documents have no {number} neighbours each"
            f"{'' if unlike is None else ' that differ in what is excluded'}: set num_neighbours lower."
        )
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit = np.ascontiguousarray((vectors / lengths.clip(1e-12))[order], np.float32)
    index = faiss.IndexFlatIP(unit.shape[1])
    index.add(unit)
    found = np.empty((len(order), number), dtype=np.int64)
    for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
        others = faiss.SearchParameters(sel=faiss.IDSelectorNot(faiss.IDSelectorRange(start, end)))
        found[order[start:end]] = order[index.search(unit[start:end], number, params=others)[1]]
    return found

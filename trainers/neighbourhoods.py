"""Who is near to whom, and what neighbours have in common."""

import numpy as np
import torch

# Documents whose similarities to all others are in memory at once: a million others take 1 GB.
_CHUNK = 256


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
    """The nearest other documents of each by cosine, chunk by chunk.

    Args:
        vectors: `(N, D)`.
        number: of neighbours.
        unlike: `(N,)` numbers of groups, such as brands: only documents of other groups are neighbours.

    Returns:
        `(N, number)` int64, nearest first.

    Raises:
        ValueError: fewer other documents than `number`.
    """
    groups = torch.arange(len(vectors)) if unlike is None else torch.from_numpy(unlike)
    if number > len(vectors) - int(torch.unique(groups, return_counts=True)[1].max()):
        raise ValueError(
            f"{len(vectors)} documents have no {number} neighbours each"
            f"{'' if unlike is None else ' that differ in what is excluded'}: set num_neighbours lower."
        )
    unit = torch.nn.functional.normalize(torch.from_numpy(vectors).float(), dim=1)
    found = [
        (rows @ unit.T).masked_fill_(own[:, None] == groups, -torch.inf).topk(number).indices
        for rows, own in zip(unit.split(_CHUNK), groups.split(_CHUNK), strict=True)
    ]
    return torch.cat(found).numpy()

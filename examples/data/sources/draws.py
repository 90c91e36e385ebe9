"""What is drawn, or left after filtering: a seeded share of names, and the 5-core of interactions."""

import hashlib
from collections.abc import Iterable

import numpy as np


def draw(names: Iterable[str], count: int, seed: int) -> np.ndarray:
    """Draws `count` names: those whose hash with the seed is smallest.

    Which names are drawn depends neither on their order nor on the version of a library, and more of them are a
    superset of fewer.

    Returns:
        A mask `(names,)`.

    ```python
    >>> draw(["ann", "bob", "cyd", "dan"], 2, seed=0)
    array([False, False,  True,  True])
    ```
    """
    return smallest(draw_keys(names, seed), count)


def draw_keys(names: Iterable[str], seed: int) -> np.ndarray:
    """A number for every name `(names,)`, by which [`draw`] orders them: 8 bytes each for a stream of names."""
    salt = seed.to_bytes(8, "big", signed=True)
    return np.fromiter((_key(name, salt) for name in names), dtype=np.uint64)


def smallest(keys: np.ndarray, count: int) -> np.ndarray:
    """The mask of the `count` smallest keys `(keys,)`."""
    drawn = np.zeros(len(keys), dtype=bool)
    drawn[np.argsort(keys, kind="stable")[:count]] = True
    return drawn


def _key(name: str, salt: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8, key=salt).digest(), "big")


def core(users: np.ndarray, items: np.ndarray, least: int) -> np.ndarray:
    """The largest part of the interactions in which every user and every item has `least` or more.

    Args:
        users, items: whole numbers from 0, `(interactions,)`.
        least: 5 in the literature; 0 keeps everything.

    Returns:
        A mask `(interactions,)`.
    """
    kept = np.ones(len(users), dtype=bool)
    while True:
        left = kept.copy()
        for who in (users, items):
            left &= np.bincount(who[kept], minlength=who.max(initial=-1) + 1)[who] >= least
        if left.sum() == kept.sum():
            return kept
        kept = left

"""Categories as numbers, at every level of their tree."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class CategoryPaths:
    """Categories read once, for figures at several levels; made by `category_paths`.

    `paths`: `(N,)` number of a document's path, -1 where it is not known. `levels`: one array `(paths,)` per level,
    the number of the path's first 1, 2, .. labels; the last one tells all paths apart.
    """

    paths: np.ndarray
    levels: tuple[np.ndarray, ...]

    def __len__(self) -> int:
        return len(self.paths)

    def labels(self, level: int | None = None) -> np.ndarray:
        """`(N,)` numbers of the categories at a level, -1 where they are not known.

        Args:
            level: labels of the path that count, from 1; `None` stands for all. A path that is shorter stays whole,
                so that all levels judge the same documents.

        Raises:
            ValueError: a level below 1.
        """
        if level is not None and level < 1:
            raise ValueError(f"level {level}: a level is the number of labels that count, from 1; None for all")
        if not self.levels:
            return self.paths
        of_path = self.levels[min(level or len(self.levels), len(self.levels)) - 1]
        return np.where(self.paths < 0, -1, of_path[self.paths])


def category_paths(categories: Sequence[Any] | CategoryPaths) -> CategoryPaths:
    """Reads categories: `N` labels, or `N` paths (sequences of labels, general to specific); None, nan, and empty
    ones are not known."""
    if isinstance(categories, CategoryPaths):
        return categories
    number: dict[tuple, int] = {}
    paths = (_path(category) for category in categories)
    numbers = np.array([number.setdefault(path, len(number)) if path else -1 for path in paths], dtype=np.int64)
    levels = []
    for level in range(1, max(map(len, number), default=0) + 1):
        first: dict[tuple, int] = {}
        levels.append(np.array([first.setdefault(path[:level], len(first)) for path in number], dtype=np.int64))
    return CategoryPaths(numbers, tuple(levels))


def _path(category: Any) -> tuple:
    """A category as a tuple of labels, empty where it is not known."""
    if category is None or (isinstance(category, float) and np.isnan(category)):
        return ()
    if isinstance(category, str) or not hasattr(category, "__iter__"):
        return (category,) if category != "" else ()
    return tuple(category)

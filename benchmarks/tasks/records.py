"""Figures of every query under every system, in one file per data set, so that any two systems can be compared."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

import pandas

from metrics.ranking_quality import RankingFigures
from modeling_lmindexer.folder import atomic_path

_KEY = ["split", "system", "seed"]


class Records:
    """`<set>.parquet` of a folder: a row per split, system, seed and query, a column per measure.

    Several processes may add to it.
    """

    def __init__(self, folder: Path, name: str):
        self.path = folder / f"{name}.parquet"
        folder.mkdir(parents=True, exist_ok=True)

    def add(self, split: str, system: str, seed: int, figures: RankingFigures) -> None:
        """Writes a system's figures, in the place of those that were there, or after all others."""
        frame = pandas.DataFrame({"query": figures.queries} | figures.values)
        frame = frame.assign(split=split, system=system, seed=seed)[_KEY + list(frame.columns)]
        with self._alone():
            if self.path.exists():
                old = pandas.read_parquet(self.path)
                same = (old[_KEY] == [split, system, seed]).all(axis=1)
                place = int(same.argmax()) if same.any() else len(old)
                frame = pandas.concat([old[:place], frame, old[place:][~same[place:]]], ignore_index=True)
            with atomic_path(self.path) as temporary:
                frame.to_parquet(temporary, index=False, compression="zstd")

    def read(self, split: str) -> dict[str, dict[int, RankingFigures]]:
        """By system and seed, the figures of a split, in the order in which systems were added.

        Raises:
            FileNotFoundError: nothing was recorded.
        """
        if not self.path.exists():
            raise FileNotFoundError(f"{self.path} is not there: record some runs first.")
        frame = pandas.read_parquet(self.path)
        found: dict[str, dict[int, RankingFigures]] = {}
        rows = frame[frame["split"] == split].groupby(["system", "seed"], sort=False)
        for (system, seed), part in rows:
            values = part.drop(columns=[*_KEY, "query"]).dropna(axis="columns")
            figures = RankingFigures(list(part["query"]), {name: values[name].to_numpy() for name in values})
            found.setdefault(system, {})[int(seed)] = figures
        return found

    def splits(self) -> list[str]:
        """Names of the splits that have figures."""
        return list(pandas.read_parquet(self.path, columns=["split"])["split"].unique()) if self.path.exists() else []

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        lock = os.open(self.path.parent, os.O_RDONLY)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)

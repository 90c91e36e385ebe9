"""Who gets which free code: the last codes of documents that come to an index, or move in it."""

from collections.abc import Callable, Sequence

import numpy as np
import torch

from .index_rules import check_free


class TakenCodes:
    """Codes at the last position that documents have, by the codes before it.

    Args:
        tree: of the IDs there are.
        offsets: first flat id of every position `(positions,)`.
        prefixes: of the documents that need a last code, `(n, positions - 1)`.
        leaving: IDs `(m, positions)` that count as free.

    Attributes:
        by_group: a set of codes for each different prefix.
        group_of: which of them belongs to whom, `(n,)`.
    """

    def __init__(self, tree, offsets: np.ndarray, prefixes: np.ndarray, leaving: np.ndarray | None = None):
        tree, level = tree.snapshot(), len(offsets) - 1
        groups, group_of = np.zeros((1, 0), dtype=np.int64), np.zeros(len(prefixes), dtype=np.int64)
        if level:
            groups, group_of = np.unique(prefixes, axis=0, return_inverse=True)
        rows, flat, _ = tree.expand(tree.walk(torch.from_numpy(groups + offsets[:-1])), level)
        self.by_group: list[set] = [set() for _ in groups]
        for row, code in zip(rows.tolist(), (flat - int(offsets[-1])).tolist(), strict=True):
            self.by_group[row].add(code)
        self.group_of = group_of.reshape(-1)
        self._numbers = {tuple(prefix): number for number, prefix in enumerate(groups.tolist())}
        for *prefix, code in () if leaving is None else leaving.tolist():
            if (number := self._numbers.get(tuple(prefix))) is not None:
                self.by_group[number].discard(code)

    def take(self, ids: np.ndarray) -> None:
        """Counts more IDs `(m, positions)` as taken, where they have one of the prefixes."""
        for *prefix, code in ids.tolist():
            if (number := self._numbers.get(tuple(prefix))) is not None:
                self.by_group[number].add(code)

    def has(self, codes: np.ndarray) -> np.ndarray:
        """Whether the last code `(n,)` of each document is taken."""
        return np.array(
            [c in self.by_group[g] for g, c in zip(self.group_of.tolist(), codes.tolist(), strict=True)], dtype=bool
        )

    def least_free(self, document_ids: Sequence) -> np.ndarray:
        """Last codes `(n,)`: the least free number of the group each; the lowest document id chooses first."""
        numbers, next_of = np.zeros(len(document_ids), dtype=np.int64), [0] * len(self.by_group)
        for i in np.argsort(np.asarray(document_ids), kind="stable"):
            group = self.group_of[i]
            while next_of[group] in self.by_group[group]:
                next_of[group] += 1
            numbers[i] = next_of[group]
            self.by_group[group].add(next_of[group])
        return numbers

    def most_likely_free(self, codes: np.ndarray, document_ids: Sequence, size: int, logits: Callable) -> np.ndarray:
        """Last codes `(n,)`: the learned ones, or where several want one, the most likely free ones.

        Args:
            codes: learned codes `(n, positions)`.
            document_ids: the lowest chooses first.
            size: codes at the last position.
            logits: a function of row numbers that gives `(rows, size)`.

        Raises:
            ValueError: a prefix with more documents than codes.
        """
        check_free(self.by_group, self.group_of, codes, size)
        wanted = [set(used) for used in self.by_group]
        crowded = np.zeros(len(wanted), dtype=bool)
        for group, code in zip(self.group_of.tolist(), codes[:, -1].tolist(), strict=True):
            crowded[group] |= code in wanted[group]
            wanted[group].add(code)
        last = codes[:, -1].copy()
        rows = np.flatnonzero(crowded[self.group_of])
        if not len(rows):
            return last
        scores = logits(rows)
        for i in np.argsort(np.asarray([document_ids[row] for row in rows]), kind="stable"):
            used = self.by_group[self.group_of[rows[i]]]
            if int(last[rows[i]]) in used:
                scores[i, list(used)] = -np.inf
                last[rows[i]] = scores[i].argmax()
            used.add(int(last[rows[i]]))
        return last

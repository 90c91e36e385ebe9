"""Leave-one-out for recommenders of the next item: what they learn from, how an epoch is chosen, what they rank.

Runs where this project is not installed: nothing heavy is imported here.
"""

import gzip
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

CUTOFFS = (5, 10)
CHOSEN_BY = "ndcg@10"
_DEPTH = 20
_SCORED = 512  # histories at a time: as many floats as that and all items
_LEAST = 3  # items of a history: one to read, one for validation, one for the test


class Rival(Protocol):
    """A recommender that has been given the histories to learn from.

    Attributes:
        items: ids of all items of those histories; others are read nowhere and not recommended.
    """

    items: list[str]

    def train_epoch(self) -> float:
        """Reads all histories once more; returns the mean loss."""

    def scores(self, first: int, histories: Sequence[Sequence[str]]):
        """How likely each item comes after each history, a tensor `(histories, items)` that may be changed.

        Args:
            first: place of the first one's user among all users.
            histories: of users that follow each other, oldest item first.
        """

    def state(self) -> dict:
        """A copy of the weights."""

    def load(self, state: dict) -> None:
        """Takes weights back."""


@dataclass(frozen=True)
class Sequences:
    """The items of every user, oldest first: the last one for the test, the one before for validation."""

    users: list[str]
    items: list[list[str]]

    def before(self, last: int) -> list[list[str]]:
        """Histories without their `last` items: 2 for training and validation, 1 for the test."""
        return [items[:-last] for items in self.items]

    def answers(self, last: int) -> dict[str, str]:
        """The item that follows [`before`], by user."""
        return {user: items[-last] for user, items in zip(self.users, self.items, strict=True)}


def read_sequences(file: str | Path) -> Sequences:
    """The lines of a file, `user item item ...`, oldest first, also as .gz.

    Raises:
        ValueError: a line with fewer than three items, or of a user that has one already; with its number.
    """
    path = Path(file)
    found: dict[str, list[str]] = {}
    with (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            user, *items = line.split() or [""]
            if not user:
                continue
            if len(items) < _LEAST:
                raise ValueError(f"{path}, line {number}: {len(items)} items; expected at least {_LEAST}")
            if user in found:
                raise ValueError(f"{path}, line {number}: user {user} has a line already")
            found[user] = items
    if not found:
        raise ValueError(f"{path} holds no histories; expected a line per user: user item item ...")
    return Sequences(list(found), list(found.values()))


def rankings_of(rival: Rival, sequences: Sequences, last: int, depth: int = _DEPTH) -> dict[str, list[str]]:
    """What is recommended to every user in place of the item `last` from the end, of what the user has not had."""
    import torch

    histories, names, rankings = sequences.before(last), rival.items, []
    places = {item: place for place, item in enumerate(names)}
    for first in range(0, len(histories), _SCORED):
        some = histories[first : first + _SCORED]
        scores = rival.scores(first, some)
        for row, items in zip(scores, some, strict=True):
            row[[places[item] for item in items if item in places]] = -torch.inf
        best = scores.topk(min(depth, len(places)))
        for values, found in zip(best.values.isfinite(), best.indices, strict=True):
            rankings.append([names[place] for place in found[values].tolist()])
    return dict(zip(sequences.users, rankings, strict=True))


def figures_of(rankings: dict[str, list[str]], answers: dict[str, str]) -> dict[str, float]:
    """Recall and NDCG, where every user has one answer; the definitions are `metrics.ranking_quality`'s."""
    ranks = [
        rankings[user].index(answer) + 1 if answer in rankings[user] else math.inf for user, answer in answers.items()
    ]
    figures = {}
    for cutoff in CUTOFFS:
        found = [rank for rank in ranks if rank <= cutoff]
        figures[f"recall@{cutoff}"] = len(found) / len(ranks)
        figures[f"ndcg@{cutoff}"] = sum(1 / math.log2(1 + rank) for rank in found) / len(ranks)
    return figures


def learn(
    rival: Rival, sequences: Sequences, epochs: int, patience: int, report: Callable[[dict], None]
) -> list[dict]:
    """Trains and leaves the weights of the epoch that ranks the validation items best.

    Args:
        rival: has been given `sequences.before(2)`.
        sequences: of all users.
        epochs: at most so many.
        patience: epochs without a better one, after which it ends.
        report: called with every point of the curve.

    Returns:
        The curve: per epoch its loss, its figures on the validation items, and minutes of the processor so far.
    """
    curve, best, state, started = [], 0, {}, time.process_time()
    for epoch in range(1, epochs + 1):
        loss = rival.train_epoch()
        figures = figures_of(rankings_of(rival, sequences, 2), sequences.answers(2))
        curve.append({"epoch": epoch, "loss": loss, **figures, "minutes": (time.process_time() - started) / 60})
        report(curve[-1])
        if not best or figures[CHOSEN_BY] > curve[best - 1][CHOSEN_BY]:
            best, state = epoch, rival.state()
        elif epoch - best >= patience:
            break
    rival.load(state)
    return curve

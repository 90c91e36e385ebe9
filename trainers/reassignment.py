"""Unique IDs without a position that counts: the cheapest other codes for the documents of crowded prefixes."""

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch

from .corpus_pass import CorpusPass
from .prototypes import chunks

# Costs (n, K) at a position of documents (n,) after prefixes (n, position).
Costs = Callable[[int, np.ndarray, np.ndarray], np.ndarray]

_COSTS_IN_MEMORY = 2**24
# Equal documents must cost the same, whatever batches the model read them in.
_DECIMALS = 5


class Reassignment(NamedTuple):
    """What [`reassign`] did.

    Attributes:
        codes: `(N, T)` int64, no two rows the same.
        moved_at: `(N,)` int64, the first position whose code is another one, from 0; -1 for an ID that stayed.
        cost_before: of the codes that the documents of crowded prefixes wanted, summed over prefixes and positions.
        cost_after: of the codes that they got.
    """

    codes: np.ndarray
    moved_at: np.ndarray
    cost_before: float
    cost_after: float

    def figures(self) -> dict:
        """For a table: documents moved, in all and by the first position that changed, and the costs."""
        moved = np.bincount(self.moved_at[self.moved_at >= 0], minlength=self.codes.shape[1])
        return {
            "documents_moved": int(moved.sum()),
            "documents_moved_at": moved.tolist(),
            "cost_before": self.cost_before,
            "cost_after": self.cost_after,
        }


def reassign(codes: np.ndarray, sizes: Sequence[int], costs: Costs, document_ids: Sequence) -> Reassignment:
    """Gives every document an ID of its own out of learned codes alone.

    Below a prefix there are only so many IDs: a code of position `t` holds at most the product of the later sizes, a
    last code one document. Position by position, the documents of every prefix with a code that holds more are
    assigned anew at the least total regret: how much more a code costs a document than the cheapest one. Its own code
    counts as its cheapest, as it was when the document got it, so that documents move only where there is no room.
    What a document that moved has at later positions is chosen again, the cheapest code first. Each position is
    optimal given those before it. Documents of other prefixes keep their codes.

    The order of the documents does not matter: ties go by document id.

    Args:
        codes: `(N, T)` learned codes.
        sizes: of the codebooks, `T` of them.
        costs: `costs(position, rows, prefixes)` gives `(n, K)`, what every code of a position, from 0, costs documents
            `rows` `(n,)` after `prefixes` `(n, position)`: minus the log-probability, or a squared distance. Asked for
            the documents of crowded prefixes and for those that moved.
        document_ids: `N` ids, all integers or all strings, all different.

    Raises:
        ValueError: more documents than IDs; codes outside their codebooks; costs of another shape, or not finite.
    """
    codes = _checked(np.asarray(codes, dtype=np.int64), sizes, document_ids)
    order = np.argsort(np.asarray(document_ids), kind="stable")
    original = codes[order]
    new, prefixes = original.copy(), np.zeros(len(codes), dtype=np.int64)  # every document's prefix, as a number
    before = after = 0.0
    for position, size in enumerate(sizes):
        room = min(math.prod(sizes[position + 1 :]), len(codes))
        strayed = np.flatnonzero((new[:, :position] != original[:, :position]).any(axis=1))
        for part in chunks(len(strayed), size):
            rows = strayed[part]
            new[rows, position] = _ask(costs, position, size, order[rows], new[rows]).argmin(axis=1)
        for group in _batches(_crowded(prefixes, new[:, position], size, room), size):
            rows = np.concatenate(group)
            table = _ask(costs, position, size, order[rows], new[rows])
            ends = np.cumsum([len(members) for members in group])
            for members, part in zip(group, np.split(table, ends[:-1]), strict=True):
                wanted = new[members, position]
                found = _assign(part, wanted, room)
                before += float(part[np.arange(len(part)), wanted].sum())
                after += float(part[np.arange(len(part)), found].sum())
                new[members, position] = found
        prefixes = np.unique(prefixes * size + new[:, position], return_inverse=True)[1]
    changed = new != original
    result, moved_at = np.empty_like(codes), np.empty(len(codes), dtype=np.int64)
    result[order] = new
    moved_at[order] = np.where(changed.any(axis=1), changed.argmax(axis=1), -1)
    return Reassignment(result, moved_at, before, after)


def model_costs(corpus: CorpusPass) -> Costs:
    """Minus the log-probability of every code by a trained model: what [`reassign`] asks for at the end of a run.

    All processes must ask the same; each computes its share, and all get the whole.

    Args:
        corpus: the documents; their collator is one with prefixes.
    """
    model, places = corpus.model, np.zeros(len(corpus.documents), dtype=np.int64)

    @torch.no_grad()
    def costs(position: int, rows: np.ndarray, prefixes: np.ndarray) -> np.ndarray:
        places[rows] = np.arange(len(rows))
        offsets = np.array(model.config.position_offsets[:position], dtype=np.int64)
        ids = torch.from_numpy(np.pad(prefixes + offsets, ((0, 0), (1, 0))))  # the start id first
        found = torch.zeros(len(rows), model.config.codebook_sizes[position])
        longest_first = rows[np.argsort(-corpus.documents.lengths[rows], kind="stable")]
        for part, batch in corpus.batches(longest_first, f"collisions at position {position + 1}"):
            states, mask = corpus.states(batch)
            hidden = model.decode(ids[places[part]].to(states.device), states, mask)[0][:, -1]
            found[places[part]] = -model.codebooks.logits(hidden, position).float().log_softmax(-1).cpu()
        return np.round(corpus.combine(found).numpy().astype(np.float64), _DECIMALS)

    return costs


def _checked(codes: np.ndarray, sizes: Sequence[int], document_ids: Sequence) -> np.ndarray:
    if codes.ndim != 2 or codes.shape != (len(document_ids), len(sizes)):
        raise ValueError(f"Expected codes of shape {(len(document_ids), len(sizes))}, got {codes.shape}.")
    outside = ((codes < 0) | (codes >= np.asarray(sizes))).any(axis=1)
    if outside.any():
        row = int(outside.argmax())
        raise ValueError(
            f"Document {document_ids[row]!r} has the codes {codes[row].tolist()}; the sizes are {list(sizes)}."
        )
    if len(codes) > math.prod(sizes):
        raise ValueError(
            f"{len(codes):,} documents, and codebooks of {' x '.join(map(str, sizes))} codes make only "
            f"{math.prod(sizes):,} IDs: take larger codebooks, one more position, or a disambiguation position."
        )
    return codes


def _ask(costs: Costs, position: int, size: int, rows: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """Costs `(n, size)` at `position` of documents with `codes` `(n, T)`; raises ValueError for what is none."""
    table = np.asarray(costs(position, rows, codes[:, :position]), dtype=np.float64)
    if table.shape != (len(rows), size):
        raise ValueError(f"Expected costs of shape {(len(rows), size)} at position {position}, got {table.shape}.")
    if not np.isfinite(table).all():
        raise ValueError(f"Some costs at position {position} are nan or infinite: every code needs a finite one.")
    return table


def _crowded(prefixes: np.ndarray, codes: np.ndarray, size: int, room: int) -> list[np.ndarray]:
    """Documents of each prefix in which some code is over its room, ascending; `prefixes` and `codes` are `(N,)`."""
    cells, counts = np.unique(prefixes * size + codes, return_counts=True)
    crowded = np.unique(cells[counts > room] // size)
    order = np.argsort(prefixes, kind="stable")
    starts, ends = (np.searchsorted(prefixes[order], crowded, side=side) for side in ("left", "right"))
    return [order[start:end] for start, end in zip(starts, ends, strict=True)]


def _batches(groups: list[np.ndarray], size: int) -> Iterator[list[np.ndarray]]:
    """Whole groups in a row, as many as have costs that fit into memory together, or one."""
    batch, documents = [], 0
    for group in groups:
        if batch and (documents + len(group)) * size > _COSTS_IN_MEMORY:
            yield batch
            batch, documents = [], 0
        batch.append(group)
        documents += len(group)
    if batch:
        yield batch


def _assign(costs: np.ndarray, codes: np.ndarray, room: int) -> np.ndarray:
    """Codes `(n,)` of one prefix, at most `room` times each, at the least total regret; see [`reassign`]."""
    regrets = costs - costs.min(axis=1, keepdims=True)
    regrets[np.arange(len(codes)), codes] = 0
    if room == 1:
        from scipy.optimize import linear_sum_assignment

        # Of equally good solutions one in which most documents stay.
        regrets[np.arange(len(codes)), codes] = -1e-12 * max(1.0, regrets.max())
        return linear_sum_assignment(regrets)[1]
    return _Moves(regrets, codes, room).make_room()


class _Moves:
    """The transportation problem of documents and codes with room for `room` each, by successive shortest paths.

    It begins with every document at a code without regret. A document too many leaves its code by the cheapest chain
    of moves to a code with room: it goes to another code, from where a document goes on if that one is full. Cheapest
    chains, found by Dijkstra with reduced costs, keep the total regret the least for the documents moved so far
    (Ahuja, Magnanti and Orlin, Network Flows, chapter 9), and so the result is exact. Documents of codes with room
    stay.

    Args:
        regrets: `(n, K)`, none below 0.
        codes: `(n,)`, where the regret is 0.
        room: of every code, at least 1; `K * room` is at least `n`.
    """

    def __init__(self, regrets: np.ndarray, codes: np.ndarray, room: int):
        size = regrets.shape[1]
        self.regrets, self.codes, self.room = regrets, codes.copy(), room
        self.counts = np.bincount(codes, minlength=size)
        self.prices = np.zeros(size)
        # From each full code to every code: the least that a move costs, and the document that makes it.
        self.steps = np.full((size, size), np.inf)
        self.movers = np.zeros((size, size), dtype=np.int64)
        for code in np.flatnonzero(self.counts >= room):
            self.measure(code, np.arange(size))

    def make_room(self) -> np.ndarray:
        """Codes `(n,)`."""
        for code in np.flatnonzero(self.counts > self.room):
            while self.counts[code] > self.room:
                self.move(self.cheapest_chain(code))
        return self.codes

    def measure(self, code: int, targets: np.ndarray) -> None:
        """Finds the cheapest moves from a full code to `targets`, of equally cheap ones that of the first document."""
        rows = np.flatnonzero(self.codes == code)
        extra = self.regrets[np.ix_(rows, targets)] - self.regrets[rows, code][:, None]
        best = extra.argmin(axis=0)
        self.movers[code, targets] = rows[best]
        self.steps[code, targets] = extra[best, np.arange(len(targets))]

    def cheapest_chain(self, source: int) -> list[int]:
        """Codes from `source` to the one with room that is cheapest to reach."""
        size = len(self.counts)
        distances, parents, open_ = np.full(size, np.inf), np.full(size, -1), np.ones(size, dtype=bool)
        distances[source], code = 0.0, source
        while self.counts[code] >= self.room:
            open_[code] = False
            # What rounding leaves below 0 is 0.
            onward = distances[code] + np.maximum(self.steps[code] + self.prices[code] - self.prices, 0.0)
            better = open_ & (onward < distances)
            distances[better], parents[better] = onward[better], code
            code = int(np.where(open_, distances, np.inf).argmin())
        self.prices += np.minimum(distances, distances[code])
        chain = [code]
        while chain[-1] != source:
            chain.append(int(parents[chain[-1]]))
        return chain[::-1]

    def move(self, chain: list[int]) -> None:
        """Sends the cheapest mover of each code of a chain on to the next one."""
        moves = [(origin, target, self.movers[origin, target]) for origin, target in pairwise(chain)]
        for origin, target, document in moves:
            self.codes[document] = target
            self.counts[origin] -= 1
            self.counts[target] += 1
        for origin, target, document in moves:
            self.measure(origin, np.flatnonzero(self.movers[origin] == document))
            if target == chain[-1]:
                if self.counts[target] == self.room:
                    self.measure(target, np.arange(len(self.counts)))
            else:
                self.enter(target, document)

    def enter(self, code: int, document: int) -> None:
        """Counts in the moves of a document that a full code just got."""
        extra = self.regrets[document] - self.regrets[document, code]
        cheaper = extra < self.steps[code]
        self.steps[code, cheaper], self.movers[code, cheaper] = extra[cheaper], document

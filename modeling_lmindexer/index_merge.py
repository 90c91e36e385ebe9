"""What joins an index when another one of the same model is merged into it."""

from dataclasses import dataclass

import numpy as np
import torch

from .free_codes import TakenCodes
from .index_rules import check_kind, check_room, id_texts

CONFLICTS = ("refuse", "keep", "replace")


@dataclass
class MergePlan:
    """What a merge does, before anything is done.

    Attributes:
        document_ids: documents that come or get another ID, in the order of the other index.
        codes: their codes here, `(documents, positions)`.
        confirmed: documents of both whose learned codes are the same; they keep their ID.
        renumbered: semantic IDs in the other index and here, of documents whose own was taken.
        room: of the last position.
    """

    document_ids: list
    codes: np.ndarray
    confirmed: list
    renumbered: dict
    room: int


def plan_merge(index, other, on_conflict: str) -> MergePlan:
    """How the documents of `other` join `index`; see [`SemanticIndex.merge`], which carries it out.

    Raises:
        ValueError: what [`SemanticIndex.merge`] says.
    """
    check_mergeable(index, other, on_conflict)
    ids, codes = other.document_ids, other.codes
    learned = len(index.codebook_sizes)
    room = max(index.position_sizes[-1], other.position_sizes[-1])
    both = np.array([document in index.ids for document in ids], dtype=bool)
    if both.any() and on_conflict == "refuse":
        some = [ids[i] for i in np.flatnonzero(both)[:5]]
        raise ValueError(
            f"{int(both.sum())} documents are in both indexes: {some}. Merge with "
            "on_conflict='keep' or 'replace', or remove them from one."
        )
    joining, confirmed, leaving = ~both, [], None
    if on_conflict == "replace" and both.any():
        here = index.codes_of([ids[i] for i in np.flatnonzero(both)])
        same = (here[:, :learned] == codes[both][:, :learned]).all(axis=1)
        confirmed = [ids[i] for i in np.flatnonzero(both)[same]]
        leaving = here[~same]
        joining[np.flatnonzero(both)[~same]] = True
    document_ids, codes = [ids[i] for i in np.flatnonzero(joining)], codes[joining]
    taken = taken_ids(index, codes, leaving)
    crowded = np.flatnonzero(taken)
    if len(crowded) and not index.has_disambiguation:
        raise ValueError(
            f"{len(crowded)} documents have an ID that another document has here, and there is no disambiguation "
            f"position to tell them apart: {[document_ids[i] for i in crowded[:5]]}. Leave them out of the merge, and "
            "give their texts to add, which finds them free codes."
        )
    before = id_texts(codes[crowded])
    if len(crowded):
        groups = TakenCodes(index.tree, index.offsets, codes[crowded, :-1], leaving)
        groups.take(codes[~taken])
        codes[crowded, -1] = groups.least_free([document_ids[i] for i in crowded])
        check_room(int(codes[:, -1].max()) + 1, room)
    after = id_texts(codes[crowded])
    renumbered = {document_ids[i]: pair for i, *pair in zip(crowded, before, after, strict=True)}
    return MergePlan(document_ids, codes, confirmed, {d: tuple(pair) for d, pair in renumbered.items()}, room)


def taken_ids(index, codes: np.ndarray, leaving: np.ndarray | None) -> np.ndarray:
    """Which of some IDs `(n, positions)` documents of the index have, less those that are `leaving`: `(n,)` bool."""
    if not len(codes):
        return np.zeros(0, dtype=bool)
    taken = index.tree.contains(torch.from_numpy(codes + index.offsets)).numpy()
    if leaving is not None and len(leaving):
        free = set(map(tuple, leaving.tolist()))
        for i in np.flatnonzero(taken):
            taken[i] = tuple(codes[i].tolist()) not in free
    return taken


def check_mergeable(index, other, on_conflict: str) -> None:
    """Raises ValueError for an unknown choice, or two indexes that are not of one model."""
    if on_conflict not in CONFLICTS:
        raise ValueError(f"on_conflict is {on_conflict!r}; it must be one of {', '.join(CONFLICTS)}.")
    kinds = [(each.codebook_sizes, each.has_disambiguation) for each in (index, other)]
    if kinds[0] != kinds[1]:
        sizes = " and ".join(" x ".join(map(str, each.position_sizes)) for each in (index, other))
        raise ValueError(f"The indexes have {sizes} codes: only indexes of one model can be merged.")
    prints = [each.codebook_fingerprint for each in (index, other)]
    if None not in prints and prints[0] != prints[1]:
        raise ValueError(
            f"The indexes come from different codebooks (fingerprints {prints[0][:8]} and {prints[1][:8]}): equal "
            "codes mean different things. Add the other's documents by their texts instead."
        )
    check_kind([*index.ids.numbered[:1], *other.ids.numbered[:1]])

"""Documents that come after training get their IDs from a model that reads them."""

import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from modeling_lmindexer import LMIndexerConfig, LMIndexerForSemanticID, SemanticIndex
from modeling_lmindexer.folder import replaced_together


def index_without(index: SemanticIndex, document_ids: Iterable) -> SemanticIndex:
    """The index as it would be if some documents had never been there; the others' IDs are the same."""
    left_out = set(document_ids)
    kept = [row for row, document in enumerate(index.document_ids) if document not in left_out]
    ids = [index.document_ids[row] for row in kept]
    return SemanticIndex(ids, index.codes[kept], index.position_sizes, index.has_disambiguation)


def add_new(index: SemanticIndex, documents: list[dict], batch_size: int = 64) -> None:
    """Adds documents `{"id": ..., "text": ...}` with the IDs that the index's model writes for them.

    Unlike [`SemanticIndex.add`], it gives the last position of index and model more room where too many documents
    share their learned codes, for a run should not end with that after hours.
    """
    if not documents:
        return
    model, _ = index.load_model()
    if index.has_disambiguation:
        written = index.encode([document["text"] for document in documents], batch_size).numpy()
        learned = index.sequences.numpy()[:, : written.shape[1]]
        largest = np.unique(np.concatenate([learned, written]), axis=0, return_counts=True)[1].max()
        # The least free number is given: never one above the size of the group, removed documents or not.
        make_room(index, max(int(largest), model.config.position_sizes[-1], index.position_sizes[-1]))
    index.add(documents, batch_size)


def make_room(index: SemanticIndex, num_codes: int) -> None:
    """Gives the last position room for `num_codes`, in the index and in its model; no ID changes.

    Raises:
        ValueError: less room than there is, or no such position.
    """
    model, _ = index.load_model()
    index.resize_disambiguation(num_codes)
    if num_codes > model.config.num_disambiguation_codes:
        model.resize_disambiguation(num_codes)


def save_with_model(index: SemanticIndex, folder: str | Path) -> None:
    """Writes an index into a model folder, and the model too where its last position has to grow, all at once."""
    folder, model, old = Path(folder), None, ()
    if (folder / "config.json").exists() and index.has_disambiguation:
        room = index.position_sizes[-1]
        if room > LMIndexerConfig.from_pretrained(folder).num_disambiguation_codes:
            model = index.model or LMIndexerForSemanticID.from_pretrained(folder)
            if room > model.config.num_disambiguation_codes:
                model.resize_disambiguation(room)
            old = tuple(path.name for path in folder.glob("model*.safetensors*"))
    with replaced_together(folder, without=old) as new:
        if model is not None:
            model.save_pretrained(new)
        index.save_pretrained(new)


def ids_like(index: SemanticIndex, document_ids: Iterable) -> list:
    """The ids as the index has ids, all text or all whole numbers: a file of numbers may be of either.

    Raises:
        ValueError: text where numbers are expected.
    """
    kind, document_ids = type(index.document_ids[0]), list(document_ids)
    wrong = [d for d in document_ids if kind is int and not re.fullmatch(r"-?\d+", str(d), re.ASCII)]
    if wrong:
        raise ValueError(f"{wrong[0]!r} is no id like those of the index, which are whole numbers.")
    return [kind(document) for document in document_ids]


def with_ids_like(index: SemanticIndex, documents: list[dict]) -> list[dict]:
    """Documents `{"id": ..., "text": ...}` with ids as the index has them; see [`ids_like`]."""
    ids = ids_like(index, (document["id"] for document in documents))
    return [{**document, "id": own} for document, own in zip(documents, ids, strict=True)]


def sample_of(index: SemanticIndex, documents: list[dict], size: int, seed: int) -> list[dict]:
    """At most `size` of those documents that the index has, drawn by a seed, in their order.

    Raises:
        ValueError: it has none of them.
    """
    known = [document for document in documents if document["id"] in index.ids]
    if not known:
        raise ValueError(f"None of the {len(documents):,} documents is in the index: give those it was made of.")
    rows = np.sort(np.random.default_rng(seed).permutation(len(known))[:size])
    return [known[row] for row in rows]

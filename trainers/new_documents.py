"""Documents that come after training get their IDs from a model that reads them."""

from collections.abc import Iterable

import numpy as np

from modeling_lmindexer import SemanticIndex


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
        room = max(int(largest), model.config.position_sizes[-1], index.position_sizes[-1])
        if room > model.config.position_sizes[-1]:
            model.resize_disambiguation(room)
        index.resize_disambiguation(room)
    index.add(documents, batch_size)

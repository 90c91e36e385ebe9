"""Whether a corpus can be indexed with a model."""

import datasets

from modeling_lmindexer import LMIndexerForSemanticID
from modeling_lmindexer.semantic_index import check_ids


class UnusableCorpusError(ValueError):
    """A corpus, or a model, that no IDs can be learned with; the message says why and what to do."""


def check_corpus(corpus: datasets.Dataset, model: LMIndexerForSemanticID) -> None:
    """Raises UnusableCorpusError when a corpus cannot be indexed with this model, saying why and what to do."""
    missing = {"id", "text"} - set(corpus.column_names)
    if missing:
        raise UnusableCorpusError(f"The data set lacks the columns {sorted(missing)}; it has {corpus.column_names}.")
    if len(corpus) == 0:
        raise UnusableCorpusError("The data set is empty: there is nothing to index.")
    ids, texts = list(corpus["id"]), list(corpus["text"])
    empty = [document for document, text in zip(ids, texts, strict=True) if not (text or "").strip()]
    if empty:
        raise UnusableCorpusError(
            f"{len(empty)} documents have no text: {empty[:5]}. Leave them out or give them one."
        )
    try:
        check_ids(ids)
    except ValueError as error:
        raise UnusableCorpusError(str(error)) from error
    largest = max(model.config.codebook_sizes)
    if len(corpus) < largest:
        raise UnusableCorpusError(
            f"{len(corpus)} documents are fewer than the {largest} codes of a position: set codebook_sizes to at most "
            f"{len(corpus)} each, better to a tenth of the documents."
        )
    if model.reconstructor is None:
        raise UnusableCorpusError(
            "The model has no reconstructor: load it with num_reconstructor_layers=1 to learn IDs."
        )

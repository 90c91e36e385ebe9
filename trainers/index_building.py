"""The index at the end of a run: every document with an ID of its own, counted at a last position or reassigned."""

import numpy as np
from accelerate.logging import get_logger
from transformers import PreTrainedTokenizerBase

from modeling_lmindexer import LMIndexerForSemanticID, SemanticIndex

from .corpus_pass import CorpusPass
from .documents import IndexingDataset
from .reassignment import Reassignment, model_costs, reassign

logger = get_logger(__name__)  # of the main process alone


def index_with_counter(
    model: LMIndexerForSemanticID, documents: IndexingDataset, tokenizer: PreTrainedTokenizerBase
) -> SemanticIndex:
    """The documents with their learned codes, and a disambiguation position that grows to the largest group."""
    config = model.config
    largest = int(np.unique(documents.codes, axis=0, return_counts=True)[1].max())
    if largest > config.num_disambiguation_codes:
        logger.warning(
            f"{largest} documents share all learned codes: the disambiguation position grows from "
            f"{config.num_disambiguation_codes} to {2 * largest} codes."
        )
        model.resize_disambiguation(2 * largest)
    config.codebook_fingerprint = model.codebooks.fingerprint()
    index = SemanticIndex.from_codes(documents.ids, documents.codes, config.position_sizes)
    return index.attach(model.eval(), tokenizer)


def index_without_counter(
    corpus: CorpusPass, tokenizer: PreTrainedTokenizerBase
) -> tuple[SemanticIndex, Reassignment]:
    """The documents with learned codes alone, reassigned where they collide; the model loses its last position.

    Args:
        corpus: the model and the documents; its collator is one with prefixes.
        tokenizer: of the model.
    """
    model, documents = corpus.model, corpus.documents
    sizes = model.config.codebook_sizes
    result = reassign(documents.codes, sizes, model_costs(corpus), documents.ids)
    model.drop_disambiguation()
    model.config.codebook_fingerprint = model.codebooks.fingerprint()
    index = SemanticIndex.from_codes(documents.ids, result.codes, sizes, has_disambiguation=False)
    return index.attach(model, tokenizer), result

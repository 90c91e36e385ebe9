"""Whether a corpus can be indexed with a model and the settings of a run."""

import math

import datasets
import numpy as np

from modeling_lmindexer import LMIndexerConfig, LMIndexerForSemanticID
from modeling_lmindexer.index_rules import check_ids

from .micro_clusters import MOST_POINTS
from .neighbourhoods import group_texts
from .training_args import SemanticIDTrainingArguments, value_at


class UnusableCorpusError(ValueError):
    """A corpus, a model or settings that no IDs can be learned with; the message says why and what to do."""


def check_corpus(corpus: datasets.Dataset, model: LMIndexerForSemanticID, args: SemanticIDTrainingArguments) -> None:
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
    check_collisions(len(corpus), model.config, args)
    check_options(len(corpus), model.config, args)
    check_neighbours(corpus, args)


def check_collisions(num_documents: int, config: LMIndexerConfig, args: SemanticIDTrainingArguments) -> None:
    """Raises UnusableCorpusError where documents could not all get an ID at the end of a run."""
    sizes = config.codebook_sizes
    if args.collisions == "reassign" and num_documents > math.prod(sizes):
        raise UnusableCorpusError(
            f"{num_documents:,} documents, and codebooks of {' x '.join(map(str, sizes))} codes make only "
            f"{math.prod(sizes):,} IDs without a last position: take larger codebooks, one more position, or "
            "collisions='counter'."
        )
    if args.collisions == "counter" and not config.has_disambiguation:
        raise UnusableCorpusError(
            "collisions='counter' counts at a last position, which the model lacks: give it one with "
            "num_disambiguation_codes, or set collisions='reassign'."
        )


def check_options(num_documents: int, config: LMIndexerConfig, args: SemanticIDTrainingArguments) -> None:
    """Raises UnusableCorpusError for options that would fail after hours, when their stage comes."""
    for position in range(config.num_learned_positions):
        method = value_at(position, args.codebook_init)
        clusters = {"ward": 1.0, "micro": args.micro_share}.get(method, 0.0) * num_documents
        if clusters > MOST_POINTS:
            way_out = "codebook_init to 'micro' and " if method == "ward" else ""
            raise UnusableCorpusError(
                f"{method!r} codebooks compare all pairs of {clusters:,.0f} clusters; at most {MOST_POINTS:,} fit: "
                f"set {way_out}micro_share to {MOST_POINTS / num_documents:.2g} or less."
            )
    if "expectation" in args.code_choice[: config.num_learned_positions] and config.reconstruction_target != "words":
        raise UnusableCorpusError(
            "code_choice='expectation' weighs bags of words, and the model predicts tokens one by one: give it "
            "reconstruction_target='words'."
        )


def check_neighbours(corpus: datasets.Dataset, args: SemanticIDTrainingArguments) -> None:
    """Raises UnusableCorpusError where a document has too few others to be its neighbours."""
    if not args.needs_neighbours:
        return
    across = args.neighbours_across_excluded and "excluded" in corpus.column_names
    groups = group_texts(list(corpus["excluded"]) if across else None, len(corpus))
    if args.num_neighbours > len(corpus) - int(np.bincount(groups).max()):
        unlike = " of another excluded text" if across else ""
        raise UnusableCorpusError(
            f"{len(corpus)} documents have no {args.num_neighbours} neighbours each{unlike}: set num_neighbours lower"
            f"{' or neighbours_across_excluded to false' if unlike else ''}."
        )

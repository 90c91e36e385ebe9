"""Runs a method: settings in, codes of a corpus out."""

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from transformers import AutoTokenizer, set_seed

from modeling_lmindexer import LMIndexerForSemanticID
from quality.corpora import Corpus
from trainers import SemanticIDTrainer, SemanticIDTrainingArguments
from trainers.cluster_inputs import ClusterInputs
from trainers.reassignment import Reassignment, reassign
from trainers.rivals import make_indexer

WITHOUT_BRANDS = "words_without_brands"


@dataclass
class Found:
    """`codes` `(N, T)` that a method found within `minutes`, None for a run that went on after a stop, and how to give
    each document an ID of its own."""

    codes: np.ndarray
    minutes: float | None
    reassign: Callable[[], Reassignment]


def run_rival(indexer: str, settings: dict, corpus: Corpus, vectors: np.ndarray, sizes: list[int], seed: int) -> Found:
    """Codes of a two-stage indexer; the embeddings are not in its minutes.

    Args:
        settings: of [`ClusterInputs`], of the indexer, and `words_without_brands`, whether the brands' words are left
            out of the words that are joined to the embeddings.
        vectors: `(N, D)` embeddings.
    """
    names = {entry.name for entry in fields(ClusterInputs)}
    inputs = {name: value for name, value in settings.items() if name in names}
    own = {name: value for name, value in settings.items() if name not in names | {WITHOUT_BRANDS}}
    quantiser = make_indexer(indexer, {"inputs": ClusterInputs(**inputs), **own})
    excluded = corpus.brands if settings.get(WITHOUT_BRANDS) else None
    started = time.perf_counter()
    assignment = quantiser.fit(vectors, sizes, seed, corpus.texts, excluded)
    minutes = (time.perf_counter() - started) / 60
    return Found(assignment.codes, minutes, lambda: reassign(assignment.codes, sizes, assignment.costs, corpus.ids))


def run_lmindexer(
    settings: dict, corpus: Corpus, encoder: Path, sizes: list[int], seed: int, folder: Path, cache: Path
) -> Found:
    """Codes of an LMIndexer.

    Args:
        settings: of the model and of its trainer.
        encoder: that it starts from.
        folder: of the run, from which it goes on after a stop; gone afterwards.
        cache: where runs share the states of the encoder.
    """
    names = {entry.name for entry in fields(SemanticIDTrainingArguments)}
    training = {name: value for name, value in settings.items() if name in names}
    shape = {name: value for name, value in settings.items() if name not in names}
    started, goes_on = time.perf_counter(), folder.exists()
    set_seed(seed)
    model = LMIndexerForSemanticID.from_backbone(
        str(encoder), codebook_sizes=sizes, max_source_length=corpus.max_length, **shape
    )
    arguments = SemanticIDTrainingArguments(
        output_dir=str(folder), seed=seed, encoder_cache_dir=str(cache), save_strategy="no", use_cpu=True,
        report_to="none", disable_tqdm=True, **training,
    )  # fmt: skip
    trainer = SemanticIDTrainer(model, arguments, corpus.documents, AutoTokenizer.from_pretrained(encoder))
    trainer.train()
    codes = trainer.documents.codes
    shutil.rmtree(folder, ignore_errors=True)
    minutes = None if goes_on else (time.perf_counter() - started) / 60

    def reassigned() -> Reassignment:
        trainer.build_index_of_unique_codes()
        return trainer.reassignment

    return Found(codes, minutes, reassigned)

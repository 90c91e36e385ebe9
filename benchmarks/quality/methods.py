"""Runs a method: settings in, codes of a corpus out."""

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
from transformers import AutoTokenizer, set_seed

from modeling_lmindexer import LMIndexerForSemanticID
from quality.corpora import Corpus
from trainers import SemanticIDTrainer, SemanticIDTrainingArguments
from trainers.cluster_inputs import ClusterInputs
from trainers.neighbourhoods import group_texts, nearest_neighbours, neighbourhood_means
from trainers.reassignment import Reassignment, reassign
from trainers.rivals import make_indexer

CPU = "cpu"
WITHOUT_BRANDS = "words_without_brands"
NEIGHBOURS, NUM_NEIGHBOURS = "neighbour_steps", 5


@dataclass
class Found:
    """`codes` `(N, T)` that a method found within `minutes`, None for a run that went on after a stop, how to give
    each document an ID of its own, the device that did the work, and what writes the model that learned them."""

    codes: np.ndarray
    minutes: float | None
    reassign: Callable[[], Reassignment]
    device: str = CPU
    save_model: Callable[[Path], None] | None = None


def run_rival(indexer: str, settings: dict, corpus: Corpus, vectors: np.ndarray, sizes: list[int], seed: int) -> Found:
    """Codes of a two-stage indexer; the embeddings are not in its minutes.

    Args:
        settings: of [`ClusterInputs`], of the indexer, `words_without_brands`, whether the brands' words are left
            out of the words that are joined to the embeddings, and `neighbour_steps`, see [`with_neighbours`].
        vectors: `(N, D)` embeddings.
    """
    names = {entry.name for entry in fields(ClusterInputs)}
    inputs = ClusterInputs(**{name: value for name, value in settings.items() if name in names})
    own = {name: value for name, value in settings.items() if name not in names | {WITHOUT_BRANDS, NEIGHBOURS}}
    excluded = corpus.brands if settings.get(WITHOUT_BRANDS) else None
    started = time.perf_counter()
    if steps := settings.get(NEIGHBOURS):
        joined = inputs.fit(vectors, seed, corpus.texts, excluded)(vectors, corpus.texts, excluded)
        vectors, inputs = with_neighbours(joined, corpus, steps), ClusterInputs()
    quantiser = make_indexer(indexer, {"inputs": inputs, **own})
    assignment = quantiser.fit(vectors, sizes, seed, corpus.texts, excluded)
    minutes = (time.perf_counter() - started) / 60
    return Found(assignment.codes, minutes, lambda: reassign(assignment.codes, sizes, assignment.costs, corpus.ids))


def with_neighbours(vectors: np.ndarray, corpus: Corpus, steps: int) -> np.ndarray:
    """Vectors `(N, D)` averaged `steps` times with those of each document's five nearest of other brands.

    A control, given what the learned codes are anchored to. No indexer could offer it to documents that come later
    without a search among all those before.
    """
    neighbours = nearest_neighbours(vectors, NUM_NEIGHBOURS, group_texts(corpus.brands, len(vectors)))
    return neighbourhood_means(vectors, neighbours, steps)


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
        output_dir=str(folder), seed=seed, encoder_cache_dir=str(cache), save_strategy="no",
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

    def save_model(folder: Path) -> None:
        trainer.model.drop_reconstructor()
        trainer.model.save_pretrained(folder)
        trainer.tokenizer.save_pretrained(folder)

    return Found(codes, minutes, reassigned, device_name(trainer.args.device), save_model)


def device_name(device: torch.device) -> str:
    """A device in the words of its maker."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type

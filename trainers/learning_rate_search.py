"""The learning rate by whole runs: the one whose IDs rebuild documents best that it has not seen."""

import math
from collections.abc import Callable
from pathlib import Path

import datasets
import numpy as np
import torch
from transformers.utils import logging

from modeling_lmindexer.folder import write_json

from .losses import reconstruction_loss
from .semantic_id_trainer import SemanticIDTrainer

logger = logging.get_logger(__name__)


def split_held_out(corpus: datasets.Dataset, share: float, seed: int) -> tuple[datasets.Dataset, datasets.Dataset]:
    """A seeded split of a corpus into training and held-out documents."""
    held_out = max(1, round(share * len(corpus)))
    order = np.random.default_rng(seed).permutation(len(corpus))
    return corpus.select(np.sort(order[held_out:])), corpus.select(np.sort(order[:held_out]))


@torch.no_grad()
def held_out_loss(trainer: SemanticIDTrainer, documents: datasets.Dataset) -> float:
    """Mean reconstruction loss of documents that the run has not seen, from the IDs that its model gives them.

    Hints are those of the last stage, fixed by seed and document id.
    """
    model, config = trainer.model.eval(), trainer.model.config
    unseen = trainer.like_documents(documents)
    collator = trainer.collator()
    collator.dataset, collator.groups, collator.with_prefix = unseen, np.zeros(len(unseen), dtype=np.int64), False
    total, batch_size = 0.0, trainer.args.per_device_eval_batch_size
    for start in range(0, len(unseen), batch_size):
        batch = collator([unseen[row] for row in range(start, min(start + batch_size, len(unseen)))])
        inputs = {name: batch[name].to(model.device) for name in ("input_ids", "attention_mask")}
        ids = model.assign(**inputs)
        prefix = torch.nn.functional.pad(ids[:, :-1], (1, 0), value=config.decoder_start_token_id)
        hints = {name: batch[name].to(model.device) for name in ("hint_mask", "target_weights")}
        output = model(**inputs, **hints, decoder_input_ids=prefix, quantize=True)
        total += reconstruction_loss(output.reconstruction, len(ids)).sum().item()
    return total / len(unseen)


def search_learning_rate(
    make_trainer: Callable[[datasets.Dataset, float, Path], SemanticIDTrainer],
    corpus: datasets.Dataset,
    learning_rates: list[float],
    folder: Path,
    seed: int,
) -> float:
    """Runs every learning rate to its end on 95 % of the documents; returns the best for the other 5 %.

    Args:
        make_trainer: makes a trainer from documents, a learning rate and an output folder; each run can be resumed.
        corpus: all documents.
        learning_rates: the grid.
        folder: where the runs go, `folder/<learning rate>`; `folder/losses.json` lists what they reached.
        seed: of the split.
    """
    seen, unseen = split_held_out(corpus, 0.05, seed)
    losses = {}
    for rate in learning_rates:
        trainer = make_trainer(seen, rate, folder / f"{rate:g}")
        trainer.train()
        losses[f"{rate:g}"] = held_out_loss(trainer, unseen)
        if trainer.args.process_index == 0:
            reached = f"reconstruction loss {losses[f'{rate:g}']:.4f} on held-out documents"
            logger.warning(f"learning rate {rate:g}: {reached}")
            write_json(folder / "losses.json", losses)
    # A run that diverged comes last: its loss is no number, and compares with none.
    return float(min(losses, key=lambda rate: (math.isnan(losses[rate]), losses[rate])))

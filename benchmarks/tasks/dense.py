"""Search by vectors: one encoder for queries and documents, as it is or fine-tuned on pairs of the two."""

from dataclasses import dataclass
from pathlib import Path

import datasets
import numpy as np

from trainers.embeddings import embed_texts
from trainers.retrieval import Rankings

from .best import best_rows

_QUERIES_AT_ONCE = 256


@dataclass(frozen=True)
class FineTuning:
    """Settings of [`fine_tune`]; a batch holds as many negatives per query as it has other documents."""

    epochs: float = 1.0
    batch_size: int = 64
    learning_rate: float = 2e-5
    max_length: int = 128
    seed: int = 0


def unit_vectors(encoder: str | Path, texts: list[str], max_length: int, quiet: bool = False) -> np.ndarray:
    """Vectors `(texts, D)` of length 1, of any encoder folder; see [`embed_texts`]."""
    vectors = embed_texts(encoder, texts, max_length=max_length, quiet=quiet)
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


class DualEncoder:
    """Documents by the cosine of their vectors with a query's.

    Args:
        ids: of the documents.
        texts: of the documents.
        encoder: folder or Hub repository.
        max_length: tokens read of a text.
        quiet: no progress.
    """

    def __init__(self, ids: list, texts: list[str], encoder: str | Path, max_length: int = 256, quiet: bool = False):
        self.ids, self.encoder, self.max_length, self.quiet = ids, encoder, max_length, quiet
        self.vectors = unit_vectors(encoder, texts, max_length, quiet)

    def __call__(self, queries: dict, depth: int) -> Rankings:
        """The best `depth` documents of every query, text by query id."""
        names, documents, scores = list(queries), {}, {}
        vectors = unit_vectors(self.encoder, list(queries.values()), self.max_length, self.quiet)
        for start in range(0, len(names), _QUERIES_AT_ONCE):
            part = slice(start, start + _QUERIES_AT_ONCE)
            for query, every in zip(names[part], vectors[part] @ self.vectors.T, strict=True):
                rows = best_rows(every, depth)
                documents[query], scores[query] = [self.ids[row] for row in rows], every[rows].tolist()
        return Rankings(documents, scores)


def fine_tune(encoder: str | Path, pairs: datasets.Dataset, folder: str | Path, settings: FineTuning) -> None:
    """Teaches an encoder, through `sentence-transformers`, that a query is closer to its document than to the others
    of its batch (`MultipleNegativesRankingLoss`).

    Args:
        encoder: folder or Hub repository to start from.
        pairs: columns `query` and `document`, texts.
        folder: becomes an encoder's folder.
        settings: see [`FineTuning`].
    """
    from sentence_transformers import (
        SentenceTransformer,
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
    )
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
    from sentence_transformers.sentence_transformer.training_args import BatchSamplers

    model = SentenceTransformer(str(encoder))
    model.max_seq_length = settings.max_length
    arguments = SentenceTransformerTrainingArguments(
        output_dir=str(Path(folder) / "checkpoints"), num_train_epochs=settings.epochs,
        per_device_train_batch_size=settings.batch_size, learning_rate=settings.learning_rate, warmup_steps=0.1,
        # The same document twice in a batch would be its own negative.
        batch_sampler=BatchSamplers.NO_DUPLICATES, seed=settings.seed, save_strategy="no", report_to="none",
    )  # fmt: skip
    SentenceTransformerTrainer(
        model, arguments, train_dataset=pairs.select_columns(["query", "document"]),
        loss=MultipleNegativesRankingLoss(model),
    ).train()  # fmt: skip
    model.save_pretrained(str(folder))

"""A task on the tiny corpus: two words of a document ask for it."""

import datasets
import numpy as np
from tiny_training import tiny_corpus, tiny_indexer, tiny_tokenizer
from transformers import TrainerCallback

from modeling_lmindexer import SemanticIndex
from trainers import SemanticRetrievalTrainer, SemanticRetrievalTrainingArguments


def tiny_index(corpus: datasets.Dataset, sizes=(6, 4), seed: int = 0) -> SemanticIndex:
    """Random codes for a corpus, told apart by a last position."""
    codes = np.random.default_rng(seed).integers(0, sizes, size=(len(corpus), len(sizes)))
    return SemanticIndex.from_codes(corpus["id"][:], codes, [*sizes, 16])


def tiny_task(corpus: datasets.Dataset, split: str, seed: int = 0) -> datasets.Dataset:
    """A query per document, of three of its words: pairs for `train`, else queries with their relevant document."""
    random, rows = np.random.default_rng([seed, len(split)]), []
    for number, row in enumerate(corpus):
        words = row["text"].split()
        text = " ".join(words[i] for i in random.permutation(len(words))[:3])
        judged = {"target": row["id"]} if split == "train" else {"id": f"{split}{number}", "relevant": [row["id"]]}
        rows.append({"text": text} | judged)
    return datasets.Dataset.from_list(rows)


def retrieval_trainer(
    output_dir, *, model=None, corpus=None, trainer_class=SemanticRetrievalTrainer, queries=True, train=None,
    validation=None, documents=None, index=None, tokenizer=None, **settings,
):  # fmt: skip
    """A trainer of a tiny model without a reconstructor: 60 pairs, 4 steps an epoch."""
    corpus = tiny_corpus() if corpus is None else corpus
    model = tiny_indexer(num_reconstructor_layers=0) if model is None else model
    values = {
        "per_device_train_batch_size": 16, "per_device_eval_batch_size": 32, "learning_rate": 1e-2,
        "num_train_epochs": 2, "num_beams": 10, "cutoffs": [1, 5], "metric_for_best_model": "recall@5",
        "disable_tqdm": True, "use_cpu": True, "report_to": "none", "seed": 3, "logging_steps": 1,
    } | settings  # fmt: skip
    if not queries:
        values["eval_strategy"] = "no"
    documents = corpus if documents is None else documents
    index = tiny_index(corpus) if index is None else index
    if validation is None and queries:
        validation = tiny_task(corpus, "validation")
    return trainer_class(
        model, SemanticRetrievalTrainingArguments(output_dir=str(output_dir), **values),
        train_dataset=tiny_task(corpus, "train") if train is None else train, index=index,
        processing_class=tokenizer or tiny_tokenizer(), eval_dataset=validation, documents=documents,
    )  # fmt: skip


def run_of_retrieval(folder, batch_size: int) -> dict:
    """What a run in float64 ends with: weights, figures of its evaluations, and rankings of 60 queries."""
    model = tiny_indexer(num_reconstructor_layers=0).double()
    trainer = retrieval_trainer(
        folder, model=model, per_device_train_batch_size=batch_size, document_epochs=1, document_share=0.1,
        optim="sgd", learning_rate=0.05, per_device_eval_batch_size=7,
    )  # fmt: skip
    figures = trainer.train()
    rankings = trainer.rank(trainer.queries)
    return {
        "figures": figures, "weights": {name: value.clone() for name, value in trainer.model.state_dict().items()},
        "documents": list(rankings.documents.values()), "queries": list(rankings.documents),
    }  # fmt: skip


class Stopped(Exception):
    """Stands for a kill."""


class StopAt(TrainerCallback):
    def __init__(self, trainer, stage, step):
        self.trainer, self.place = trainer, (stage, step)

    def on_step_end(self, args, state, control, **kwargs):
        if (self.trainer.stage_name, state.global_step) == self.place:
            raise Stopped

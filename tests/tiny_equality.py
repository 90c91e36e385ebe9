"""What must not depend on the number of processes: losses and gradients of every stage, whole runs and a task, and how
far two of them are apart."""

import hashlib
import math
import os
import sys
from pathlib import Path

import datasets
import numpy as np
import torch
from tiny_retrieval import retrieval_trainer, tiny_index, tiny_task
from tiny_training import at_second_position, make_trainer, tiny_corpus, tiny_indexer, training_steps
from transformers import T5Config, set_seed

from metrics.ranking_quality.runs import write_run
from modeling_lmindexer import LMIndexerConfig, LMIndexerForSemanticID
from trainers import SemanticIDTrainer, SemanticIDTrainingArguments
from trainers.weights_digest import digest_of_weights

ADDITIONS = {
    "code_choice": ["balanced"], "choice_weight": 0.5, "anchor_weights": [1.0], "anchor_lexical_weight": 0.5,
    "anchor_smoothing": [0, 1], "anchor_residuals": True, "contrastive_views": "neighbours", "ema_decay": 0.6,
    "restart_threshold": 0.3,
}  # fmt: skip
EXACT = {"optim": "sgd", "learning_rate": 0.05, "lr_scheduler_type": "constant", "warmup_steps": 0}
STEPS = {
    "reconstructor": ("reconstructor", {}),
    "continuous": ("continuous", {}),
    "discrete": ("discrete", {}),
    "accumulated": ("discrete", {"gradient_accumulation_steps": 2}),
    "additions": ("discrete", ADDITIONS),
    "frozen": ("discrete", {"freeze_encoder": True}),
}


def batch_of(documents: int) -> int:
    """Documents in a global batch: neither 60 nor 4,000 are a multiple of it."""
    return 16 if documents < 1000 else 64


def corpus_of(documents: int) -> datasets.Dataset:
    """The tiny corpus with so many documents; with more than 60 of them, it is that of 60 with others beside them."""
    corpus = tiny_corpus(-(-documents // 12))
    return corpus.select(range(documents))


def first_steps(folder: Path, documents: int, steps: int = 20) -> dict:
    """Losses and gradients of the first steps of a stage of every kind, by SGD in float64."""
    found = {}
    for name, (kind, settings) in STEPS.items():
        trainer = at_second_position(
            folder / name, kind, model=tiny_indexer(codebook_sizes=[6, 8]).double(), corpus=corpus_of(documents),
            global_batch_size=batch_of(documents), max_steps=steps, **(EXACT | settings),
        )  # fmt: skip
        if trainer.args.freeze_encoder or trainer.args.needs_anchors:
            trainer.state_of_run.root.mkdir(parents=True, exist_ok=True)
            trainer.look_at_the_start()
            trainer.prepare_stage(trainer.stage)
        gradients, losses = training_steps(trainer)
        found[name] = {"gradients": gradients, "losses": losses}
    return found


def whole_runs(folder: Path, documents: int) -> dict:
    """Codes, IDs, figures and files of runs over all stages, by SGD in float64."""
    room = max(4, round(documents**0.5 / 3))
    runs = {
        "plain": ({"codebook_sizes": [room, room]}, {"gradient_accumulation_steps": 2}),
        "additions": (
            {"codebook_sizes": [2 * room, 6 * room], "kind": "bert", "similarity": "euclidean"},
            ADDITIONS | {"freeze_encoder": True, "collisions": "reassign"},
        ),
    }
    found = {}
    for name, (model, settings) in runs.items():
        trainer = make_trainer(
            folder / name, model=tiny_indexer(**model).double(), corpus=corpus_of(documents),
            global_batch_size=batch_of(documents), save_strategy="no", **(EXACT | settings),
        )  # fmt: skip
        trainer.train()
        found[name] = result_of(trainer, folder / name / "index")
    return found


def parts_runs(folder: Path, documents: int) -> dict:
    """Runs with dropout, by AdamW in float32, in four parts a batch: two on a corpus of words, with all that looks at
    the documents of a batch together, and with more documents one on Python's documentation at the default rate."""
    words = corpus_of(min(documents, 250))
    settings = {"global_batch_size": 16, "batch_parts": 4, "save_strategy": "no"}
    additions = ADDITIONS | {"freeze_encoder": True, "collisions": "reassign"}
    runs = {
        "words": ({"dropout": 0.1, "codebook_sizes": [8, 8]}, {}),
        "words, additions": ({"codebook_sizes": [16, 48], "kind": "bert", "similarity": "euclidean"}, additions),
    }
    found = {}
    for name, (model, own) in runs.items():
        trainer = make_trainer(folder / name, model=tiny_indexer(**model), corpus=words, **settings, **own)
        trainer.train()
        found[name] = result_of(trainer, folder / name / "index")
    sizes = (6, max(4, len(words) // 24))
    task = retrieval_trainer(
        folder / "task", corpus=words, index=tiny_index(words, sizes),
        model=tiny_indexer(num_reconstructor_layers=0, dropout=0.1, codebook_sizes=[*sizes]),
        validation=tiny_task(words, "validation"), document_epochs=1, document_share=0.1,
        train_sampling_strategy="group_by_length", load_best_model_at_end=False, **settings,
    )  # fmt: skip
    figures, codes = numbers(task.train()), torch.from_numpy(task.index.codes)
    weights = digest_of_weights(task.unwrap())
    found["task"] = {"codes": codes, "weights": weights, "files": {}, "figures": figures}
    if documents > 250:
        found["Python, rate 2e-3"] = documentation_run(folder / "python", documents, 2e-3, 0.0, 0.1, batch_parts=4)
    return found


def adamw_runs(folder: Path, documents: int) -> dict:
    """Runs as users make them, by AdamW in float32 with a schedule: at the rate of fine-tuning, at the default one,
    and, on one process, at that with weights that are 1e-7 other ones."""
    runs = {"rate 2e-4": (2e-4, 0.0), "rate 2e-3": (2e-3, 0.0)}
    if int(os.environ.get("WORLD_SIZE", 1)) == 1:
        runs["rate 2e-3, nudged"] = (2e-3, 1e-7)
    return {name: documentation_run(folder / name, documents, *run, dropout=0.0) for name, run in runs.items()}


def documentation_run(folder: Path, documents: int, rate: float, nudge: float, dropout: float, **settings) -> dict:
    """A run on documents of Python's standard library."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
    from data import python_docs, train_tokenizer

    corpus = python_docs()
    corpus = corpus.select(np.sort(np.random.default_rng(0).permutation(len(corpus))[:documents]))
    tokenizer = train_tokenizer(corpus["text"], 3000, model_max_length=48)
    args = SemanticIDTrainingArguments(
        output_dir=str(folder), global_batch_size=64, learning_rate=rate, save_strategy="no", use_cpu=True,
        disable_tqdm=True, report_to="none", **settings,
    )  # fmt: skip
    model = small_indexer(len(tokenizer), max(8, round(documents**0.5)), nudge, dropout)
    trainer = SemanticIDTrainer(model, args, train_dataset=corpus, processing_class=tokenizer)
    trainer.train()
    return result_of(trainer, folder / "index")


def small_indexer(vocab_size: int, codes: int, nudge: float, dropout: float) -> LMIndexerForSemanticID:
    """A T5 of width 64 with two positions, as the scripts make one; its weights times `1 + nudge * noise`."""
    shape = {"d_model": 64, "d_kv": 16, "d_ff": 128, "num_layers": 1, "num_decoder_layers": 1, "num_heads": 4}
    backbone = T5Config(vocab_size=vocab_size, dropout_rate=dropout, decoder_start_token_id=0, **shape)
    set_seed(0)
    model = LMIndexerForSemanticID(
        LMIndexerConfig(
            backbone_config=backbone,
            codebook_sizes=[codes, codes],
            num_disambiguation_codes=64,
            dropout=dropout,
            max_source_length=48,
            pooled_input=True,
        )  # fmt: skip
    )
    model.get_input_embeddings().weight.data.mul_(0.05)
    for parameter in model.parameters():
        parameter.data.mul_(1 + nudge * torch.randn(parameter.shape))
    return model


def result_of(trainer, folder: Path) -> dict:
    """What a run leaves: the learned codes, the IDs as they are written, the figures by stage."""
    if trainer.args.process_index == 0:
        if not trainer.args.batch_parts:
            trainer.index.codebook_fingerprint = None  # of the last bits of the codes, which are rounded otherwise
        trainer.index.save_pretrained(folder)
    trainer.accelerator.wait_for_everyone()
    digests = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}
    return {
        "codes": torch.from_numpy(trainer.documents.codes), "ids": torch.from_numpy(trainer.index.codes),
        "files": digests, "weights": digest_of_weights(trainer.unwrap()), "figures": numbers(trainer.figures),
    }  # fmt: skip


def one_task(folder: Path, documents: int) -> dict:
    """Losses, figures and the run file of a warm start and a task, by SGD in float64."""
    corpus, sizes = corpus_of(documents), (6, max(4, documents // 24))
    trainer = retrieval_trainer(
        folder, model=tiny_indexer(num_reconstructor_layers=0, codebook_sizes=[*sizes]).double(),
        corpus=corpus, index=tiny_index(corpus, sizes),
        validation=tiny_task(corpus, "validation").select(range(min(documents, 500))),
        global_batch_size=batch_of(documents), document_epochs=1, document_share=0.1,
        per_device_eval_batch_size=7, save_strategy="no", load_best_model_at_end=False, **EXACT,
    )  # fmt: skip
    figures = trainer.train()
    rankings = trainer.rank(trainer.queries)
    path = folder / f"run{trainer.args.process_index}.trec"
    write_run(path, rankings.documents, rankings.scores)
    rows = [line.split() for line in path.read_text().splitlines()]
    return {
        "figures": numbers(figures), "documents": [row[:4] for row in rows],
        "scores": torch.tensor([float(row[4]) for row in rows], dtype=torch.float64),
    }  # fmt: skip


def numbers(value, name: str = "") -> dict[str, float]:
    """All numbers inside figures, by the way to them."""
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list | tuple):
        items = enumerate(value)
    else:
        return {name: float(value)} if isinstance(value, int | float) and not math.isnan(value) else {}
    return {path: number for key, part in items for path, number in numbers(part, f"{name}/{key}").items()}


def farthest(found: dict[str, float], expected: dict[str, float]) -> float:
    """Largest difference of two sets of numbers, relative to the size of each."""
    assert found.keys() == expected.keys()
    return max(abs(found[name] - expected[name]) / max(1.0, abs(expected[name])) for name in expected)


def farthest_gradient(found: list[dict], expected: list[dict]) -> float:
    """Largest difference of the gradients of some steps, relative to the largest number in a step's."""
    worst = 0.0
    for step, reference in zip(found, expected, strict=True):
        # Unused parameters have a gradient of zero on several processes, and none on one.
        assert reference.keys() <= step.keys()
        size = max(gradient.abs().max().item() for gradient in reference.values())
        for name, gradient in step.items():
            difference = gradient - reference.get(name, torch.zeros_like(gradient))
            worst = max(worst, difference.abs().max().item() / size)
    return worst


def share_of_equal(found: torch.Tensor, expected: torch.Tensor) -> np.ndarray:
    """Share of documents with the same code, by position, and last with the whole ID the same."""
    equal = (found == expected).numpy()
    return np.append(equal.mean(axis=0), equal.all(axis=1).mean())

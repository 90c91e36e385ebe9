"""A corpus, a tokenizer, models and trainers so small that a whole run takes about a second."""

import itertools
from pathlib import Path

import datasets
import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    BertConfig,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
    Trainer,
    TrainerCallback,
    TrainerState,
)

from modeling_lmindexer import LMIndexerConfig, LMIndexerForSemanticID
from trainers import SemanticIDTrainer, SemanticIDTrainingArguments

TOPICS, KINDS, WORDS_OF_EACH, COMMON_WORDS = 4, 3, 6, 8
WORDS = [
    *(f"topic{topic}word{i}" for topic in range(TOPICS) for i in range(WORDS_OF_EACH)),
    *(f"kind{kind}word{i}" for kind in range(KINDS) for i in range(WORDS_OF_EACH)),
    *(f"common{i}" for i in range(COMMON_WORDS)),
]


def tiny_corpus(documents_of_each: int = 5) -> datasets.Dataset:
    """Documents of 6 to 15 words on 4 topics and, across them, of 3 kinds: 60 by default, `id`, `text`, `category`."""
    random = np.random.default_rng(7)
    rows = []
    for topic, kind, number in itertools.product(range(TOPICS), range(KINDS), range(documents_of_each)):
        words = [f"topic{topic}word{i}" for i in random.integers(WORDS_OF_EACH, size=random.integers(3, 8))]
        words += [f"kind{kind}word{i}" for i in random.integers(WORDS_OF_EACH, size=random.integers(2, 5))]
        words += [f"common{i}" for i in random.integers(COMMON_WORDS, size=random.integers(1, 4))]
        text = " ".join(random.permutation(words))
        rows.append({"id": f"d{topic}{kind}{number}", "text": text, "category": [f"topic {topic}", f"kind {kind}"]})
    return datasets.Dataset.from_list([rows[i] for i in random.permutation(len(rows))])


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """One token per word, and `</s>` (2) at the end; 0 is the padding, 1 an unknown word."""
    specials = ["<pad>", "<unk>", "</s>"]
    vocabulary = {word: number for number, word in enumerate([*specials, *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 2)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>", eos_token="</s>", model_max_length=32
    )


def tiny_indexer(kind: str = "t5", dropout: float = 0.0, seed: int = 0, **config) -> LMIndexerForSemanticID:
    """A random indexer of width 16 on a T5 or a BERT; by default 6 x 4 learned codes."""
    vocab_size = len(WORDS) + 3
    if kind == "t5":
        backbone = T5Config(
            vocab_size=vocab_size, d_model=16, d_kv=8, d_ff=32, num_layers=1, num_decoder_layers=1, num_heads=2,
            dropout_rate=dropout, decoder_start_token_id=0,
        )  # fmt: skip
    else:
        backbone = BertConfig(
            vocab_size=vocab_size, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
            hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout, max_position_embeddings=64,
        )  # fmt: skip
    values = {"codebook_sizes": [6, 4], "num_disambiguation_codes": 16, "max_source_length": 32, "dropout": dropout}
    values |= {"num_decoder_layers": 1, "pooled_input": True}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return LMIndexerForSemanticID(LMIndexerConfig(backbone_config=backbone, **(values | config)))


def tiny_query_model() -> T5ForConditionalGeneration:
    """A random T5 whose texts differ by document, end after a few words, and say nothing."""
    shape = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_decoder_layers": 1, "num_heads": 2}
    config = T5Config(
        vocab_size=len(WORDS) + 3, decoder_start_token_id=0, eos_token_id=2, tie_word_embeddings=False, **shape
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = T5ForConditionalGeneration(config)
        model.lm_head.weight.data.normal_(std=0.5)
    return model.eval()


def tiny_arguments(output_dir: Path | str, **overrides) -> SemanticIDTrainingArguments:
    """Settings of a run of two epochs of 4 steps per stage."""
    values = {
        "per_device_train_batch_size": 16, "per_device_eval_batch_size": 32, "learning_rate": 1e-2,
        "num_train_epochs": 2, "continuous_epochs": [2.0], "reconstructor_epochs": 1, "hint_ratios": [0.5, 0.3],
        "rate_factors": [1.0], "discrete_rate_factor": 1.0, "contrastive_weights": [1.0], "commitment_weight": 1.0,
        "contrastive_views": "dropout", "contrastive_temperature": 1.0, "contrastive_normalize": False,
        "idf_weights": False, "min_document_frequency": 1, "max_document_frequency": 1.0,
        "logging_steps": 1, "disable_tqdm": True, "use_cpu": True, "report_to": "none", "seed": 3,
    }  # fmt: skip
    return SemanticIDTrainingArguments(output_dir=str(output_dir), **(values | overrides))


def make_trainer(
    output_dir: Path | str,
    *,
    model: LMIndexerForSemanticID | None = None,
    corpus: datasets.Dataset | None = None,
    trainer_class: type[SemanticIDTrainer] = SemanticIDTrainer,
    callbacks: list | None = None,
    **overrides,
) -> SemanticIDTrainer:
    """A trainer of a tiny model on the tiny corpus; `overrides` are settings."""
    return trainer_class(
        tiny_indexer() if model is None else model,
        tiny_arguments(output_dir, **overrides),
        train_dataset=tiny_corpus() if corpus is None else corpus,
        processing_class=tiny_tokenizer(),
        callbacks=callbacks,
    )


def at_second_position(
    output_dir: Path | str, kind: str = "discrete", *, model: LMIndexerForSemanticID | None = None,
    corpus: datasets.Dataset | None = None, **overrides,
) -> SemanticIDTrainer:  # fmt: skip
    """A trainer of a random model in float64, as it stands before a stage of the second position: documents have
    codes in six groups of very different sizes."""
    values = {"save_strategy": "no", "optim": "sgd", "lr_scheduler_type": "constant", "warmup_steps": 0}
    values |= {"max_grad_norm": 0.0}
    model = tiny_indexer().double() if model is None else model
    trainer = make_trainer(output_dir, model=model, corpus=corpus, **(values | overrides))
    number = len(trainer.documents)
    ends = np.cumsum([1, 3, 5, 11, 17, 23])
    trainer.documents.codes = np.searchsorted(ends, np.arange(number) * 60 // number, side="right")[:, None]
    name = "0-reconstructor" if kind == "reconstructor" else f"2-{kind}"
    trainer.stage = next(stage for stage in trainer.stages if stage.name == name)
    trainer.prepare_stage(trainer.stage)
    return trainer


class Gradients(TrainerCallback):
    """Keeps the gradients of every optimizer step, by the names of parameters."""

    def __init__(self):
        self.steps = []

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        named = model.named_parameters()
        self.steps.append({n.removeprefix("module."): p.grad.clone() for n, p in named if p.grad is not None})


def training_steps(trainer: SemanticIDTrainer) -> tuple[list[dict[str, torch.Tensor]], list[dict[str, float]]]:
    """Gradients and losses of every optimizer step of a stage, as they are logged."""
    gradients = Gradients()
    trainer.add_callback(gradients)
    Trainer.train(trainer)
    names = {"loss", *trainer.objective.factors(trainer.stage)}
    logged = [entry for entry in trainer.state.log_history if "loss" in entry]
    return gradients.steps, [{name: entry[name] for name in sorted(names & entry.keys())} for entry in logged]


def first_step(trainer: SemanticIDTrainer) -> tuple[dict[str, torch.Tensor], dict[str, float]]:
    """Gradients and losses of a stage's first optimizer step."""
    gradients, losses = training_steps(trainer)
    return gradients[0], losses[0]


def steps_with_additions(output_dir: Path | str, batch_size: int) -> dict:
    """Six steps of a discrete stage with all that looks at the documents of all processes: balanced codes, a pull
    towards the start, codes that follow their documents or start again. What came of it, the same on every process.

    Args:
        output_dir: of the run.
        batch_size: documents per process.
    """
    trainer = at_second_position(
        output_dir, model=tiny_indexer(codebook_sizes=[6, 8]).double(), per_device_train_batch_size=batch_size,
        max_steps=6, code_choice=["balanced"], choice_weight=0.5, anchor_weights=[1.0], anchor_lexical_weight=0.5,
        contrastive_views="neighbours", ema_decay=0.6, restart_threshold=0.9, anchor_smoothing=[0, 1],
        anchor_residuals=True,
    )  # fmt: skip
    trainer.state_of_run.root.mkdir(parents=True, exist_ok=True)
    trainer.look_at_the_start()
    trainer.prepare_stage(trainer.stage)
    observe, apply, codes, restarts = trainer.updates.observe, trainer.updates.apply, [], []
    trainer.updates.observe = lambda hidden, chosen, counts: (
        codes.append(chosen.clone()),
        observe(hidden, chosen, counts),
    )
    trainer.updates.apply = lambda step, gather: restarts.append(apply(step, gather))
    gradients, losses = training_steps(trainer)
    return {
        "anchors": torch.from_numpy(trainer.documents.anchors), "codes": torch.stack(codes), "restarts": restarts,
        "codebook": trainer.unwrap().codebooks.learned[1].weight.detach().clone(), "gradients": gradients[-1],
        "losses": losses[0], "sizes": trainer.updates.size,
    }  # fmt: skip


def epoch_documents(trainer: SemanticIDTrainer, epoch: int) -> list[tuple[int, int]]:
    """Row and weight of every document that this process gets in an epoch, from the loader that it trains with."""
    loader = trainer.get_train_dataloader()
    trainer.hint_epoch.on_epoch_begin(trainer.args, TrainerState(epoch=epoch), None)
    loader.set_epoch(epoch)
    columns = ([row for batch in loader for row in batch[name].tolist()] for name in ("documents", "counts"))
    return list(zip(*columns, strict=True))

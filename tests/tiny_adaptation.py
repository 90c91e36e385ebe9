"""Tiny encoders and settings for tests of the adaptation, a second a run at most."""

from pathlib import Path

import torch
from tiny_training import tiny_corpus, tiny_tokenizer
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertModel,
    PreTrainedModel,
    T5Config,
    T5ForConditionalGeneration,
    TrainerCallback,
)

from trainers.adaptation import AdaptationTrainer
from trainers.adaptation_args import AdaptationArguments

OBJECTIVES = {
    "simcse": {"objective": ["simcse"]},
    "mlm": {"objective": ["mlm"]},
    "words": {"objective": ["words"]},
    "all": {"objective": ["mlm", "simcse", "words"], "objective_weights": [0.5, 2.0], "crop_views": True},
}


def tokenizer_with_mask():
    """The tiny tokenizer and `<mask>`, the last of its tokens."""
    tokenizer = tiny_tokenizer()
    tokenizer.add_special_tokens({"mask_token": "<mask>"})
    return tokenizer


def tiny_encoder(kind: str = "bert", dropout: float = 0.0, seed: int = 0) -> PreTrainedModel:
    """A random BERT of width 16, with a masked-language head for kind `bert-mlm`, or a T5 with its decoder."""
    vocab_size = len(tokenizer_with_mask())
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        if kind == "t5":
            return T5ForConditionalGeneration(
                T5Config(
                    vocab_size=vocab_size, d_model=16, d_kv=8, d_ff=32, num_layers=1, num_decoder_layers=1,
                    num_heads=2, dropout_rate=dropout, decoder_start_token_id=0,
                )
            )  # fmt: skip
        config = BertConfig(
            vocab_size=vocab_size, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
            hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout, max_position_embeddings=40,
            initializer_range=0.2,
        )  # fmt: skip
        return BertForMaskedLM(config) if kind == "bert-mlm" else BertModel(config)


def tiny_settings(output_dir: Path | str, **overrides) -> AdaptationArguments:
    """Two epochs of 3 steps over the 60 texts of the tiny corpus, all words being content words."""
    values = {
        "objective": ["simcse"], "max_length": 32, "per_device_train_batch_size": 16, "num_train_epochs": 2,
        "learning_rate": 1e-2, "min_document_frequency": 1, "max_document_frequency": 1.0, "logging_steps": 1,
        "disable_tqdm": True, "use_cpu": True, "report_to": "none", "seed": 3,
    }  # fmt: skip
    return AdaptationArguments(output_dir=str(output_dir), **(values | overrides))


def adaptation_trainer(
    output_dir: Path | str,
    model: PreTrainedModel | None = None,
    *,
    texts: list[str] | None = None,
    trainer_class: type[AdaptationTrainer] = AdaptationTrainer,
    **overrides,
) -> AdaptationTrainer:
    """A trainer of a tiny BERT on the tiny corpus; `overrides` are settings."""
    texts = list(tiny_corpus()["text"]) if texts is None else texts
    model = tiny_encoder() if model is None else model
    return trainer_class(model, tiny_settings(output_dir, **overrides), texts, tokenizer_with_mask())


class _Gradients(TrainerCallback):
    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        named = model.named_parameters()
        self.found = {name.removeprefix("module."): p.grad.clone() for name, p in named if p.grad is not None}


def first_step(output_dir: Path | str, **overrides) -> tuple[dict[str, torch.Tensor], dict[str, float]]:
    """Gradients of the first optimizer step of a BERT without dropout, by name, and the losses that it logs."""
    values = {"objective": ["simcse", "words"], "temperature": 1.0, "max_steps": 1, "max_grad_norm": 0.0}
    trainer = adaptation_trainer(output_dir, save_strategy="no", **(values | overrides))
    gradients = _Gradients()
    trainer.add_callback(gradients)
    trainer.train()
    logged = trainer.state.log_history[0]
    return gradients.found, {name: logged[name] for name in ("loss", *trainer.settings.objective)}

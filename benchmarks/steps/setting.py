"""What is measured: shapes of models with random or real weights, and a trainer as it stands before a stage."""

from dataclasses import dataclass, field
from pathlib import Path

import datasets
import numpy as np
from data import train_tokenizer
from data.shapes import MODEL_SIZES
from transformers import AutoTokenizer, BertConfig, PreTrainedConfig, T5Config, set_seed

from modeling_lmindexer import LMIndexerConfig, LMIndexerForSemanticID
from trainers import SemanticIDTrainer, SemanticIDTrainingArguments

T5_WORDS, BERT_WORDS, TRAINED_WORDS = 32_128, 30_522, 6_000
STAGES = {"warm-up": "0-reconstructor", "continuous": "2-continuous", "discrete": "2-discrete"}


def shapes() -> dict[str, PreTrainedConfig]:
    """Backbones by name: the tiny T5 of the examples, T5-small and T5-base, and the encoder all-MiniLM-L6."""
    small = {"d_model": 512, "d_kv": 64, "d_ff": 2048, "num_heads": 8, "num_layers": 6, "num_decoder_layers": 6}
    t5 = {name: T5Config(vocab_size=T5_WORDS, decoder_start_token_id=0, **shape) for name, shape in
          (("tiny", MODEL_SIZES["tiny"]), ("T5-small", small), ("T5-base", MODEL_SIZES["base"]))}  # fmt: skip
    minilm = BertConfig(
        vocab_size=BERT_WORDS, hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536
    )
    return t5 | {"MiniLM-L6": minilm}


@dataclass
class Setting:
    """What a row of the table is about.

    Attributes:
        corpus: columns `id` and `text`.
        shape: one of [`shapes`].
        checkpoint: folder of an encoder with that shape, for its weights and tokenizer; None: random ones.
        views: `contrastive_views` of the trainer.
        batch_size: documents a step.
        length: most tokens of a document.
        output_dir: of the trainer.
        seed: of weights, codes and batches.
        switches: what else the trainer's arguments are to be.
        dropout: of a T5.
    """

    corpus: datasets.Dataset
    shape: str
    checkpoint: Path | None
    views: str
    batch_size: int
    length: int
    output_dir: Path
    seed: int = 0
    switches: dict = field(default_factory=lambda: {"use_cpu": True})
    dropout: float = 0.1

    def model(self) -> LMIndexerForSemanticID:
        """An indexer that reconstructs every hidden token at its place, as the paper does."""
        set_seed(self.seed)
        values = {"codebook_sizes": [512, 512], "max_source_length": self.length, "reconstruction_target": "tokens"}
        if self.checkpoint:
            return LMIndexerForSemanticID.from_backbone(str(self.checkpoint), **values)
        backbone = shapes()[self.shape]
        backbone.dropout_rate = self.dropout
        return LMIndexerForSemanticID(LMIndexerConfig(backbone_config=backbone, **values))

    def tokenizer(self):
        """The checkpoint's, or one that is trained on the corpus: its words are fewer than the model has."""
        if self.checkpoint:
            return AutoTokenizer.from_pretrained(self.checkpoint)
        return train_tokenizer(list(self.corpus["text"]), TRAINED_WORDS, model_max_length=self.length)

    def trainer(self, tokenizer, stage: str, steps: int) -> SemanticIDTrainer:
        """A trainer before the steps of a stage; codes of the first position are drawn."""
        arguments = SemanticIDTrainingArguments(
            output_dir=str(self.output_dir), per_device_train_batch_size=self.batch_size, max_steps=steps,
            contrastive_views=self.views, hint_ratios=[0.5, 0.3], seed=self.seed, save_strategy="no",
            logging_steps=steps, disable_tqdm=True, report_to="none", **self.switches,
        )  # fmt: skip
        trainer = SemanticIDTrainer(
            self.model(), arguments, train_dataset=self.corpus, processing_class=tokenizer
        )  # fmt: skip
        trainer.stage = next(one for one in trainer.stages if one.name == STAGES[stage])
        if trainer.stage.position:
            size = trainer.model.config.codebook_sizes[0]
            codes = np.random.default_rng(self.seed).integers(size, size=(len(self.corpus), 1))
            trainer.documents.codes = codes
        trainer.prepare_stage(trainer.stage)
        return trainer

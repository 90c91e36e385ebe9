"""Settings of the trainer, beyond those of transformers."""

from dataclasses import dataclass, field

from transformers import TrainingArguments


@dataclass
class SemanticIDTrainingArguments(TrainingArguments):
    """Settings of [`SemanticIDTrainer`]; `num_train_epochs` counts for every discrete stage.

    The defaults suit a small model trained from scratch on a CPU within minutes. The paper's settings are in
    `examples/paper/`.
    """

    num_train_epochs: float = field(default=0.5, metadata={"help": "Epochs of each discrete stage."})
    continuous_epochs: list[float] = field(
        default_factory=lambda: [3.0, 1.5],
        metadata={"help": "Epochs of the continuous stages, per position; the last counts for all beyond."},
    )
    reconstructor_epochs: float = field(default=0.3, metadata={"help": "Epochs of the reconstructor's warm-up."})
    per_device_train_batch_size: int = field(default=32, metadata={"help": "Documents per process and step."})
    per_device_eval_batch_size: int = field(default=128, metadata={"help": "Documents per forward without training."})
    learning_rate: float = field(default=2e-3, metadata={"help": "Peak learning rate of every stage."})
    rate_factors: list[float] = field(
        default_factory=lambda: [1.0, 0.5],
        metadata={"help": "Share of learning_rate, per position; the last counts for all beyond."},
    )
    discrete_rate_factor: float = field(
        default=0.05, metadata={"help": "Share of its position's learning rate that a discrete stage gets."}
    )
    lr_scheduler_type: str = field(default="cosine", metadata={"help": "Schedule of every stage."})
    warmup_steps: float = field(default=0.1, metadata={"help": "Steps, or share of a stage's steps, of warm-up."})
    logging_steps: float = field(default=0.1, metadata={"help": "Steps, or share of a stage's steps, between logs."})
    save_strategy: str = field(default="epoch", metadata={"help": "When to write a checkpoint inside a stage."})
    save_total_limit: int | None = field(default=1, metadata={"help": "Checkpoints kept in a stage."})
    hint_ratios: list[float] = field(
        default_factory=lambda: [0.0],
        metadata={
            "help": "Share of a document's tokens that stays visible, per position; falls by .6 beyond the last."
        },
    )
    reduction: str = field(
        default="mean",
        metadata={
            "help": "'mean': over a document's hidden tokens and over documents. 'sum': bare sums, as in the paper.",
            "choices": ["mean", "sum"],
        },
    )
    reconstruction_weight: float = field(default=1.0, metadata={"help": "Factor of the reconstruction loss."})
    contrastive_weights: list[float] = field(
        default_factory=lambda: [0.1, 1.0],
        metadata={"help": "Factor of the contrastive loss, per position; the last counts for all beyond."},
    )
    commitment_weight: float = field(default=0.2, metadata={"help": "Factor of the commitment loss."})
    contrastive_views: str = field(
        default="identical",
        metadata={
            "help": "Views of a document: 'identical' (Eq. 9), two 'dropout' passes (the authors' code), two 'crops'.",
            "choices": ["identical", "dropout", "crops"],
        },
    )
    contrastive_temperature: float = field(default=0.1, metadata={"help": "Divides the products of the views."})
    contrastive_normalize: bool = field(default=True, metadata={"help": "Cosines instead of products of the views."})
    idf_weights: bool = field(
        default=True, metadata={"help": "Weigh tokens to reconstruct by their inverse document frequency."}
    )
    min_document_frequency: int = field(
        default=5, metadata={"help": "Tokens in fewer documents are not reconstructed."}
    )
    max_document_frequency: float = field(
        default=0.1, metadata={"help": "Tokens in a larger share of the documents are not reconstructed."}
    )
    freeze_encoder: bool = field(
        default=False, metadata={"help": "Keep the encoder as it is, and compute its states once, into a cache."}
    )
    train_earlier_codebooks: bool = field(
        default=False, metadata={"help": "Let the codebooks of earlier positions drift, as in the authors' code."}
    )
    start_over: bool = field(
        default=False, metadata={"help": "Delete what another run left in the output folder, and begin."}
    )
    go_on: bool = field(
        default=False, metadata={"help": "Continue the run in the output folder although settings have changed."}
    )

    def __post_init__(self):
        super().__post_init__()
        if not self.hint_ratios or not all(0 <= ratio < 1 for ratio in self.hint_ratios):
            raise ValueError(f"hint_ratios is {self.hint_ratios}; give at least one ratio, each from 0 to below 1.")
        for name in ("continuous_epochs", "contrastive_weights", "rate_factors"):
            if not getattr(self, name) or min(getattr(self, name)) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}; give at least one number, none below 0.")
        if self.start_over and self.go_on:
            raise ValueError("start_over and go_on exclude each other: choose one.")

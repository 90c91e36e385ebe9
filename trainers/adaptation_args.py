"""Settings of [`adapt_encoder`], beyond those of transformers."""

from dataclasses import dataclass, field

from .staged_args import StagedTrainingArguments

OBJECTIVES = ("simcse", "mlm", "words")
# What an adapted encoder depends on besides its objectives: with one of these changed, it is another one.
_RESULT_SETTINGS = (
    "adam_beta1", "adam_beta2", "adam_epsilon", "bf16", "crop_views", "fp16", "gradient_accumulation_steps",
    "learning_rate", "lr_scheduler_type", "max_document_frequency", "max_grad_norm", "max_steps",
    "min_document_frequency", "mlm_probability", "num_train_epochs", "optim", "pooling", "seed", "temperature",
    "warmup_steps", "weight_decay",
)  # fmt: skip


@dataclass
class AdaptationArguments(StagedTrainingArguments):
    """Settings of [`adapt_encoder`]; the defaults suit a pretrained encoder.

    `objective` is a sum of: `simcse`, two dropout passes of a document find each other among the batch (Gao et al.,
    2021); `mlm`, masked tokens (Devlin et al., 2019); `words`, the document's bag of content words from its embedding.
    """

    objective: list[str] = field(
        default_factory=lambda: ["simcse"], metadata={"help": "What to learn from.", "choices": list(OBJECTIVES)}
    )
    objective_weights: list[float] = field(
        default_factory=lambda: [1.0], metadata={"help": "Factor of each objective; the last counts for all beyond."}
    )
    max_length: int = field(default=64, metadata={"help": "Tokens read of a document."})
    pooling: str = field(
        default="mean",
        metadata={"help": "How the states become an embedding, in training and after it.", "choices": ["mean", "cls"]},
    )
    temperature: float = field(default=0.05, metadata={"help": "Divides the cosines of simcse."})
    crop_views: bool = field(
        default=False, metadata={"help": "For simcse: two random parts of a document instead of two dropout passes."}
    )
    mlm_probability: float = field(default=0.15, metadata={"help": "Share of the tokens that mlm predicts."})
    min_document_frequency: int = field(
        default=5, metadata={"help": "Tokens in fewer documents are no content words."}
    )
    max_document_frequency: float = field(
        default=0.1, metadata={"help": "Tokens in a larger share of the documents are no content words."}
    )
    num_train_epochs: float = field(default=1.0, metadata={"help": "Times that every document is read."})
    per_device_train_batch_size: int = field(
        default=64, metadata={"help": "Documents per process and step; for simcse, where the negatives come from."}
    )
    learning_rate: float = field(default=3e-5, metadata={"help": "Peak learning rate."})
    lr_scheduler_type: str = field(default="cosine", metadata={"help": "Schedule."})
    warmup_steps: float = field(default=0.1, metadata={"help": "Steps, or share of the steps, of warm-up."})
    logging_steps: float = field(default=0.1, metadata={"help": "Steps, or share of the steps, between logs."})
    save_strategy: str = field(default="epoch", metadata={"help": "When to write a checkpoint."})
    save_total_limit: int | None = field(default=1, metadata={"help": "Checkpoints kept."})

    def __post_init__(self):
        super().__post_init__()
        if self.batch_parts:
            raise ValueError("batch_parts is not for adaptations, whose documents are all compared: leave it out.")
        if isinstance(self.objective, str):  # `objective="simcse"`, or one in a YAML file
            self.objective = [self.objective]
        unknown = sorted(set(self.objective) - set(OBJECTIVES))
        if unknown or not self.objective or len(set(self.objective)) < len(self.objective):
            raise ValueError(f"objective is {self.objective}; give each at most once, of {', '.join(OBJECTIVES)}.")
        if not 0 < len(self.objective_weights) <= len(self.objective) or min(self.objective_weights) <= 0:
            raise ValueError(
                f"objective_weights is {self.objective_weights}; give one number above 0 per objective, or fewer."
            )
        if self.pooling not in ("mean", "cls"):
            raise ValueError(f"pooling is {self.pooling!r}; give mean or cls.")
        if not self.temperature > 0 or not 0 < self.mlm_probability < 1:
            raise ValueError(
                f"temperature is {self.temperature} and mlm_probability {self.mlm_probability}; "
                "the one is above 0, the other between 0 and 1."
            )

    @property
    def weights(self) -> dict[str, float]:
        """Factor of each objective."""
        missing = len(self.objective) - len(self.objective_weights)
        return dict(zip(self.objective, self.objective_weights + missing * self.objective_weights[-1:], strict=True))

    def result_settings(self) -> dict:
        """What of them the result depends on, as JSON."""
        values = {name: getattr(self, name) for name in _RESULT_SETTINGS}
        return {name: getattr(value, "value", value) for name, value in values.items()} | {"objective": self.weights}

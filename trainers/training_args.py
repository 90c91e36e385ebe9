"""Settings of the trainer, beyond those of transformers."""

from dataclasses import dataclass, field

from modeling_lmindexer.code_choice import CODE_CHOICES, CodeChoice

from .staged_args import StagedTrainingArguments


def value_at(position: int, values: list):
    """The value of a position, counted from 0: the last one counts for all positions beyond."""
    return values[min(position, len(values) - 1)]


@dataclass
class SemanticIDTrainingArguments(StagedTrainingArguments):
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
    encoder_rate_factor: float = field(
        default=1.0,
        metadata={"help": "Share of every learning rate that the encoder gets, a trained one beside new parts."},
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
            "help": "Views of a document: 'identical' (Eq. 9), two 'dropout' passes (the authors' code), "
            "'decoder_dropout' (one pass of the encoder, two of the decoder), two 'crops', or the document and one of "
            "its nearest 'neighbours' by the starting embedding.",
            "choices": ["identical", "dropout", "decoder_dropout", "crops", "neighbours"],
        },
    )
    num_neighbours: int = field(
        default=10, metadata={"help": "Nearest documents that views are drawn from, or anchors averaged with."}
    )
    neighbours_across_excluded: bool = field(
        default=False,
        metadata={"help": "Neighbours differ in the excluded text: of another brand, they share what a document is."},
    )
    contrastive_temperature: float = field(default=0.1, metadata={"help": "Divides the products of the views."})
    contrastive_normalize: bool = field(default=True, metadata={"help": "Cosines instead of products of the views."})
    anchor_weights: list[float] = field(
        default_factory=lambda: [0.0],
        metadata={
            "help": "Factor, per position, of the pull of h towards the similarities that documents start with; the "
            "last counts for all beyond."
        },
    )
    anchor_temperature: float = field(default=0.05, metadata={"help": "Divides the cosines that the pull compares."})
    anchor_lexical_weight: float = field(
        default=0.0,
        metadata={"help": "Weight of a document's words (TF-IDF of the targets, SVD) joined to where the pull goes."},
    )
    anchor_smoothing: list[int] = field(
        default_factory=lambda: [0],
        metadata={
            "help": "How often, per position, the embedding that the pull goes to is averaged with its nearest "
            "neighbours'; the last counts for all beyond."
        },
    )
    anchor_residuals: bool = field(
        default=False,
        metadata={"help": "Pull later positions to what sets a document apart from those that share its prefix."},
    )
    code_choice: list[str] = field(
        default_factory=lambda: ["most_likely"],
        metadata={
            "help": "Which code a document stands for in a discrete stage, per position; the last counts for all "
            "beyond: the most likely (Eq. 3), one of a batch 'balanced' over the codes (Sinkhorn), or 'expectation', "
            "that of EM: likely, and explaining the words.",
            "choices": list(CODE_CHOICES),
        },
    )
    choice_weight: float = field(
        default=0.0, metadata={"help": "Factor of the cross-entropy of the codes and the chosen one."}
    )
    likelihood_weight: float = field(
        default=5.0, metadata={"help": "Factor of the words' mean log-likelihood in code_choice 'expectation'."}
    )
    choice_candidates: int = field(default=16, metadata={"help": "Most likely codes that 'expectation' looks at."})
    balance_smoothness: float = field(
        default=1.0, metadata={"help": "Divides the logits of code_choice 'balanced': smaller is nearer to equal use."}
    )
    codebook_init: list[str] = field(
        default_factory=lambda: ["kmeans"],
        metadata={
            "help": "Clusters that a codebook starts from, per position; the last counts for all beyond: k-means, "
            "Ward, or Ward of many small clusters ('micro'); 'random' directions show what clusters are for.",
            "choices": ["kmeans", "ward", "micro", "random"],
        },
    )
    micro_share: float = field(default=0.35, metadata={"help": "Small clusters per document for 'micro'."})
    ema_decay: float = field(
        default=0.0, metadata={"help": "Above 0: codes follow the mean of their documents' states, without gradient."}
    )
    restart_threshold: float = field(
        default=0.0,
        metadata={"help": "Codes used less than this share of an equal part start again at a random document."},
    )
    stage_learning_rates: list[float] = field(
        default_factory=list,
        metadata={"help": "Learning rate of every stage in order, in place of learning_rate and its factors."},
    )
    collisions: str = field(
        default="counter",
        metadata={
            "help": "Documents with equal codes: told apart by a last position that counts them ('counter'), or given "
            "other last codes at the least cost ('reassign').",
            "choices": ["counter", "reassign"],
        },
    )
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
    encoder_cache_dir: str | None = field(
        default=None,
        metadata={"help": "Folder where runs share the states of a frozen encoder; default: inside output_dir."},
    )
    train_earlier_codebooks: bool = field(
        default=False, metadata={"help": "Let the codebooks of earlier positions drift, as in the authors' code."}
    )

    def __post_init__(self):
        super().__post_init__()
        for name in ("code_choice", "codebook_init", "anchor_smoothing"):  # one value is a list of one
            value = getattr(self, name)
            setattr(self, name, [value] if isinstance(value, str | int) else list(value))
            if not getattr(self, name):
                raise ValueError(f"{name} is empty; give at least one value.")
        for name in ("reduction", "contrastive_views", "codebook_init", "code_choice", "collisions"):
            allowed, value = self.__dataclass_fields__[name].metadata["choices"], getattr(self, name)
            for wrong in [one for one in (value if isinstance(value, list) else [value]) if one not in allowed]:
                raise ValueError(f"{name} is {wrong!r}; it must be one of {', '.join(allowed)}.")
        self.choice_at(0)  # made here for its checks
        if self.num_neighbours < 1:
            raise ValueError(f"num_neighbours is {self.num_neighbours}; it must be at least 1.")
        if not self.hint_ratios or not all(0 <= ratio < 1 for ratio in self.hint_ratios):
            raise ValueError(f"hint_ratios is {self.hint_ratios}; give at least one ratio, each from 0 to below 1.")
        for name in ("continuous_epochs", "contrastive_weights", "rate_factors", "anchor_weights", "anchor_smoothing"):
            if not getattr(self, name) or min(getattr(self, name)) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}; give at least one number, none below 0.")
        if any(int(steps) != steps for steps in self.anchor_smoothing):
            raise ValueError(f"anchor_smoothing is {self.anchor_smoothing}; give whole numbers, how often to average.")
        if not (0 <= self.ema_decay < 1 and 0 <= self.restart_threshold < 1 and 0 < self.micro_share <= 1):
            raise ValueError(
                f"ema_decay is {self.ema_decay}, restart_threshold {self.restart_threshold}, micro_share "
                f"{self.micro_share}; the first two are from 0 to below 1, the third above 0 and at most 1."
            )
        if not self.encoder_rate_factor > 0:
            raise ValueError(
                f"encoder_rate_factor is {self.encoder_rate_factor}; it must be above 0. To keep the "
                "encoder as it is, set freeze_encoder."
            )

    def choice_at(self, position: int) -> CodeChoice:
        """The settings of `code_choice` at a position, counted from 0, as the model takes them."""
        kind = value_at(position, self.code_choice)
        return CodeChoice(
            kind, self.likelihood_weight, self.choice_candidates, self.balance_smoothness, not self.batch_parts
        )

    @property
    def needs_anchors(self) -> bool:
        """Whether training looks at the embeddings that documents start with."""
        return max(self.anchor_weights) > 0 or self.contrastive_views == "neighbours"

    @property
    def needs_neighbours(self) -> bool:
        """Whether training looks at who is near to whom by these embeddings."""
        return self.contrastive_views == "neighbours" or (self.needs_anchors and max(self.anchor_smoothing) > 0)

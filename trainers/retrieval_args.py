"""Settings of the downstream trainer, beyond those of transformers."""

from dataclasses import dataclass, field

from .staged_args import StagedTrainingArguments

ALL, EXISTING = "all", "existing"
BY_LENGTH = "group_by_length"
SAMPLING = [BY_LENGTH, "random"]


@dataclass
class SemanticRetrievalTrainingArguments(StagedTrainingArguments):
    """Settings of [`SemanticRetrievalTrainer`]; `num_train_epochs` counts passes over the task's pairs."""

    num_train_epochs: float = field(default=20, metadata={"help": "Epochs over the pairs of the task."})
    per_device_train_batch_size: int = field(default=128, metadata={"help": "Pairs per process and step."})
    per_device_eval_batch_size: int = field(default=64, metadata={"help": "Queries searched at once."})
    learning_rate: float = field(default=1e-3, metadata={"help": "Peak learning rate."})
    lr_scheduler_type: str = field(default="cosine", metadata={"help": "Schedule of the learning rate."})
    warmup_steps: float = field(default=0.05, metadata={"help": "Steps, or share of the steps, of warm-up."})
    train_sampling_strategy: str = field(
        default=BY_LENGTH,
        metadata={
            "help": "group_by_length: batches of texts of about one length; random: of any.",
            "choices": SAMPLING,
        },
    )
    logging_steps: float = field(default=0.02, metadata={"help": "Steps, or share of the steps, between logs."})
    document_epochs: float = field(
        default=0.0, metadata={"help": "Warm start: epochs of document to ID before the task, whatever the IDs are."}
    )
    document_share: float = field(
        default=0.0, metadata={"help": "Share of document to ID pairs among those of the task, from 0 to below 1."}
    )
    loss_over: str = field(
        default=ALL,
        metadata={
            "help": "all: a code's probability is that among all codes, as in Eq. 14; existing: among those that "
            "continue an ID of the index, in the search as well, which learns faster, but nothing of IDs to come.",
            "choices": [ALL, EXISTING],
        },
    )
    freeze_encoder: bool = field(
        default=False,
        metadata={
            "help": "Keep the encoder as it is, and compute what it makes of every text once, into a cache of as "
            "many numbers a token as the model is wide: faster, for a backbone that is good already."
        },
    )
    encoder_cache_dir: str | None = field(
        default=None,
        metadata={"help": "Folder where runs share the states of a frozen encoder; default: inside output_dir."},
    )
    token_dropout: float = field(
        default=0.0,
        metadata={"help": "Share of a text's tokens left out in training, others every epoch; its end stays."},
    )
    cut_share: float = field(
        default=0.0,
        metadata={
            "help": "Share of the texts read to a random place only in training, others every epoch: of a history the "
            "newest items."
        },
    )
    max_query_length: int | None = field(
        default=None, metadata={"help": "Tokens read of a query or history; default: as many as of a document."}
    )
    num_beams: int = field(default=20, metadata={"help": "Width of the beam in evaluation."})
    cutoffs: list[int] = field(
        default_factory=lambda: [1, 5, 10, 20], metadata={"help": "Where recall and NDCG are measured, all at once."}
    )
    max_eval_queries: int | None = field(
        default=None, metadata={"help": "A seeded sample of so many validation queries; default: all."}
    )
    eval_strategy: str = field(default="epoch", metadata={"help": "When to search the validation queries."})
    save_strategy: str = field(default="epoch", metadata={"help": "When to write a checkpoint."})
    save_total_limit: int | None = field(default=1, metadata={"help": "Checkpoints kept beside the best one."})
    load_best_model_at_end: bool = field(
        default=True, metadata={"help": "End with the checkpoint that was best on the validation queries."}
    )
    metric_for_best_model: str | None = field(
        default=None,
        metadata={"help": "By which measure of the validation queries; default: NDCG at 10, or at the last cut-off."},
    )
    early_stopping_patience: int = field(
        default=0, metadata={"help": "Stop after so many evaluations without a better one; 0: never."}
    )

    def __post_init__(self):
        if self.eval_strategy == "no":  # then none is known to be the best
            self.load_best_model_at_end = False
            if self.early_stopping_patience:
                raise ValueError("early_stopping_patience needs evaluations: eval_strategy is 'no'.")
        if self.metric_for_best_model is None:
            self.metric_for_best_model = f"ndcg@{10 if 10 in self.cutoffs else self.cutoffs[-1]}"
        super().__post_init__()
        if self.label_smoothing_factor:
            raise ValueError("label_smoothing_factor has no effect on Eq. 14: leave it at 0.")
        if self.max_eval_queries is not None and self.max_eval_queries < 1:
            raise ValueError(f"max_eval_queries is {self.max_eval_queries}; give at least 1, or none for all.")
        if self.train_sampling_strategy not in SAMPLING:
            raise ValueError(
                f"train_sampling_strategy is {self.train_sampling_strategy!r}; expected {' or '.join(SAMPLING)}."
            )
        if self.loss_over not in (ALL, EXISTING):
            raise ValueError(f"loss_over is {self.loss_over!r}; expected {ALL} or {EXISTING}.")
        if not 0 <= self.token_dropout < 1 or not 0 <= self.cut_share <= 1:
            raise ValueError(
                f"token_dropout is {self.token_dropout}, cut_share {self.cut_share}; the first is from 0 to below 1, "
                "the second from 0 to 1."
            )
        if self.freeze_encoder and (self.token_dropout or self.cut_share or self.neftune_noise_alpha):
            raise ValueError(
                "freeze_encoder computes the states of every text once; token_dropout, cut_share and "
                "neftune_noise_alpha make another text of it every epoch: leave them at 0."
            )
        if not 0 <= self.document_share < 1 or self.document_epochs < 0:
            raise ValueError(
                f"document_share is {self.document_share}, document_epochs {self.document_epochs}; the first is from "
                "0 to below 1, the second at least 0."
            )
        if not self.cutoffs or min(self.cutoffs) < 1 or max(self.cutoffs) > self.num_beams:
            raise ValueError(
                f"cutoffs is {self.cutoffs}; give whole numbers from 1 to num_beams, {self.num_beams}: a beam finds "
                "no more documents than it is wide."
            )
        if self.metric_for_best_model.removeprefix("eval_") not in self.measures:
            raise ValueError(
                f"metric_for_best_model is {self.metric_for_best_model}; with these cutoffs there are "
                f"{', '.join(self.measures)}."
            )
        # Rankings are better when their figures are higher; Trainer believes so of few names.
        self.greater_is_better = True

    @property
    def measures(self) -> list[str]:
        """What is measured of a ranking."""
        return [f"{name}@{k}" for k in self.cutoffs for name in ("recall", "ndcg")] + [f"mrr@{max(self.cutoffs)}"]

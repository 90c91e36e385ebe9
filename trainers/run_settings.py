"""What the result of a run depends on: with one of these changed, the state in its folder is another run's."""

from transformers import TrainingArguments

from modeling_lmindexer import LMIndexerConfig, LMIndexerForSemanticID

from .documents import IndexingDataset
from .training_args import SemanticIDTrainingArguments
from .weights_digest import digest_of_weights

RESULT_SETTINGS = (
    "adam_beta1", "adam_beta2", "adam_epsilon", "anchor_lexical_weight", "anchor_residuals", "anchor_smoothing",
    "anchor_temperature", "anchor_weights", "balance_smoothness", "batch_parts", "bf16", "choice_candidates",
    "choice_weight", "code_choice", "codebook_init", "commitment_weight", "continuous_epochs", "contrastive_normalize",
    "contrastive_temperature", "contrastive_views", "contrastive_weights", "discrete_rate_factor", "ema_decay",
    "encoder_rate_factor", "fp16", "freeze_encoder", "gradient_accumulation_steps", "hint_ratios", "idf_weights",
    "learning_rate", "likelihood_weight", "lr_scheduler_type", "max_document_frequency", "max_grad_norm", "max_steps",
    "micro_share", "min_document_frequency", "neighbours_across_excluded", "num_neighbours", "num_train_epochs",
    "optim", "rate_factors", "reconstruction_weight", "reconstructor_epochs", "reduction", "restart_threshold", "seed",
    "stage_learning_rates", "train_earlier_codebooks", "warmup_steps", "weight_decay",
)  # fmt: skip
# Entries of a configuration that a result does not depend on.
NO_SETTINGS = ("backbone_config", "transformers_version", "architectures", "auto_map", "dtype", "_name_or_path")


def run_settings(
    args: SemanticIDTrainingArguments, model: LMIndexerForSemanticID, documents: IndexingDataset, world_size: int
) -> dict:
    """Settings, shape and initial weights of the model, and documents, as JSON."""
    return named_settings(args, RESULT_SETTINGS) | {
        **model_settings(model.config),
        "documents": documents.digest(),
        "initial_weights": digest_of_weights(model),
        "global_batch_size": args.per_device_train_batch_size * world_size,
    }


def named_settings(args: TrainingArguments, names: tuple[str, ...]) -> dict:
    """Settings of a trainer, as JSON."""
    values = {name: getattr(args, name) for name in names}
    return {name: getattr(value, "value", value) for name, value in values.items()}


def model_settings(config: LMIndexerConfig) -> dict:
    """What a result depends on in a model's configuration, its backbone's beside it, as JSON."""
    backbone = {f"backbone_{name}": value for name, value in config.backbone_config.to_diff_dict().items()}
    return {n: v for n, v in (config.to_diff_dict() | backbone).items() if not n.endswith(NO_SETTINGS)}

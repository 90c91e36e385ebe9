"""The stages of progressive training (Algorithm 1): what is trained, for how long, from which hints."""

from dataclasses import dataclass, replace

from torch.nn import Parameter
from torch.optim import Optimizer

from modeling_lmindexer import LMIndexerForSemanticID

from .training_args import SemanticIDTrainingArguments, value_at


@dataclass(frozen=True)
class Stage:
    """One training run of the schedule.

    Attributes:
        kind: `reconstructor` (warm-up, Eq. 12), `continuous` (`h^t` instead of a code, Eq. 13; ends with the
            clustering that initialises codebook `t`) or `discrete` (the whole framework, Eq. 11; ends with the
            assignment of `c^t`).
        position: the position that is learned, counted from 0.
        epochs: passes over the corpus.
        learning_rate: its peak.
        hint_ratio: share of a document's tokens that stays visible.
        contrastive_weight: factor of the contrastive loss.
        anchor_weight: factor of the pull towards the starting similarities.
    """

    kind: str
    position: int
    epochs: float
    learning_rate: float
    hint_ratio: float
    contrastive_weight: float = 0.0
    anchor_weight: float = 0.0

    @property
    def name(self) -> str:
        """Folder of the stage: `0-reconstructor`, `1-continuous`, `1-discrete`, ..."""
        return "0-reconstructor" if self.kind == "reconstructor" else f"{self.position + 1}-{self.kind}"

    @property
    def contrasts(self) -> bool:
        """Whether documents that share a prefix are pushed apart in it."""
        return self.kind != "reconstructor" and self.contrastive_weight > 0

    @property
    def title(self) -> str:
        """What progress bars and tables call it."""
        return (
            "reconstructor warm-up" if self.kind == "reconstructor" else f"position {self.position + 1}, {self.kind}"
        )

    @property
    def group(self) -> str:
        """What trackers show its figures under."""
        return "warm_up" if self.kind == "reconstructor" else f"position_{self.position + 1}"


def hint_ratio_at(position: int, ratios: list[float]) -> float:
    """Hint ratio of a position, counted from 0: beyond the given ones each is 0.6 of the one before, as .5 to .3."""
    return value_at(position, ratios) * 0.6 ** max(0, position - len(ratios) + 1)


def plan_stages(num_positions: int, args: SemanticIDTrainingArguments) -> list[Stage]:
    """The stages for `num_positions` learned positions; those with 0 epochs of training still cluster and assign.

    Raises:
        ValueError: `stage_learning_rates` of another number of stages.
    """
    ratio = hint_ratio_at(0, args.hint_ratios)
    stages = [Stage("reconstructor", 0, args.reconstructor_epochs, args.learning_rate, ratio)]
    for position in range(num_positions):
        common = (
            hint_ratio_at(position, args.hint_ratios),
            value_at(position, args.contrastive_weights),
            value_at(position, args.anchor_weights),
        )
        epochs = value_at(position, args.continuous_epochs)
        rate = args.learning_rate * value_at(position, args.rate_factors)
        stages.append(Stage("continuous", position, epochs, rate, *common))
        stages.append(Stage("discrete", position, args.num_train_epochs, rate * args.discrete_rate_factor, *common))
    rates = args.stage_learning_rates
    if not rates:
        return stages
    if len(rates) != len(stages):
        raise ValueError(
            f"stage_learning_rates has {len(rates)} values for {len(stages)} stages: give one for each of "
            f"{', '.join(stage.name for stage in stages)}."
        )
    return [replace(stage, learning_rate=rate) for stage, rate in zip(stages, rates, strict=True)]


def set_trainable(model: LMIndexerForSemanticID, stage: Stage, args: SemanticIDTrainingArguments) -> None:
    """Freezes and unfreezes: the reconstructor alone while it warms up; then encoder, decoder and reconstructor, with
    codebook `t` in its discrete stage. Earlier codebooks stay as they are unless asked for, the disambiguation
    position always."""
    warm_up = stage.kind == "reconstructor"
    model.requires_grad_(not warm_up)
    model.codebooks.requires_grad_(False)
    model.reconstructor.requires_grad_(True)
    model.reconstructor.start.requires_grad_(warm_up)
    if not warm_up:
        first = 0 if args.train_earlier_codebooks else stage.position
        for position in range(first, stage.position + (stage.kind == "discrete")):
            codebook = model.codebooks.learned[position]
            codebook.requires_grad_(True)
            # Codes that follow their documents get no gradient; their temperature does.
            codebook.weight.requires_grad_(not args.ema_decay or position < stage.position)
    if args.freeze_encoder:
        for parameter in encoder_parameters(model):
            parameter.requires_grad_(False)


def encoder_parameters(model: LMIndexerForSemanticID) -> list[Parameter]:
    """What reads a text: the encoder and the embeddings of its tokens."""
    return list(dict.fromkeys([*model.get_encoder().parameters(), *model.get_input_embeddings().parameters()]))


def slow_down(optimizer: Optimizer, parameters: list[Parameter], factor: float) -> None:
    """Gives parameters a share of the learning rate of their groups, before a schedule has seen the optimizer."""
    slow = set(parameters)
    for group in list(optimizer.param_groups):
        own = [parameter for parameter in group["params"] if parameter in slow]
        if own:
            group["params"] = [parameter for parameter in group["params"] if parameter not in slow]
            optimizer.add_param_group(group | {"params": own, "lr": factor * group["lr"]})

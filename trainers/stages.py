"""The stages of progressive training (Algorithm 1): what is trained, for how long, from which hints."""

from dataclasses import dataclass

from .training_args import SemanticIDTrainingArguments


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
    """

    kind: str
    position: int
    epochs: float
    learning_rate: float
    hint_ratio: float

    @property
    def name(self) -> str:
        """Folder of the stage: `0-reconstructor`, `1-continuous`, `1-discrete`, ..."""
        return "0-reconstructor" if self.kind == "reconstructor" else f"{self.position + 1}-{self.kind}"

    @property
    def title(self) -> str:
        """What progress bars and tables call it."""
        return (
            "reconstructor warm-up" if self.kind == "reconstructor" else f"position {self.position + 1}, {self.kind}"
        )


def hint_ratio_at(position: int, ratios: list[float]) -> float:
    """Hint ratio of a position, counted from 0: beyond the given ones each is 0.6 of the one before, as .5 to .3."""
    last = len(ratios) - 1
    return ratios[min(position, last)] * 0.6 ** max(0, position - last)


def plan_stages(num_positions: int, args: SemanticIDTrainingArguments) -> list[Stage]:
    """The stages for `num_positions` learned positions; those with 0 epochs of training still cluster and assign."""
    rate = args.learning_rate
    discrete_rate = rate * args.discrete_rate_factor
    stages = [Stage("reconstructor", 0, args.reconstructor_epochs, rate, hint_ratio_at(0, args.hint_ratios))]
    for position in range(num_positions):
        ratio = hint_ratio_at(position, args.hint_ratios)
        stages.append(Stage("continuous", position, args.continuous_epochs, rate, ratio))
        stages.append(Stage("discrete", position, args.num_train_epochs, discrete_rate, ratio))
    return stages

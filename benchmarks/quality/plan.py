"""What is compared: the data sets, sizes, methods and grids of a configuration file."""

import itertools
from dataclasses import dataclass, field, fields
from pathlib import Path

import yaml

from trainers.presets import preset

LMINDEXER = "lmindexer"


@dataclass(frozen=True)
class DataSet:
    """`file` below the data folder, how many tokens of a document every method reads, and its columns; a set may have
    no brands."""

    file: str
    max_length: int
    id_column: str = "id"
    brand_column: str | None = "brand"


@dataclass(frozen=True)
class Family:
    """What the methods of a family have in common.

    Attributes:
        encoder_per_set: whether every data set has an encoder of its own, trained on it.
        max_length: tokens that every method reads of a document, in place of the data set's own number.
        chosen_in: the family whose choices its methods take over; default: it has trials of its own.
        settings: of the method that learns, above those of the method.
    """

    encoder_per_set: bool = False
    max_length: int | None = None
    chosen_in: str | None = None
    settings: dict = field(default_factory=dict)


@dataclass(frozen=True)
class Method:
    """A method and the settings that its trials choose among.

    Attributes:
        grid: blocks, each a product of lists of values, for the first code.
        second: the same for the second code, tried with the best of the first.
        indexer: its name in [`trainers.rivals`]; `lmindexer` for the model that learns.
        preset: of [`trainers.presets`], below all other settings.
        settings: of every trial.
        positions: of the trials and where one code is compared; above 1 for a method whose first code depends on how
            many follow.
        control: whether this is a part of the method that learns rather than a rival: it stands in the tables, and no
            goal is about it.
    """

    grid: list[dict]
    indexer: str
    preset: str | None = None
    settings: dict = field(default_factory=dict)
    positions: int = 1
    second: list[dict] = field(default_factory=list)
    control: bool = False

    @property
    def learns(self) -> bool:
        """Whether this is the method that the others are rivals of."""
        return self.indexer == LMINDEXER

    def resolved(self, trial: dict, positions: int) -> dict:
        """All settings of a trial with so many positions; of one value per position, those that are in use."""
        settings = (preset(self.preset) if self.preset else {}) | self.settings | trial
        return {name: value[:positions] if isinstance(value, list) else value for name, value in settings.items()}


def combinations(blocks: list[dict]) -> list[dict]:
    """What every trial of a grid sets; one trial of nothing where there is no grid.

    ```python
    >>> combinations([{"share": [0.1, 0.2], "settling": 0}, {"share": 1.0}])
    [{'share': 0.1, 'settling': 0}, {'share': 0.2, 'settling': 0}, {'share': 1.0}]

    ```
    """
    found = []
    for block in blocks or [{}]:
        lists = [value if isinstance(value, list) else [value] for value in block.values()]
        found += [dict(zip(block, values, strict=True)) for values in itertools.product(*lists)]
    return found


@dataclass(frozen=True)
class Plan:
    """The whole comparison.

    Attributes:
        families: by name; the first one is what commands are about by default.
        sets: by name.
        chosen_on: the set of which half the documents are for choices.
        sizes: of the codebooks, one list per row of the comparison.
        matched_sizes: of the first codebook, among which a rival's best is chosen.
        tuning_size: of the codebook of the trials.
        tuning_seed: of the trials.
        trials: a method has at most.
        least_share: of the perplexity in the codebook, below which settings are not chosen.
        tolerance: by which a matched perplexity may differ.
        methods: by name.
    """

    families: dict[str, Family]
    sets: dict[str, DataSet]
    chosen_on: str
    sizes: list[list[int]]
    matched_sizes: list[int]
    methods: dict[str, Method]
    tuning_size: int = 128
    tuning_seed: int = 0
    trials: int = 20
    least_share: float = 0.6
    tolerance: float = 0.05

    def __post_init__(self):
        if self.chosen_on not in self.sets:
            raise ValueError(f"chosen_on is {self.chosen_on!r}; the sets are {', '.join(self.sets)}")
        for name, family in self.families.items():
            if family.chosen_in not in (None, *self.families):
                raise ValueError(
                    f"chosen_in of {name} is {family.chosen_in!r}; the families are {', '.join(self.families)}"
                )
        for name, method in self.methods.items():
            number = len(combinations(method.grid)) + (len(combinations(method.second)) if method.second else 0)
            if number > self.trials:
                raise ValueError(f"the grid of {name} has {number} trials; every method has {self.trials} at most")

    @property
    def learner(self) -> str:
        """The name of the method that the others are rivals of."""
        return next(name for name, method in self.methods.items() if method.learns)

    @property
    def rivals(self) -> list[str]:
        """The names of the others."""
        return [name for name, method in self.methods.items() if not method.learns]


def read_plan(path: Path) -> Plan:
    """The plan of a YAML file.

    Raises:
        ValueError: an entry that there is not, or one that is missing.
    """
    values = yaml.safe_load(path.read_text(encoding="utf-8"))
    try:
        values["families"] = {name: Family(**(entry or {})) for name, entry in values["families"].items()}
        values["sets"] = {name: DataSet(**entry) for name, entry in values["sets"].items()}
        values["methods"] = {
            name: Method(**{"indexer": name, "grid": []} | (entry or {})) for name, entry in values["methods"].items()
        }
        return Plan(**values)
    except (KeyError, TypeError) as error:
        known = ", ".join(entry.name for entry in fields(Plan))
        raise ValueError(f"{path}: {error}; a plan has {known}") from error

"""What is compared downstream: data sets, kinds of IDs, and how the generative model is trained on them."""

from dataclasses import dataclass, field
from pathlib import Path

import yaml

TASKS = ("recommendation", "search", "retrieval")
# In place of a model's folder: what the IDs were made from, and the model that learned them.
ENCODER, INDEXER = "encoder", "indexer"


@dataclass(frozen=True)
class TaskSet:
    """A data set and its task.

    Attributes:
        task: one of `TASKS`.
        folder: below the data folder.
        reference: the system that needs no training, with which every generative one is fused too.
        measures: in the tables; the one at `tested` is what tests are about.
        settings: of `run_retrieval.py`, for every row; `model_name_or_path: encoder` stands for that of the IDs,
            `indexer` for the model that learned them.
        documents: what IDs are made from, as in the sets of `id_quality.yaml`, which may have it already.
        queries: settings of `generate_queries.py`, for queries that nobody has asked; none are made without.
    """

    task: str
    folder: str
    reference: str
    measures: list[str]
    tested: str
    settings: dict = field(default_factory=dict)
    documents: dict | None = None
    queries: dict | None = None


@dataclass(frozen=True)
class Row:
    """A way to train the generative model, the same for every kind of IDs.

    Attributes:
        settings: of `run_retrieval.py`, above those of the set.
        identifiers: kinds of IDs that it is trained on.
        seeds: of IDs and training alike.
        sizes: of the codebooks, where they are not the plan's: for figures by length and by codebook.
        indexer: settings of what makes the IDs, above the chosen ones.
        sets: that it is for; default: all.
    """

    settings: dict = field(default_factory=dict)
    identifiers: list[str] = field(default_factory=list)
    seeds: list[int] = field(default_factory=lambda: [0])
    sizes: list[int] | None = None
    indexer: dict = field(default_factory=dict)
    sets: list[str] | None = None


@dataclass(frozen=True)
class Plan:
    """The whole comparison.

    Attributes:
        sets: by name.
        identifiers: by name in the tables, the method in `id_quality.yaml`.
        family: of that file, whose encoder and choices the IDs are made with.
        sizes: of the codebooks.
        rows: by name, in the tables after that of the IDs.
        own: the kind of IDs that others are tested against.
    """

    sets: dict[str, TaskSet]
    identifiers: dict[str, str]
    family: str
    sizes: list[int]
    rows: dict[str, Row]
    own: str

    def __post_init__(self):
        for name, entry in self.sets.items():
            if entry.task not in TASKS:
                raise ValueError(f"the task of {name} is {entry.task!r}; expected one of {', '.join(TASKS)}")
        for name, row in self.rows.items():
            unknown = [kind for kind in row.identifiers if kind not in self.identifiers]
            if unknown:
                raise ValueError(f"the row {name!r} has IDs of {unknown}; there are {', '.join(self.identifiers)}")
            if row.settings.get("model_name_or_path") == INDEXER and row.identifiers != [self.own]:
                raise ValueError(f"the row {name!r} starts from an indexer: only {self.own} has one")
            unknown = [one for one in row.sets or () if one not in self.sets]
            if unknown:
                raise ValueError(f"the row {name!r} is for {unknown}; there are {', '.join(self.sets)}")


def read_plan(path: Path) -> Plan:
    """The plan of a YAML file.

    Raises:
        ValueError: an entry that there is not, or one that is missing.
    """
    values = yaml.safe_load(path.read_text(encoding="utf-8"))
    try:
        values["sets"] = {name: TaskSet(**entry) for name, entry in values["sets"].items()}
        values["rows"] = {name: Row(**entry) for name, entry in values["rows"].items()}
        return Plan(**values)
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path}: {error}") from error

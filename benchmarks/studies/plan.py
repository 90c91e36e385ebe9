"""What `id_studies.yaml` says: which runs there are, with which settings, and what studies compare them by."""

import itertools
from dataclasses import dataclass, field, fields
from pathlib import Path

import yaml
from quality.plan import DataSet

from trainers import SemanticIDTrainingArguments
from trainers.presets import preset

_OF_TRAINER = {entry.name for entry in fields(SemanticIDTrainingArguments)}


class PlanError(ValueError):
    """The configuration file contradicts itself."""


@dataclass(frozen=True)
class Run:
    """One training run.

    Attributes:
        family: of settings, such as `paper`.
        corpus: name of the data set.
        name: within the family.
        seed: of everything random.
        settings: of the model and of the trainer.
        exclude: whether the words of the brand are not reconstructed.
        after: the run whose stages it goes on from.
    """

    family: str
    corpus: str
    name: str
    seed: int
    settings: dict
    exclude: bool
    after: "Run | None" = None

    @property
    def key(self) -> dict:
        """What its row of results is known by."""
        before = {"after": self.after.key["settings"]} if self.after else {}
        return {
            "kind": "study", "family": self.family, "set": self.corpus, "method": self.name,
            "sizes": self.settings["codebook_sizes"], "seed": self.seed,
            "settings": self.settings | {"exclude": self.exclude} | before,
        }  # fmt: skip

    @property
    def label(self) -> str:
        """Name of its folder, and what it is called while it runs."""
        return f"{self.corpus}-{self.family}-{self.name}-{self.seed}".replace(" ", "_")

    @property
    def of_trainer(self) -> dict:
        """The settings of the trainer."""
        return {name: value for name, value in self.settings.items() if name in _OF_TRAINER}

    @property
    def of_model(self) -> dict:
        """The settings of the model."""
        return {name: value for name, value in self.settings.items() if name not in _OF_TRAINER}


@dataclass(frozen=True)
class Claim:
    """`figure` `of` one run is above that of another, or above a number."""

    figure: str
    of: str
    above: str | float

    def __str__(self) -> str:
        above = f"of {self.above}" if isinstance(self.above, str) else f"{self.above:g}"
        return f"{self.figure} of {self.of} above {above}".replace("above of", "above that of")


@dataclass(frozen=True)
class Study:
    """What is looked at of some runs: columns of a table, claims about them, and one figure."""

    title: str
    runs: list[str]
    columns: list[str]
    claims: list[Claim]
    curves: dict[str, list[str]] = field(default_factory=dict)
    bars: list[str] = field(default_factory=list)
    density: bool = False
    categories: bool = False


@dataclass(frozen=True)
class Plan:
    """The whole file.

    Attributes:
        sets: data sets by name; the first one is the default.
        settings: of all runs, above those of a family's preset and below the family's own.
        families: by name, each with `preset`, `exclude` and `settings`.
        seeds: of every run.
        curves: arguments of [`trainers.study_curves.StageCurves`].
        margin: share of the larger value from which on an effect counts.
        runs: by name, their settings beside those of the family.
        studies: by name.
    """

    sets: dict[str, DataSet]
    settings: dict
    families: dict[str, dict]
    seeds: list[int]
    curves: dict
    margin: float
    runs: dict[str, dict]
    studies: dict[str, Study]

    def run(self, corpus: str, family: str, name: str, seed: int) -> Run:
        """The run of that name."""
        own = {key: value for key, value in self.runs[name].items() if key not in ("after", "families", "epochs")}
        after, moves = (self.runs[name].get(key) for key in ("after", "epochs"))
        chosen = self.families[family]
        settings = preset(chosen["preset"]) | {"max_source_length": self.sets[corpus].max_length} | self.settings
        settings = moved_epochs(settings | chosen.get("settings", {}), moves or {})
        before = self.run(corpus, family, after, seed) if after else None
        return Run(family, corpus, name, seed, settings | own, chosen["exclude"], before)

    def has(self, family: str, name: str) -> bool:
        """Whether a family has a run of that name."""
        return family in self.runs[name].get("families", [family])

    def runs_of(self, corpus: str, studies: list[str], families: list[str], seeds: list[int]) -> list[Run]:
        """All runs of some studies, each once; those that others go on from come first."""
        found: dict[str, Run] = {}
        names = dict.fromkeys(name for study in studies for name in self.studies[study].runs)
        for seed, family, name in itertools.product(seeds, families, names):
            if self.has(family, name):
                chain = [self.run(corpus, family, name, seed)]
                while chain[0].after:
                    chain.insert(0, chain[0].after)
                found |= {run.label: run for run in chain if run.label not in found}
        return list(found.values())


def moved_epochs(settings: dict, moves: dict[str, str]) -> dict:
    """Settings in which a kind of stages has no epochs, and another one those of its first position on top.

    Args:
        settings: of a trainer.
        moves: from a kind to a kind of stages, `reconstructor`, `continuous` and `discrete`.
    """
    epochs = {
        "reconstructor": settings["reconstructor_epochs"],
        "continuous": settings["continuous_epochs"][0],
        "discrete": settings["num_train_epochs"],
    }
    for source, target in moves.items():
        epochs[target] += epochs[source]
        epochs[source] = 0
    later = [0 if "continuous" in moves else number for number in settings["continuous_epochs"][1:]]
    return settings | {
        "reconstructor_epochs": epochs["reconstructor"],
        "continuous_epochs": [epochs["continuous"], *later],
        "num_train_epochs": epochs["discrete"],
    }


def read_plan(path: Path) -> Plan:
    """The plan in a YAML file.

    Raises:
        PlanError: it names runs that it does not have.
    """
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    studies = {
        name: Study(**study | {"claims": [Claim(**claim) for claim in study.get("claims", [])]})
        for name, study in content.pop("studies").items()
    }
    content["sets"] = {name: DataSet(**entry) for name, entry in content["sets"].items()}
    plan = Plan(**content, studies=studies)
    for name, study in studies.items():
        named = {*study.runs, *(claim.of for claim in study.claims)}
        named |= {claim.above for claim in study.claims if isinstance(claim.above, str)}
        unknown = sorted(named - set(study.runs) | named - plan.runs.keys())
        if unknown:
            raise PlanError(f"{path}: the study {name!r} names {', '.join(unknown)}, which are not among its runs.")
    missing = sorted({run["after"] for run in plan.runs.values() if "after" in run} - plan.runs.keys())
    if missing:
        raise PlanError(f"{path}: runs go on after {', '.join(missing)}, which are not among the runs.")
    return plan

"""What all commands of the benchmark share: corpora, embeddings, results, and how a row is measured."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np

from metrics.semantic_id_quality import category_ami, code_perplexity
from quality.corpora import Corpus, embed, find_encoder, read_corpus
from quality.methods import Found, run_lmindexer, run_rival
from quality.plan import Family, Plan
from quality.rows import Results


@dataclass(eq=False)  # hashed by itself: what it has read is kept as long as the command lives
class Bench:
    """One family of methods: all on the same encoder.

    Attributes:
        plan: what is compared.
        family: its name.
        encoder: of a data set's name, the folder of its encoder.
        data: folder of the data sets.
        results: the rows.
        cache: where runs share the states of an encoder.
    """

    plan: Plan
    family: str
    encoder: Callable[[str], Path]
    data: Path
    results: Results
    cache: Path

    @property
    def entry(self) -> Family:
        """What the plan says of the family."""
        return self.plan.families[self.family]

    @cache  # noqa: B019
    def corpus(self, name: str) -> Corpus:
        """The documents of a data set."""
        data_set = self.plan.sets[name]
        length = self.entry.max_length or data_set.max_length
        return read_corpus(self.data, replace(data_set, max_length=length), name == self.plan.chosen_on)

    @cache  # noqa: B019
    def vectors(self, name: str) -> np.ndarray:
        """The embeddings of a data set."""
        path = self.results.folder / "embeddings" / f"{self.family}-{name}.npy"
        return embed(self.corpus(name), find_encoder(self.encoder(name)), path)

    def settings(self, method: str, trial: dict, positions: int) -> dict:
        """All settings of a method with so many positions."""
        entry = self.plan.methods[method]
        return entry.resolved(self.entry.settings | trial if entry.learns else trial, positions)

    def key(self, kind: str, name: str, method: str, trial: dict, sizes: list[int], seed: int) -> dict:
        """What a row is known by."""
        settings = self.settings(method, trial, len(sizes))
        return {
            "kind": kind, "family": self.family, "set": name, "method": method, "sizes": list(sizes), "seed": seed,
            "settings": settings,
        }  # fmt: skip

    def find(self, key: dict) -> Found:
        """Runs the method of a row."""
        method, corpus = self.plan.methods[key["method"]], self.corpus(key["set"])
        settings, sizes, seed = key["settings"], key["sizes"], key["seed"]
        if not method.learns:
            return run_rival(method.indexer, settings, corpus, self.vectors(key["set"]), sizes, seed)
        folder = self.results.folder / "runs" / self.results.name(key)
        return run_lmindexer(settings, corpus, find_encoder(self.encoder(key["set"])), sizes, seed, folder, self.cache)

    def row(self, key: dict, figures: Callable[[Found, Corpus], dict], wait: bool = False) -> dict | None:
        """A row that runs its method once; see [`Results.row`]."""

        def measure() -> dict:
            found = self.find(key)
            columns = figures(found, self.corpus(key["set"])) | {"minutes": found.minutes, "device": found.device}
            shown = ", ".join(f"{name} {columns[name]:.4g}" for name in SHOWN if columns.get(name) is not None)
            print(f"{describe(key)}: {shown}", flush=True)
            return columns

        return self.results.row(key, measure, wait)


SHOWN = ("ami_for_choices", "ami_1", "perplexity", "perplexity_1", "ami_within_2", "crowded", "minutes")


def describe(key: dict) -> str:
    """A row in words."""
    sizes = "x".join(map(str, key["sizes"]))
    return f"{key['kind']} {key['family']} {key['set']} {key['method']} {sizes} seed {key['seed']}"


def first_code(found: Found, corpus: Corpus) -> dict:
    """Figures of the first code: its AMI where choices are made and where it is reported, and its perplexity."""
    codes, figures = found.codes[:, 0], {}
    for name, mask in (("ami_for_choices", corpus.for_choices), ("ami_1", corpus.reported)):
        if mask.any():
            figures[name] = category_ami(codes, corpus.categories, documents=mask)
    return figures | {"perplexity_1": code_perplexity(codes)}

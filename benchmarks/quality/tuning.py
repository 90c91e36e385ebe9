"""Trials of settings, and the choice among them, on the documents that choices may look at."""

from collections.abc import Callable
from typing import NamedTuple

import yaml

from metrics.semantic_id_quality import agreement_within, category_ami, code_perplexity
from modeling_lmindexer.folder import atomic_path
from quality.bench import Bench
from quality.corpora import Corpus
from quality.methods import Found
from quality.plan import combinations

BEST_NAME = "best.yaml"


class Trial(NamedTuple):
    """What a trial sets, and its row, if it is there."""

    settings: dict
    row: dict | None


def tune(bench: Bench, methods: list[str]) -> None:
    """Runs the trials that are not there yet: of the first code, then, with the best of them, of the second.

    Raises:
        ValueError: the family takes over the choices of another.
    """
    check_own_choices(bench)
    for method in methods:
        for key in first_keys(bench, method):
            bench.row(key, first_for_choices)
        for key in second_keys(bench, method):
            bench.row(key, second_for_choices)


def first_for_choices(found: Found, corpus: Corpus) -> dict:
    """AMI and perplexity of the first code. What is reported later is not looked at."""
    ami = category_ami(found.codes[:, 0], corpus.categories, documents=corpus.for_choices)
    return {"ami_for_choices": ami, "perplexity": code_perplexity(found.codes[:, 0])}


def second_for_choices(found: Found, corpus: Corpus) -> dict:
    """The same of the second code within the first."""
    first, second = found.codes[:, 0], found.codes[:, 1]
    ami = agreement_within(first, second, corpus.categories, documents=corpus.for_choices).ami
    return {"ami_for_choices": ami, "perplexity": code_perplexity(second)}


def first_keys(bench: Bench, method: str) -> list[dict]:
    """The keys of a method's trials of the first code, in the order of its grid."""
    return _keys(bench, "tune", method, combinations(bench.plan.methods[method].grid), 1)


def second_keys(bench: Bench, method: str) -> list[dict]:
    """The keys of its trials of the second code; none before those of the first are done, or without a grid."""
    grid = bench.plan.methods[method].second
    first = first_trials(bench, method)
    if not grid or not all(trial.row for trial in first) or best_trial(bench, first) is None:
        return []
    settings = [best_trial(bench, first).settings | trial for trial in combinations(grid)]
    return _keys(bench, "tune second", method, settings, 2)


def _keys(bench: Bench, kind: str, method: str, trials: list[dict], positions: int) -> list[dict]:
    plan = bench.plan
    sizes = [plan.tuning_size] * max(positions, plan.methods[method].positions)
    return [bench.key(kind, plan.chosen_on, method, trial, sizes, plan.tuning_seed) for trial in trials]


def first_trials(bench: Bench, method: str) -> list[Trial]:
    """Trials of the first code."""
    rows = map(bench.results.find, first_keys(bench, method))
    return [Trial(*pair) for pair in zip(combinations(bench.plan.methods[method].grid), rows, strict=True)]


def second_trials(bench: Bench, method: str) -> list[Trial]:
    """Trials of the second code, as far as it is known which they are."""
    keys = second_keys(bench, method)
    trials = combinations(bench.plan.methods[method].second) if keys else []
    return [Trial(settings, bench.results.find(key)) for settings, key in zip(trials, keys, strict=True)]


def best_trial(bench: Bench, trials: list[Trial], fall_back: Callable = lambda done: []) -> Trial | None:
    """The one of the highest AMI among those of enough perplexity; what `fall_back` leaves, where none has it."""
    done = [trial for trial in trials if trial.row]
    least = bench.plan.least_share * bench.plan.tuning_size
    enough = [trial for trial in done if trial.row["perplexity"] >= least]
    return max(enough or fall_back(done), key=lambda trial: trial.row["ami_for_choices"], default=None)


def choose(bench: Bench) -> None:
    """Writes the best trials of every method that has some into `best.yaml`, and prints them.

    A method without a grid needs none.

    Raises:
        ValueError: the family takes over the choices of another.
    """
    check_own_choices(bench)
    chosen = read_best(bench)
    for name, method in bench.plan.methods.items():
        first, second = first_trials(bench, name), second_trials(bench, name)
        done = sum(trial.row is not None for trial in first + second)
        best = best_trial(bench, first)
        if not method.grid:
            chosen[name] = {}
        elif best is None:
            print(f"{name}: {done} trials, none of enough perplexity: nothing is chosen")
        else:
            # Rivals leave over what has no shape: their second codes seldom reach the perplexity asked for.
            later = best_trial(bench, second, fall_back=list)
            chosen[name] = best.settings | (later.settings if later else {})
            print(f"{name}: {done} trials, AMI {best.row['ami_for_choices']:.4f}: {chosen[name]}")
    path = bench.results.folder / BEST_NAME
    everything = yaml.safe_load(path.read_text()) if path.exists() else {}
    with atomic_path(path) as temporary:
        temporary.write_text(yaml.safe_dump(everything | {bench.family: chosen}, sort_keys=False))


def check_own_choices(bench: Bench) -> None:
    """Refuses trials where they would have no effect."""
    if bench.entry.chosen_in:
        raise ValueError(
            f"{bench.family} takes over the choices of {bench.entry.chosen_in}: run tune and choose there"
        )


def read_best(bench: Bench) -> dict[str, dict]:
    """What was chosen for the methods of the family, or of the one that it takes its choices from."""
    path = bench.results.folder / BEST_NAME
    everything = yaml.safe_load(path.read_text()) if path.exists() else {}
    return everything.get(bench.entry.chosen_in or bench.family, {})


def best_of(bench: Bench, method: str) -> dict:
    """The chosen settings of a method.

    Raises:
        ValueError: there are none.
    """
    best = read_best(bench)
    if method not in best and bench.plan.methods[method].grid:
        raise ValueError(f"no settings of {method} are chosen for {bench.family}: run tune and choose first")
    return best.get(method, {})

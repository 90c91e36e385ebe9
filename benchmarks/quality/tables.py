"""The rows of `id_quality.py` as tables: the comparison, what it must reach, matched rivals, chosen settings."""

import math
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version

from quality.bench import Bench
from quality.matching import target
from quality.methods import CPU
from quality.tuning import best_trial, first_trials, read_best, second_trials
from trainers.report import format_table

PACKAGES = ("torch", "transformers", "scikit-learn", "faiss-cpu", "vector-quantize-pytorch")


@dataclass
class Group:
    """The rows of one table: of every method, one per seed.

    Attributes:
        name: of the data set.
        sizes: of the codebooks.
        rows: by method, the one that learns first, then by AMI.
    """

    name: str
    sizes: list[int]
    rows: dict[str, list[dict]]

    @property
    def title(self) -> str:
        """The set and the sizes."""
        return f"{self.name}, {' x '.join(map(str, self.sizes))} codes"

    def mean(self, method: str, figure: str | Callable[[dict], float]) -> float:
        """Of a figure over the seeds; nan where there is none."""
        return statistics.fmean(values) if (values := self.values(method, figure)) else math.nan

    def spread(self, method: str, figure: str = "ami_1") -> float:
        """Largest less smallest value over the seeds; nan for one seed."""
        values = self.values(method, figure)
        return max(values) - min(values) if len(values) > 1 else math.nan

    def values(self, method: str, figure: str | Callable[[dict], float]) -> list[float]:
        """Of a figure, one per seed."""
        read = figure if callable(figure) else lambda row: row.get(figure)
        return [value for row in self.rows[method] if (value := read(row)) is not None]


def groups(bench: Bench) -> Iterator[Group]:
    """The rows of the comparison that have the chosen settings, per set and sizes."""
    plan, best = bench.plan, read_best(bench)
    for name in plan.sets:
        for sizes in plan.sizes:
            rows = {
                method: bench.results.rows(
                    kind="compare", family=bench.family, set=name, method=method, sizes=sizes,
                    settings=bench.settings(method, trial, len(sizes)),
                )
                for method, trial in best.items()
                if method in plan.methods
            }  # fmt: skip
            group = Group(name, sizes, {method: found for method, found in rows.items() if found})
            order = sorted(group.rows, key=lambda method: (method != plan.learner, -group.mean(method, "ami_1")))
            group.rows = {method: group.rows[method] for method in order}
            if group.rows:
                yield group


def print_tables(benches: list[Bench]) -> None:
    """All tables of all families, and what they were made with."""
    print(f"\nall families: {benches[0].plan.learner} and its best rival\n\n{summary_table(benches)}")
    for bench in [bench for bench in benches if read_best(bench)]:
        found = list(groups(bench))
        for group in found:
            print(f"\n{bench.family}: {group.title}\n\n{comparison_table(bench, group)}")
            for line in elsewhere(group):
                print(f"\n{line}")
        if any(bench.plan.learner in group.rows for group in found):
            print(f"\n{bench.family}: what must be reached\n\n{goals_table(bench, found)}")
        for name in bench.plan.sets:
            if table := matched_table(bench, [group for group in found if group.name == name]):
                print(f"\n{bench.family}: {name}, rivals at their best size and at equal perplexity\n\n{table}")
        if not bench.entry.chosen_in:
            print(f"\n{bench.family}: chosen settings\n\n{settings_table(bench)}")
    print(f"\n{NOTES}\n")
    versions = ", ".join(f"{package} {version(package)}" for package in PACKAGES)
    print(f"{platform.machine()}, {os.cpu_count()} cores, {time.strftime('%Y-%m-%d')}, {versions}")


def summary_table(benches: list[Bench]) -> str:
    """One row per family, set and sizes: what is learned beside the rival of the highest AMI."""
    rows = []
    for bench in benches:
        learner = bench.plan.learner
        for group in groups(bench):
            rival = best_rival(bench, group, "ami_1")
            if rival is None or learner not in group.rows:
                continue
            ours, theirs = group.mean(learner, "ami_1"), group.mean(rival, "ami_1")
            rows.append(
                [
                    bench.family, group.title, len(group.rows[learner]), ours, group.spread(learner),
                    shares(group, learner), rival, theirs, group.spread(rival), ours / theirs,
                ]
            )  # fmt: skip
    header = ["family", "", "seeds", "AMI", "spread", "perplexity / K", "best rival", "its AMI", "its spread", "ratio"]
    return format_table(header, rows)


NOTES = """AMI: of the first code with whole category paths, of documents that no choice has seen. Spread: the
largest less the smallest value of the seeds. Perplexity / K: of every position. Agreement: the share of the ten
nearest neighbours by TF-IDF that have the same first code, less chance; no independent judge of methods that read
TF-IDF. Over 5: documents in groups of more than five after the learned codes. Moved: documents with another ID after
the reassignment; left: documents that still share theirs. Minutes are of a CPU, without the embeddings, and without
the states of a frozen encoder, which are kept."""


def shares(group: Group, method: str) -> str:
    """Mean perplexity of every position as a share of its codebook, as text."""
    positions = range(1, len(group.sizes) + 1)
    return " ".join(f"{group.mean(method, f'perplexity_share_{t}'):.2f}" for t in positions)


def least_share(row: dict) -> float:
    """The least of them in a row."""
    return min(row[f"perplexity_share_{t + 1}"] for t in range(len(row["sizes"])))


def agreement(row: dict) -> float:
    """With the nearest neighbours, over chance."""
    return row["neighbours_1"] - row["neighbours_chance_1"]


def cpu_minutes(row: dict) -> float | None:
    """Minutes of a row that was measured without a GPU."""
    return row["minutes"] if row.get("device", CPU) == CPU else None


def elsewhere(group: Group) -> Iterator[str]:
    """Which rows a GPU did."""
    for method, rows in group.rows.items():
        seeds: dict[str, list[str]] = {}
        for row in sorted(rows, key=lambda row: row["seed"]):
            seeds.setdefault(row.get("device", CPU), []).append(str(row["seed"]))
        yield from (f"{method}, seed {', '.join(own)}: on {name}." for name, own in seeds.items() if name != CPU)


def comparison_table(bench: Bench, group: Group) -> str:
    """One row per method."""
    learner, rows = bench.plan.learner, []
    for method in group.rows:
        ami = group.mean(method, "ami_1")
        compared = learner in group.rows and method != learner
        rows.append(
            [
                label(bench, method), len(group.rows[method]), ami, group.spread(method),
                ratio(group.mean(learner, "ami_1"), ami) if compared else None, shares(group, method),
                group.mean(method, agreement), group.mean(method, cpu_minutes),
                *(whole_ids(group, method) if len(group.sizes) > 1 else []),
            ]
        )  # fmt: skip
    header = ["method", "seeds", "AMI", "spread", f"{learner} / it", "perplexity / K", "agreement", "minutes"]
    if len(group.sizes) > 1:  # of one code, nobody expects that it tells documents apart
        header += ["AMI of c2 in c1", "over 5", "largest", "moved", "left"]
    return format_table(header, rows)


def label(bench: Bench, method: str) -> str:
    """Its name, and whether it is a control."""
    return f"{method} (control)" if bench.plan.methods[method].control else method


def whole_ids(group: Group, method: str) -> list:
    """What of a method's row is about IDs of several codes."""
    return [
        group.mean(method, "ami_within_2"), percent(group, method, "crowded"), f"{group.mean(method, 'largest'):.0f}",
        percent(group, method, "moved"), f"{group.mean(method, 'left_colliding'):.0f}",
    ]  # fmt: skip


def ratio(ours: float, theirs: float | None) -> float | None:
    """Of two AMIs; None where there is nothing to compare with, or nothing but chance."""
    return ours / theirs if theirs is not None and theirs > 0.01 else None


def percent(group: Group, method: str, figure: str | Callable[[dict], float]) -> str:
    """A mean share as text."""
    return f"{group.mean(method, figure):.1%}"


def best_rival(bench: Bench, group: Group, figure: str) -> str | None:
    """The rival of the highest mean, controls left out."""
    rivals = [name for name in bench.plan.rivals if name in group.rows and group.values(name, figure)]
    rivals = [name for name in rivals if not bench.plan.methods[name].control]
    return max(rivals, key=lambda method: group.mean(method, figure), default=None)


def goals_table(bench: Bench, found: list[Group]) -> str:
    """One row per goal, set and sizes."""
    learner, rows = bench.plan.learner, []
    for group in found:
        if learner in group.rows:
            rows += [[group.title, *goal] for goal in [*rival_goals(bench, group), *own_goals(learner, group)]]
    minutes = sum(group.mean(method, cpu_minutes) for group in found for method in group.rows)
    if not math.isnan(minutes):
        rows.append(["all sets and sizes", "minutes of one seed", "<= 60", minutes, None, verdict(minutes <= 60)])
    return format_table(["", "goal", "must", "is", "beside", "reached"], rows)


def rival_goals(bench: Bench, group: Group) -> Iterator[list]:
    """Goals that are relative to the best rival: name, bound, value, rival, whether it is reached."""
    learner = bench.plan.learner
    if rival := best_rival(bench, group, "ami_1"):
        ours, theirs = group.mean(learner, "ami_1"), group.mean(rival, "ami_1")
        margin, spread = ours - theirs, max(group.spread(learner), group.spread(rival))
        bound = "> spread" if math.isnan(spread) else f"> {spread:.3f}"
        yield ["AMI above the best rival's, by", bound, margin, rival, verdict(margin > spread, spread)]
        yield ["AMI over the best rival's", ">= 1.15", ours / theirs, rival, verdict(ours / theirs >= 1.15)]
    if rival := best_rival(bench, group, "ami_within_2"):
        ours, theirs = group.mean(learner, "ami_within_2"), group.mean(rival, "ami_within_2")
        yield ["AMI of c2 in c1", f"> {theirs:.3f}", ours, rival, verdict(ours > theirs)]


def own_goals(learner: str, group: Group) -> Iterator[list]:
    """Goals that are about the learned IDs alone."""
    share = min(group.values(learner, least_share))
    yield ["perplexity of every code, share of its codebook", ">= 0.6", share, None, verdict(share >= 0.6)]
    if len(group.sizes) > 1:
        crowded = max(group.values(learner, "crowded"))
        yield ["documents in groups over 5", "< 0.02", crowded, None, verdict(crowded < 0.02)]
    if left := group.values(learner, "left_colliding"):
        yield ["documents left colliding", "0", max(left), None, verdict(max(left) == 0)]


def verdict(reached: bool, known: float = 0.0) -> str | None:
    """`yes` or `NO`; None where the bound is not known."""
    return None if math.isnan(known) else "yes" if reached else "NO"


def matched_table(bench: Bench, found: list[Group]) -> str | None:
    """One row per rival: its best size, and for all learned sizes what it reaches at their perplexity."""
    learner, rows = bench.plan.learner, []
    # The first code of several is that of one: the one with fewer codes after it stands for both.
    by_first = {group.sizes[0]: group for group in sorted(found, key=lambda group: -len(group.sizes))}
    ours = {tuple(g.sizes): g.mean(learner, "ami_1") for g in by_first.values() if learner in g.rows}
    header = ["rival", "best K", "AMI", "spread"]
    for sizes in ours:
        header += [f"{learner} {sizes[0]} / it", f"K as {sizes[0]}", "perplexity", "AMI", f"{learner} / it"]
    for method in bench.plan.rivals:
        sweep = sweep_rows(bench, found[0].name, method) if ours else []
        if not sweep:
            continue
        size = chosen_size(bench, method)
        at_best = [row["ami_1"] for row in sweep if row["sizes"][0] == size]
        best = statistics.fmean(at_best) if at_best else None
        row = [method, size, best, max(at_best) - min(at_best) if len(at_best) > 1 else None]
        for sizes, ami in ours.items():
            row += [ratio(ami, best), *at_perplexity(bench, found[0].name, list(sizes), sweep, ami)]
        rows.append(row)
    return format_table(header, rows) if rows else None


def sweep_rows(bench: Bench, name: str, method: str) -> list[dict]:
    """First codes of a rival with its chosen settings, of all sizes and seeds."""
    trial = read_best(bench).get(method)
    if trial is None:
        return []
    entry = bench.plan.methods[method]
    settings = bench.settings(method, trial, entry.positions)
    return bench.results.rows(kind="sweep", family=bench.family, set=name, method=method, settings=settings)


def chosen_size(bench: Bench, method: str) -> int | None:
    """The size of the highest AMI on the documents that choices may look at."""
    plan = bench.plan
    rows = [
        row
        for row in sweep_rows(bench, plan.chosen_on, method)
        if row["seed"] == plan.tuning_seed and row["sizes"][0] in plan.matched_sizes
    ]
    return max(rows, key=lambda row: row["ami_for_choices"], default={"sizes": [None]})["sizes"][0]


def at_perplexity(bench: Bench, name: str, sizes: list[int], sweep: list[dict], ami: float) -> list:
    """Mean size, perplexity and AMI of a rival at the perplexity of what is learned with the same seed, and the ratio;
    nothing where a seed has none within the tolerance."""
    found = []
    for seed in sorted({row["seed"] for row in sweep}):
        perplexity = target(bench, name, seed, sizes)
        near = [row for row in sweep if row["seed"] == seed and perplexity]
        row = min(near, key=lambda row: abs(math.log(row["perplexity_1"] / perplexity)), default=None)
        if row and abs(row["perplexity_1"] / perplexity - 1) <= bench.plan.tolerance:
            found.append(row)
    if not found:
        return [None] * 4
    size, perplexity, theirs = (
        statistics.fmean(values)
        for values in zip(*((row["sizes"][0], row["perplexity_1"], row["ami_1"]) for row in found), strict=True)
    )
    return [round(size), perplexity, theirs, ratio(ami, theirs)]


def settings_table(bench: Bench) -> str:
    """One row per method with chosen settings."""
    rows = []
    for method, chosen in read_best(bench).items():
        if method in bench.plan.methods:
            first, second = first_trials(bench, method), second_trials(bench, method)
            best, later = best_trial(bench, first), best_trial(bench, second, fall_back=list)
            rows.append(
                [
                    method, sum(trial.row is not None for trial in first + second),
                    best and best.row["ami_for_choices"], best and best.row["perplexity"],
                    later and later.row["ami_for_choices"],
                    ", ".join(f"{name} {value}" for name, value in chosen.items()) or None,
                ]
            )  # fmt: skip
    return format_table(["method", "trials", "AMI where chosen", "perplexity", "of c2 in c1", "settings"], rows)

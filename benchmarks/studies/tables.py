"""The studies' tables, and whether the effects that they show have the direction that the paper gives them."""

from collections import defaultdict
from dataclasses import dataclass
from statistics import fmean

from quality.methods import CPU
from quality.rows import Results

from trainers.report import format_table

from .plan import Claim, Plan, Study


@dataclass
class Found:
    """The rows of a plan's runs on one data set: by family and run, in the order of the seeds."""

    rows: dict[tuple[str, str], list[dict]]

    @classmethod
    def read(cls, plan: Plan, corpus: str, studies: list[str], families: list[str], results: Results) -> "Found":
        """What there is of some studies; all seeds that were run, under the settings of the plan."""
        rows = defaultdict(list)
        seeds = sorted({row["seed"] for row in results.rows(kind="study", set=corpus)})
        for run in plan.runs_of(corpus, studies, families, seeds):
            row = results.find(run.key)
            if row is not None:
                rows[run.family, run.name].append(row)
        return cls(dict(rows))

    def values(self, family: str, run: str, figure: str) -> list[float]:
        """A figure of a run, one value per seed, without those that are missing."""
        figures = [row["figures"].get(figure) for row in self.rows.get((family, run), [])]
        return [value for value in figures if value is not None]

    def mean(self, family: str, run: str, figure: str) -> float | None:
        """The figure in the mean over the seeds."""
        values = self.values(family, run, figure)
        return values[0] if len(values) == 1 else fmean(values) if values else None

    def all_rows(self) -> list[dict]:
        """Every row once."""
        return [row for rows in self.rows.values() for row in rows]


def verdict(claim: Claim, found: Found, family: str, margin: float) -> str:
    """Whether a claim holds: `yes` or `no` if all seeds say so by more than `margin` of the larger side, else `too
    small`; `not run` where a side is missing, or has other seeds."""
    left = found.values(family, claim.of, claim.figure)
    if isinstance(claim.above, str):
        right = found.values(family, claim.above, claim.figure)
    else:
        right = [float(claim.above)] * len(left)
    if not left or len(left) != len(right):
        return "not run"
    sides = list(zip(left, right, strict=True))
    signs = [(a - b > margin * max(abs(a), abs(b))) - (b - a > margin * max(abs(a), abs(b))) for a, b in sides]
    return "yes" if min(signs) > 0 else "no" if max(signs) < 0 else "too small"


def study_table(study: Study, found: Found, families: list[str]) -> str:
    """One row per family and run: its figures in the mean over seeds, and the minutes of all seeds."""
    lines = []
    for family in families:
        for run in study.runs:
            own = found.rows.get((family, run), [])
            if own:
                means = [found.mean(family, run, column) for column in study.columns]
                minutes = [total(own, column) for column in ("minutes", "cpu_minutes")]
                lines.append([family, run, len(own), *means, *minutes])
    return format_table(["settings", "run", "seeds", *study.columns, "minutes", "processor minutes"], lines)


def claims_table(plan: Plan, study: Study, found: Found, families: list[str]) -> str:
    """One row per claim and family that has its runs: both sides, and whether the effect has the paper's direction."""
    lines = []
    for claim in study.claims:
        runs = [run for run in (claim.of, claim.above) if isinstance(run, str)]
        for family in [family for family in families if all(plan.has(family, run) for run in runs)]:
            left = found.mean(family, claim.of, claim.figure)
            right = claim.above
            if isinstance(claim.above, str):
                right = found.mean(family, claim.above, claim.figure)
            lines.append([str(claim), family, left, right, verdict(claim, found, family, plan.margin)])
    return format_table(["the paper's direction", "settings", "first", "second", "found"], lines)


def total(rows: list[dict], column: str) -> float:
    """Sum over rows."""
    return float(sum(row[column] for row in rows))


def print_tables(plan: Plan, found: Found, studies: list[str], families: list[str]) -> None:
    """All tables of some studies, and what their runs have in common."""
    for name in studies:
        study = plan.studies[name]
        print(f"\n{study.title}\n\n{study_table(study, found, families)}")
        print(f"\n{claims_table(plan, study, found, families)}")
    rows = found.all_rows()
    done_on = {row.get("device", CPU) for row in rows}
    for row in rows[:1]:
        frozen = "frozen, its states computed once" if row["settings"].get("freeze_encoder") else "trained too"
        print(
            f"\n{row['set']}: {row['documents']:,} documents; encoder {row['encoder']}, {frozen}. {len(rows)} runs in "
            f"{total(rows, 'minutes'):.0f} minutes, {total(rows, 'cpu_minutes'):.0f} of a processor; a run that goes "
            f"on from another counts its own stages only. Done on {', '.join(sorted(done_on))}."
        )
    print(
        f"found: yes or no if all seeds say so by more than {plan.margin:.0%} of the larger value. reconstruction_f1 "
        "is of bags of words or of tokens at their places: compare it within the same settings."
    )

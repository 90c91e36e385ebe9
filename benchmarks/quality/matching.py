"""Rivals at other sizes of the first codebook: each at its best, and at the perplexity of the learned codes."""

import math

from quality.bench import Bench, first_code
from quality.tuning import best_of

_STEPS = 8


def match(bench: Bench, name: str, seed: int, methods: list[str]) -> None:
    """Measures what is not there yet: first codes of all sizes where the best one is chosen, of that size on the set,
    and of sizes that lead to the perplexities of the rows that are learned."""
    plan = bench.plan
    targets = {perplexity for sizes in plan.sizes if (perplexity := target(bench, name, seed, sizes)) is not None}
    if len(targets) < len(plan.sizes):
        print(f"{plan.learner} on {name}, seed {seed}: some sizes are missing, run compare first to match them")
    for method in [method for method in methods if method in plan.rivals]:
        measure(bench, name, method, best_size(bench, method), seed)
        for perplexity in sorted(targets):
            size_of_perplexity(bench, name, method, seed, perplexity)


def sweep_key(bench: Bench, name: str, method: str, size: int, seed: int) -> dict:
    """The key of a rival's first code of some size."""
    sizes = [size] * bench.plan.methods[method].positions
    return bench.key("sweep", name, method, best_of(bench, method), sizes, seed)


def measure(bench: Bench, name: str, method: str, size: int, seed: int, wait: bool = True) -> dict | None:
    """Its row."""
    return bench.row(sweep_key(bench, name, method, size, seed), first_code, wait)


def target(bench: Bench, name: str, seed: int, sizes: list[int]) -> float | None:
    """Perplexity of the first code that is learned at some sizes, if it is there."""
    learner = bench.plan.learner
    row = bench.results.find(bench.key("compare", name, learner, best_of(bench, learner), sizes, seed))
    return row and row["perplexity_1"]


def best_size(bench: Bench, method: str) -> int:
    """The size of the highest AMI on the documents that choices may look at, measured where that is not done yet."""
    plan = bench.plan
    place = plan.chosen_on, method
    for wait in (False, True):  # what another process is at comes last
        rows = [measure(bench, *place, size, plan.tuning_seed, wait) for size in plan.matched_sizes]
    return max(zip(rows, plan.matched_sizes, strict=True), key=lambda pair: pair[0]["ami_for_choices"])[1]


def size_of_perplexity(bench: Bench, name: str, method: str, seed: int, perplexity: float) -> int:
    """The size, of those tried, whose codes come nearest to a perplexity: the first one within the tolerance."""
    largest = len(bench.corpus(name).texts) // 2
    tried: dict[int, float] = {}
    size = min(round(perplexity), largest)
    while size not in tried and len(tried) < _STEPS:
        tried[size] = measure(bench, name, method, size, seed)["perplexity_1"]
        if abs(tried[size] / perplexity - 1) <= bench.plan.tolerance:
            return size
        size = min(max(next_size(tried, perplexity), 2), largest)
    return min(tried, key=lambda size: abs(math.log(tried[size] / perplexity)))


def next_size(tried: dict[int, float], perplexity: float) -> int:
    """The size to try after some sizes and their perplexities.

    Between a size that is too small and one that is too large it is interpolated, else in proportion.

    ```python
    >>> next_size({80: 60.0}, 90), next_size({80: 60.0, 120: 100.0}, 80)
    (120, 101)

    ```
    """
    small = max((size for size, found in tried.items() if found < perplexity), default=None)
    large = min((size for size, found in tried.items() if found > perplexity), default=None)
    if small is None or large is None or small >= large:
        nearest = min(tried, key=lambda size: abs(math.log(tried[size] / perplexity)))
        return round(nearest * perplexity / tried[nearest])
    share = math.log(perplexity / tried[small]) / math.log(tried[large] / tried[small])
    return round(small * (large / small) ** share)

"""Figures of a model folder as the evaluation results in a card's metadata, which the Hub shows beside the model."""

import math

from huggingface_hub import EvalResult

DIGITS = 4


def evaluation_results(metrics: dict, dataset: str) -> list[EvalResult]:
    """What `metrics.json` of `run_indexing.py`, `run_two_stage.py` or `run_retrieval.py` says.

    Args:
        metrics: its content; what is unknown, or no number, is left out.
        dataset: what the figures are about: its id on the Hub, or any name.
    """
    if "task" in metrics:
        splits = {name: part["figures"] for name, part in metrics.items() if has(part, "figures")}
        return task_results(metrics["task"], splits, dataset)
    return [*code_results(metrics.get("codes") or {}, dataset), *query_results(metrics.get("queries") or {}, dataset)]


def task_results(task: str, figures: dict[str, dict[str, float]], dataset: str) -> list[EvalResult]:
    """Figures by measure, by split of the queries, of a model that was taught a task."""
    return [
        result("text-retrieval", task, dataset, measure, measure, value, split)
        for split, measures in figures.items()
        for measure, value in measures.items()
        if is_number(value)
    ]


def code_results(codes: dict[str, dict], dataset: str) -> list[EvalResult]:
    """What the first of the codes are worth: the learned ones', or those of the last method that `codes` describes."""
    if not codes:
        return []
    first = codes.get("lmindexer", list(codes.values())[-1])["positions"][0]
    names = {"ami": "AMI of the first code and the categories", "perplexity": "perplexity of the first code"}
    return [
        result("clustering", "semantic IDs", dataset, measure, name, first[measure])
        for measure, name in names.items()
        if is_number(first.get(measure))
    ]


def query_results(queries: dict, dataset: str) -> list[EvalResult]:
    """How many queries find their document."""
    value = queries.get("recall_at_10")
    if not is_number(value):
        return []
    name = f"recall@10 of {queries['queries']} queries"
    return [result("text-retrieval", "known-document search", dataset, "recall@10", name, value)]


def result(task_type, task_name, dataset, measure, name, value, split=None) -> EvalResult:
    """One figure."""
    return EvalResult(
        task_type=task_type, task_name=task_name, dataset_type=dataset, dataset_name=dataset, dataset_split=split,
        metric_type=measure, metric_name=name if name != measure else None, metric_value=round(value, DIGITS),
    )  # fmt: skip


def has(part, name: str) -> bool:
    """Whether a part of the metrics has a part of that name."""
    return isinstance(part, dict) and isinstance(part.get(name), dict)


def is_number(value) -> bool:
    """Whether there is something to show: JSON has `None` for what could not be computed."""
    return isinstance(value, int | float) and math.isfinite(value)

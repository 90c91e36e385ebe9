"""Figures of a stage: what its codes and its reconstructor are worth (method: definitions in metrics/)."""

from collections.abc import Iterable

import numpy as np
import torch

from metrics.semantic_id_quality import category_ami, code_perplexity, difference_ratios, macro_f1, multilabel_macro_f1
from modeling_lmindexer.outputs import ReconstructionOutput


def code_figures(prefix: np.ndarray, codes: np.ndarray, categories: list | None) -> dict[str, float]:
    """Figures of the codes of one position.

    Args:
        prefix: codes before it `(N, t - 1)`.
        codes: `(N,)`.
        categories: one list of labels per document, general to specific, or `None`.
    """
    ratios = difference_ratios(prefix, codes)
    figures = {
        "perplexity": code_perplexity(codes),
        "difference_ratio_pairs": ratios.pairs,
        "difference_ratio_groups": ratios.groups,
        "distinct_prefixes": len(np.unique(np.column_stack([prefix, codes]), axis=0)),
    }
    if categories is not None:
        figures["ami"] = category_ami(codes, categories)
        if prefix.shape[1]:
            figures["ami_prefix"] = category_ami(np.column_stack([prefix, codes]), categories)
    return figures


def reconstruction_f1(outputs: Iterable[ReconstructionOutput]) -> float:
    """Macro-F1 of the reconstructor over predictions with fixed hints, taken one batch at a time.

    Of a bag, as many words are predicted as the document hides.
    """
    predicted, actual, figure = [], [], macro_f1
    for output in outputs:
        if output.targets.is_floating_point():
            figure, hidden = multilabel_macro_f1, output.targets > 0
            ranks = output.logits.argsort(-1, descending=True).argsort(-1)
            predicted.append((ranks < hidden.sum(-1, keepdim=True)).cpu())
            actual.append(hidden.cpu())
        else:
            predicted.append(output.logits.argmax(-1).cpu())
            actual.append(output.targets.cpu())
    return figure(torch.cat(predicted).numpy(), torch.cat(actual).numpy()) if predicted else float("nan")


def prediction_figures(predicted: np.ndarray, codes: np.ndarray) -> dict[str, float]:
    """Whether earlier codes are remembered (Table 15): the model's own prediction of them against the stored ones.

    Args:
        predicted, codes: `(N, positions)`.
    """
    return {
        f"position_{j + 1}_{name}": value
        for j in range(codes.shape[1])
        for name, value in (
            ("kept", float((predicted[:, j] == codes[:, j]).mean())),
            ("predicted_perplexity", code_perplexity(predicted[:, j])),
        )
    }


def loss_curve(log_history: list[dict]) -> list[list[float]]:
    """Training loss of a stage as `[share of the stage, loss]` points."""
    entries = [entry for entry in log_history if "loss" in entry]
    steps = max((entry["step"] for entry in entries), default=1)
    return [[entry["step"] / steps, entry["loss"]] for entry in entries]

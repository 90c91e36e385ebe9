"""Figures of a stage: what its codes and its reconstructor are worth (method: definitions in metrics/)."""

import numpy as np
import torch

from metrics.semantic_id_quality import category_ami, code_perplexity, difference_ratios, macro_f1, multilabel_macro_f1


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


def reconstruction_f1(outputs: list) -> float:
    """Macro-F1 of the reconstructor over [`ReconstructionOutput`]s with fixed hints.

    Of a bag, as many words are predicted as the document hides.
    """
    if not outputs:
        return float("nan")
    if not outputs[0].targets.is_floating_point():
        predicted = torch.cat([output.logits.argmax(-1) for output in outputs])
        return macro_f1(predicted.cpu().numpy(), torch.cat([output.targets for output in outputs]).cpu().numpy())
    actual = torch.cat([output.targets for output in outputs]) > 0
    ranks = torch.cat([output.logits for output in outputs]).argsort(-1, descending=True).argsort(-1)
    return multilabel_macro_f1((ranks < actual.sum(-1, keepdim=True)).cpu().numpy(), actual.cpu().numpy())


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

"""Cross-entropy of predictions over many words, without the scores of all of them in memory at once."""

import importlib.metadata
from collections.abc import Callable
from functools import cache

import torch
from packaging.version import Version
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

# Predictions x words whose scores are kept for the backward pass, 128 MB in float32; beyond, they are computed twice.
SCORES_AT_ONCE = 2**25
# Of a GPU, whose products are slow where they are small: 1 GB.
SCORES_AT_ONCE_ON_CUDA = 2**28
# Tensor cores take rows of 16 bytes; products of other widths run at a third of the rate.
_MULTIPLE = 8


def word_losses(hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """`-sum_w targets(w) log softmax(hidden W^T + b)(w)` of every prediction: `(predictions,)`, float32 at least.

    Many predictions are taken chunk by chunk, and each chunk's scores once more in the backward pass. On CUDA,
    liger-kernel (0.8.2 or later) does this in one kernel where it is installed and each prediction has one word.

    Args:
        hidden: `(predictions, hidden)`.
        weight: `W`, `(words, hidden)`.
        bias: `b`, `(words,)`.
        targets: words `(predictions,)`, or distributions over them `(predictions, words)`.
    """
    if hidden.is_cuda:
        weight, bias, targets = fill_up(weight, bias, targets)
    size = max(1, (SCORES_AT_ONCE_ON_CUDA if hidden.is_cuda else SCORES_AT_ONCE) // len(weight))
    if len(hidden) <= size:
        return _losses(hidden, weight, bias, targets)
    fused = liger_losses() if hidden.is_cuda else None
    if fused and hidden.dtype != torch.float64 and not targets.is_floating_point():
        return fused(weight, hidden, targets, bias)
    chunks = zip(hidden.split(size), targets.split(size), strict=True)
    return torch.cat([
        checkpoint(_losses, part, weight, bias, wanted, use_reentrant=False, preserve_rng_state=False)
        for part, wanted in chunks
    ])  # fmt: skip


def fill_up(
    weight: torch.Tensor, bias: torch.Tensor, targets: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Words that nothing predicts, so that there are a multiple of eight; arguments as for [`word_losses`]."""
    more = -len(weight) % _MULTIPLE
    if more and targets.is_floating_point():
        targets = F.pad(targets, (0, more))
    # Finite: a target of 0 times minus infinity would be no number.
    return F.pad(weight, (0, 0, 0, more)), F.pad(bias, (0, more), value=torch.finfo(bias.dtype).min / 2), targets


@cache
def liger_losses() -> Callable | None:
    """liger-kernel's loss of `(weight, hidden, targets, bias)` per prediction (Hsu et al., 2024, arXiv 2410.10989), or
    `None` where it is not installed, or so old that gradients of single predictions are wrong."""
    try:
        if Version(importlib.metadata.version("liger-kernel")) < Version("0.8.2"):
            return None
        from liger_kernel.transformers import LigerFusedLinearCrossEntropyLoss
    except ImportError:  # also PackageNotFoundError
        return None
    return LigerFusedLinearCrossEntropyLoss(reduction="none")


def _losses(hidden, weight, bias, targets) -> torch.Tensor:
    return losses_of_scores(hidden @ weight.T + bias, targets)


def losses_of_scores(scores: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """The same from scores `(predictions, words)`."""
    # Half precision cannot add up many exponentials.
    scores = scores if scores.dtype == torch.float64 else scores.float()
    if targets.is_floating_point():
        return -(targets * scores.log_softmax(-1)).sum(-1)
    return F.cross_entropy(scores, targets, reduction="none")

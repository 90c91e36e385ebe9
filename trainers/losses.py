"""The three losses of a position (Eq. 8, 9 and 10) and two additions, one value per document: `(batch,)`.

The trainer sums them over the documents of the global batch and divides by their number, so that no loss depends on
how a batch is split over processes and accumulation steps.
"""

import torch
from torch.nn import functional as F

from modeling_lmindexer.outputs import ReconstructionOutput


def reconstruction_loss(output: ReconstructionOutput, num_documents: int, reduction: str = "mean") -> torch.Tensor:
    """`-sum_{w hidden} log P(w | codes, hints)` (Eq. 8).

    Args:
        output: predictions for the hidden tokens of a batch.
        num_documents: documents in the batch.
        reduction: `mean` over a document's hidden tokens by their weights, or `sum` (the paper).

    Returns:
        `(documents,)`; 0 for a document without hidden tokens.
    """
    terms = output.losses
    weights = output.weights.to(terms.dtype)
    total = terms.new_zeros(num_documents).index_add(0, output.documents, terms * weights)
    if reduction == "sum":
        return total
    share = terms.new_zeros(num_documents).index_add(0, output.documents, weights)
    return total / share.clamp(min=torch.finfo(share.dtype).tiny)


def contrastive_loss(
    anchors: torch.Tensor,
    views: torch.Tensor,
    candidates: torch.Tensor,
    is_negative: torch.Tensor,
    temperature: float = 1.0,
    normalize: bool = False,
) -> torch.Tensor:
    """Documents that share a prefix are pushed apart (Eq. 9): `-log exp(h.h') / (exp(h.h') + sum exp(h.h_d'))`.

    Args:
        anchors: `h^t` of the batch, `(batch, hidden)`.
        views: the same documents once more, `(batch, hidden)`.
        candidates: views of all documents of the global batch, `(candidates, hidden)`.
        is_negative: `(batch, candidates)`, true where the candidate is another document with the anchor's prefix.
        temperature: divides the products; the paper has none (1).
        normalize: cosines instead of products.

    Returns:
        `(batch,)`; 0, without gradient, for a document without peers.
    """
    if normalize:
        anchors, views, candidates = (F.normalize(x, dim=-1) for x in (anchors, views, candidates))
    positive = (anchors * views).sum(-1, keepdim=True) / temperature
    negatives = (anchors @ candidates.T / temperature).masked_fill(~is_negative, -torch.inf)
    return torch.cat([positive, negatives], dim=1).logsumexp(-1) - positive[:, 0]


def commitment_loss(code_logits: tuple[torch.Tensor, ...], codes: torch.Tensor) -> torch.Tensor:
    """`-sum_{j<t} log P(c^j | d, c^{<j})` (Eq. 10): codes that are assigned are not forgotten.

    Args:
        code_logits: `(batch, codes)` for every position before `t`.
        codes: the assigned codes `(batch, positions before t)`.

    Returns:
        `(batch,)`; 0 at the first position.
    """
    terms = [choice_loss(logits, codes[:, j]) for j, logits in enumerate(code_logits[: codes.shape[1]])]
    return torch.stack(terms).sum(0) if terms else torch.zeros(len(codes), device=codes.device)


def choice_loss(code_logits: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
    """`-log P(c | d)` of the code `(batch,)` that a document stands for, from `(batch, codes)`: `(batch,)`.

    The M-step of an expectation target; not in the paper.
    """
    return F.cross_entropy(as_precise(code_logits), codes, reduction="none")


def anchor_loss(
    hidden: torch.Tensor,
    anchors: torch.Tensor,
    all_hidden: torch.Tensor,
    all_anchors: torch.Tensor,
    is_other: torch.Tensor,
    temperature: float,
) -> torch.Tensor:
    """States are to be as near to each other as the embeddings that the documents started with; not in the paper.

    The divergence `KL(p || q)` of two distributions over the other documents of the global batch: softmax of the
    cosines of the anchors, and of the states. A pull on similarities leaves the states free to turn.

    Args:
        hidden: `h^t` of the batch, `(batch, hidden)`.
        anchors: `(batch, dimensions)`.
        all_hidden, all_anchors: those of the global batch, `(candidates, ...)`.
        is_other: `(batch, candidates)`, true for other documents.
        temperature: divides the cosines.

    Returns:
        `(batch,)`; 0, without gradient, for a document without any other.
    """

    def log_similarities(rows, others):
        scores = F.normalize(rows, dim=-1) @ F.normalize(others, dim=-1).T / temperature
        return as_precise(scores).masked_fill(~is_other, torch.finfo(scores.dtype).min).log_softmax(-1)

    target, found = log_similarities(anchors, all_anchors), log_similarities(hidden, all_hidden)
    terms = torch.where(is_other, target.exp() * (target - found), 0)
    return terms.sum(-1)


def as_precise(logits: torch.Tensor) -> torch.Tensor:
    """In float32 at least: half precision cannot add up many exponentials."""
    return logits if logits.dtype == torch.float64 else logits.float()

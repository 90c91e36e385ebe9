"""Which code a document stands for while a codebook is learned: the most likely one (Eq. 3), or a better target."""

from dataclasses import dataclass

import torch
import torch.distributed as dist

CODE_CHOICES = ("most_likely", "balanced", "expectation")


@dataclass(frozen=True)
class CodeChoice:
    """How the code is chosen that the reconstructor gets forward; gradients flow as in Eq. 6 in any case.

    Attributes:
        kind: `most_likely` (Eq. 3), `balanced` (codes are used about equally often in a batch, by Sinkhorn's
            iterations as in SwAV, Caron et al., 2020) or `expectation` (the E-step of hard expectation maximisation:
            the code's log-probability plus `likelihood_weight` times the mean log-likelihood of the document's
            words under it).
        likelihood_weight: see above.
        candidates: most likely codes of which `expectation` chooses.
        smoothness: of `balanced`: divides the logits; smaller is nearer to equal use, larger to the most likely codes.
        across_processes: of `balanced`: whether the batches of all processes are one.
    """

    kind: str = "most_likely"
    likelihood_weight: float = 5.0
    candidates: int = 16
    smoothness: float = 1.0
    across_processes: bool = True

    def __post_init__(self):
        if self.kind not in CODE_CHOICES:
            raise ValueError(f"kind is {self.kind!r}; it must be one of {', '.join(CODE_CHOICES)}.")
        if self.candidates < 1 or not self.smoothness > 0 or self.likelihood_weight < 0:
            raise ValueError(
                f"candidates is {self.candidates}, smoothness {self.smoothness}, likelihood_weight "
                f"{self.likelihood_weight}; expected at least 1, above 0, at least 0."
            )


@torch.no_grad()
def balanced_codes(
    logits: torch.Tensor, smoothness: float = 1.0, iterations: int = 10, across_processes: bool = True
) -> torch.Tensor:
    """Codes `(batch,)` that all codes of the global batch share about equally, by Sinkhorn's iterations.

    Args:
        logits: `(batch, codes)`, equally many rows on every process.
        smoothness: divides the logits; the smaller it is, the more iterations it takes to balance the codes.
        iterations: of normalising over documents, then over codes.
        across_processes: the batches of all processes count as one, so that the result does not depend on how
            documents are split among them.
    """
    rows, first = logits.detach().double() / smoothness, 0
    if across_processes and dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        pieces = [torch.empty_like(rows) for _ in range(dist.get_world_size())]
        dist.all_gather(pieces, rows.contiguous())
        rows, first = torch.cat(pieces), dist.get_rank() * len(logits)
    for _ in range(iterations):
        rows = rows - rows.logsumexp(0, keepdim=True)
        rows = rows - rows.logsumexp(1, keepdim=True)
    return rows[first : first + len(logits)].argmax(-1)

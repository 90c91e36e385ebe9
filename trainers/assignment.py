"""Codes of a corpus from its hidden states, as the model gives them, beside those of the clustering."""

import numpy as np
import torch

from modeling_lmindexer.codebooks import Codebook


@torch.no_grad()
def most_likely_codes(codebook: Codebook, hidden: np.ndarray) -> np.ndarray:
    """The code that each state `(N, hidden)` gets: `(N,)`; part by part, for `N x K` scores may not fit."""
    parts = torch.from_numpy(hidden).to(codebook.weight.dtype).split(2**14)
    return torch.cat([codebook.logits(part.to(codebook.weight.device)).argmax(-1).cpu() for part in parts]).numpy()


def check_agreement(labels: np.ndarray, codes: np.ndarray, position: int) -> float:
    """Share of documents whose code by the model is the clustering's label: they use one similarity, so it is 1.

    Raises:
        RuntimeError: below 0.999; a few near ties may round differently.
    """
    agreement = float((labels == codes).mean())
    if agreement < 0.999:
        raise RuntimeError(
            f"Only {agreement:.1%} of the codes at position {position + 1} agree with the clustering that they come "
            "from: initialisation and assignment disagree."
        )
    return agreement

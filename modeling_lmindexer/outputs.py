"""What the model returns."""

from dataclasses import dataclass

import torch
from transformers.cache_utils import Cache
from transformers.utils import ModelOutput


@dataclass
class LMIndexerOutput(ModelOutput):
    """Output of [`LMIndexerForSemanticID`].

    Args:
        loss: Eq. 14, summed over positions and averaged over documents, when `labels` are given.
        logits: `(batch, positions, vocab_size)`, the lowest finite number outside each position's own codes.
        code_logits: one `(batch, codes)` per position, before they are laid out in the flat id space.
        chosen_codes: learning an ID: the code `(batch,)` that each document stands for at the last position.
        decoder_last_hidden_state: `h^t` for every position, `(batch, positions, hidden)`.
        views: anchors and second views of the last position's `h^t` for the contrastive loss, `(batch, hidden)` each.
        reconstruction: what the reconstruction loss needs.
        past_key_values: self-attention and cross-attention cache.
        encoder_last_hidden_state: `(batch, tokens, hidden)`.
    """

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    code_logits: tuple[torch.Tensor, ...] | None = None
    chosen_codes: torch.Tensor | None = None
    decoder_last_hidden_state: torch.Tensor | None = None
    views: tuple[torch.Tensor, torch.Tensor] | None = None
    reconstruction: "ReconstructionOutput | None" = None
    past_key_values: Cache | None = None
    encoder_last_hidden_state: torch.Tensor | None = None


@dataclass
class ReconstructionOutput(ModelOutput):
    """Predictions of the reconstructor for `predictions` hidden tokens (or one bag per document).

    Args:
        losses: cross-entropy of each prediction `(predictions,)`, float32 at least.
        logits: `(predictions, vocabulary)`, of a model in evaluation mode: there may be too many to keep in training.
        targets: token indices in the vocabulary `(predictions,)`, or distributions `(predictions, vocabulary)`.
        weights: `(predictions,)`, weight of each prediction among those of its document.
        documents: `(predictions,)`, row of the batch that each prediction belongs to.
    """

    losses: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    targets: torch.Tensor | None = None
    weights: torch.Tensor | None = None
    documents: torch.Tensor | None = None


@dataclass
class SearchOutput(ModelOutput):
    """Documents that were found, best first.

    Args:
        documents: one list of document ids per query, at most `top_k`.
        scores: `(queries, IDs)` log-probabilities, with rescoring the weighted cosines added, as many as the query
            with most has; `-inf` where fewer were found.
        sequences: `(queries, IDs, positions)` flat ids, 0 where fewer were found.
        beams: with `output_beams`, the prefixes that were left after each position, best first: per position their
            flat ids `(queries, prefixes, 1 + position)`, 0 where a query has fewer, and log-probabilities
            `(queries, prefixes)`, `-inf` there.
    """

    documents: list | None = None
    scores: torch.Tensor | None = None
    sequences: torch.Tensor | None = None
    beams: tuple | None = None

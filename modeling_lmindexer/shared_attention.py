"""Cross-attention whose keys and values all beams of a text share, instead of a copy for every beam."""

import torch
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.cache_utils import EncoderDecoderCache
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from .folded_attention import folded_attention

SHARED_ATTENTION = "sdpa_shared"


def fold_beams(query: torch.Tensor, num_texts: int) -> torch.Tensor:
    """Queries of beams `(texts * beams, heads, 1, size)` as those of their texts `(texts, heads, beams, size)`."""
    return query.squeeze(2).unflatten(0, (num_texts, -1)).transpose(1, 2)


def shared_attention_forward(module, query, key, value, attention_mask, **kwargs):
    """transformers' `sdpa`, which it is for equally many queries and keys; with fewer rows of keys, beams share them.

    Args:
        query: `(texts * beams, heads, 1, size)`.
        key, value: `(texts, heads, tokens, size)`; or both the states `(texts, tokens, width)` of which T5's `k` and
            `v` would make them, see [`trained_on_states`].
        attention_mask: `(texts, 1, 1, tokens)` or None.
    """
    if key.ndim == 3:
        dropout = kwargs.get("dropout", 0.0)
        attended = folded_attention(query, key, attention_mask, module.k, module.v, kwargs["scaling"], dropout)
        return attended.transpose(1, 2), None
    if len(query) == len(key):
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    # Beams stand where later tokens would: nothing hides one from another.
    kwargs["is_causal"] = False
    folded = fold_beams(query, len(key))
    attended, weights = sdpa_attention_forward(module, folded, key, value, attention_mask, **kwargs)
    return attended.flatten(0, 1)[:, None], weights  # (texts, beams, heads, size) to one query per row


AttentionInterface.register(SHARED_ATTENTION, shared_attention_forward)
AttentionMaskInterface.register(SHARED_ATTENTION, sdpa_mask)


def can_share(decoder: torch.nn.Module) -> bool:
    """Makes a decoder's cross-attention share keys and values between beams, if it can: with `sdpa` attention.

    It stays so, because another thread may be in the middle of a search; nothing else changes by it.
    """
    if not isinstance(decoder, PreTrainedModel):
        return False
    if decoder.config._attn_implementation == "sdpa":
        decoder.set_attn_implementation(SHARED_ATTENTION)
    return decoder.config._attn_implementation == SHARED_ATTENTION


class SharedStates:
    """Encoder states of some texts, for any number of beams each.

    Args:
        states: `(texts, tokens, hidden)`.
        mask: `(texts, tokens)` or None.
        shares: whether the decoder's cross-attention shares keys and values between beams; otherwise they are copied.
    """

    def __init__(self, states: torch.Tensor, mask: torch.Tensor | None, shares: bool):
        self.states, self.mask, self.shares = states, mask, shares
        self.rows, self.row_states, self.row_mask = len(states), states, mask
        if shares and mask is not None:
            # In its final shape, so that no step makes it again.
            self.row_mask = mask[:, None, None, :].bool()
            if mask.device.type == "cpu" and self.row_mask.all():
                self.row_mask = None

    def of_rows(self, rows: int, cache: EncoderDecoderCache) -> tuple[torch.Tensor, torch.Tensor]:
        """States and mask for `rows` (texts x beams) queries; the cached keys and values are made to fit them."""
        if not self.shares and rows != self.rows:
            texts = torch.arange(len(self.states), device=self.states.device)
            texts = texts.repeat_interleave(rows // len(texts), output_size=rows)
            self.row_states, self.row_mask = self.states[texts], None if self.mask is None else self.mask[texts]
            cache.cross_attention_cache.reorder_cache(texts * (self.rows // len(self.states)))
            self.rows = rows
        return self.row_states, self.row_mask

"""Cross-attention of few queries to many states: keys and values of the states are never made.

A score is `(W_k s) . q = s . (W_k^T q)`, and the mixed values are `W_v (sum a s)`: the two maps, which cost
`2 * width^2` for every state, move to the queries. It pays while a text has fewer queries than a head has numbers.
"""

import torch
from torch import Tensor, nn
from transformers.cache_utils import EncoderDecoderCache

from .packed_weights import is_plain


class FoldedCache(EncoderDecoderCache):
    """A cache whose user asks a text few times: decoders that can do so fold keys and values into the queries."""


def can_fold(key: nn.Module, value: nn.Module, cache: EncoderDecoderCache | None) -> bool:
    """Whether the maps of keys and values are plain ones that are not being trained, and the cache asks for it."""
    return isinstance(cache, FoldedCache) and not key.training and is_plain(key) and is_plain(value)


def folded_attention(
    query: Tensor, source: Tensor, mask: Tensor | None, key: nn.Linear, value: nn.Linear, scale: float
) -> Tensor:
    """What attention to `key(source)` and `value(source)` gives.

    Args:
        query: `(texts, heads, queries, size)`.
        source: `(texts, tokens, width)`.
        mask: booleans, or what is added to the scores, that broadcast to `(texts, heads, queries, tokens)`; or None.
        key, value: maps of `width` to `heads * size`; the bias of the keys moves all scores of a query alike.
        scale: of the scores.

    Returns:
        `(texts, heads, queries, size)`.
    """
    texts, heads, queries, size = query.shape
    by_head = query.transpose(0, 1).reshape(heads, texts * queries, size)
    asked = (by_head * scale) @ key.weight.view(heads, size, -1)  # (heads, texts * queries, width)
    asked = asked.view(heads, texts, queries, -1).transpose(0, 1).reshape(texts, heads * queries, -1)
    scores = (asked @ source.transpose(1, 2)).view(texts, heads, queries, -1)
    if mask is not None and mask.dtype == torch.bool:
        scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    elif mask is not None:
        scores = scores + mask
    weights = scores.float().softmax(-1).to(source.dtype).view(texts, heads * queries, -1)
    mixed = (weights @ source).view(texts, heads, queries, -1)
    by_head = mixed.transpose(0, 1).reshape(heads, texts * queries, -1)
    values = (by_head @ value.weight.view(heads, size, -1).transpose(1, 2)).view(heads, texts, queries, size)
    values = values.transpose(0, 1)
    return values if value.bias is None else values + value.bias.view(heads, 1, size)

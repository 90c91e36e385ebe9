"""Cross-attention of few queries to many states: keys and values of the states are never made.

A score is `(W_k s) . q = s . (W_k^T q)`, and the mixed values are `W_v (sum a s)`: the two maps, which cost
`2 * width^2` for every state, move to the queries. It pays while a text has fewer queries than a head has numbers.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.cache_utils import EncoderDecoderCache

from .plain_maps import is_plain


class FoldedCache(EncoderDecoderCache):
    """A cache whose user asks a text few times: decoders that can do so fold keys and values into the queries."""


def can_fold(key: nn.Module, value: nn.Module, cache: EncoderDecoderCache | None) -> bool:
    """Whether the maps of keys and values are plain ones whose results nobody keeps: the cache asks for it or, while
    they are trained, there is none."""
    asked = cache is None if key.training else isinstance(cache, FoldedCache)
    return asked and is_plain(key) and is_plain(value)


def folded_attention(
    query: Tensor,
    source: Tensor,
    mask: Tensor | None,
    key: nn.Linear,
    value: nn.Linear,
    scale: float,
    dropout: float = 0.0,
) -> Tensor:
    """What attention to `key(source)` and `value(source)` gives.

    Args:
        query: `(texts, heads, queries, size)`.
        source: `(texts, tokens, width)`.
        mask: booleans, or what is added to the scores, that broadcast to `(texts, heads, queries, tokens)`; or None.
        key, value: maps of `width` to `heads * size`; the bias of the keys moves all scores of a query alike.
        scale: of the scores.
        dropout: of the weights, while training.

    Returns:
        `(texts, heads, queries, size)`.
    """
    texts, heads, queries, size = query.shape
    by_head = query.transpose(0, 1).reshape(heads, texts * queries, size)
    asked = (by_head * scale) @ key.weight.view(heads, size, -1)  # (heads, texts * queries, width)
    asked = asked.view(heads, texts, queries, -1).transpose(0, 1).reshape(texts, heads * queries, -1)
    scores = (asked @ source.transpose(1, 2)).view(texts, heads, queries, -1)
    if key.training and key.bias is not None:
        # Of no effect, but processes that share a training expect a gradient of every parameter.
        scores = scores + (query * scale) @ key.bias.view(heads, size, 1)
    if mask is not None and mask.dtype == torch.bool:
        scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    elif mask is not None:
        scores = scores + mask
    weights = scores.softmax(-1, dtype=torch.promote_types(scores.dtype, torch.float32)).to(source.dtype)
    weights = F.dropout(weights, dropout)
    mixed = (weights.view(texts, heads * queries, -1) @ source).view(texts, heads, queries, -1)
    by_head = mixed.transpose(0, 1).reshape(heads, texts * queries, -1)
    values = (by_head @ value.weight.view(heads, size, -1).transpose(1, 2)).view(heads, texts, queries, size)
    values = values.transpose(0, 1)
    if value.bias is None:
        return values
    # Without dropout the weights add up to 1.
    return values + value.bias.view(heads, 1, size) * (weights.sum(-1, keepdim=True) if dropout else 1)

"""The small decoder that turns an encoder-only backbone into a semantic encoder."""

import torch
from torch import nn
from torch.nn import functional as F
from transformers.cache_utils import DynamicCache, EncoderDecoderCache
from transformers.modeling_layers import GradientCheckpointingLayer

from .configuration_lmindexer import LMIndexerConfig
from .folded_attention import can_fold, folded_attention
from .shared_attention import fold_beams


class ZeroLinear(nn.Linear):
    """A linear map that starts at zero, so that what it feeds starts without it."""


def unexplained(pooled: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
    """What the codes before each position leave unexplained of the pooled embedding: its part orthogonal to them.

    Args:
        pooled: `(batch, hidden)`.
        codes: `(batch, positions - 1, hidden)`, code vectors of a prefix.

    Returns:
        `(batch, positions, hidden)`; the first position gets the pooled embedding itself.
    """
    remainders = [pooled]
    for direction in F.normalize(codes, dim=-1).unbind(1):
        last = remainders[-1]
        remainders.append(last - (last * direction).sum(-1, keepdim=True) * direction)
    return torch.stack(remainders, dim=1)


class CrossAttention(nn.Module):
    """Multi-head attention of decoder states to themselves or to the encoder's states, with a cache."""

    def __init__(self, width: int, num_heads: int, dropout: float, layer_index: int, is_cross: bool):
        super().__init__()
        self.num_heads, self.dropout, self.layer_index, self.is_cross = num_heads, dropout, layer_index, is_cross
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.output = ZeroLinear(width, width)

    def split(self, states: torch.Tensor) -> torch.Tensor:
        """`(batch, length, width)` to `(batch, heads, length, width / heads)`."""
        return states.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)

    def keys_and_values(self, source: torch.Tensor, cache: EncoderDecoderCache | None):
        """Projected keys and values, from the cache where it has them."""
        if cache is None:
            return self.split(self.key(source)), self.split(self.value(source))
        if not self.is_cross:
            key, value = self.split(self.key(source)), self.split(self.value(source))
            return cache.self_attention_cache.update(key, value, self.layer_index)
        if cache.is_updated.get(self.layer_index):
            layer = cache.cross_attention_cache.layers[self.layer_index]
            return layer.keys, layer.values
        key, value = self.split(self.key(source)), self.split(self.value(source))
        cache.is_updated[self.layer_index] = True
        return cache.cross_attention_cache.update(key, value, self.layer_index)

    def forward(self, hidden, source, mask, cache=None):
        """`hidden` (batch, positions, width); `mask` broadcasts to (batch, heads, positions, source length).

        Beams of a text may share its `source`, see [`fold_beams`].
        """
        query = self.split(self.query(hidden))
        if self.is_cross and len(source) == len(hidden) and can_fold(self.key, self.value, cache):
            scale = query.shape[-1] ** -0.5
            dropout = self.dropout if self.training else 0.0
            attended = folded_attention(query, source, mask, self.key, self.value, scale, dropout)
            return self.output(attended.transpose(1, 2).reshape(hidden.shape))
        key, value = self.keys_and_values(source, cache)
        shared = len(key) < len(query)
        if mask is not None and mask.shape[-1] < key.shape[2]:
            # A static cache is as long as it will ever be.
            mask = F.pad(mask, (0, key.shape[2] - mask.shape[-1]), value=False)
        attended = F.scaled_dot_product_attention(
            fold_beams(query, len(key)) if shared else query,
            key,
            value,
            attn_mask=mask,
            dropout_p=self.dropout if self.training else 0.0,
        ).transpose(1, 2)
        return self.output(attended.reshape(hidden.shape))


class CrossAttendingLayer(GradientCheckpointingLayer):
    """Causal self-attention, cross-attention and feed-forward, each with a norm before and a zero projection after."""

    def __init__(self, config: LMIndexerConfig, layer_index: int):
        super().__init__()
        width, dropout = config.hidden_size, float(config.dropout)
        heads = config.num_decoder_heads or config.backbone_config.num_attention_heads
        self.dropout = dropout
        self.self_norm, self.cross_norm, self.feed_forward_norm = (nn.LayerNorm(width) for _ in range(3))
        self.self_attention = CrossAttention(width, heads, dropout, layer_index, is_cross=False)
        self.cross_attention = CrossAttention(width, heads, dropout, layer_index, is_cross=True)
        self.feed_forward = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), ZeroLinear(4 * width, width))

    def forward(self, hidden, causal_mask, encoder_states, encoder_mask, past_key_values=None):
        """`hidden` (batch, positions, width), `encoder_states` (batch, tokens, width)."""
        normed = self.self_norm(hidden)
        attended = self.self_attention(normed, normed, causal_mask, past_key_values)
        hidden = hidden + F.dropout(attended, self.dropout, self.training)
        attended = self.cross_attention(self.cross_norm(hidden), encoder_states, encoder_mask, past_key_values)
        hidden = hidden + F.dropout(attended, self.dropout, self.training)
        fed = self.feed_forward(self.feed_forward_norm(hidden))
        return hidden + F.dropout(fed, self.dropout, self.training)


class CrossAttendingDecoder(nn.Module):
    """Decoder over `[start, c^1, .., c^{t-1}]` that attends to the encoder's states.

    Its layers add to what the codes so far leave unexplained of the pooled embedding, and every output projection
    starts at zero: `h^1` starts as the sentence embedding, `h^2` as its residual. Without the pooled embedding in
    the input, all documents of a prefix would start with the same `h^2` and the contrastive gradient would be zero.
    """

    def __init__(self, config: LMIndexerConfig):
        super().__init__()
        width = config.hidden_size
        self.code_projection = ZeroLinear(width, width)
        self.layers = nn.ModuleList(CrossAttendingLayer(config, i) for i in range(config.num_decoder_layers))
        self.output_norm = nn.RMSNorm(width, eps=1e-6)

    def forward(self, pooled, codes, encoder_states, encoder_mask, cache=None, use_cache=False):
        """
        Args:
            pooled: `(batch, hidden)`, of norm `sqrt(hidden)`.
            codes: `(batch, positions - 1, hidden)`, the whole prefix, cached or not.
            encoder_states: `(batch, tokens, hidden)`, or `(texts, tokens, hidden)` with `batch / texts` beams in a row
                for each text and one new position.
            encoder_mask: `(batch, tokens)`, or that of attention, `(batch, 1, 1, tokens)`.
            cache: what earlier calls computed for the first positions.

        Returns:
            `h` of the positions that were not in the cache `(batch, new positions, hidden)`, and the cache.
        """
        if use_cache and cache is None:
            cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
        done = 0 if cache is None else cache.get_seq_length()
        hidden = unexplained(pooled, codes) + self.code_projection(F.pad(codes, (0, 0, 1, 0)))
        positions = torch.arange(hidden.shape[1], device=hidden.device)
        hidden = hidden[:, done:]
        causal_mask = positions <= positions[done:, None]
        if encoder_mask is not None and encoder_mask.ndim == 2:
            encoder_mask = encoder_mask[:, None, None, :].bool()
        for layer in self.layers:
            # By this name, gradient checkpointing leaves the cache out: its second pass would fill it again.
            hidden = layer(hidden, causal_mask, encoder_states, encoder_mask, past_key_values=cache)
        return self.output_norm(hidden), cache

"""T5's decoder without its module calls: between large products they take most of the time of a step of few rows."""

from collections.abc import Callable
from contextlib import nullcontext
from types import SimpleNamespace

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.cache_utils import DynamicCache, EncoderDecoderCache
from transformers.modeling_outputs import BaseModelOutputWithPastAndCrossAttentions
from transformers.models.mt5.modeling_mt5 import MT5DenseActDense, MT5DenseGatedActDense
from transformers.models.t5.modeling_t5 import T5DenseActDense, T5DenseGatedActDense, T5Stack

from .folded_attention import can_fold, folded_attention
from .packed_weights import T5_STACKS, linear_map
from .plain_maps import has_hooks
from .shared_attention import SHARED_ATTENTION, can_share

MORE_POSITIONS = 8  # as many as most IDs have: their bias is computed once


def quick_decoder(decoder: nn.Module) -> Callable:
    """The decoder itself, or for T5 what takes the same arguments and gives the same result, for one search.

    Adapters in the place of linear maps, and maps with hooks, are called as modules and count; the others take the
    quickest way, see [`linear_map`]. Half precision, whose overflows T5 clamps between its layers, and models that are
    spread over devices or being trained keep their own code.
    """
    if (
        type(decoder) not in T5_STACKS
        or decoder.training
        or decoder.config._attn_implementation != SHARED_ATTENTION
        or decoder.final_layer_norm.weight.dtype != torch.float32
        or any(hasattr(module, "_hf_hook") for module in (decoder, *decoder.block))
    ):
        return decoder
    return QuickT5Decoder(decoder)


def trained_on_states(decoder: nn.Module, states: Tensor) -> EncoderDecoderCache | None:
    """A cache that spares a T5 that is being trained the keys and values of its cross-attention: in their place it has
    the encoder's states, which [`shared_attention_forward`] knows how to read.

    Args:
        decoder: the backbone's.
        states: `(texts, tokens, width)`.

    Returns:
        None for what must call `k` and `v` itself (adapters, hooks, other attentions, gradient checkpointing, which
        takes caches away), for another decoder, and for one that is not trained.
    """
    if type(decoder) not in T5_STACKS or not decoder.training or decoder.gradient_checkpointing:
        return None
    attentions = [block.layer[1].EncDecAttention for block in decoder.block]
    if not all(can_fold(attention.k, attention.v, None) for attention in attentions) or not can_share(decoder):
        return None
    cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
    cache.cross_attention_cache.layers = [SimpleNamespace(keys=states, values=states) for _ in attentions]
    cache.is_updated = dict.fromkeys(range(len(attentions)), True)
    return cache


class QuickT5Decoder:
    """A T5 decoder for one search.

    Args:
        stack: the decoder of any T5, in evaluation mode.
    """

    def __init__(self, stack: T5Stack):
        self.stack, self.bias = stack, None
        self.blocks = [QuickBlock(block, index) for index, block in enumerate(stack.block)]
        self.norm = quick_norm(stack.final_layer_norm)
        self.is_watched = any(map(has_hooks, stack.modules()))

    def __call__(
        self,
        *,
        encoder_hidden_states: Tensor,
        encoder_attention_mask: Tensor | None,
        past_key_values: EncoderDecoderCache,
        input_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool = True,
    ) -> BaseModelOutputWithPastAndCrossAttentions:
        """What the decoder returns; beams may share encoder states, see [`shared_attention_forward`].

        Args:
            encoder_hidden_states: `(texts, tokens, hidden)`.
            encoder_attention_mask: booleans `(texts, 1, 1, tokens)`, or None.
            past_key_values: is written to.
            input_ids, inputs_embeds: of the new positions, `(rows, positions)` or `(rows, positions, hidden)`.
        """
        hidden = self.stack.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds
        bias = self.position_bias(past_key_values.get_seq_length(), hidden)
        mask = encoder_attention_mask
        if mask is not None:
            # A finite number, as in T5: an empty text gets the mean of all states, not NaN.
            mask = torch.zeros_like(mask, dtype=hidden.dtype).masked_fill(~mask, torch.finfo(hidden.dtype).min)
        # Of no_grad's cost of every operation, what counts the changes of tensors is left out; hooks may keep them.
        keeps = self.is_watched or torch.is_grad_enabled()
        with nullcontext() if keeps else torch.inference_mode():
            for block in self.blocks:
                hidden = block(hidden, bias, encoder_hidden_states, mask, past_key_values)
            hidden = self.norm(hidden)
        return BaseModelOutputWithPastAndCrossAttentions(last_hidden_state=hidden, past_key_values=past_key_values)

    def position_bias(self, done: int, hidden: Tensor) -> Tensor:
        """What `hidden` `(rows, positions, hidden)` behind `done` others adds to the logits of its self-attention.

        Returns:
            `(1, heads, positions, done + positions)`, the lowest number for what comes later.
        """
        end = done + hidden.shape[1]
        if self.bias is None or len(self.bias[0, 0]) < end:
            length = max(end, MORE_POSITIONS)
            bias = self.stack.block[0].layer[0].SelfAttention.compute_bias(length, length, device=hidden.device)
            later = torch.ones(length, length, dtype=torch.bool, device=hidden.device).triu(1)
            self.bias = bias.masked_fill(later, torch.finfo(hidden.dtype).min)
        return self.bias[:, :, done:end, :end].contiguous()


class QuickBlock:
    """One block of the decoder: `hidden` `(rows, positions, width)` to the same shape; `index` is its number."""

    def __init__(self, block: nn.Module, index: int):
        own, cross, feed_forward = block.layer
        self.index, self.norms = index, [quick_norm(layer.layer_norm) for layer in block.layer]
        self.own, self.cross = QuickAttention(own.SelfAttention), QuickAttention(cross.EncDecAttention)
        self.feed_forward = quick_feed_forward(feed_forward.DenseReluDense)

    def __call__(
        self, hidden: Tensor, bias: Tensor, source: Tensor, mask: Tensor | None, cache: EncoderDecoderCache
    ) -> Tensor:
        own_norm, cross_norm, feed_forward_norm = self.norms
        hidden = hidden + self.own.to_itself(own_norm(hidden), bias, cache, self.index)
        hidden = hidden + self.cross.to_source(cross_norm(hidden), source, mask, cache, self.index)
        return hidden + self.feed_forward(feed_forward_norm(hidden))


class QuickAttention:
    """Attention of T5, without its module calls."""

    def __init__(self, attention: nn.Module):
        self.heads, self.size = attention.n_heads, attention.key_value_proj_dim
        self.maps = attention.k, attention.v
        self.q, self.k, self.v, self.o = map(linear_map, (attention.q, attention.k, attention.v, attention.o))

    def to_itself(self, states: Tensor, bias: Tensor, cache: EncoderDecoderCache, index: int) -> Tensor:
        """What self-attention makes of `states` `(rows, positions, width)`."""
        query, key, value = (self.split(m(states), len(states)) for m in (self.q, self.k, self.v))
        key, value = cache.self_attention_cache.update(key, value, index)
        return self.attended(query, key, value, bias, states)

    def to_source(
        self, states: Tensor, source: Tensor, mask: Tensor | None, cache: EncoderDecoderCache, index: int
    ) -> Tensor:
        """What attention to `source` `(texts, tokens, width)` makes of `states` `(rows, positions, width)`."""
        texts = len(source)
        if can_fold(*self.maps, cache):
            mixed = folded_attention(self.split(self.q(states), texts), source, mask, *self.maps, scale=1.0)
            return self.merged(mixed, states)
        if not cache.is_updated.get(index):
            cache.cross_attention_cache.update(*(self.split(m(source), texts) for m in (self.k, self.v)), index)
            cache.is_updated[index] = True
        keys = cache.cross_attention_cache.layers[index]
        # The beams of a text stand where later positions would.
        return self.attended(self.split(self.q(states), texts), keys.keys, keys.values, mask, states)

    def split(self, states: Tensor, rows: int) -> Tensor:
        """`(rows * k, positions, width)` to `(rows, heads, k * positions, size)`."""
        return states.view(rows, -1, self.heads, self.size).transpose(1, 2)

    def attended(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, states: Tensor) -> Tensor:
        """The mixed values, through the output's map, in the shape of `states`."""
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=1.0)
        return self.merged(mixed, states)

    def merged(self, mixed: Tensor, states: Tensor) -> Tensor:
        """Mixed values `(rows, heads, k * positions, size)` through the output's map, in the shape of `states`."""
        return self.o(mixed.transpose(1, 2).reshape(*states.shape[:2], -1))


def quick_feed_forward(layer: nn.Module) -> Callable[[Tensor], Tensor]:
    """T5's feed-forward without its module calls, `(..., width)` to the same; the module for what T5 does not have."""
    gated = type(layer) in (T5DenseGatedActDense, MT5DenseGatedActDense)
    known = gated or type(layer) in (T5DenseActDense, MT5DenseActDense)
    if not known or has_hooks(layer) or layer.wo.weight.dtype != torch.float32:  # whose type the states would take
        return layer
    act, out = layer.act, linear_map(layer.wo)
    if gated:
        gate, up = linear_map(layer.wi_0), linear_map(layer.wi_1)
        return lambda states: out(act(gate(states)) * up(states))
    up = linear_map(layer.wi)
    return lambda states: out(act(up(states)))


def quick_norm(norm: nn.Module) -> Callable[[Tensor], Tensor]:
    """T5's norm, `(..., width)` to the same: without mean and bias, by the operations that take least time."""
    weight, width = norm.weight, norm.weight.shape[0]
    if weight.device.type != "cpu":
        return lambda hidden: F.rms_norm(hidden, weight.shape, weight, norm.variance_epsilon)
    # There torch makes it of six operations. |h|^2 + width * epsilon is the square of a hypotenuse.
    scaled, least = weight * width**0.5, weight.new_tensor((width * norm.variance_epsilon) ** 0.5)
    return lambda hidden: hidden / torch.hypot(torch.linalg.vector_norm(hidden, dim=-1, keepdim=True), least) * scaled

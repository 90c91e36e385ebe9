"""T5's decoder without its module calls: between large products they take most of the time of a step of few rows."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.cache_utils import EncoderDecoderCache
from transformers.modeling_outputs import BaseModelOutputWithPastAndCrossAttentions
from transformers.models.mt5.modeling_mt5 import MT5Stack
from transformers.models.t5.modeling_t5 import T5Stack

from .shared_attention import SHARED_ATTENTION

MORE_POSITIONS = 8  # as many as most IDs have: their bias is computed once


def quick_decoder(decoder: nn.Module) -> Callable:
    """The decoder itself, or for T5 what takes the same arguments and gives the same result, for one search.

    The linear maps are called as modules, so that adapters in their place count. Half precision, whose overflows T5
    clamps between its layers, and models that are spread over devices or being trained keep their own code.
    """
    if (
        type(decoder) not in (T5Stack, MT5Stack)
        or decoder.training
        or decoder.config._attn_implementation != SHARED_ATTENTION
        or decoder.final_layer_norm.weight.dtype != torch.float32
        or any(hasattr(module, "_hf_hook") for module in (decoder, *decoder.block))
    ):
        return decoder
    return QuickT5Decoder(decoder)


class QuickT5Decoder:
    """A T5 decoder for one search.

    Args:
        stack: the decoder of any T5, in evaluation mode.
    """

    def __init__(self, stack: T5Stack):
        self.stack, self.bias = stack, None

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
        for index, block in enumerate(self.stack.block):
            own, cross, feed_forward = block.layer
            hidden = hidden + self_attended(own, hidden, bias, past_key_values, index)
            hidden = hidden + cross_attended(cross, hidden, encoder_hidden_states, mask, past_key_values, index)
            hidden = hidden + feed_forward.DenseReluDense(normed(feed_forward.layer_norm, hidden))
        return BaseModelOutputWithPastAndCrossAttentions(
            last_hidden_state=normed(self.stack.final_layer_norm, hidden), past_key_values=past_key_values
        )

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


def normed(norm: nn.Module, hidden: Tensor) -> Tensor:
    """T5's norm: no mean, no bias."""
    return F.rms_norm(hidden, norm.weight.shape, norm.weight, norm.variance_epsilon)


def heads_of(states: Tensor, attention: nn.Module, rows: int) -> Tensor:
    """`(rows * k, positions, width)` to `(rows, heads, k * positions, size)`."""
    return states.view(rows, -1, attention.n_heads, attention.key_value_proj_dim).transpose(1, 2)


def self_attended(layer: nn.Module, hidden: Tensor, bias: Tensor, cache: EncoderDecoderCache, index: int) -> Tensor:
    """What a layer's self-attention adds to `hidden` `(rows, positions, width)`."""
    attention, states, rows = layer.SelfAttention, normed(layer.layer_norm, hidden), len(hidden)
    query, key, value = (heads_of(m(states), attention, rows) for m in (attention.q, attention.k, attention.v))
    key, value = cache.self_attention_cache.update(key, value, index)
    attended = F.scaled_dot_product_attention(query, key, value, attn_mask=bias, scale=1.0)
    return attention.o(attended.transpose(1, 2).reshape(*hidden.shape[:2], -1))


def cross_attended(
    layer: nn.Module, hidden: Tensor, source: Tensor, mask: Tensor | None, cache: EncoderDecoderCache, index: int
) -> Tensor:
    """What a layer's attention to `source` `(texts, tokens, width)` adds to `hidden` `(rows, positions, width)`."""
    attention, texts = layer.EncDecAttention, len(source)
    if not cache.is_updated.get(index):
        key, value = (heads_of(m(source), attention, texts) for m in (attention.k, attention.v))
        cache.cross_attention_cache.update(key, value, index)
        cache.is_updated[index] = True
    keys = cache.cross_attention_cache.layers[index]
    # The beams of a text stand where later positions would.
    query = heads_of(attention.q(normed(layer.layer_norm, hidden)), attention, texts)
    attended = F.scaled_dot_product_attention(query, keys.keys, keys.values, attn_mask=mask, scale=1.0)
    return attention.o(attended.transpose(1, 2).reshape(*hidden.shape[:2], -1))

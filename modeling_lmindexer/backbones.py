"""The two kinds of backbone behind one interface: text to encoder states, encoder states and codes to `h^t`."""

import inspect
from collections.abc import Callable

import torch
from torch.nn import functional as F
from transformers import PreTrainedModel

from .configuration_lmindexer import LMIndexerConfig
from .decoder import CrossAttendingDecoder, unexplained
from .shared_attention import can_share
from .t5_decoder import quick_decoder, trained_on_states

# Encoders whose output does not depend on where the padding is: relative or rotary positions, or positions that they
# count from the padding themselves.
PADDING_SIDE_FREE = {
    "camembert", "deberta-v2", "longt5", "modernbert", "mpnet", "mt5", "roberta", "switch_transformers", "t5",
    "t5gemma", "umt5", "xlm-roberta",
}  # fmt: skip


def accepts_position_ids(module: torch.nn.Module) -> bool:
    """Whether a module's forward takes `position_ids`."""
    return "position_ids" in inspect.signature(module.forward).parameters


def encode_text(
    encoder: PreTrainedModel, input_ids: torch.Tensor, attention_mask: torch.Tensor, inputs_embeds: torch.Tensor | None
) -> torch.Tensor:
    """Encoder states `(batch, tokens, hidden)` of `input_ids` `(batch, tokens)`, padded on either side.

    Raises:
        ValueError: the input is padded on the left and the backbone's positions cannot be told so.
    """
    inputs = {"input_ids": input_ids} if inputs_embeds is None else {"inputs_embeds": inputs_embeds}
    inputs["attention_mask"] = attention_mask
    model_type = encoder.config.model_type
    if model_type not in PADDING_SIDE_FREE:
        if accepts_position_ids(encoder):
            inputs["position_ids"] = (attention_mask.long().cumsum(-1) - 1).clamp(min=0)
        elif not attention_mask[:, 0].all():
            raise ValueError(
                f"The input is padded on the left, and the positions of a {model_type!r} backbone cannot be shifted: "
                "its result would change with the padding. Set tokenizer.padding_side = 'right'."
            )
    return encoder(**inputs).last_hidden_state


def pool(states: torch.Tensor, attention_mask: torch.Tensor, pooling: str) -> torch.Tensor:
    """One embedding of norm `sqrt(hidden)` per text, from states `(batch, tokens, hidden)`: `(batch, hidden)`."""
    mask = attention_mask.to(states.dtype)
    if pooling == "cls":
        pooled = states[torch.arange(len(states), device=states.device), mask.argmax(-1)]
    else:
        pooled = (states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True).clamp(min=1)
    return F.normalize(pooled, dim=-1) * pooled.shape[-1] ** 0.5


class EncoderDecoder:
    """A backbone with a decoder of its own, such as T5: decoder input is `[start, E^1[c^1], .., E^{t-1}[c^{t-1}]]`."""

    @staticmethod
    def build_decoder(config: LMIndexerConfig) -> None:
        """Nothing to add to the backbone."""
        return None

    @staticmethod
    def pooled(config: LMIndexerConfig, states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor | None:
        """The embedding `(batch, hidden)` of each text, None where the decoder's input has no part of it."""
        return pool(states, mask, config.pooling) if config.pooled_input else None

    @staticmethod
    def searcher(model) -> tuple[Callable, bool]:
        """What [`~EncoderDecoder.decode`] takes as `decoder` to search, and whether beams can share encoder states."""
        decoder = model.backbone.get_decoder()
        shares = can_share(decoder)
        return quick_decoder(decoder), shares

    @staticmethod
    def decode(model, codes, encoder_states, encoder_mask, cache, use_cache, pooled=None, decoder=None):
        """`codes` (batch, positions - 1, hidden) to `h` of the positions that are not in the cache, and the cache.

        With `pooled` (batch, hidden) in the input it needs the codes of the whole prefix; without, `codes` begin with
        the first one that is not in the cache. `decoder` is the backbone's, or what takes its place.
        """
        done = 0 if cache is None else int(cache.get_seq_length())
        inputs = codes
        if pooled is not None or not done:
            inputs = torch.cat([EncoderDecoder.start(model, codes), codes], dim=1)
        if pooled is not None:
            inputs = (inputs + unexplained(pooled, codes))[:, done:]
        decoder, instead = decoder or model.backbone.get_decoder(), None
        if cache is None and not use_cache:
            instead = trained_on_states(decoder, encoder_states)
        output = decoder(
            inputs_embeds=inputs,
            encoder_hidden_states=encoder_states,
            encoder_attention_mask=encoder_mask,
            past_key_values=cache if instead is None else instead,
            use_cache=use_cache,
        )
        return output.last_hidden_state, output.past_key_values if instead is None else None

    @staticmethod
    def start(model, codes: torch.Tensor) -> torch.Tensor:
        """The embedding that every ID starts with, `(batch, 1, hidden)`, in the type of `codes` `(batch, ...)`."""
        backbone = model.config.backbone_config
        names = ("decoder_start_token_id", "bos_token_id", "pad_token_id")
        start_id = next((i for n in names if (i := getattr(backbone, n, None)) is not None), 0)
        # By the decoder's own embedding: T5Gemma's is not that of its encoder, BART's may be scaled.
        embed = model.backbone.get_decoder().get_input_embeddings()
        return embed(torch.full((len(codes), 1), start_id, device=codes.device)).to(codes.dtype)


class EncoderOnly:
    """A backbone without a decoder, such as BERT: ours attends to its states and starts from its pooled embedding."""

    @staticmethod
    def build_decoder(config: LMIndexerConfig) -> CrossAttendingDecoder:
        """The decoder to put on top."""
        return CrossAttendingDecoder(config)

    @staticmethod
    def pooled(config: LMIndexerConfig, states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """The embedding `(batch, hidden)` of each text: what the first code is read off."""
        return pool(states, mask, config.pooling)

    @staticmethod
    def searcher(model) -> tuple[Callable, bool]:
        """As for the other kind; in our decoder beams can share encoder states."""
        return model.decoder, True

    @staticmethod
    def decode(model, codes, encoder_states, encoder_mask, cache, use_cache, pooled, decoder=None):
        """`codes` (batch, positions - 1, hidden), the whole prefix, to `h` of the positions that are not in the cache,
        and the cache."""
        return (decoder or model.decoder)(pooled, codes, encoder_states, encoder_mask, cache, use_cache)


def backbone_kind(config: LMIndexerConfig) -> type[EncoderDecoder] | type[EncoderOnly]:
    """Which of the two kinds a configuration's backbone is."""
    return EncoderDecoder if config.backbone_config.is_encoder_decoder else EncoderOnly

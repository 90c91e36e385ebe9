import copy

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModel, AutoModelForSeq2SeqLM, MT5Config, T5Config
from transformers.cache_utils import DynamicCache, EncoderDecoderCache

from modeling_lmindexer.shared_attention import can_share
from modeling_lmindexer.t5_decoder import quick_decoder

# What the module itself is away, at most, from what it gives in double precision with these weights.
ROUNDING = {"atol": 3e-5, "rtol": 1e-5}
SIZES = {"vocab_size": 50, "d_model": 16, "d_kv": 6, "d_ff": 32, "num_layers": 3, "num_heads": 2}


def random_decoder(config_class=T5Config, **config):
    torch.manual_seed(0)
    model = AutoModel.from_config(config_class(**SIZES, **config)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    decoder = model.get_decoder()
    assert can_share(decoder)
    return decoder


def new_cache():
    return EncoderDecoderCache(DynamicCache(), DynamicCache())


@torch.no_grad()
@pytest.mark.parametrize(
    "config",
    [{}, {"feed_forward_proj": "gated-gelu"}, {"relative_attention_num_buckets": 8}, {"config_class": MT5Config}],
)
@pytest.mark.parametrize("prompt", [1, 4, 7])
@pytest.mark.parametrize("masked", [True, False])
def test_it_returns_what_the_module_returns(config, prompt, masked):
    """A prompt of one or several positions, then two more; beams share the states of their text, one of them empty."""
    decoder = random_decoder(**config)
    states = torch.randn(3, 6, 16)
    mask = (torch.arange(6) < torch.tensor([[6], [3], [0]]))[:, None, None] if masked else None
    quick, caches = quick_decoder(decoder), (new_cache(), new_cache())
    assert quick is not decoder
    inputs = {"encoder_hidden_states": states, "encoder_attention_mask": mask, "use_cache": True}
    for given in (
        {"input_ids": torch.randint(50, (3, prompt))},
        {"inputs_embeds": torch.randn(12, 1, 16)},
        {"input_ids": torch.randint(50, (24, 1))},
    ):
        rows = len(next(iter(given.values())))
        if rows > 3:
            parents = torch.arange(rows) * len(caches[0].self_attention_cache.layers[0].keys) // rows
            for cache in caches:
                cache.self_attention_cache.reorder_cache(parents)
        expected = decoder(**given, **inputs, past_key_values=caches[0])
        found = quick(**given, **inputs, past_key_values=caches[1])
        assert found.past_key_values is caches[1]
        torch.testing.assert_close(found.last_hidden_state, expected.last_hidden_state, **ROUNDING)
    for ours, theirs in zip(caches[1].self_attention_cache.layers, caches[0].self_attention_cache.layers, strict=True):
        torch.testing.assert_close(ours.keys, theirs.keys, **ROUNDING)


def test_what_it_does_not_know_keeps_its_own_code():
    decoder = random_decoder()
    assert quick_decoder(decoder) is not decoder
    half = copy.deepcopy(decoder).to(torch.bfloat16)
    assert quick_decoder(half) is half
    training = copy.deepcopy(decoder).train()
    assert quick_decoder(training) is training
    spread = copy.deepcopy(decoder)
    spread.block[1]._hf_hook = object()
    assert quick_decoder(spread) is spread
    eager = copy.deepcopy(decoder)
    eager.set_attn_implementation("eager")
    assert not can_share(eager) and quick_decoder(eager) is eager

    class OwnStack(type(decoder)):
        pass

    own = OwnStack(decoder.config).eval()
    assert can_share(own) and quick_decoder(own) is own


@torch.no_grad()
def test_adapters_in_place_of_linear_maps_count():
    model = AutoModelForSeq2SeqLM.from_config(T5Config(**SIZES)).eval()
    adapted = get_peft_model(model, LoraConfig(target_modules=["q", "v", "wo"], r=2, init_lora_weights=False)).eval()
    decoder = adapted.base_model.model.get_decoder()
    assert can_share(decoder) and quick_decoder(decoder) is not decoder
    inputs = {"input_ids": torch.randint(50, (3, 2)), "encoder_hidden_states": torch.randn(3, 6, 16)}
    inputs |= {"encoder_attention_mask": None, "use_cache": True}
    expected = decoder(**inputs, past_key_values=new_cache()).last_hidden_state
    found = quick_decoder(decoder)(**inputs, past_key_values=new_cache()).last_hidden_state
    torch.testing.assert_close(found, expected, **ROUNDING)
    with adapted.disable_adapter():
        plain = decoder(**inputs, past_key_values=new_cache()).last_hidden_state
    assert not torch.allclose(found, plain, atol=1e-3)


def test_a_feed_forward_with_hooks_or_of_another_type_is_called():
    hooked, half = random_decoder(), random_decoder()
    hooked.block[1].layer[2].DenseReluDense.register_forward_hook(lambda *_: None)
    half.block[1].layer[2].DenseReluDense.wo.bfloat16()  # the states take its type
    for decoder in (hooked, half):
        quick = quick_decoder(decoder)
        assert quick.blocks[1].feed_forward is decoder.block[1].layer[2].DenseReluDense
        assert quick.blocks[0].feed_forward is not decoder.block[0].layer[2].DenseReluDense


@pytest.mark.parametrize("config", [{}, {"feed_forward_proj": "gated-gelu"}])
def test_gradients_are_those_of_the_module(config):
    """It is for searches, but must not lose them silently."""
    decoder = random_decoder(**config)
    inputs = {"input_ids": torch.randint(50, (3, 4)), "encoder_attention_mask": None, "use_cache": True}
    inputs["encoder_hidden_states"] = torch.randn(3, 6, 16)
    gradients = []
    for function in (decoder, quick_decoder(decoder)):
        output = function(**inputs, past_key_values=new_cache()).last_hidden_state
        gradients.append(torch.autograd.grad(output.square().mean(), list(decoder.parameters()), allow_unused=True))
    for found, expected in zip(*gradients, strict=True):
        assert (found is None) == (expected is None)
        if found is not None:
            torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)

"""The second copy of a T5's weights that searches read: used where it is one, and nowhere else."""

import copy
import gc
import pickle
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tiny_models import all_ids, tiny_inputs, tiny_model
from torch import nn
from transformers import (
    AutoModelForSeq2SeqLM,
    MT5Config,
    T5Config,
    T5EncoderModel,
    T5ForConditionalGeneration,
)

from modeling_lmindexer import (
    PrefixTree,
    PrefixTreeLogitsProcessor,
    SemanticIndex,
    constrained_beam_search,
    pack_weights,
    packed_weights,
)
from modeling_lmindexer.packed_weights import PACKED, linear_map, valid_copy

SIZES = {"vocab_size": 60, "d_model": 16, "d_kv": 6, "d_ff": 32, "num_layers": 2, "num_heads": 2}
SIZES |= {"num_decoder_layers": 2, "decoder_start_token_id": 0, "eos_token_id": None}
GATED = {"feed_forward_proj": "gated-gelu"}
MAPS = 2 * 10  # four of each attention and two of each feed-forward


@pytest.fixture(autouse=True)
def small_maps_count(monkeypatch):
    """Tiny maps are packed; they are left to `F.linear` without."""
    monkeypatch.setattr(packed_weights, "WORTH_PACKING", 1)
    PACKED.clear()


@pytest.fixture
def products(monkeypatch):
    """The weights of oneDNN's products, as they are called."""
    assert packed_weights.kernels_work()  # whose own products do not count
    weights, product = [], packed_weights.onednn_linear

    def spy(states, weight, bias):
        weights.append(weight)
        return product(states, weight, bias)

    monkeypatch.setattr(packed_weights, "onednn_linear", spy)
    return weights


def plain_t5(config_class=T5Config, **config):
    torch.manual_seed(0)
    model = AutoModelForSeq2SeqLM.from_config(config_class(**SIZES, **config)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model


TRIE = PrefixTreeLogitsProcessor(
    PrefixTree.from_sequences(torch.randint(2, 14, (60, 3), generator=torch.Generator().manual_seed(0)))
)


def searched(model, number=8, **inputs):
    """Sequences and scores of the exact search, `(texts * number, 1 + positions)` and `(texts * number,)`."""
    asked = {"num_beams": number, "num_return_sequences": number, "max_new_tokens": 3}
    asked |= {"return_dict_in_generate": True, "output_scores": True, "length_penalty": 0.0}
    inputs = inputs or {"input_ids": tiny_inputs()["input_ids"] % 60}
    output = model.generate(**inputs, **asked, logits_processor=TRIE, custom_generate=constrained_beam_search)
    return output.sequences, output.sequences_scores


def assert_same(found, expected):
    assert torch.equal(found[0], expected[0])
    torch.testing.assert_close(found[1], expected[1], atol=1e-5, rtol=1e-5)


def is_packed(weight):
    return weight.layout == torch._mkldnn


@pytest.mark.parametrize(
    ("config", "maps"),
    [
        ({}, MAPS),
        (GATED, MAPS + 2),
        ({"tie_word_embeddings": False}, MAPS),
        (GATED | {"config_class": MT5Config}, MAPS + 2),
    ],
)
def test_a_search_finds_the_same_by_the_copies(config, maps, products):
    model = plain_t5(**config)
    expected = searched(model)
    assert not products
    linears = [m for m in model.decoder.modules() if type(m) is nn.Linear] + [model.lm_head]
    assert len(linears) == maps + 1
    assert pack_weights(model) == sum(m.weight.nbytes for m in linears)
    assert_same(searched(model), expected)
    # Three steps; the keys and values of the text are computed in the first one only.
    assert len(products) == 3 * (maps + 1) - 2 * 4 and all(map(is_packed, products))


def test_our_model_searches_by_the_copies(products):
    model = tiny_model("t5")
    ids = all_ids(model.config)
    index = SemanticIndex(
        list(range(len(ids))), ids - torch.tensor(model.config.position_offsets), model.config.position_sizes
    )
    expected = model.search(**tiny_inputs(), index=index, num_beams=9, top_k=9)
    assert not products and model.pack_weights() > 0
    found = model.search(**tiny_inputs(), index=index, num_beams=9, top_k=9)
    assert products and all(map(is_packed, products))
    assert found.documents == expected.documents
    torch.testing.assert_close(found.scores, expected.scores, atol=1e-5, rtol=1e-5)


def test_large_maps_take_the_kernel_without_a_copy(products, monkeypatch):
    model = plain_t5()
    expected = searched(model)
    monkeypatch.setattr(packed_weights, "WORTH_ONEDNN", 1)
    assert_same(searched(model), expected)
    assert len(products) == 3 * (MAPS + 1) - 8 and not any(map(is_packed, products))


def test_small_maps_are_left_alone(products, monkeypatch):
    monkeypatch.setattr(packed_weights, "WORTH_PACKING", 2**17)
    model = plain_t5()
    assert pack_weights(model) == 0
    searched(model)
    assert not products


def trained(model):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model(input_ids=torch.ones(1, 3, dtype=torch.long), labels=torch.ones(1, 3, dtype=torch.long)).loss.backward()
    optimizer.step()
    optimizer.zero_grad()


def adamw(model):
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, fused=True)
    model(input_ids=torch.ones(1, 3, dtype=torch.long), labels=torch.ones(1, 3, dtype=torch.long)).loss.backward()
    optimizer.step()
    optimizer.zero_grad()


def loaded(model):
    model.load_state_dict({name: 1.1 * tensor for name, tensor in model.state_dict().items()})


def assigned(model):
    model.load_state_dict({name: 1.1 * tensor for name, tensor in model.state_dict().items()}, assign=True)


def written_through_data(model):
    for parameter in model.parameters():
        parameter.data.add_(0.1 * torch.randn_like(parameter))


def replaced(model):
    for linear in [m for m in model.modules() if type(m) is nn.Linear]:
        linear.weight = nn.Parameter(1.1 * linear.weight.detach())


def moved(model):
    model.double().float()
    written_through_data(model)


@pytest.mark.parametrize("change", [trained, adamw, loaded, assigned, written_through_data, replaced, moved])
def test_a_copy_of_what_a_weight_was_is_dropped(change, products):
    model = plain_t5(tie_word_embeddings=False)
    pack_weights(model)
    before = searched(model)
    assert len(products) > 0
    change(model)
    products.clear()
    found = searched(model)
    assert not products and not any(linear in PACKED for linear in model.modules())
    assert not torch.allclose(found[1], before[1], atol=1e-3)
    assert_same(found, searched(copy.deepcopy(model)))
    pack_weights(model)
    assert_same(searched(model), found)
    assert products


@pytest.mark.parametrize("by", ["writing", "loading", "replacing"])
def test_one_changed_number_is_enough_unless_written_through_data(by, products):
    model = plain_t5()
    pack_weights(model)
    changed = model.decoder.block[1].layer[2].DenseReluDense.wo
    weight = changed.weight.detach().clone()
    weight[0, 1] += 1
    assert torch.equal(packed_weights.sample_of(weight), PACKED[changed].sample)  # the sample does not tell
    if by == "writing":
        with torch.no_grad():
            changed.weight[0, 1] += 1
    elif by == "loading":
        changed.load_state_dict({"weight": weight})
    else:
        changed.weight = nn.Parameter(weight)
    found = searched(model)
    assert changed not in PACKED and len(PACKED) == MAPS
    assert len(products) == 3 * MAPS - 8
    assert_same(found, searched(copy.deepcopy(model)))


def test_copies_end_with_their_model():
    model = plain_t5()
    others = len(PACKED)
    pack_weights(model)
    assert len(PACKED) == others + MAPS + 1
    del model
    gc.collect()
    assert len(PACKED) == others


def test_the_model_knows_nothing_of_them(tmp_path, products):
    model = plain_t5()
    expected, plain = searched(model), pickle.dumps(model)
    pack_weights(model)
    assert len(pickle.dumps(model)) == len(plain)
    model.save_pretrained(tmp_path)
    twins = (
        copy.deepcopy(model),
        pickle.loads(pickle.dumps(model)),
        T5ForConditionalGeneration.from_pretrained(tmp_path),
    )
    for twin in twins:
        assert_same(searched(twin.eval()), expected)
    assert not products
    searched(model)
    assert products


def test_adapters_count_after_packing(products):
    """One that is laid on, switched off, and merged, through `weight.data`."""
    model = plain_t5()
    plain = searched(model)
    pack_weights(model)
    config = LoraConfig(target_modules=r"decoder.*\.(q|v)", r=2, init_lora_weights=False)
    adapted = get_peft_model(model, config).eval()
    adapters = [m for m in adapted.modules() if hasattr(m, "lora_A")]
    assert len(adapters) == 8
    text = {"input_ids": tiny_inputs()["input_ids"] % 60}
    found = searched(adapted, **text)
    assert len(products) == 3 * (MAPS - 8 + 1) - 4
    assert not torch.allclose(found[1], plain[1], atol=1e-3)
    with adapted.disable_adapter():
        assert_same(searched(adapted, **text), plain)
    assert pack_weights(adapted) > 0
    assert_same(searched(adapted, **text), found)
    for linear in [m.base_layer for m in adapters]:
        packed_weights.PACKED[linear] = packed_weights.PackedWeight(linear.weight)
    merged = adapted.merge_and_unload()
    products.clear()
    torch.testing.assert_close(searched(merged)[1], found[1], atol=1e-4, rtol=1e-4)
    assert len(products) == 3 * (MAPS - 8 + 1) - 4


def test_maps_with_hooks_are_called(products):
    model, calls = plain_t5(), []
    pack_weights(model)
    expected = searched(model)
    number = len(products)
    maps = [model.decoder.block[0].layer[2].DenseReluDense.wo, model.lm_head]
    for linear in maps:
        linear.register_forward_hook(lambda *_: calls.append(1))
    assert_same(searched(model), expected)
    assert len(calls) == 6 and len(products) == 2 * number - 6


def test_never_in_training():
    linear = nn.Linear(8, 4).eval()
    PACKED[linear] = packed_weights.PackedWeight(linear.weight)
    states, expected = torch.randn(3, 8), linear.weight
    with torch.no_grad():
        assert is_packed(linear_map(linear).keywords["weight"])
        assert linear_map(linear.train()).keywords["weight"] is expected
    linear.eval()
    mapped = linear_map(linear)
    assert mapped.keywords["weight"] is expected and mapped(states).requires_grad
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert linear_map(linear)(states).dtype == torch.bfloat16
    with torch.inference_mode():
        assert is_packed(linear_map(linear).keywords["weight"])
        torch.testing.assert_close(linear_map(linear)(states), linear(states))
    assert valid_copy(linear) is not None  # it was never in doubt


def test_half_precision_falls_back(products):
    model = plain_t5()
    pack_weights(model)
    model.bfloat16()
    searched(model)
    assert not products


def test_two_threads_search_and_pack(products):
    model = plain_t5()
    expected = searched(model)
    with ThreadPoolExecutor(2) as pool:
        packing = pool.submit(lambda: [pack_weights(model) for _ in range(5)])
        for found in pool.map(lambda _: searched(model), range(6)):
            assert_same(found, expected)
        assert len(set(packing.result())) == 1
    assert_same(searched(model), expected)
    assert products


def test_what_it_can_do_nothing_for_is_said(monkeypatch):
    with pytest.raises(ValueError, match="LMIndexerForSemanticID has no decoder of T5 or mT5"):
        pack_weights(tiny_model("bart"))
    with pytest.raises(ValueError, match="LMIndexerForSemanticID has no decoder of T5 or mT5"):
        pack_weights(tiny_model("bert"))
    with pytest.raises(ValueError, match="T5EncoderModel has no decoder"):
        pack_weights(T5EncoderModel(T5Config(**SIZES)))
    with pytest.raises(ValueError, match="Found weights of torch.bfloat16 on cpu"):
        pack_weights(plain_t5().bfloat16())
    with pytest.raises(ValueError, match="Found weights of torch.float32 on meta"):
        pack_weights(plain_t5().to("meta"))
    eager = plain_t5()
    eager.set_attn_implementation("eager")
    with pytest.raises(ValueError, match="Found the attention 'eager'"):
        pack_weights(eager)
    with torch.backends.mkldnn.flags(enabled=False), pytest.raises(ValueError, match="switched off"):
        pack_weights(plain_t5())
    monkeypatch.setattr(packed_weights, "kernels_work", lambda: False)
    with pytest.raises(ValueError, match="This torch has no oneDNN kernels"):
        pack_weights(plain_t5())


def test_a_torch_without_the_kernels_searches_on(products, monkeypatch):
    model = plain_t5()
    expected = searched(model)
    pack_weights(model)
    monkeypatch.setattr(packed_weights, "reordered", lambda *_: torch.ops.mkldnn.no_such_operator)
    packed_weights.kernels_work.cache_clear()
    try:
        assert not packed_weights.kernels_work()
        products.clear()
        assert_same(searched(model), expected)
        assert not products
    finally:
        packed_weights.kernels_work.cache_clear()


def test_what_a_hook_keeps_can_be_trained_on():
    model, kept = plain_t5(), []
    model.decoder.block[1].layer[2].DenseReluDense.wo.register_forward_hook(lambda *call: kept.append(call[-1]))
    searched(model)
    probe = nn.Linear(kept[0].shape[-1], 2)
    probe(kept[0]).sum().backward()
    assert probe.weight.grad.abs().sum() > 0


def test_global_hooks_see_the_maps():
    model, seen = plain_t5(), []
    handle = nn.modules.module.register_module_forward_hook(lambda module, *_: seen.append(module))
    try:
        searched(model)
    finally:
        handle.remove()
    maps = {module for block in model.decoder.block for module in block.modules() if type(module) is nn.Linear}
    assert maps <= set(seen)


def test_the_kernels_are_found_under_other_defaults():
    packed_weights.kernels_work.cache_clear()
    expected = packed_weights.kernels_work()
    packed_weights.kernels_work.cache_clear()
    torch.set_default_dtype(torch.float64)
    try:
        assert packed_weights.kernels_work() == expected
    finally:
        torch.set_default_dtype(torch.float32)

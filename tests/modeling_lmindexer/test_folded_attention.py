"""Attention with folded keys and values gives what attention to projected states gives."""

import pytest
import torch
from tiny_models import enable_checkpointing, tiny_inputs, tiny_model
from torch import nn
from torch.nn import functional as F
from torch.nn.functional import scaled_dot_product_attention
from transformers.cache_utils import DynamicCache

from modeling_lmindexer.folded_attention import FoldedCache, can_fold, folded_attention


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("mask", [None, "boolean", "added"])
@pytest.mark.parametrize("queries", [1, 3])
def test_equal_to_projected_keys_and_values(bias, mask, queries):
    torch.manual_seed(0)
    key, value = (nn.Linear(10, 12, bias=bias) for _ in range(2))
    query, source = torch.randn(4, 3, queries, 4), torch.randn(4, 6, 10)
    visible = (torch.arange(6) < torch.tensor([[6], [4], [1], [2]]))[:, None, None]
    masks = {None: None, "boolean": visible, "added": torch.zeros(4, 1, 1, 6).masked_fill(~visible, -1e30)}
    keys, values = (m(source).unflatten(-1, (3, 4)).transpose(1, 2) for m in (key, value))
    expected = scaled_dot_product_attention(query, keys, values, attn_mask=masks[mask], scale=0.3)
    torch.testing.assert_close(folded_attention(query, source, masks[mask], key, value, 0.3), expected)


@pytest.mark.parametrize("kind", ["t5", "bert"])
def test_assign_projects_no_state(kind):
    """Neither kind of decoder maps the encoder's states to keys and values; adapters still do."""
    model = tiny_model(kind)
    expected, called = model.assign(**tiny_inputs()), []
    names = ("EncDecAttention.k", "EncDecAttention.v", "cross_attention.key", "cross_attention.value")
    maps = [module for name, module in model.named_modules() if name.endswith(names)]
    assert maps and all(can_fold(m, m, FoldedCache(DynamicCache(), DynamicCache())) for m in maps)
    assert not can_fold(maps[0], maps[1], None)
    handles = [m.register_forward_hook(lambda *_: called.append(1)) for m in maps]
    assert torch.equal(model.assign(**tiny_inputs()), expected)  # someone looks: modules are called, once each
    assert len(called) == len(maps)
    for handle in handles:
        handle.remove()
    assert not can_fold(maps[0].train(), maps[1], FoldedCache(DynamicCache(), DynamicCache()))


def test_dropout_leaves_out_of_weights_what_it_would_of_projected_values():
    torch.manual_seed(0)
    key, value = (nn.Linear(10, 12) for _ in range(2))
    query, source = torch.randn(4, 3, 2, 4), torch.randn(4, 6, 10)
    keys, values = (m(source).unflatten(-1, (3, 4)).transpose(1, 2) for m in (key, value))
    torch.manual_seed(1)
    found = folded_attention(query, source, None, key, value, 0.3, dropout=0.5)
    torch.manual_seed(1)
    weights = F.dropout((0.3 * query @ keys.transpose(2, 3)).softmax(-1), 0.5)
    torch.testing.assert_close(found, weights @ values)


@pytest.mark.parametrize("kind", ["t5", "bert"])
def test_training_projects_no_state_and_gives_the_gradients_of_one_that_does(kind, monkeypatch):
    """All of them, that of the keys' bias included; with hooks, or with gradient checkpointing on T5, states are."""
    inputs = tiny_inputs() | {"labels": torch.tensor([[1, 9, 10], [3, 5, 12], [4, 7, 11]])}
    called, results = [], {}
    forward = nn.Linear.forward
    monkeypatch.setattr(nn.Linear, "forward", lambda self, states: called.append(self) or forward(self, states))
    for way in ("folded", "hooked", "watched", "checkpointed"):
        model = tiny_model(kind).double().train()
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
            elif hasattr(module, "dropout") and not isinstance(module.dropout, nn.Module):
                module.dropout = 0.0
        torch.manual_seed(0)
        for parameter in model.parameters():
            if not parameter.any():  # what starts at zero hides what comes before it
                nn.init.normal_(parameter, std=0.1)
        names = ("EncDecAttention.k", "EncDecAttention.v", "cross_attention.key", "cross_attention.value")
        maps = {module for name, module in model.named_modules() if name.endswith(names)}
        if way == "hooked":
            for module in maps:
                module.register_forward_hook(lambda *_: None)
        elif way == "watched":
            for module in maps:
                module.register_full_backward_hook(lambda *_: None)
        elif way == "checkpointed":
            enable_checkpointing(model)
        called.clear()
        output = model(**inputs)
        output.loss.backward()
        assert output.past_key_values is None
        assert maps.isdisjoint(called) == (way == "folded" or (way, kind) == ("checkpointed", "bert"))
        results[way] = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    folded = results.pop("folded")
    assert any("EncDecAttention.k" in name or "cross_attention.key.bias" in name for name in folded)
    for expected in results.values():
        assert folded.keys() == expected.keys()
        for name, value in expected.items():
            torch.testing.assert_close(folded[name], value, atol=1e-9, rtol=1e-9, msg=name)

"""Attention with folded keys and values gives what attention to projected states gives."""

import pytest
import torch
from tiny_models import tiny_inputs, tiny_model
from torch import nn
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
    """Neither kind of decoder maps the encoder's states to keys and values; adapters and training still do."""
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

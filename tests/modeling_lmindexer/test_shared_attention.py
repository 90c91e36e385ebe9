import pytest
import torch
from tiny_models import KINDS, tiny_inputs, tiny_model
from torch.nn.functional import scaled_dot_product_attention
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from modeling_lmindexer.backbones import backbone_kind
from modeling_lmindexer.search import IDSteps
from modeling_lmindexer.shared_attention import SHARED_ATTENTION, can_share, fold_beams, shared_attention_forward


class Attention(torch.nn.Module):
    """What an attention function may look at."""

    def __init__(self, is_causal, num_key_value_groups=1):
        super().__init__()
        self.is_causal, self.num_key_value_groups = is_causal, num_key_value_groups


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("groups", [1, 2])
def test_beams_that_share_keys_get_what_copies_give(masked, biased, groups):
    query = torch.randn(3 * 5, 4, 1, 8)
    key, value = torch.randn(2, 3, 4 // groups, 7, 8)
    mask = (torch.arange(7) < torch.tensor([[7], [4], [1]]))[:, None, None] if masked else None
    kwargs = {"position_bias": torch.randn(1, 4, 1, 7)} if biased else {}
    module = Attention(True, groups)  # causal, which must not hide one beam from another
    shared, _ = shared_attention_forward(module, query, key, value, mask, **kwargs)
    copies = [None if x is None else x.repeat_interleave(5, dim=0) for x in (key, value, mask)]
    expected, _ = sdpa_attention_forward(module, query, *copies, **kwargs)
    assert shared.shape == (15, 1, 4, 8)
    torch.testing.assert_close(shared, expected)


def test_equally_many_rows_are_plain_sdpa():
    query, key, value = torch.randn(3, 2, 2, 5, 8)
    found, _ = shared_attention_forward(Attention(True), query, key, value, None)
    expected = scaled_dot_product_attention(query, key, value, is_causal=True).transpose(1, 2)
    torch.testing.assert_close(found, expected)


def test_folded_beams_stay_with_their_text():
    query = torch.arange(6.0)[:, None, None, None].expand(6, 2, 1, 3)
    assert fold_beams(query, 2)[:, 0, :, 0].tolist() == [[0, 1, 2], [3, 4, 5]]


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("kind", KINDS)
def test_encoder_and_cross_attention_run_once_per_text(kind, attention):
    """The cross-attention's cache keeps one row per text where it can, and is copied once where it cannot."""
    model = tiny_model(kind)
    encoder_decoder = model.config.backbone_config.is_encoder_decoder
    has_sdpa = model.backbone._supports_sdpa  # not T5Gemma's, in newer versions of transformers: it caps the logits
    model.set_attn_implementation(attention if has_sdpa else "eager")
    shares = not encoder_decoder or (attention == "sdpa" and has_sdpa)
    assert backbone_kind(model.config).searcher(model)[1] == shares
    states, mask = model.encode(**tiny_inputs())
    with torch.no_grad():
        steps = IDSteps(model, states, mask)
        steps(torch.zeros(3, 1, dtype=torch.long), None)
        parents = torch.arange(3).repeat_interleave(4)
        ids = torch.tensor([[0, 1 + i % 4] for i in range(12)])
        found = steps(ids, parents)
    expected = model(
        **{name: value.repeat_interleave(4, dim=0) for name, value in tiny_inputs().items()}, decoder_input_ids=ids
    )
    torch.testing.assert_close(found, expected.code_logits[1].log_softmax(-1), atol=1e-5, rtol=1e-5)
    rows = {len(layer.keys) for layer in steps.cache.cross_attention_cache.layers}
    assert rows == {3 if shares else 12}


def test_a_model_that_has_searched_does_everything_else_as_before():
    model = tiny_model("bart")
    inputs = tiny_inputs()
    labels = torch.tensor([[1, 9, 10], [3, 5, 12], [4, 7, 11]])
    before = model(**inputs, labels=labels)
    assert can_share(model.backbone.get_decoder()) and can_share(model.backbone.get_decoder())
    assert model.backbone.get_decoder().config._attn_implementation == SHARED_ATTENTION
    after = model(**inputs, labels=labels)
    assert torch.equal(before.logits, after.logits) and torch.equal(before.loss, after.loss)
    assert "attn_implementation" not in str(model.config.to_dict().get("backbone_config"))
    model.set_attn_implementation("eager")
    assert not can_share(model.backbone.get_decoder())

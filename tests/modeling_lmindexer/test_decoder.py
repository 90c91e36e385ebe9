import pytest
import torch
from tiny_models import tiny_backbone_config, tiny_inputs, tiny_model
from torch.nn.functional import normalize
from transformers.cache_utils import DynamicCache, EncoderDecoderCache

from modeling_lmindexer import LMIndexerConfig, LMIndexerForSemanticID
from modeling_lmindexer.backbones import pool
from modeling_lmindexer.decoder import unexplained


def decoder_inputs(batch=3, tokens=6, positions=3, width=16):
    """Pooled embeddings of norm 4, codes of a prefix, encoder states and a mask with some padding."""
    torch.manual_seed(0)
    pooled = normalize(torch.randn(batch, width), dim=-1) * width**0.5
    codes, states = torch.randn(batch, positions - 1, width), torch.randn(batch, tokens, width)
    mask = (torch.arange(tokens) < torch.tensor([[6], [4], [1]])).long()
    return pooled, codes, states, mask


def test_what_is_unexplained_is_orthogonal_to_the_code_before():
    pooled, codes, _, _ = decoder_inputs(positions=4)
    remainders = unexplained(pooled, codes)
    assert remainders.shape == (3, 4, 16)
    assert torch.equal(remainders[:, 0], pooled)
    torch.testing.assert_close((remainders[:, 1:] * codes).sum(-1), torch.zeros(3, 3), atol=1e-5, rtol=0)
    # And it loses nothing else: the difference is along the code.
    lost = normalize(remainders[:, :-1] - remainders[:, 1:], dim=-1)
    torch.testing.assert_close((lost * normalize(codes, dim=-1)).sum(-1).abs(), torch.ones(3, 3))


def test_without_a_prefix_everything_is_unexplained():
    pooled = torch.randn(3, 16)
    assert torch.equal(unexplained(pooled, torch.zeros(3, 0, 16)), pooled[:, None])


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_h1_starts_as_the_pooled_embedding_and_h2_as_its_remainder(pooling):
    model = tiny_model("bert", zeros=True, pooling=pooling)
    input_ids, mask = torch.tensor([[5, 6, 7, 0], [8, 9, 10, 11]]), torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1]])
    states, _ = model.encode(input_ids, mask)
    embedding = states[:, 0] if pooling == "cls" else torch.stack([states[0, :3].mean(0), states[1].mean(0)])
    h = model(input_ids, mask, torch.tensor([[0, 1], [0, 1]])).decoder_last_hidden_state
    torch.testing.assert_close(normalize(h[:, 0], dim=-1), normalize(embedding, dim=-1))
    # The output norm keeps directions; states are as long as normalised ones of that width.
    torch.testing.assert_close(h.norm(dim=-1), torch.full((2, 2), 4.0), atol=1e-3, rtol=0)
    code = normalize(model.codebooks.learned[0].weight[0], dim=-1)
    direction = normalize(embedding, dim=-1)
    remainder = direction - (direction @ code)[:, None] * code
    torch.testing.assert_close(normalize(h[:, 1], dim=-1), normalize(remainder, dim=-1))


@pytest.mark.parametrize(
    ("kind", "config"), [("bert", {}), ("distilbert", {}), ("t5", {"pooled_input": True}), ("t5", {})]
)
def test_documents_of_one_prefix_differ_at_the_second_position(kind, config):
    """Else the contrastive gradient (Eq. 9) would be zero and the second code could tell nothing apart."""
    model = tiny_model(kind, zeros=True, **config)
    embeddings = torch.randn(2, 4, 16, requires_grad=True)
    h2 = model(inputs_embeds=embeddings, decoder_input_ids=torch.tensor([[0, 1], [0, 1]])).decoder_last_hidden_state[
        :, 1
    ]
    assert (h2[0] - h2[1]).norm() > 0.01 * h2[0].norm()
    h2 = normalize(h2, dim=-1)
    (h2[0] @ h2[1]).backward()
    assert (embeddings.grad.norm(dim=(1, 2)) > 1e-4).all()


@pytest.mark.parametrize("zeros", [True, False])
def test_cached_equals_uncached(zeros):
    decoder = tiny_model("bert", zeros=zeros).decoder
    pooled, codes, states, mask = decoder_inputs()
    whole, cache = decoder(pooled, codes, states, mask)
    assert cache is None and whole.shape == (3, 3, 16)
    # One position after the other, and two at once after the first.
    for steps in ([1, 2, 3], [1, 3], [2, 3]):
        cache, parts = None, []
        for end in steps:
            part, cache = decoder(pooled, codes[:, : end - 1], states, mask, cache, use_cache=True)
            parts.append(part)
            assert cache.get_seq_length() == end
        torch.testing.assert_close(torch.cat(parts, dim=1), whole)


def test_the_cache_reorders_with_its_beams():
    decoder = tiny_model("bert").decoder
    pooled, codes, states, mask = decoder_inputs()
    order = torch.tensor([2, 2, 0])
    cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
    decoder(pooled, codes[:, :1], states, mask, cache, use_cache=True)
    cache.reorder_cache(order)
    part, _ = decoder(pooled[order], codes[order], states[order], mask[order], cache, use_cache=True)
    torch.testing.assert_close(part, decoder(pooled, codes, states, mask)[0][order, 2:])


def test_no_position_sees_a_later_code():
    decoder = tiny_model("bert").decoder
    pooled, codes, states, mask = decoder_inputs(positions=4)
    before, _ = decoder(pooled, codes, states, mask)
    changed = codes.clone()
    changed[:, 1] += 1
    after, _ = decoder(pooled, changed, states, mask)
    torch.testing.assert_close(after[:, :2], before[:, :2])
    assert ((after - before)[:, 2:].norm(dim=-1) > 1e-3).all()


def test_padding_of_the_text_is_not_attended_to():
    decoder = tiny_model("bert").decoder
    pooled, codes, states, mask = decoder_inputs()
    before, _ = decoder(pooled, codes, states, mask)
    after, _ = decoder(pooled, codes, torch.where(mask[..., None].bool(), states, 1e3), mask)
    torch.testing.assert_close(after, before)
    seen, _ = decoder(pooled, codes, torch.where(mask[..., None].bool(), states + 1, states), mask)
    assert ((seen - before).norm(dim=-1) > 1e-3).all()


@pytest.mark.parametrize("side", ["right", "left"])
def test_pooling_by_hand(side):
    states, tokens = torch.randn(2, 4, 16), slice(0, 3) if side == "right" else slice(1, 4)
    mask = torch.zeros(2, 4, dtype=torch.long)
    mask[:, tokens] = 1
    by_hand = {"mean": states[:, tokens].mean(1), "cls": states[:, tokens][:, 0]}
    for pooling, expected in by_hand.items():
        torch.testing.assert_close(pool(states, mask, pooling), normalize(expected, dim=-1) * 4)


def test_pooling_nothing_is_finite():
    assert pool(torch.randn(1, 3, 16), torch.zeros(1, 3), "mean").tolist() == [[0.0] * 16]


@pytest.mark.parametrize(("kind", "start_id"), [("t5", 0), ("t5gemma", 2), ("bart", 2)])
def test_an_encoder_decoder_starts_as_it_was_trained_to(kind, start_id):
    """The first decoder input is the backbone's own start token, scaled where the backbone scales it."""
    config = tiny_backbone_config(kind)
    config.scale_embedding = True
    model = LMIndexerForSemanticID(LMIndexerConfig(backbone_config=config, codebook_sizes=[4])).eval()
    expected = model.backbone(tiny_inputs()["input_ids"], decoder_input_ids=torch.full((3, 1), start_id))
    found = model(tiny_inputs()["input_ids"]).decoder_last_hidden_state
    torch.testing.assert_close(found, expected.last_hidden_state)

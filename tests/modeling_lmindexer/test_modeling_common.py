"""What must hold for every backbone."""

import copy

import pytest
import torch
from tiny_models import (
    KINDS,
    all_ids,
    assert_best,
    beams,
    decoder_ids,
    enable_checkpointing,
    exhaustive_scores,
    learning_inputs,
    tiny_inputs,
    tiny_model,
)
from torch.nn.functional import pad
from transformers import AutoModel
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutput

from modeling_lmindexer import LMIndexerForSemanticID, PrefixTree, PrefixTreeLogitsProcessor, SemanticIndex

CASES = {kind: (kind, {}) for kind in KINDS} | {
    "t5-pooled": ("t5", {"pooled_input": True}),
    "bert-learned-temperature": ("bert", {"learn_temperature": True}),
}
# What an encoder has beside the states that we read: nothing of it is in the output.
UNUSED = {"bert": "pooler", "mpnet": "pooler", "xlm-roberta": "pooler"}
POSITIONS_FROM_THE_LEFT = ("bart",)


@pytest.fixture(scope="module", params=CASES)
def shared_model(request):
    kind, config = CASES[request.param]
    return tiny_model(kind, **config)


@pytest.fixture(scope="module", params=CASES)
def shared_plain_model(request):
    """Its IDs are the learned codes alone."""
    kind, config = CASES[request.param]
    return tiny_model(kind, num_disambiguation_codes=0, **config)


@pytest.fixture
def plain_model(shared_plain_model):
    return copy.deepcopy(shared_plain_model)


@pytest.fixture
def model(shared_model):
    return copy.deepcopy(shared_model)


@pytest.fixture
def kind(model):
    return model.config.backbone_config.model_type


@pytest.fixture
def ids(model):
    """Two thirds of all IDs, in a random order."""
    every = all_ids(model.config)
    return every[torch.randperm(len(every))[:40]]


@pytest.fixture
def trie(ids):
    return PrefixTreeLogitsProcessor(PrefixTree.from_sequences(ids))


def test_saved_and_loaded_is_the_same(model, tmp_path):
    model.save_pretrained(tmp_path)
    loaded = LMIndexerForSemanticID.from_pretrained(tmp_path)
    assert loaded.generation_config.to_dict() == model.generation_config.to_dict()
    assert not loaded.training
    states, expected = loaded.state_dict(), model.state_dict()
    assert states.keys() == expected.keys() and all(torch.equal(states[name], expected[name]) for name in states)
    logits = [m(**tiny_inputs(), decoder_input_ids=decoder_ids()).logits for m in (model, loaded)]
    assert torch.equal(*logits)


def test_what_is_not_in_the_file_is_no_garbage_either(model, tmp_path):
    """Models are built without memory and filled: buffers outside the file must be made again."""
    model.save_pretrained(tmp_path)
    loaded = AutoModel.from_pretrained(tmp_path)
    buffers, expected = dict(loaded.named_buffers()), dict(model.named_buffers())
    assert buffers.keys() == expected.keys()
    for name, buffer in buffers.items():
        assert torch.equal(buffer, expected[name]), name
    for name, module in loaded.named_modules():
        for attribute, value in vars(module).items():
            assert not (torch.is_tensor(value) and value.is_meta), (name, attribute)


def test_the_same_seed_is_the_same_model(kind):
    config = tiny_model(kind).config
    states = []
    for _ in range(2):
        torch.manual_seed(3)
        states.append(LMIndexerForSemanticID(config).state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_beams_in_the_tree_are_the_best_of_all_ids(model, ids, trie):
    """20 beams hold all 20 prefixes of two codes, so that the search is exhaustive."""
    found, scores = beams(model, trie, **tiny_inputs())
    assert_best(found, scores, ids, exhaustive_scores(model, ids, **tiny_inputs()))


def test_beams_without_a_tree_are_the_best_of_all_codes(model):
    every = all_ids(model.config)
    found, scores = beams(model, None, **tiny_inputs())
    assert_best(found, scores, every, exhaustive_scores(model, every, **tiny_inputs()))


def test_cached_equals_uncached(model, trie):
    cached, scores = beams(model, trie, **tiny_inputs(), use_cache=True)
    uncached, expected = beams(model, trie, **tiny_inputs(), use_cache=False)
    assert torch.equal(cached, uncached)
    torch.testing.assert_close(scores, expected, atol=1e-4, rtol=0)
    cache, logits = None, []
    for end in (1, 2, 3):
        output = model(
            **tiny_inputs(), decoder_input_ids=decoder_ids()[:, :end], past_key_values=cache, use_cache=True
        )
        cache, logits = output.past_key_values, [*logits, output.logits]
        assert output.logits.shape == (3, 1, model.config.vocab_size)
    whole = model(**tiny_inputs(), decoder_input_ids=decoder_ids()).logits
    torch.testing.assert_close(torch.cat(logits, dim=1), whole, atol=1e-4, rtol=0)


def test_logits_are_those_of_each_position(model):
    output = model(**tiny_inputs(), decoder_input_ids=decoder_ids())
    for t, scores in enumerate(output.code_logits):
        start, size = model.config.position_offsets[t], model.config.position_sizes[t]
        assert scores.shape == (3, size)
        assert torch.equal(output.logits[:, t, start : start + size], scores)
        outside = torch.cat([output.logits[:, t, :start], output.logits[:, t, start + size :]], dim=1)
        assert (outside == torch.finfo(torch.float32).min).all()


def test_greedy_takes_the_best_step_and_stays_in_the_tree(model, trie):
    found = model.generate(**tiny_inputs(), logits_processor=trie)
    assert found.shape == (3, 4) and trie.tree.contains(found[:, 1:]).all()
    steps = torch.zeros(3, 1, dtype=torch.long)
    for _ in range(3):
        logits = trie(steps, model(**tiny_inputs(), decoder_input_ids=steps).logits[:, -1])
        steps = torch.cat([steps, logits.argmax(-1, keepdim=True)], dim=1)
    assert torch.equal(found, steps)


def test_sampling_stays_in_the_tree(model, trie):
    found = model.generate(**tiny_inputs(), logits_processor=trie, do_sample=True, num_return_sequences=30)
    assert found.shape == (90, 4) and trie.tree.contains(found[:, 1:]).all()
    hot = model.generate(**tiny_inputs(), logits_processor=trie, do_sample=True, temperature=50.0)
    assert trie.tree.contains(hot[:, 1:]).all()


def test_encoder_states_can_be_used_again(model, trie):
    inputs = tiny_inputs()
    states, mask = model.encode(**inputs)
    expected, scores = beams(model, trie, **inputs)
    logits = model(**inputs, decoder_input_ids=decoder_ids()).logits
    for outputs in (BaseModelOutput(last_hidden_state=states), (states,), states):
        again = model(encoder_outputs=outputs, attention_mask=mask, decoder_input_ids=decoder_ids()).logits
        torch.testing.assert_close(again, logits)
        assert torch.equal(model.assign(encoder_outputs=outputs, attention_mask=mask), model.assign(**inputs))
    outputs = BaseModelOutput(last_hidden_state=states)
    found, found_scores = beams(model, trie, encoder_outputs=outputs, attention_mask=mask)
    assert torch.equal(found, expected)
    torch.testing.assert_close(found_scores, scores)


def test_encoder_states_without_a_mask_count_whole(model):
    inputs = {"input_ids": tiny_inputs()["input_ids"]}
    states, _ = model.encode(**inputs)
    assert torch.equal(model.assign(encoder_outputs=states), model.assign(**inputs))
    logits = model(encoder_outputs=states, decoder_input_ids=decoder_ids()).logits
    torch.testing.assert_close(logits, model(**inputs, decoder_input_ids=decoder_ids()).logits)


def test_a_prefix_can_be_given(model):
    """The rest of the ID is searched; scores are those of the rest."""
    tree = PrefixTreeLogitsProcessor(PrefixTree.from_sequences(all_ids(model.config)))
    prefix = torch.tensor([[0, 2], [0, 1], [0, 4]])
    found, scores = beams(model, tree, 10, **tiny_inputs(), decoder_input_ids=prefix)
    assert found.shape == (3, 10, 3) and (found[:, :, 0] == prefix[:, 1:]).all()
    for i in range(3):
        inputs = {name: value[i : i + 1] for name, value in tiny_inputs().items()}
        ids = all_ids(model.config)
        ids = ids[ids[:, 0] == prefix[i, 1]]
        first = model(**inputs).logits.log_softmax(-1)[0, 0, prefix[i, 1]]
        assert_best(found[i : i + 1], scores[i : i + 1], ids, exhaustive_scores(model, ids, **inputs) - first)


@pytest.mark.parametrize("side", ["right", "left"])
def test_padding_changes_nothing_or_is_refused(model, kind, trie, side):
    inputs = tiny_inputs()
    pad_id = model.config.backbone_config.pad_token_id or 0
    texts = [row[: int(m.sum())] for row, m in zip(inputs["input_ids"], inputs["attention_mask"], strict=True)]
    alone = [model(text[None], decoder_input_ids=decoder_ids(1)).logits[0] for text in texts]
    widths = [(0, 9 - len(text)) if side == "right" else (9 - len(text), 0) for text in texts]
    batch = torch.stack([pad(text, width, value=pad_id) for text, width in zip(texts, widths, strict=True)])
    mask = torch.stack([pad(torch.ones_like(t), width) for t, width in zip(texts, widths, strict=True)])
    if side == "left" and kind in POSITIONS_FROM_THE_LEFT:
        with pytest.raises(ValueError, match=f"padded on the left, and the positions of a '{kind}' backbone"):
            model(batch, mask)
        return
    together = model(batch, mask, decoder_input_ids=decoder_ids(1).expand(3, -1)).logits
    torch.testing.assert_close(together, torch.stack(alone), atol=1e-4, rtol=0)
    found, scores = beams(model, trie, input_ids=batch, attention_mask=mask)
    for i, text in enumerate(texts):
        expected, expected_scores = beams(model, trie, input_ids=text[None])
        torch.testing.assert_close(scores[i : i + 1], expected_scores, atol=1e-4, rtol=0)
        assert torch.equal(found[i : i + 1], expected)


def test_masks_of_every_kind(model):
    inputs, given = tiny_inputs(), decoder_ids()
    expected = model(**inputs, decoder_input_ids=given).logits
    for dtype in (torch.bool, torch.int32, torch.float32):
        mask = inputs["attention_mask"].to(dtype)
        torch.testing.assert_close(model(inputs["input_ids"], mask, given).logits, expected)
        assert torch.equal(model.assign(inputs["input_ids"], mask), model.assign(**inputs))
    ones = torch.ones_like(inputs["attention_mask"])
    whole = model(inputs["input_ids"], ones, given).logits
    torch.testing.assert_close(model(inputs["input_ids"], None, given).logits, whole)
    assert not torch.allclose(whole[2], expected[2], atol=1e-3)


def test_an_empty_text_is_finite_and_harms_no_other(model):
    inputs = tiny_inputs()
    expected = model(**inputs, decoder_input_ids=decoder_ids()).logits
    inputs["attention_mask"][2] = 0
    if model.config.backbone_config.model_type in POSITIONS_FROM_THE_LEFT:
        inputs["attention_mask"][2, 0] = 1
    logits = model(**inputs, decoder_input_ids=decoder_ids()).logits
    assert logits.isfinite().all()
    torch.testing.assert_close(logits[:2], expected[:2], atol=1e-4, rtol=0)


def test_inputs_embeds_stand_in_for_ids(model):
    input_ids = tiny_inputs()["input_ids"]
    embeddings = model.get_input_embeddings()(input_ids)
    logits = model(inputs_embeds=embeddings).logits
    torch.testing.assert_close(logits, model(input_ids=input_ids).logits)
    assert torch.equal(model.generate(inputs_embeds=embeddings), model.generate(input_ids))


def test_assign_is_the_argmax_step_by_step(model):
    prefix = torch.zeros(3, 1, dtype=torch.long)
    for t in range(2):
        scores = model(**tiny_inputs(), decoder_input_ids=prefix).code_logits[t]
        prefix = torch.cat([prefix, scores.argmax(-1, keepdim=True) + (1, 5)[t]], dim=1)
    assigned = model.assign(**tiny_inputs())
    assert torch.equal(assigned, prefix[:, 1:])
    for i in range(3):
        one = {name: value[i : i + 1] for name, value in tiny_inputs().items()}
        assert torch.equal(model.assign(**one), assigned[i : i + 1])


def test_fine_tuning_loss_by_hand(model):
    """Eq. 14: summed over positions, averaged over documents; -100 does not count."""
    labels = torch.tensor([[1, 9, 10], [3, 5, 12], [4, 7, 11]])
    output = model(**tiny_inputs(), labels=labels)
    logits = model(**tiny_inputs(), decoder_input_ids=decoder_ids()).logits
    picked = logits.log_softmax(-1).gather(-1, labels[..., None])[..., 0]
    torch.testing.assert_close(output.loss, -picked.sum() / 3)
    torch.testing.assert_close(model(**tiny_inputs(), labels=labels[:, :2]).loss, -picked[:, :2].sum() / 3)
    labels[1, 2] = labels[2, 2] = -100
    torch.testing.assert_close(model(**tiny_inputs(), labels=labels).loss, -(picked.sum() - picked[1:, 2].sum()) / 3)


def test_fine_tuning_trains_everything_but_the_reconstructor(model, kind):
    model.train()
    model(**tiny_inputs(), labels=torch.tensor([[1, 9, 10], [3, 5, 12], [4, 7, 11]])).loss.backward()
    without = {n for n, p in model.named_parameters() if p.grad is None or p.grad.abs().sum() == 0}
    reconstructor = {n for n, _ in model.named_parameters() if n.startswith("reconstructor.")}
    unused = {n for n, _ in model.named_parameters() if n.startswith(f"backbone.{UNUSED.get(kind)}.")}
    # No softmax sees a bias that all keys share.
    shared = {n for n in without if n.endswith(("key.bias", "k_proj.bias", "k_lin.bias", ".attn.k.bias"))}
    assert without - shared == reconstructor | unused
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def test_gradient_checkpointing_gives_the_same_gradients(model):
    model.train()
    model.drop_reconstructor()  # a task does not run it
    layers = [m for m in model.modules() if isinstance(m, GradientCheckpointingLayer)]
    # The whole layer is called once, what is in it again for the gradient.
    inside = [next(m for m in layer.modules() if isinstance(m, torch.nn.Linear)) for layer in layers]
    calls = dict.fromkeys(inside, 0)
    for module in inside:
        module.register_forward_pre_hook(lambda module, _: calls.update({module: calls[module] + 1}))
    gradients = []
    for use_cache in (False, False, True):
        torch.manual_seed(0)
        model.zero_grad()
        labels = torch.tensor([[1, 9, 10], [3, 5, 12], [4, 7, 11]])
        model(**tiny_inputs(), labels=labels, use_cache=use_cache).loss.backward()
        gradients.append({n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None})
        enable_checkpointing(model)
    assert layers and set(calls.values()) == {1 + 2 + 2}
    for other in gradients[1:]:
        assert gradients[0].keys() == other.keys()
        for name, gradient in gradients[0].items():
            torch.testing.assert_close(other[name], gradient, msg=name)


def test_half_precision_is_finite_and_stays_in_the_tree(model, trie, tmp_path):
    model.save_pretrained(tmp_path)
    half = LMIndexerForSemanticID.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert {p.dtype for p in half.parameters()} == {torch.bfloat16}
    output = half(**tiny_inputs(), labels=torch.tensor([[1, 9, 10], [3, 5, 12], [4, 7, 11]]))
    assert output.loss.isfinite() and output.logits.isfinite().all() and output.logits.dtype == torch.bfloat16
    found, scores = beams(half, trie, 5, **tiny_inputs())
    assert trie.tree.contains(found.flatten(0, 1)).all() and scores.isfinite().all()
    learned = half(**learning_inputs(decoder_input_ids=decoder_ids()[:, :2], quantize=True, view="dropout"))
    assert learned.reconstruction.logits.isfinite().all() and learned.views[1].isfinite().all()


def test_mixed_precision_is_finite(model, trie):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = model(**tiny_inputs(), labels=torch.tensor([[1, 9, 10], [3, 5, 12], [4, 7, 11]]))
        learned = model(**learning_inputs(decoder_input_ids=decoder_ids()[:, :2], quantize=True, view="dropout"))
        found, _ = beams(model, trie, 5, **tiny_inputs())
    (output.loss + learned.reconstruction.logits.float().sum() + learned.views[1].float().sum()).backward()
    assert output.loss.isfinite() and trie.tree.contains(found.flatten(0, 1)).all()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def test_same_inputs_same_outputs(model):
    one, two = (model(**tiny_inputs(), decoder_input_ids=decoder_ids()) for _ in range(2))
    assert torch.equal(one.logits, two.logits)


@pytest.mark.parametrize("view", ["identical", "dropout", "crops"])
@pytest.mark.parametrize("quantize", [False, True])
def test_learning_returns_what_the_losses_need(model, view, quantize):
    model.train()
    crops = torch.randint(5, 99, (3, 2, 4))
    inputs = learning_inputs(decoder_input_ids=decoder_ids()[:, :2], quantize=quantize, view=view)
    inputs |= {"view_input_ids": crops, "view_attention_mask": torch.ones_like(crops)} if view == "crops" else {}
    output = model(**inputs)
    assert output.decoder_last_hidden_state.shape == (3, 2, 16)
    assert [tuple(scores.shape) for scores in output.code_logits] == [(3, 4), (3, 5)][: 1 + quantize]
    anchors, views = output.views
    assert anchors.shape == views.shape == (3, 16)
    assert torch.equal(anchors, views) == (view == "identical")
    count = int((inputs["target_weights"] > 0).sum())
    assert output.reconstruction.losses.shape == (count,) and output.reconstruction.logits is None
    assert output.reconstruction.documents.tolist() == inputs["target_weights"].nonzero()[:, 0].tolist()
    loss = output.reconstruction.losses.mean() + (anchors * views).sum()
    loss = loss + sum(scores.sum() for scores in output.code_logits)
    loss.backward()
    for module in (model.reconstructor.layers, model.get_encoder(), model.codebooks.learned[0]):
        assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in module.parameters())
    assert (model.codebooks.learned[1].weight.grad is not None) == quantize


def test_views_are_those_of_the_document(model):
    """In evaluation mode the second pass is the first, and a crop that is the whole text gives its state."""
    inputs = learning_inputs(decoder_input_ids=decoder_ids()[:, :2])
    expected = model(**tiny_inputs(), decoder_input_ids=decoder_ids()[:, :2]).decoder_last_hidden_state[:, -1]
    for view in ("identical", "dropout"):
        for h in model(**inputs, view=view).views:
            torch.testing.assert_close(h, expected, atol=1e-5, rtol=1e-5)
    other = torch.randint(5, 99, (3, 7))
    crops = torch.stack([inputs["input_ids"], other], dim=1)
    mask = torch.stack([inputs["attention_mask"], torch.ones_like(other)], dim=1)
    first, second = model(**inputs, view="crops", view_input_ids=crops, view_attention_mask=mask).views
    torch.testing.assert_close(first, expected, atol=1e-5, rtol=1e-5)
    apart = model(other, decoder_input_ids=decoder_ids()[:, :2]).decoder_last_hidden_state[:, -1]
    torch.testing.assert_close(second, apart, atol=1e-5, rtol=1e-5)


def test_the_reconstructor_gets_the_codes_of_the_prefix_and_the_last_one(model):
    inputs = learning_inputs(decoder_input_ids=decoder_ids()[:, :2])
    reconstructor = [inputs[name] for name in ("input_ids", "hint_mask", "target_weights")]
    h = model(**tiny_inputs(), decoder_input_ids=decoder_ids()[:, :2]).decoder_last_hidden_state[:, 1]
    prefix = model.codebooks.embed(decoder_ids()[:, 1:2])
    continuous = model.reconstruct(torch.cat([prefix, h[:, None]], dim=1), *reconstructor)
    torch.testing.assert_close(model(**inputs).reconstruction.logits, continuous.logits, atol=1e-4, rtol=1e-4)
    codes = model.codebooks.logits(h, 1).argmax(-1)
    code = model.codebooks.learned[1].embeddings()[codes]
    discrete = model.reconstruct(torch.cat([prefix, code[:, None]], dim=1), *reconstructor)
    found = model(**inputs, quantize=True).reconstruction.logits
    torch.testing.assert_close(found, discrete.logits, atol=1e-4, rtol=1e-4)


def test_warm_up_runs_without_the_backbone(model):
    model.backbone.forward = model.get_encoder().forward = None
    output = model(**learning_inputs())
    assert output.reconstruction.logits.isfinite().all() and output.decoder_last_hidden_state is None


def test_from_backbone_takes_the_weights_as_they_are(model, kind, tmp_path):
    model.backbone.save_pretrained(tmp_path)
    fresh = LMIndexerForSemanticID.from_backbone(tmp_path, codebook_sizes=[6, 7, 8], similarity="dot")
    assert fresh.config.position_sizes == [6, 7, 8, 64] and fresh.config.backbone_config.model_type == kind
    states, expected = fresh.backbone.state_dict(), model.backbone.state_dict()
    assert states.keys() == expected.keys() and all(torch.equal(states[n], expected[n]) for n in states)
    assert fresh.assign(**tiny_inputs()).shape == (3, 3)
    assert not any(book.initialized for book in fresh.codebooks.learned)


def test_from_a_half_precision_backbone_training_is_in_full(model, tmp_path):
    model.backbone.to(torch.bfloat16).save_pretrained(tmp_path)
    fresh = LMIndexerForSemanticID.from_backbone(tmp_path, codebook_sizes=[6])
    assert {p.dtype for p in fresh.parameters()} == {torch.float32}
    states, expected = fresh.backbone.state_dict(), model.backbone.state_dict()
    assert all(torch.equal(states[n], expected[n].to(states[n].dtype)) for n in states)


def test_generate_then_save(model, trie, tmp_path):
    before, _ = beams(model, trie, **tiny_inputs())
    model.save_pretrained(tmp_path)
    loaded = LMIndexerForSemanticID.from_pretrained(tmp_path)
    assert torch.equal(beams(loaded, trie, **tiny_inputs())[0], before)
    assert loaded.generation_config.max_new_tokens == 3 and loaded.generation_config.eos_token_id is None


def test_without_a_last_position_beams_are_the_best_ids(plain_model):
    every, inputs = all_ids(plain_model.config), tiny_inputs()
    assert every.shape == (20, 2) and plain_model.config.vocab_size == 10
    found, scores = beams(plain_model, None, **inputs)
    assert_best(found, scores, every, exhaustive_scores(plain_model, every, **inputs))
    some = every[torch.randperm(20)[:13]]
    expected = exhaustive_scores(plain_model, some, **inputs)
    codes = some - torch.tensor([1, 5])
    index = SemanticIndex.from_codes(list(range(13)), codes, [4, 5], has_disambiguation=False)
    found, scores = beams(plain_model, index.logits_processor, 13, **inputs)
    assert_best(found, scores, some, expected)
    result = plain_model.search(**inputs, index=index, num_beams=13, top_k=5)
    assert_best(result.sequences, result.scores, some, expected)
    assert result.documents == [[document for (document,) in index.documents_of(row)] for row in result.sequences]


def test_without_a_last_position_saved_and_loaded_is_the_same(plain_model, tmp_path):
    plain_model.save_pretrained(tmp_path)
    loaded, report = LMIndexerForSemanticID.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report.values()), report
    states, expected = loaded.state_dict(), plain_model.state_dict()
    assert states.keys() == expected.keys() and all(torch.equal(states[name], expected[name]) for name in states)
    assert not any("disambiguation" in name for name in states)
    assert loaded.config.position_sizes == [4, 5] and loaded.generation_config.max_new_tokens == 2
    logits = [m(**tiny_inputs(), decoder_input_ids=decoder_ids()[:, :2]).logits for m in (plain_model, loaded)]
    assert logits[0].shape == (3, 2, 10) and torch.equal(*logits)
    assert loaded.generate(**tiny_inputs()).shape == (3, 3)


def test_without_a_last_position_fine_tuning_is_of_the_codes(plain_model):
    labels = torch.tensor([[1, 9], [3, 5], [4, 7]])
    loss = plain_model(**tiny_inputs(), labels=labels).loss
    torch.testing.assert_close(loss, -exhaustive_scores(plain_model, labels, **tiny_inputs()).diagonal().mean())
    loss.backward()
    assert all(book.weight.grad.abs().sum() > 0 for book in plain_model.codebooks.learned)
    with pytest.raises(ValueError, match="labels have 3 positions, an ID has 2"):
        plain_model(**tiny_inputs(), labels=torch.ones(3, 3, dtype=torch.long))
    with pytest.raises(ValueError, match="An ID has 2 positions, asked for 3"):
        plain_model(**tiny_inputs(), decoder_input_ids=decoder_ids())


@pytest.mark.parametrize("kind", KINDS)
def test_layers_that_stay_whole_are_the_models_own(kind):
    """FSDP refuses names that a model has no layer of, and must not put the token embeddings away between layers."""
    model = tiny_model(kind)
    layers = [module for module in model.modules() if type(module).__name__ in model._no_split_modules]
    assert {type(layer).__name__ for layer in layers} == set(model._no_split_modules)
    assert all(part is not model.get_input_embeddings() for layer in layers for part in layer.modules())
    assert layers or kind in ("mpnet", "distilbert")

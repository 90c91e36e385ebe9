"""What the model does beside what every backbone must do: see test_modeling_common.py for that."""

import json

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors import safe_open
from tiny_models import (
    all_ids,
    assert_best,
    beams,
    decoder_ids,
    exhaustive_scores,
    learning_inputs,
    shake,
    tiny_backbone_config,
    tiny_inputs,
    tiny_model,
)
from transformers import AutoModelForSeq2SeqLM, GenerationConfig, LogitsProcessor, T5ForConditionalGeneration, logging
from transformers.utils.logging import warning_once

from modeling_lmindexer import (
    LMIndexerConfig,
    LMIndexerForSemanticID,
    PrefixTree,
    PrefixTreeLogitsProcessor,
    SemanticIndex,
)

LABELS = torch.tensor([[1, 9, 10], [3, 5, 12], [4, 7, 11]])


def processor(ids):
    return PrefixTreeLogitsProcessor(PrefixTree.from_sequences(ids))


@pytest.fixture
def warnings_of(caplog):
    """Messages that transformers' loggers have written, also those that they write but once."""
    warning_once.cache_clear()
    logging.enable_propagation()
    yield lambda: [record.getMessage() for record in caplog.records]
    logging.disable_propagation()


@pytest.mark.parametrize("similarity", ["cosine", "dot", "euclidean"])
def test_20_beams_find_the_best_20_of_16_cubed_ids(similarity):
    model = tiny_model("t5", codebook_sizes=[16, 16], num_disambiguation_codes=16, similarity=similarity)
    every = all_ids(model.config)
    assert len(every) == 16**3
    scores = exhaustive_scores(model, every, **tiny_inputs())
    for ids in (every, every[torch.randperm(len(every))[:1000]]):
        among = exhaustive_scores(model, ids, **tiny_inputs()) if len(ids) < len(every) else scores
        assert_best(*beams(model, processor(ids), 20, **tiny_inputs()), ids, among)


@pytest.mark.parametrize("kind", ["t5", "bert"])
@pytest.mark.parametrize("side", ["right", "left"])
def test_a_long_text_is_cut_and_says_so(kind, side, warnings_of):
    model = tiny_model(kind, max_source_length=4)
    inputs, cut = tiny_inputs(), {name: value[:, :4] for name, value in tiny_inputs().items()}
    expected = model(**cut, decoder_input_ids=decoder_ids()).logits
    ids = model.generate(**cut)
    assigned = model.assign(**cut)
    assert not warnings_of()
    if side == "left":
        inputs = {
            name: torch.stack(
                [row.roll(int((m == 0).sum())) for row, m in zip(v, inputs["attention_mask"], strict=True)]
            )
            for name, v in inputs.items()
        }
    torch.testing.assert_close(model(**inputs, decoder_input_ids=decoder_ids()).logits, expected, atol=1e-4, rtol=0)
    assert torch.equal(model.generate(**inputs), ids)
    assert torch.equal(model.assign(**inputs), assigned)
    assert warnings_of() == ["An input of 7 tokens was cut to the model's 4."]


def test_a_long_text_is_cut_when_learning_too():
    model = tiny_model("t5", max_source_length=4)
    inputs = learning_inputs(decoder_input_ids=decoder_ids()[:, :2])
    expected = model(**tiny_inputs(), decoder_input_ids=decoder_ids()[:, :2]).decoder_last_hidden_state[:, -1]
    for view in ("identical", "dropout"):
        anchors, views = model(**inputs, view=view).views
        torch.testing.assert_close(anchors, expected)
        torch.testing.assert_close(views, expected)


@pytest.mark.parametrize("number", [1, 2, 5, 60])
def test_more_beams_than_documents_give_what_exists(number, warnings_of):
    model = tiny_model("t5")
    ids = all_ids(model.config)[torch.randperm(60)[:number]]
    asked = {"num_beams": 70, "num_return_sequences": 70, "logits_processor": processor(ids)}
    found = model.generate(**tiny_inputs(), **asked)
    assert found.shape == (3 * number, 4)
    for row in found[:, 1:].unflatten(0, (3, number)):
        assert sorted(row.tolist()) == sorted(ids.tolist())
    assert any(f"num_beams=70 was lowered to {number}" in message for message in warnings_of())


def test_more_beams_than_documents_of_a_prefix_give_what_exists():
    model = tiny_model("t5")
    ids = torch.tensor([[1, 5, 10], [1, 5, 11], [1, 7, 10], [2, 6, 10], [2, 6, 11], [2, 8, 10], [3, 5, 10]])
    inputs = tiny_inputs()
    prefix = torch.tensor([[0, 1], [0, 2], [0, 1]])
    found = model.generate(
        **inputs, decoder_input_ids=prefix, num_beams=5, num_return_sequences=5, logits_processor=processor(ids)
    )
    assert found.shape == (9, 4)
    for row, first in zip(found[:, 1:].unflatten(0, (3, 3)), (1, 2, 1), strict=True):
        assert sorted(row.tolist()) == ids[ids[:, 0] == first].tolist()


@pytest.mark.parametrize("num_beams", [1, 2, 3])
def test_where_a_prefix_has_fewer_documents_rows_are_flagged(num_beams):
    model = tiny_model("t5")
    index = SemanticIndex(["a", "b", "c"], [[0, 0, 0], [0, 0, 1], [1, 1, 0]], model.config.position_sizes)
    output = model.generate(
        **tiny_inputs(),
        decoder_input_ids=torch.tensor([[0, 1], [0, 2], [0, 4]]),
        num_beams=num_beams,
        num_return_sequences=num_beams,
        logits_processor=index.logits_processor,
        return_dict_in_generate=True,
        output_scores=True,
    )
    shape = (3, min(num_beams, 2))
    found = [sum(index.documents_of(row), []) for row in output.sequences.unflatten(0, shape)]
    if num_beams == 1:
        assert found[0] in (["a"], ["b"]) and found[1:] == [["c"], []]
        return
    assert [sorted(documents) for documents in found] == [["a", "b"], ["c"], []]
    fillers = output.sequences_scores.unflatten(0, shape) == -torch.inf
    assert fillers.tolist() == [[False, False], [False, True], [True, True]]
    assert not output.sequences[fillers.flatten(), 1:].any()


def test_sampling_may_repeat_documents():
    model = tiny_model("t5")
    found = model.generate(
        **tiny_inputs(),
        logits_processor=processor([[1, 5, 10], [2, 6, 11]]),
        do_sample=True,
        num_return_sequences=9,
    )
    assert found.shape == (27, 4)


def test_sampling_draws_from_all_codes():
    """Not from the likeliest 50, which transformers takes by default."""
    model = tiny_model("t5", codebook_sizes=[90], num_disambiguation_codes=1)
    found = model.generate(**tiny_inputs(), do_sample=True, temperature=1e6, num_return_sequences=200)
    assert len(found[:, 1].unique()) > 80


def test_a_tree_of_other_codebooks_is_refused():
    model = tiny_model("t5")
    for ids in ([[1, 5, 10, 12]], [[1, 5, 13]], [[1, 5, 9]], [[1, 10]], [[5]], [[5, 6, 10]], [[1, 5, 10], [4, 4, 10]]):
        with pytest.raises(ValueError, match="The prefix tree does not fit the model"):
            model.generate(**tiny_inputs(), num_beams=2, logits_processor=processor(ids))
    learned = processor([[1, 5], [2, 9]])
    assert learned.tree.contains(
        model.generate(**tiny_inputs(), max_new_tokens=2, logits_processor=learned)[:, 1:]
    ).all()
    with pytest.raises(ValueError, match="set max_new_tokens=2"):
        model.generate(**tiny_inputs(), logits_processor=learned)


def test_any_processor_and_any_list_of_them():
    class OnlyFirst(LogitsProcessor):
        def __call__(self, input_ids, scores):
            allowed = torch.tensor([1, 5, 10])[input_ids.shape[1] - 1]
            return torch.full_like(scores, -torch.inf).index_fill(1, allowed, 0.0)

    model = tiny_model("t5")
    for given in (OnlyFirst(), [OnlyFirst()], [processor(all_ids(model.config)), OnlyFirst()]):
        assert model.generate(**tiny_inputs(), logits_processor=given).tolist() == [[0, 1, 5, 10]] * 3


def test_inputs_by_position_and_token_types_are_accepted():
    model = tiny_model("bert")
    inputs = tiny_inputs()
    expected = model.generate(**inputs)
    assert torch.equal(model.generate(inputs["input_ids"], attention_mask=inputs["attention_mask"]), expected)
    types = torch.zeros_like(inputs["input_ids"])
    assert torch.equal(model.generate(**inputs, token_type_ids=types), expected)
    assert torch.equal(model(**inputs, token_type_ids=types).logits, model(**inputs).logits)


def test_a_generation_config_of_ones_own():
    model = tiny_model("t5")
    settings = GenerationConfig(num_beams=4, num_return_sequences=4, max_new_tokens=3, length_penalty=0.0)
    trie = processor(all_ids(model.config))
    found = model.generate(**tiny_inputs(), generation_config=settings, logits_processor=trie)
    assert torch.equal(found, model.generate(**tiny_inputs(), num_beams=4, num_return_sequences=4))
    two = processor([[1, 5, 10], [2, 6, 11]])
    assert model.generate(**tiny_inputs(), generation_config=settings, logits_processor=two).shape == (6, 4)


def test_scores_are_sums_of_log_probabilities():
    model = tiny_model("t5")
    output = model.generate(
        **tiny_inputs(), num_beams=5, num_return_sequences=5, return_dict_in_generate=True, output_scores=True
    )
    steps = model.compute_transition_scores(output.sequences, output.scores, output.beam_indices)
    torch.testing.assert_close(steps.sum(1), output.sequences_scores)


def test_an_id_is_never_longer_than_its_positions():
    model = tiny_model("t5")
    with pytest.raises(ValueError, match="An ID has 3 positions, asked for 4: set max_new_tokens to at most 3"):
        model.generate(**tiny_inputs(), max_new_tokens=4)
    with pytest.raises(ValueError, match="labels have 4 positions, an ID has 3"):
        model(**tiny_inputs(), labels=torch.ones(3, 4, dtype=torch.long))
    assert model.generate(**tiny_inputs(), max_new_tokens=2).shape == (3, 3)


def test_decoder_inputs_of_labels():
    model = tiny_model("t5")
    labels = LABELS.clone()
    labels[0, 1] = -100
    # What is ignored still needs an id of its position.
    assert model.prepare_decoder_input_ids_from_labels(labels).tolist() == [[0, 1, 5], [0, 3, 5], [0, 4, 7]]
    with pytest.raises(ValueError, match="decoder_inputs_embeds is not supported"):
        model(**tiny_inputs(), decoder_inputs_embeds=torch.zeros(3, 1, 16))


def test_documents_of_a_group_score_the_same_until_the_last_position_is_trained():
    model = tiny_model("t5", zeros=True)
    assert not model.codebooks.disambiguation.weight.any()
    scores = exhaustive_scores(model, all_ids(model.config), **tiny_inputs()).unflatten(1, (20, 3))
    torch.testing.assert_close(scores, scores[:, :, :1].expand(-1, -1, 3))
    model(**tiny_inputs(), labels=LABELS).loss.backward()
    assert model.codebooks.disambiguation.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("kind", ["t5", "bert"])
def test_a_larger_last_position_changes_no_other_logit(kind, tmp_path):
    model = tiny_model(kind)
    before = model(**tiny_inputs(), decoder_input_ids=decoder_ids()).code_logits
    model.resize_disambiguation(4)
    after = model(**tiny_inputs(), decoder_input_ids=decoder_ids()).code_logits
    assert [tuple(scores.shape) for scores in after] == [(3, 4), (3, 5), (3, 4)]
    for old, new in zip(before, after, strict=True):
        torch.testing.assert_close(new[:, : old.shape[1]], old)
    assert not after[2][:, 3:].any()
    every = all_ids(model.config)
    assert every.shape == (80, 3)
    assert_best(
        *beams(model, processor(every), 30, **tiny_inputs()), every, exhaustive_scores(model, every, **tiny_inputs())
    )
    model(**tiny_inputs(), labels=torch.tensor([[1, 5, 13]] * 3)).loss.backward()
    assert model.codebooks.disambiguation.weight.grad[3].abs().sum() > 0
    model.save_pretrained(tmp_path)
    loaded = LMIndexerForSemanticID.from_pretrained(tmp_path)
    assert loaded.config.num_disambiguation_codes == 4
    assert torch.equal(loaded.codebooks.disambiguation.weight, model.codebooks.disambiguation.weight)


def test_the_last_position_cannot_shrink_and_stays_frozen_when_it_was():
    model = tiny_model("t5")
    with pytest.raises(ValueError, match="has 3 codes; it cannot shrink to 2"):
        model.resize_disambiguation(2)
    assert model.config.num_disambiguation_codes == 3
    model.codebooks.disambiguation.weight.requires_grad_(False)
    model.resize_disambiguation(4)
    assert not model.codebooks.disambiguation.weight.requires_grad


@pytest.mark.parametrize("kind", ["t5", "bert"])
def test_dropping_the_last_position_leaves_the_learned_ones_as_they_are(kind, tmp_path):
    model = tiny_model(kind)
    before = model(**tiny_inputs(), decoder_input_ids=decoder_ids()[:, :2])
    model.drop_disambiguation()
    after = model(**tiny_inputs(), decoder_input_ids=decoder_ids()[:, :2])
    assert after.logits.shape == (3, 2, 10) and torch.equal(after.logits, before.logits[..., :10])
    every = all_ids(model.config)
    best = exhaustive_scores(model, every, **tiny_inputs())
    assert_best(*beams(model, processor(every), 10, **tiny_inputs()), every, best)
    model.save_pretrained(tmp_path)
    loaded = LMIndexerForSemanticID.from_pretrained(tmp_path)
    assert loaded.config.num_disambiguation_codes == 0 and loaded.generation_config.max_new_tokens == 2
    assert torch.equal(loaded(**tiny_inputs(), decoder_input_ids=decoder_ids()[:, :2]).logits, after.logits)


def test_a_last_position_that_is_not_there_cannot_grow():
    model = tiny_model("t5", num_disambiguation_codes=0)
    with pytest.raises(ValueError, match="no disambiguation position.*index anew with num_disambiguation_codes"):
        model.resize_disambiguation(4)
    assert model.config.position_sizes == [4, 5]


@pytest.mark.parametrize("task_type", [None, "SEQ_2_SEQ_LM"])
def test_lora(task_type, tmp_path):
    model = tiny_model("t5")
    trie = processor(all_ids(model.config)[::2])
    plain = model.generate(**tiny_inputs(), num_beams=5, logits_processor=trie)
    frozen = {name: value.clone() for name, value in model.state_dict().items()}
    settings = LoraConfig(task_type=task_type, target_modules=["q", "v"], r=2, lora_alpha=8, lora_dropout=0.0)
    adapted = get_peft_model(model, settings)
    assert torch.equal(adapted.generate(**tiny_inputs(), num_beams=5, logits_processor=trie), plain)
    trainable = {name: p for name, p in adapted.named_parameters() if p.requires_grad}
    assert trainable and all("lora_" in name for name in trainable)
    before = {name: p.detach().clone() for name, p in trainable.items()}
    optimizer = torch.optim.SGD(trainable.values(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        adapted(**tiny_inputs(), labels=LABELS).loss.backward()
        optimizer.step()
    assert all(not torch.equal(p, before[name]) for name, p in trainable.items())
    base = {n.replace(".base_layer", ""): v for n, v in model.state_dict().items() if "lora_" not in n}
    assert base.keys() == frozen.keys() and all(torch.equal(base[name], frozen[name]) for name in frozen)

    inputs = tiny_inputs() | {"decoder_input_ids": decoder_ids()}
    trained = adapted(**inputs).logits
    assert not torch.allclose(trained, tiny_model("t5")(**inputs).logits, atol=1e-3)
    ids = adapted.generate(**tiny_inputs(), num_beams=5, logits_processor=trie)
    adapted.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(tiny_model("t5"), tmp_path)
    torch.testing.assert_close(loaded(**inputs).logits, trained)
    merged = loaded.merge_and_unload()
    assert type(merged) is LMIndexerForSemanticID
    torch.testing.assert_close(merged(**inputs).logits, trained, atol=1e-4, rtol=1e-4)
    assert torch.equal(merged.generate(**tiny_inputs(), num_beams=5, logits_processor=trie), ids)
    merged.save_pretrained(tmp_path / "merged")
    again = LMIndexerForSemanticID.from_pretrained(tmp_path / "merged")
    assert all(torch.equal(value, merged.state_dict()[name]) for name, value in again.state_dict().items())
    torch.testing.assert_close(again(**inputs).logits, merged(**inputs).logits)


def plain_checkpoint(kind, folder):
    """An encoder-decoder with its language-modelling head and settings to write text."""
    plain = AutoModelForSeq2SeqLM.from_config(tiny_backbone_config(kind))
    plain.generation_config.update(max_new_tokens=20, eos_token_id=1, num_beams=4, early_stopping=True)
    plain.save_pretrained(folder)
    return plain, LMIndexerConfig(backbone_config=tiny_backbone_config(kind), codebook_sizes=[4, 5])


def test_a_plain_t5_loads_into_the_indexer(tmp_path):
    plain, config = plain_checkpoint("t5", tmp_path)
    model, report = LMIndexerForSemanticID.from_pretrained(tmp_path, config=config, output_loading_info=True)
    assert not report["mismatched_keys"] and not report["unexpected_keys"]
    assert all(torch.equal(value, plain.state_dict()[name]) for name, value in model.backbone.state_dict().items())
    for book in model.codebooks.learned:  # as long as a state, until a clustering says how long
        assert not book.initialized and book.norm == 4
    assert all(p.isfinite().all() and p.abs().max() < 10 for n, p in model.named_parameters() if "backbone" not in n)
    # The settings are those of IDs, not of the text that the checkpoint wrote: its end token is a code here.
    expected = LMIndexerForSemanticID(config).generation_config.to_dict()
    assert model.generation_config.to_dict() == expected
    assert (expected["max_new_tokens"], expected["eos_token_id"]) == (3, None)
    found = model.generate(**tiny_inputs(), logits_processor=processor([[1, 5, 10], [1, 6, 11]]))
    assert found.shape == (3, 4) and (found[:, 1] == 1).all()


@pytest.mark.parametrize("kind", ["t5gemma", "bart"])
def test_a_plain_checkpoint_with_other_names_is_refused(kind, tmp_path):
    _, config = plain_checkpoint(kind, tmp_path)
    with pytest.raises(ValueError, match=r"weights of the backbone, such as 'backbone\..*from_backbone"):
        LMIndexerForSemanticID.from_pretrained(tmp_path, config=config)
    assert LMIndexerForSemanticID.from_backbone(tmp_path, codebook_sizes=[4, 5]).generation_config.eos_token_id is None


def test_settings_of_an_indexer_stay_with_it(tmp_path):
    model = tiny_model("t5")
    model.generation_config.num_beams = 7
    model.save_pretrained(tmp_path)
    for kwargs in ({}, {"config": model.config}):
        assert LMIndexerForSemanticID.from_pretrained(tmp_path, **kwargs).generation_config.num_beams == 7


def test_from_backbone_takes_a_model_with_a_head_too(tmp_path):
    plain = T5ForConditionalGeneration(tiny_backbone_config("t5"))
    plain.save_pretrained(tmp_path)
    model = LMIndexerForSemanticID.from_backbone(tmp_path, codebook_sizes=[4, 5])
    assert torch.equal(model.get_input_embeddings().weight, plain.get_input_embeddings().weight)
    assert (model.generation_config.max_new_tokens, model.generation_config.eos_token_id) == (3, None)
    model.save_pretrained(tmp_path / "indexer")
    assert str(tmp_path) not in (tmp_path / "indexer" / "config.json").read_text()


def test_without_the_reconstructor(tmp_path, warnings_of):
    model = tiny_model("t5")
    logits = model(**tiny_inputs()).logits
    model.drop_reconstructor()
    model.save_pretrained(tmp_path)
    with safe_open(tmp_path / "model.safetensors", framework="pt") as file:
        assert not [name for name in file.keys() if "reconstructor" in name]
    assert json.loads((tmp_path / "config.json").read_text())["num_reconstructor_layers"] == 0
    loaded, report = LMIndexerForSemanticID.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report.values()) and not warnings_of()
    assert loaded.reconstructor is None and torch.equal(loaded(**tiny_inputs()).logits, logits)
    with pytest.raises(ValueError, match="without its reconstructor.*num_reconstructor_layers=1"):
        loaded(**learning_inputs())
    again = LMIndexerForSemanticID.from_pretrained(tmp_path, num_reconstructor_layers=1)
    fresh = {name: p for name, p in again.named_parameters() if name.startswith("reconstructor.")}
    assert fresh and all(p.isfinite().all() and p.abs().max() < 2 for p in fresh.values())
    assert again(**learning_inputs()).reconstruction.logits.isfinite().all()


def test_loading_without_the_reconstructor_leaves_it_out(tmp_path, warnings_of):
    model = tiny_model("t5")
    model.save_pretrained(tmp_path)
    loaded = LMIndexerForSemanticID.from_pretrained(tmp_path, num_reconstructor_layers=0)
    assert loaded.reconstructor is None and not warnings_of()
    assert torch.equal(loaded(**tiny_inputs()).logits, model(**tiny_inputs()).logits)


def test_a_step_of_training_moves_what_it_should():
    """Learning position 2 with the first codebook frozen: everything moves but it and the last position."""
    model = tiny_model("bert", zeros=True)
    shake(model, 0.05)
    model.codebooks.learned[0].weight.requires_grad_(False)
    model.train()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    output = model(**learning_inputs(decoder_input_ids=decoder_ids()[:, :2], quantize=True, view="dropout"))
    loss = output.reconstruction.losses.mean()
    (loss + (output.views[0] * output.views[1]).sum() + output.code_logits[0].sum()).backward()
    optimizer.step()
    still = {name for name, p in model.named_parameters() if torch.equal(p, before[name])}
    pooler = {name for name in before if name.startswith("backbone.pooler.")}
    # Key biases cancel in the softmax; the warm-up's start vector is not used with codes.
    ignored = {name for name in before if name.endswith("key.bias")}
    assert still - ignored == pooler | {
        "codebooks.learned.0.weight",
        "codebooks.disambiguation.weight",
        "reconstructor.start",
    }

"""The prefix tree in every mode of `generate`: our model, and plain ones."""

import copy

import pytest
import torch
from tiny_models import KINDS, all_ids, beams, tiny_inputs, tiny_model
from transformers import AutoModelForCausalLM, GenerationConfig, GPT2Config, LogitsProcessor, logging
from transformers.utils.logging import warning_once

from modeling_lmindexer import PrefixTree, PrefixTreeLogitsProcessor

LEFTOVERS = {"do_sample": True, "temperature": 3.0, "top_k": 1, "top_p": 0.01, "min_p": 0.9, "epsilon_cutoff": 0.5}


@pytest.fixture
def warnings_of(caplog):
    """Messages that transformers' loggers have written, also those that they write but once."""
    warning_once.cache_clear()
    logging.enable_propagation()
    yield lambda: [record.getMessage() for record in caplog.records]
    logging.disable_propagation()


def random_trie(config, number=40, **kwargs):
    ids = all_ids(config)
    return PrefixTreeLogitsProcessor(PrefixTree.from_sequences(ids[torch.randperm(len(ids))[:number]]), **kwargs)


@pytest.mark.parametrize("mode", [{}, {"num_beams": 4, "num_return_sequences": 4}])
@pytest.mark.parametrize("call", [{}, {"generation_config": GenerationConfig(output_scores=True)}])
def test_leftover_sampling_settings_are_dropped_with_one_warning(mode, call, warnings_of):
    model = tiny_model("t5")
    trie = random_trie(model.config)
    expected = model.generate(**tiny_inputs(), **mode, logits_processor=trie)
    model.generation_config.update(**LEFTOVERS)
    kept = model.generation_config.to_dict()
    if call and mode:
        call = {"generation_config": GenerationConfig(output_scores=True, **mode)}
        mode = {}
    before = copy.deepcopy(call)
    for _ in range(2):
        found = model.generate(**tiny_inputs(), **mode, **call, logits_processor=trie)
        assert torch.equal(found, expected)
    messages = [message for message in warnings_of() if "settings for sampling" in message]
    assert len(messages) == 1 and "'top_k': 1" in messages[0] and "'do_sample': True" in messages[0]
    assert model.generation_config.to_dict() == kept
    assert all(config.to_dict() == before[name].to_dict() for name, config in call.items())


def test_sampling_draws_from_all_codes_whatever_is_left_over():
    model = tiny_model("t5", codebook_sizes=[90], num_disambiguation_codes=1)
    model.generation_config.update(top_k=1, top_p=0.01, min_p=0.9)
    found = model.generate(**tiny_inputs(), do_sample=True, temperature=1e6, num_return_sequences=200)
    assert len(found[:, 1].unique()) > 80


@pytest.mark.parametrize("in_config", [False, True])
def test_what_the_call_says_is_honoured(in_config):
    model = tiny_model("t5")
    trie = random_trie(model.config)
    greedy = model.generate(**tiny_inputs(), logits_processor=trie)
    asked = {"do_sample": True, "top_k": 1, "temperature": 50.0}
    asked = {"generation_config": GenerationConfig(**asked)} if in_config else asked
    for _ in range(5):
        assert torch.equal(model.generate(**tiny_inputs(), **asked, logits_processor=trie), greedy)


def test_a_folder_with_leftovers(tmp_path, warnings_of):
    model = tiny_model("t5")
    expected = model.generate(**tiny_inputs())
    model.generation_config.update(do_sample=True, top_k=1)
    model.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path)
    assert torch.equal(loaded.generate(**tiny_inputs()), expected)
    assert any("settings for sampling" in message for message in warnings_of())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mode", ["greedy", "sampling", "beams", "beam sampling"])
def test_every_mode_stays_in_the_tree_and_flags_the_rest(kind, mode):
    """The texts have 12 IDs, one and none."""
    model = tiny_model(kind)
    ids = all_ids(model.config)
    masks = torch.zeros(3, len(ids), dtype=torch.bool)
    masks[0, torch.randperm(len(ids))[:12]] = True
    masks[1, 17] = True
    trie = PrefixTreeLogitsProcessor(PrefixTree.from_sequences(ids)).filtered(masks)
    asked = {
        "greedy": {},
        "sampling": {"do_sample": True, "num_return_sequences": 6},
        "beams": {"num_beams": 6, "num_return_sequences": 6},
        "beam sampling": {"num_beams": 6, "num_return_sequences": 6, "do_sample": True},
    }[mode]
    output = model.generate(
        **tiny_inputs(), **asked, logits_processor=trie, return_dict_in_generate=True, output_scores=True
    )
    found = output.sequences[:, 1:].unflatten(0, (3, -1))
    results = [[row for row in text.tolist() if any(row)] for text in found]
    assert results[2] == []
    for text, mask in zip(results[:2], masks, strict=False):
        assert text and {tuple(row) for row in text} <= {tuple(row) for row in ids[mask].tolist()}
    if "beams" in mode:
        assert len(results[0]) == 6 and len(results[1]) == 1
    if "beam" in mode:
        assert all(len({tuple(row) for row in text}) == len(text) for text in results)
        scores = output.sequences_scores.unflatten(0, (3, -1))
        assert torch.equal(scores == -torch.inf, ~found.any(-1))


def test_nothing_allowed_at_all():
    model = tiny_model("t5")
    trie = random_trie(model.config).filtered(torch.zeros(40, dtype=torch.bool))
    for asked in ({}, {"num_beams": 5, "num_return_sequences": 5}, {"do_sample": True}):
        assert not model.generate(**tiny_inputs(), **asked, logits_processor=trie).any()


@pytest.mark.parametrize("kind", ["t5", "bart", "t5gemma", "bert"])
@pytest.mark.parametrize("asked", [{}, {"num_beams": 5, "num_return_sequences": 5}])
def test_a_static_cache(kind, asked):
    model = tiny_model(kind)
    trie = random_trie(model.config)
    expected = model.generate(**tiny_inputs(), **asked, logits_processor=trie)
    found = model.generate(**tiny_inputs(), **asked, logits_processor=trie, cache_implementation="static")
    assert torch.equal(found, expected)


def test_scores_of_earlier_steps_are_not_written_over():
    """The trie's memory is used again; what is returned must not be."""
    model = tiny_model("t5")
    for asked in ({}, {"do_sample": True}, {"num_beams": 4, "num_return_sequences": 4}):
        torch.manual_seed(0)
        trie = random_trie(model.config)
        outputs = []
        for reuse in (True, False):
            torch.manual_seed(1)
            outputs.append(
                model.generate(
                    **tiny_inputs(),
                    **asked,
                    logits_processor=PrefixTreeLogitsProcessor(trie.tree, reuse_buffer=reuse),
                    return_dict_in_generate=True,
                    output_scores=True,
                    output_logits=True,
                )
            )
        assert torch.equal(outputs[0].sequences, outputs[1].sequences)
        for name in ("scores", "logits"):
            for ours, expected in zip(outputs[0][name], outputs[1][name], strict=True):
                assert torch.equal(ours, expected)


def test_a_prompt_of_other_positions_is_refused_without_a_tree():
    model = tiny_model("t5")
    with pytest.raises(ValueError, match="hold ids of other positions"):
        model.generate(**tiny_inputs(), decoder_input_ids=torch.tensor([[0, 7]] * 3))


def test_processors_beside_the_tree():
    class Backwards(LogitsProcessor):
        def __call__(self, input_ids, scores):
            return -scores

    model = tiny_model("t5")
    trie = random_trie(model.config)
    found, _ = beams(model, [Backwards(), trie], 5, **tiny_inputs())
    assert trie.tree.contains(found.flatten(0, 1)).all()


def causal_model():
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=40, n_positions=32, n_embd=16, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=1)
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    model.generation_config.pad_token_id = 0
    return model


@pytest.mark.parametrize("assistance", ["model", "prompt lookup"])
def test_assisted_decoding_is_greedy(assistance):
    """The candidates' scores come for several positions at once, each of which the tree constrains."""
    model = causal_model()
    assistant = causal_model()
    with torch.no_grad():
        assistant.transformer.wte.weight.add_(0.05 * torch.randn_like(assistant.transformer.wte.weight))
    tree = PrefixTree.from_sequences(torch.randint(2, 40, (60, 4)))
    prompt = torch.tensor([[5, 6, 7, 5, 6, 7, 5]])
    trie = PrefixTreeLogitsProcessor(tree, prompt_length=7)
    asked = {"max_new_tokens": 4, "do_sample": False, "logits_processor": trie}
    expected = model.generate(prompt, **asked)
    helps = {"assistant_model": assistant} if assistance == "model" else {"prompt_lookup_num_tokens": 2}
    assert torch.equal(model.generate(prompt, **asked, **helps), expected)
    assert tree.contains(expected[:, 7:]).all()

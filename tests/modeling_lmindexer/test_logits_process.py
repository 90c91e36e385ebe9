from types import SimpleNamespace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import LlamaConfig, LlamaForCausalLM, LogitsProcessorList, T5Config, T5ForConditionalGeneration

from modeling_lmindexer import logits_process
from modeling_lmindexer.folder import CorruptedFolderError
from modeling_lmindexer.logits_process import PrefixTreeLogitsProcessor
from modeling_lmindexer.prefix_file import PREFIX_TREE_NAME
from modeling_lmindexer.prefix_tree import PrefixTree

quick = settings(
    max_examples=60, deadline=None, database=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)

PAD, EOS, VOCABULARY = 0, 1, 60
TOKENS = torch.arange(10, 40)  # the model's token of code 0, 1, ...
FIXED = [[0, 7, 12], [0, 7, 13], [0, 8, 12], [1, 7, 12], [1, 9, 14], [2, 6, 15], [5, 6, 15], [5, 9, 13]]
RAGGED = [[0], [0, 7], [0, 7, 13], [1, 7, 12], [1, 9], [2, 6, 15], [5], [5, 9, 13]]
QUERIES = torch.tensor([[41, 42, 43, 44], [45, 46, 47, PAD]])


@pytest.fixture(autouse=True)
def small_memory_is_kept_too(monkeypatch):
    """Scores of a few rows would be written to fresh memory, where nothing can go wrong."""
    monkeypatch.setattr(logits_process, "WORTH_KEEPING", 0)
    monkeypatch.setattr(logits_process, "WIDE", 0)


def tiny_t5():
    config = T5Config(
        vocab_size=VOCABULARY,
        d_model=16,
        d_kv=8,
        d_ff=32,
        num_layers=1,
        num_heads=2,
        pad_token_id=PAD,
        eos_token_id=EOS,
        decoder_start_token_id=PAD,
    )
    model = T5ForConditionalGeneration(config)
    inputs = {"input_ids": QUERIES, "attention_mask": (QUERIES != PAD).long()}
    return SimpleNamespace(model=model, inputs=inputs, prompt_length=1)


def tiny_llama():
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        pad_token_id=PAD,
        bos_token_id=2,
        eos_token_id=EOS,
    )
    # The shorter prompt is padded on the left, where it holds the token that ends an ID, too.
    prompts = torch.stack([QUERIES[0], torch.tensor([PAD, 45, EOS, 47])])
    inputs = {"input_ids": prompts, "attention_mask": (prompts != PAD).long()}
    return SimpleNamespace(model=LlamaForCausalLM(config), inputs=inputs, prompt_length=prompts.shape[1])


@pytest.fixture(scope="module", params=[tiny_t5, tiny_llama])
def case(request):
    torch.manual_seed(0)
    case = request.param()
    case.model.eval()
    # Random weights predict all tokens about alike: scores far apart tell a right ranking from a lucky one.
    case.model.lm_head.weight.data.normal_(0, 2)
    return case


@pytest.fixture(params=[FIXED, RAGGED], ids=["fixed", "ragged"])
def trie(request, case):
    tree = PrefixTree.from_sequences(request.param)
    eos = None if tree.fixed_length else EOS
    return PrefixTreeLogitsProcessor(tree, case.prompt_length, TOKENS, eos_token_id=eos, pad_token_id=PAD)


def longest(trie):
    """Tokens that generate must be allowed for the longest ID of the tree, its end included."""
    return trie.tree.depth + (trie.eos_token_id is not None)


def answers(trie):
    """All that may come out, as tuples of tokens."""
    end = () if trie.eos_token_id is None else (trie.eos_token_id,)
    return [tuple(token for token in row if token >= 0) + end for row in trie.tree.sequences().tolist()]


def generate(case, trie, by_dicts=False, **kwargs):
    if by_dicts:
        kwargs["prefix_allowed_tokens_fn"] = allowed_by_dicts(case, trie)
    else:
        kwargs["logits_processor"] = trie
    return case.model.generate(
        **case.inputs,
        max_new_tokens=longest(trie),
        length_penalty=0.0,
        return_dict_in_generate=True,
        output_scores=True,
        **kwargs,
    )


def returned(case, output):
    """Of every query the generated tokens, as tuples without prompt and up to their end."""
    rows = output.sequences[:, case.prompt_length :].tolist()
    # Beam search fills up with the end token, not with padding, when the padding is token 0.
    found = [tuple(row[: row.index(EOS) + 1] if EOS in row else row) for row in rows]
    per_query = len(found) // len(QUERIES)
    return [found[start : start + per_query] for start in range(0, len(found), per_query)]


@torch.no_grad()
def exhaustive(case, answer):
    """Log-probability of the answer after each query, from one pass over all its tokens."""
    tokens = torch.tensor(answer).expand(len(QUERIES), -1)
    if case.model.config.is_encoder_decoder:
        decoder_input_ids = torch.nn.functional.pad(tokens[:, :-1], (1, 0), value=PAD)
        logits = case.model(**case.inputs, decoder_input_ids=decoder_input_ids).logits
    else:
        whole = torch.cat([case.inputs["input_ids"], tokens], 1)
        mask = torch.nn.functional.pad(case.inputs["attention_mask"], (0, len(answer)), value=1)
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        logits = case.model(whole, attention_mask=mask, position_ids=positions).logits[:, -len(answer) - 1 : -1]
    return logits.log_softmax(-1).gather(2, tokens[:, :, None]).sum((1, 2)).tolist()


def allowed_by_dicts(case, trie):
    """What transformers' own prefix constraint takes, from plain dicts."""
    following = {}
    for answer in answers(trie):
        for level, token in enumerate(answer):
            following.setdefault(answer[:level], set()).add(token)
    return lambda query, row: sorted(following.get(tuple(row[case.prompt_length :].tolist()), {PAD, EOS}))


@pytest.mark.parametrize("spare_beams", [0, 3])
def test_as_many_beams_as_ids_is_exhaustive(case, trie, spare_beams):
    beams = len(trie.tree) + spare_beams
    output = generate(case, trie, num_beams=beams, num_return_sequences=beams)
    scores = output.sequences_scores.view(len(QUERIES), beams)
    expected = {answer: exhaustive(case, answer) for answer in answers(trie)}
    for query, found in enumerate(returned(case, output)):
        real = [answer for answer, score in zip(found, scores[query], strict=True) if score > -1e6]
        ranked = sorted(expected, key=lambda answer: -expected[answer][query])  # noqa: B023
        assert real == ranked
        assert scores[query, : len(real)].tolist() == pytest.approx([expected[a][query] for a in ranked], abs=1e-4)


def test_few_beams_equal_the_constraint_of_transformers(case, trie):
    output = generate(case, trie, num_beams=4, num_return_sequences=4)
    by_dicts = generate(case, trie, by_dicts=True, num_beams=4, num_return_sequences=4)
    assert torch.equal(output.sequences, by_dicts.sequences)
    assert torch.allclose(output.sequences_scores, by_dicts.sequences_scores, atol=1e-4)
    for query, found in enumerate(returned(case, output)):
        assert len(set(found)) == 4 and set(found) <= set(answers(trie))
        scores = output.sequences_scores.view(len(QUERIES), 4)[query].tolist()
        assert scores == pytest.approx([exhaustive(case, answer)[query] for answer in found], abs=1e-4)


def test_greedy_equals_the_constraint_of_transformers(case, trie):
    output = generate(case, trie, do_sample=False)
    by_dicts = generate(case, trie, by_dicts=True, do_sample=False)
    assert torch.equal(output.sequences, by_dicts.sequences)
    assert {answer for found in returned(case, output) for answer in found} <= set(answers(trie))


def test_samples_are_ids_and_logits_stay_whole(case, trie):
    torch.manual_seed(0)
    output = generate(
        case, trie, do_sample=True, top_k=0, temperature=5.0, num_return_sequences=40, output_logits=True
    )
    for found in returned(case, output):
        assert set(found) <= set(answers(trie)) and len(set(found)) > 2
    assert all(logits.isfinite().all() for logits in output.logits)


def test_bare_or_in_a_list(case, trie):
    def beams(logits_processor):
        return case.model.generate(
            **case.inputs, logits_processor=logits_processor, max_new_tokens=longest(trie), num_beams=4
        )

    bare = beams(trie)
    assert torch.equal(bare, beams([trie]))
    assert torch.equal(bare, beams(LogitsProcessorList(trie)))
    assert len(trie) == 1 and list(trie) == [trie]


@pytest.mark.parametrize("beams", [1, 4])
def test_more_tokens_than_an_id_has_is_an_error(case, beams):
    trie = PrefixTreeLogitsProcessor(PrefixTree.from_sequences(FIXED), case.prompt_length, TOKENS)
    with pytest.raises(ValueError, match="token 4 of IDs with 3: set max_new_tokens=3"):
        case.model.generate(**case.inputs, logits_processor=trie, max_new_tokens=4, num_beams=beams)


@quick
@given(
    st.lists(st.lists(st.integers(2, 7), min_size=1, max_size=4), min_size=1, max_size=20),
    st.integers(0, 5),
    st.integers(0, 3),
    st.data(),
)
def test_allows_exactly_what_continues_a_sequence(sequences, level, prompt_length, data):
    trie = PrefixTreeLogitsProcessor(PrefixTree.from_sequences(sequences), prompt_length, None, EOS, PAD)
    token = st.integers(0, 8)
    row = st.lists(token, min_size=level, max_size=level)
    known = [[*sequence, EOS, PAD, PAD, PAD, PAD][:level] for sequence in sequences]
    rows = known + data.draw(st.lists(row, max_size=6))
    prompts = [data.draw(st.lists(token, min_size=prompt_length, max_size=prompt_length)) for _ in rows]
    input_ids = torch.tensor([prompt + row for prompt, row in zip(prompts, rows, strict=True)], dtype=torch.long)
    input_ids = input_ids.view(len(rows), prompt_length + level)
    scores = torch.rand(len(rows), 9)
    before = scores.clone()
    masked = trie(input_ids, scores)
    assert torch.equal(scores, before)
    lowest = torch.finfo(scores.dtype).min / 256
    for row, values, given_scores in zip(rows, masked, scores, strict=True):
        if EOS in row:
            expected = {EOS, PAD}
        else:
            expected = {s[level] for s in sequences if len(s) > level and s[:level] == row}
            expected |= {EOS} if row in sequences else set()
        if not expected:  # a dead row: -inf throughout could not be sampled from
            assert values[PAD] == lowest and values.isneginf().sum() == 8
            continue
        allowed = sorted(expected)
        assert values.isfinite().nonzero().squeeze(1).tolist() == allowed
        assert torch.equal(values[allowed], given_scores[allowed])
        assert values.isneginf().sum() == 9 - len(allowed)


def test_a_dead_row_gets_nothing_at_all():
    trie = PrefixTreeLogitsProcessor(PrefixTree.from_sequences([[3, 5], [4, 5]]))
    masked = trie(torch.tensor([[0, 5], [0, 3], [0, -1]]), torch.zeros(3, 8))
    assert masked.isfinite().nonzero().tolist() == [[1, 5]]
    assert masked.isneginf().sum() == 23


def test_an_end_behind_full_length_only():
    tree = PrefixTree.from_sequences([[3, 5], [4, 5]])
    trie = PrefixTreeLogitsProcessor(tree, eos_token_id=EOS)
    for row, allowed in [
        ([0], [3, 4]),
        ([0, 3], [5]),
        ([0, 3, 5], [EOS]),
        ([0, 3, 5, EOS], [EOS]),
        ([0, 3, 5, 5], []),
    ]:
        assert trie(torch.tensor([row]), torch.zeros(1, 8)).isfinite().nonzero()[:, 1].tolist() == allowed


def test_pad_may_be_the_end_or_a_code():
    tree = PrefixTree.from_sequences([[3, 5], [4]])
    same = PrefixTreeLogitsProcessor(tree, eos_token_id=EOS, pad_token_id=EOS)
    code = PrefixTreeLogitsProcessor(tree, eos_token_id=EOS, pad_token_id=5)
    rows = torch.tensor([[0, 3], [0, 4], [0, EOS]])
    assert same(rows, torch.zeros(3, 8)).isfinite().nonzero().tolist() == [[0, 5], [1, EOS], [2, EOS]]
    assert code(rows, torch.zeros(3, 8)).isfinite().nonzero().tolist() == [[0, 5], [1, EOS], [2, EOS], [2, 5]]


@pytest.mark.parametrize(
    ("sequences", "arguments", "message"),
    [
        (RAGGED, {}, "differ in length: give eos_token_id"),
        (FIXED, {"prompt_length": -1}, "prompt_length=-1"),
        (FIXED, {"eos_token_id": 12}, "eos_token_id=12 is also a code"),
        (FIXED, {"token_ids": TOKENS, "eos_token_id": 17}, "eos_token_id=17 is also a code"),
        (FIXED, {"token_ids": [1, 2]}, "codes below 2"),
    ],
)
def test_unfit_arguments(sequences, arguments, message):
    with pytest.raises(ValueError, match=message):
        PrefixTreeLogitsProcessor(PrefixTree.from_sequences(sequences), **arguments)


def test_fewer_tokens_than_the_prompt_is_an_error():
    trie = PrefixTreeLogitsProcessor(PrefixTree.from_sequences(FIXED), prompt_length=3)
    with pytest.raises(ValueError, match="input_ids has 2 tokens, the prompt 3"):
        trie(torch.zeros(1, 2, dtype=torch.long), torch.zeros(1, 20))


@pytest.mark.parametrize("prefix", [[0], [0, 1]])
def test_a_vocabulary_without_the_codes_is_an_error(prefix):
    trie = PrefixTreeLogitsProcessor(PrefixTree.from_sequences(FIXED))
    with pytest.raises(ValueError, match="codes up to 15, the scores have 15 columns"):
        trie(torch.tensor([prefix]), torch.zeros(1, 15))


def test_from_pretrained(tmp_path):
    tree = PrefixTree.from_sequences(RAGGED)
    tree.save_pretrained(tmp_path)
    trie = PrefixTreeLogitsProcessor.from_pretrained(
        tmp_path, prompt_length=2, token_ids=TOKENS, eos_token_id=EOS, pad_token_id=PAD
    )
    assert torch.equal(trie.tree.sequences(), tree.relabelled(TOKENS).sequences())
    assert (trie.prompt_length, trie.eos_token_id, trie.pad_token_id) == (2, EOS, PAD)
    (tmp_path / PREFIX_TREE_NAME).write_bytes(b"{}")
    with pytest.raises(CorruptedFolderError, match=PREFIX_TREE_NAME):
        PrefixTreeLogitsProcessor.from_pretrained(tmp_path)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_tree_follows_the_scores_to_a_gpu(case, trie):
    on_cpu = generate(case, trie, num_beams=4, num_return_sequences=4).sequences
    try:
        case.model.cuda()
        output = case.model.generate(
            **{name: values.cuda() for name, values in case.inputs.items()},
            logits_processor=trie,
            max_new_tokens=longest(trie),
            length_penalty=0.0,
            num_beams=4,
            num_return_sequences=4,
        )
    finally:
        case.model.cpu()
    assert torch.equal(output.cpu(), on_cpu)


@pytest.mark.parametrize("mode", [{"do_sample": False}, {"do_sample": True, "top_k": 0}, {"num_beams": 4}])
def test_kept_scores_are_those_of_fresh_memory(case, trie, mode):
    """`generate` keeps what the processor returned, of every step."""
    fresh = PrefixTreeLogitsProcessor(
        trie.tree, case.prompt_length, None, trie.eos_token_id, trie.pad_token_id, reuse_buffer=False
    )
    outputs = []
    for processor in (trie, fresh):
        torch.manual_seed(0)
        outputs.append(generate(case, processor, output_logits=True, **mode))
    assert torch.equal(outputs[0].sequences, outputs[1].sequences)
    for kind in ("scores", "logits"):
        for reused, expected in zip(outputs[0][kind], outputs[1][kind], strict=True):
            assert torch.equal(reused, expected)


@pytest.mark.parametrize("beams", [1, 4])
def test_a_static_cache_finds_the_same(case, trie, beams):
    expected = generate(case, trie, num_beams=beams, do_sample=False).sequences
    found = generate(case, trie, num_beams=beams, do_sample=False, cache_implementation="static").sequences
    assert torch.equal(found, expected)


@pytest.mark.parametrize("how", ["assistant_model", "prompt_lookup_num_tokens"])
def test_assisted_generation_finds_what_greedy_does(case, trie, how):
    if how == "assistant_model":
        torch.manual_seed(1)
        assistant = type(case.model)(case.model.config).eval()
        arguments = {"assistant_model": assistant}
    else:
        arguments = {"prompt_lookup_num_tokens": 2}
    for query in range(len(QUERIES)):
        alone = SimpleNamespace(
            model=case.model,
            inputs={name: values[query : query + 1] for name, values in case.inputs.items()},
            prompt_length=case.prompt_length,
        )
        expected = generate(alone, trie, do_sample=False).sequences
        assert torch.equal(generate(alone, trie, do_sample=False, **arguments).sequences, expected)


@pytest.mark.parametrize("sequences", [FIXED, RAGGED], ids=["fixed", "ragged"])
def test_a_filter_per_query_is_a_tree_per_query(case, sequences):
    eos = None if sequences is FIXED else EOS
    trie = PrefixTreeLogitsProcessor(PrefixTree.from_sequences(sequences), case.prompt_length, TOKENS, eos, PAD)
    filters = [[0, 1, 3, 6], [2, 4, 5, 6, 7]]
    output = generate(case, trie.filtered(filters), num_beams=3, num_return_sequences=3)
    assert trie.filtered(filters).is_valid(output.sequences, num_return_sequences=3).all()
    for query, numbers in enumerate(filters):
        allowed = PrefixTree.from_sequences([sequences[number] for number in numbers])
        alone = PrefixTreeLogitsProcessor(allowed, case.prompt_length, TOKENS, EOS, PAD)
        if eos is None:
            alone = PrefixTreeLogitsProcessor(allowed, case.prompt_length, TOKENS)
        expected = generate(case, alone, num_beams=3, num_return_sequences=3)
        assert returned(case, output)[query] == returned(case, expected)[query]


@pytest.mark.parametrize("sample", [False, True])
def test_a_query_without_any_allowed_document(case, trie, sample):
    """Its rows come out flagged, whatever is in them, and the other query does not notice."""
    filtered = trie.filtered([[], list(range(8))])
    beams = {} if sample else {"num_beams": 3}
    torch.manual_seed(0)
    output = generate(case, filtered, do_sample=sample, num_return_sequences=3, **beams)
    valid = filtered.is_valid(output.sequences, num_return_sequences=3)
    assert not valid[:3].any()
    assert set(returned(case, output)[1]) <= set(answers(trie))
    assert valid[3:].sum() == len(set(returned(case, output)[1]))


def test_fillers_are_flagged(case, trie):
    """More beams than IDs: the others are repetitions or nothing."""
    beams = len(trie.tree) + 3
    output = generate(case, trie, num_beams=beams, num_return_sequences=beams)
    valid = trie.is_valid(output.sequences, num_return_sequences=beams).view(len(QUERIES), beams)
    scores = output.sequences_scores.view(len(QUERIES), beams)
    assert torch.equal(valid, scores > -1e6)
    assert (valid.sum(1) == len(trie.tree)).all()

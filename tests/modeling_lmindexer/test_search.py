import functools
import itertools
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from tiny_models import KINDS, SIZES, all_ids, beams, exhaustive_scores, tiny_inputs, tiny_model

from modeling_lmindexer import SemanticIndex, constrained_beam_search, search
from modeling_lmindexer.beam_search import beam_search

POSITION_SIZES = [*SIZES["codebook_sizes"], SIZES["num_disambiguation_codes"]]


def random_index(number=25, seed=0):
    """Documents `d0`, `d1`, ... with some of the IDs of a tiny model, in a random order."""
    every = np.array(list(itertools.product(*map(range, POSITION_SIZES))))
    codes = np.random.default_rng(seed).permutation(every)[:number]
    return SemanticIndex([f"d{i}" for i in range(number)], codes, POSITION_SIZES)


def assert_best(result, index, scores, rows):
    """The documents at `rows` of the index, ranked by `scores` `(texts, documents)`."""
    top_k = result.scores.shape[1]
    assert top_k == min(10, len(rows))
    for i, documents in enumerate(result.documents):
        best = sorted(rows, key=lambda row: -scores[i, row])[:top_k]  # noqa: B023
        assert documents == [index.document_ids[row] for row in best]
        assert torch.equal(result.sequences[i], index.sequences[best])
    expected = scores[:, rows].topk(top_k).values
    torch.testing.assert_close(result.scores, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_search_finds_the_best_documents(kind):
    """20 beams hold all 20 prefixes of two codes, so that the search is exhaustive."""
    model, index = tiny_model(kind), random_index()
    result = model.search(**tiny_inputs(), index=index, num_beams=20, top_k=10)
    assert_best(result, index, exhaustive_scores(model, index.sequences, **tiny_inputs()), range(25))


@pytest.mark.parametrize("num_beams", [1, 2, 4, 20])
def test_search_is_generate_with_the_tree(num_beams):
    model, index = tiny_model("t5", codebook_sizes=[30, 30], num_disambiguation_codes=5), None
    ids = all_ids(model.config)[torch.randperm(30 * 30 * 5)[:500]] - torch.tensor(model.config.position_offsets)
    index = SemanticIndex(list(range(500)), ids.numpy(), model.config.position_sizes)
    result = model.search(**tiny_inputs(), index=index, num_beams=num_beams, top_k=num_beams)
    if num_beams == 1:
        found = model.generate(**tiny_inputs(), logits_processor=index.logits_processor)[:, None, 1:]
        scores = exhaustive_scores(model, found[:, 0], **tiny_inputs()).diagonal()[:, None]
    else:
        found, scores = beams(model, index.logits_processor, num_beams, **tiny_inputs())
    assert torch.equal(result.sequences, found)
    torch.testing.assert_close(result.scores, scores, atol=1e-4, rtol=0)
    assert result.documents == [[d for (d,) in index.documents_of(row)] for row in found]


def found_by_generate(model, index, trie, number):
    """Per text, the documents that beam search returns and their scores, best first."""
    output = model.generate(
        **tiny_inputs(),
        num_beams=number,
        num_return_sequences=number,
        logits_processor=trie,
        return_dict_in_generate=True,
        output_scores=True,
    )
    shape = (len(tiny_inputs()["input_ids"]), -1)
    scores = output.sequences_scores.unflatten(0, shape)
    documents = [sum(index.documents_of(row), []) for row in output.sequences.unflatten(0, shape)]
    return documents, [row[row > -torch.inf] for row in scores]


def assert_found(result, documents, scores):
    assert result.documents == documents
    for i, expected in enumerate(scores):
        found = result.scores[i, : len(expected)]
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
        assert (result.scores[i, len(expected) :] == -torch.inf).all()
        assert not result.sequences[i, len(expected) :].any()


@pytest.mark.parametrize("number", [2, 5, 20, 40])
@pytest.mark.parametrize("kind", [*KINDS, "t5-pooled", "t5-eager", "bart-eager"])
def test_documents_and_scores_are_those_of_generate(kind, number):
    """With no filter, with one, and with one per text that leaves some of them 11, one or no document."""
    kind, _, variant = kind.partition("-") if kind.startswith(("t5-", "bart-")) else (kind, "", "")
    model, index = tiny_model(kind, pooled_input=variant == "pooled"), random_index(40)
    if variant == "eager":
        model.set_attn_implementation("eager")
    masks = np.zeros((3, 40), dtype=bool)
    masks[0, np.random.default_rng(1).permutation(40)[:11]] = True
    masks[1, 7] = True
    for allowed in (None, masks[0], masks):
        trie = index.logits_processor if allowed is None else index.logits_processor.filtered(allowed)
        expected = found_by_generate(model, index, trie, number)
        result = model.search(**tiny_inputs(), index=index, num_beams=number, top_k=number, allowed=allowed)
        assert_found(result, *expected)


@pytest.mark.parametrize("number", [3, 40])
def test_renormalized_scores_are_those_of_generate_too(number, tmp_path):
    """Said once in the generation config, which a folder keeps; all documents there are share a probability of one."""
    model, index = tiny_model("t5"), random_index(40)
    plain = model.search(**tiny_inputs(), index=index, num_beams=number, top_k=number)
    model.generation_config.renormalize_logits = True
    model.save_pretrained(tmp_path)
    model = type(model).from_pretrained(tmp_path).eval()
    result = model.search(**tiny_inputs(), index=index, num_beams=number, top_k=number)
    for some in (None, np.arange(40) % 3 > 0):
        trie = index.logits_processor if some is None else index.logits_processor.filtered(some)
        expected = found_by_generate(model, index, trie, number)
        if some is None:
            assert_found(result, *expected)
        quick = model.generate(
            **tiny_inputs(), num_beams=number, num_return_sequences=number, logits_processor=trie,
            custom_generate=constrained_beam_search,
        )  # fmt: skip
        assert [sum(index.documents_of(row), []) for row in quick.unflatten(0, (3, -1))] == expected[0]
    if number == 40:
        torch.testing.assert_close(result.scores.exp().sum(1), torch.ones(3), atol=1e-5, rtol=0)
        allowed = [document for document, kept in zip(index.document_ids, some, strict=True) if kept]
        found = model.search(**tiny_inputs(), index=index, num_beams=40, top_k=40, allowed=allowed)
        for row in range(3):
            pairs = zip(result.documents[row], result.scores[row].tolist(), strict=True)
            pairs = [(document, score) for document, score in pairs if document in allowed]
            assert found.documents[row] == [document for document, _ in pairs]
            scores = [score for _, score in pairs]
            assert found.scores[row].tolist() == pytest.approx(scores, abs=1e-5), "nobody inherits from the others"
    assert not torch.allclose(plain.scores[:, :3], result.scores[:, :3])


@pytest.mark.parametrize("number", [3, 20])
def test_static_shapes_find_the_same(number, monkeypatch):
    """What a GPU does, so that nothing waits for it."""
    model, index = tiny_model("t5"), random_index(40)
    masks = np.random.default_rng(0).random((3, 40)) < [[0.8], [0.1], [0.0]]
    expected = [
        model.search(**tiny_inputs(), index=index, num_beams=number, top_k=3, allowed=a) for a in (None, masks)
    ]
    monkeypatch.setattr(search, "beam_search", functools.partial(beam_search, static=True))
    for allowed, ragged in zip((None, masks), expected, strict=True):
        found = model.search(**tiny_inputs(), index=index, num_beams=number, top_k=3, allowed=allowed)
        assert found.documents == ragged.documents
        assert torch.equal(found.sequences, ragged.sequences)
        torch.testing.assert_close(found.scores, ragged.scores, atol=1e-6, rtol=0)


def test_a_filter_for_every_text():
    model, index = tiny_model("t5"), random_index()
    rows = [[3, 4, 8, 9], [], [20]]
    masks = np.zeros((3, 25), dtype=bool)
    for mask, kept in zip(masks, rows, strict=True):
        mask[kept] = True
    names = [[f"d{row}" for row in kept] for kept in rows]
    scores = exhaustive_scores(model, index.sequences, **tiny_inputs())
    for allowed in (masks, torch.from_numpy(masks), names):
        result = model.search(**tiny_inputs(), index=index, allowed=allowed)
        for i, kept in enumerate(rows):
            best = sorted(kept, key=lambda row: -scores[i, row])  # noqa: B023
            assert result.documents[i] == [f"d{row}" for row in best]
            torch.testing.assert_close(result.scores[i, : len(best)], scores[i, best], atol=1e-4, rtol=0)
            assert (result.scores[i, len(best) :] == -torch.inf).all()
            assert not result.sequences[i, len(best) :].any()
    with pytest.raises(ValueError, match="filters for 2 texts and 3 texts"):
        model.search(**tiny_inputs(), index=index, allowed=masks[:2])


def test_a_batch_of_any_texts_finds_what_each_finds_alone():
    model, index = tiny_model("bart"), random_index(40)
    texts = [torch.randint(5, 99, (n,)) for n in (1, 30, 4, 12, 2, 7, 30)]
    masks = torch.rand(len(texts), 40) < 0.4
    mask = torch.arange(30) < torch.tensor([[len(text)] for text in texts])
    batch = torch.nn.utils.rnn.pad_sequence(texts, batch_first=True)
    together = model.search(
        input_ids=batch, attention_mask=mask.long(), index=index, num_beams=6, allowed=masks, top_k=5
    )
    for i, text in enumerate(texts):
        alone = model.search(input_ids=text[None], index=index, num_beams=6, allowed=masks[i], top_k=5)
        assert together.documents[i] == alone.documents[0]
        found = len(alone.documents[0])
        torch.testing.assert_close(together.scores[i, :found], alone.scores[0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", ["t5", "bert"])
def test_threads_search_one_model_and_one_index(kind):
    """Also the first time, when the decoder's attention is set."""
    index = random_index(40)
    masks = np.random.default_rng(0).random((8, 40)) < 0.5
    expected = [tiny_model(kind).search(**tiny_inputs(), index=index, num_beams=5, top_k=5, allowed=m) for m in masks]
    model = tiny_model(kind)

    def work(thread):
        return [
            model.search(**tiny_inputs(), index=index, num_beams=5, top_k=5, allowed=masks[(i + thread) % 8])
            for i in range(16)
        ]

    with ThreadPoolExecutor(4) as pool:
        for thread, results in enumerate(pool.map(work, range(4))):
            for i, result in enumerate(results):
                assert result.documents == expected[(i + thread) % 8].documents
                assert torch.equal(result.scores, expected[(i + thread) % 8].scores)


def test_a_document_that_was_added_is_found_and_one_removed_is_not():
    model, index = tiny_model("t5"), random_index(40)
    everything = model.search(**tiny_inputs(), index=index, num_beams=20)
    best = everything.documents[0][0]
    index.remove([best])
    without = model.search(**tiny_inputs(), index=index, num_beams=20)
    assert best not in sum(without.documents, [])
    assert without.documents[0][:9] == everything.documents[0][1:]


def test_only_allowed_documents():
    model, index = tiny_model("t5"), random_index()
    scores = exhaustive_scores(model, index.sequences, **tiny_inputs())
    rows = [3, 4, 8, 9, 11, 12, 13, 14, 20, 21, 22, 24]
    mask = np.isin(np.arange(25), rows)
    names = [f"d{row}" for row in rows]
    for allowed in (mask, torch.from_numpy(mask), mask.tolist(), names, np.array(names), tuple(names), [*names, "d3"]):
        assert_best(model.search(**tiny_inputs(), index=index, allowed=allowed), index, scores, rows)
    assert_best(model.search(**tiny_inputs(), index=index, allowed=["d7"]), index, scores, [7])
    assert_best(model.search(**tiny_inputs(), index=index, allowed=~mask & mask | mask), index, scores, rows)


def test_masks_of_integer_ids_are_masks():
    """`True` equals the id 1, and is none."""
    index = SemanticIndex([1, 0, 5], [[0, 0, 0], [1, 0, 0], [2, 0, 0]], POSITION_SIZES)
    model = tiny_model("t5")
    for allowed in ([False, False, True], np.array([False, False, True]), [5], torch.tensor([5])):
        assert model.search(**tiny_inputs(), index=index, allowed=allowed).documents == [[5]] * 3


@pytest.mark.parametrize("allowed", [[], np.zeros(25, dtype=bool)])
def test_nothing_allowed_is_nothing_found(allowed):
    result = tiny_model("t5").search(**tiny_inputs(), index=random_index(), allowed=allowed)
    assert result.documents == [[], [], []]
    assert result.scores.shape == (3, 0) and result.sequences.shape == (3, 0, 3)


def test_what_cannot_be_allowed_is_named():
    model, index = tiny_model("t5"), random_index()
    with pytest.raises(KeyError, match=r"1 documents are not in the index: \['d99'\]"):
        model.search(**tiny_inputs(), index=index, allowed=["d1", "d99"])
    with pytest.raises(ValueError, match=r"Expected a mask of shape \(25,\).*got \(24,\)"):
        model.search(**tiny_inputs(), index=index, allowed=np.ones(24, dtype=bool))


def test_more_documents_than_beams_are_refused():
    with pytest.raises(ValueError, match="top_k=21 asks for more documents than num_beams=20 finds"):
        tiny_model("t5").search(**tiny_inputs(), index=random_index(), num_beams=20, top_k=21)


@pytest.mark.parametrize(
    "config", [{"codebook_sizes": [5, 4]}, {"codebook_sizes": [4]}, {"num_disambiguation_codes": 2}]
)
def test_an_index_of_another_model_is_refused(config):
    with pytest.raises(ValueError, match=r"The index has \[4, 5, 3\] codes per position.*Load both from one folder"):
        tiny_model("t5", **config).search(**tiny_inputs(), index=random_index())


def test_a_model_with_more_room_at_the_end_fits():
    model, index = tiny_model("t5"), random_index()
    before = model.search(**tiny_inputs(), index=index)
    model.resize_disambiguation(7)
    after = model.search(**tiny_inputs(), index=index)
    # The ranking within a prefix holds; all scores share the larger normaliser.
    assert [set(documents) for documents in after.documents] == [set(documents) for documents in before.documents]


@pytest.mark.parametrize("kind", ["t5", "bert"])
def test_an_index_of_one_document(kind):
    model, index = tiny_model(kind), random_index(1)
    inputs = tiny_inputs() | {"token_type_ids": torch.zeros_like(tiny_inputs()["input_ids"])}
    result = model.search(**inputs, index=index)
    assert result.documents == [["d0"]] * 3
    expected = exhaustive_scores(model, index.sequences, **tiny_inputs())
    torch.testing.assert_close(result.scores, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("num_beams", [2, 5, 30])
def test_equal_documents_come_in_the_order_of_their_ids(num_beams):
    """Before the last position is trained, a whole group is equally likely, also where the beam cuts it."""
    model = tiny_model("t5", zeros=True, num_disambiguation_codes=20)
    names = [f"d{i:02}" for i in range(22)]
    codes = [[1, 2]] * 20 + [[0, 4], [3, 3]]
    shuffled = np.random.default_rng(0).permutation(22)
    index = SemanticIndex.from_codes(
        [names[i] for i in shuffled], [codes[i] for i in shuffled], model.config.position_sizes
    )
    result = model.search(**tiny_inputs(), index=index, num_beams=num_beams, top_k=num_beams)
    for documents, scores in zip(result.documents, result.scores.tolist(), strict=True):
        group = [name for name in documents if name < "d20"]
        assert group == names[: len(group)] and len(documents) == min(num_beams, 22)
        assert len({score for name, score in zip(documents, scores, strict=True) if name < "d20"}) <= 1
        assert scores == sorted(scores, reverse=True)


def test_a_batch_finds_what_one_text_finds():
    model, index = tiny_model("t5"), random_index()
    one = {name: value[:1] for name, value in tiny_inputs().items()}
    alone = model.search(**one, index=index)
    many = model.search(**{name: value.expand(5, -1) for name, value in one.items()}, index=index)
    assert many.documents == alone.documents * 5
    torch.testing.assert_close(many.scores, alone.scores.expand(5, -1), atol=1e-5, rtol=0)
    mixed = model.search(**tiny_inputs(), index=index)
    assert mixed.documents[0] == alone.documents[0]


def test_other_ways_to_give_the_text():
    model, index = tiny_model("t5"), random_index()
    expected = model.search(**tiny_inputs(), index=index)
    states, mask = model.encode(**tiny_inputs())
    embeddings = model.get_input_embeddings()(tiny_inputs()["input_ids"])
    for inputs in (
        {"encoder_outputs": states, "attention_mask": mask},
        {"inputs_embeds": embeddings, "attention_mask": mask},
    ):
        assert model.search(**inputs, index=index).documents == expected.documents


@pytest.mark.parametrize("static", [False, True])
def test_the_beams_of_every_position_are_the_best_of_the_last_ones_children(static, monkeypatch):
    monkeypatch.setattr(search, "beam_search", functools.partial(beam_search, static=static))
    model, index = tiny_model("t5"), random_index(40)
    allowed = [[f"d{row}" for row in rows] for rows in (range(40), range(3), [])]
    settings = {"index": index, "num_beams": 6, "top_k": 6, "allowed": allowed}
    result = model.search(**tiny_inputs(), **settings, output_beams=True)
    assert len(result.beams) == 3 and model.search(**tiny_inputs(), **settings).beams is None
    assert torch.equal(result.beams[-1][0], result.sequences) and torch.equal(result.beams[-1][1], result.scores)
    states, mask = model.encode(**tiny_inputs())
    for text, names in enumerate(allowed):
        held = {(): 0.0}
        for position, (ids, scores) in enumerate(result.beams):
            there = {tuple(row[: position + 1]) for row in index.sequences_of(names).tolist()}
            candidates = {}
            for prefix, score in held.items():
                logits = model(
                    encoder_outputs=states[text : text + 1], attention_mask=mask[text : text + 1],
                    decoder_input_ids=torch.tensor([[0, *prefix]]),
                ).code_logits[position][0].detach().log_softmax(-1)  # fmt: skip
                first = model.config.position_offsets[position]
                candidates |= {c: score + float(logits[c[-1] - first]) for c in there if c[:-1] == prefix}
            best = dict(sorted(candidates.items(), key=lambda item: -item[1])[:6])
            found = [tuple(row) for row in ids[text].tolist() if row[0]]
            assert found == list(best)
            expected = torch.tensor(list(best.values()))
            torch.testing.assert_close(scores[text, : len(found)], expected, atol=1e-4, rtol=0)
            assert (scores[text, len(found) :] == -torch.inf).all()
            held = best

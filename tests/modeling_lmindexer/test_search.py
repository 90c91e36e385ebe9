import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import KINDS, SIZES, all_ids, beams, exhaustive_scores, tiny_inputs, tiny_model

from modeling_lmindexer import SemanticIndex
from modeling_lmindexer.search import best_of_each_text

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
    with pytest.raises(ValueError, match=r"Expected a mask of shape \(25,\), got \(24,\)"):
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


@settings(max_examples=100, deadline=None, database=None)
@given(st.lists(st.lists(st.sampled_from([0.0, -1.0, -2.5]), min_size=1), min_size=1, max_size=5), st.integers(1, 5))
def test_best_of_each_text(rows, number):
    texts = torch.tensor([text for text, scores in enumerate(rows) for _ in scores])
    kept = best_of_each_text(torch.tensor([score for scores in rows for score in scores]), texts, len(rows), number)
    expected, start = [], 0
    for scores in rows:
        best = sorted(range(len(scores)), key=lambda i: (-scores[i], i))[:number]  # noqa: B023
        expected += sorted(start + i for i in best)
        start += len(scores)
    assert kept.tolist() == expected

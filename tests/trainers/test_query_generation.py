"""Drawn queries: what they are drawn from, that each depends on its document alone, and going on after a stop."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_training import tiny_corpus, tiny_query_model, tiny_tokenizer

from trainers.query_generation import (
    QueryGenerator,
    QuerySampling,
    SeededDraws,
    Share,
    distinct,
    generate_in_parts,
)
from trainers.retrieval_data import TokenizedTexts
from trainers.run_state import RunState

SAMPLING = QuerySampling(num_queries=3, max_new_tokens=6, temperature=0.8, top_k=20, top_p=0.9)


def generator(batch_size: int = 4, sampling: QuerySampling = SAMPLING) -> QueryGenerator:
    return QueryGenerator(tiny_query_model(), tiny_tokenizer(), sampling, batch_size)


@pytest.fixture(scope="module")
def documents() -> tuple[list[str], TokenizedTexts]:
    """Ids and token ids of 20 documents."""
    corpus = tiny_corpus().select(range(20))
    return corpus["id"][:], TokenizedTexts.of(corpus["text"][:], tiny_tokenizer(), 32, "documents", corpus["id"][:])


@pytest.fixture(scope="module")
def alone(documents) -> dict[str, list[str]]:
    """What every document gets, one at a time."""
    ids, texts = documents
    draws = generator()
    return {document: draws([document], [texts[row]])[0] for row, document in enumerate(ids)}


@given(
    st.integers(1, 12), st.floats(0.05, 1.0), st.floats(0.2, 3.0), st.integers(0, 2**24 - 1), st.integers(0, 2**32 - 1)
)
def test_a_number_falls_on_the_token_of_an_oracle(top_k, top_p, temperature, number, seed):
    """Filtered and laid out one token after the other, in plain Python."""
    logits = np.random.default_rng(seed).normal(size=9).astype(np.float32)
    draws = SeededDraws(
        torch.tensor([[number / 2**24]]), QuerySampling(top_k=top_k, top_p=top_p, temperature=temperature)
    )
    left = draws(torch.zeros(1, 1, dtype=torch.long), torch.from_numpy(logits)[None])[0]
    likely = sorted(range(9), key=lambda token: -logits[token])[:top_k]
    weights = {token: np.exp(float(logits[token]) / temperature) for token in likely}
    total, so_far, nucleus = sum(weights.values()), 0.0, []
    for token in likely:
        if so_far / total < top_p - 1e-12:
            nucleus.append(token)
        so_far += weights[token]
    place = number / 2**24 * sum(weights[token] for token in nucleus)
    ends = np.cumsum([weights[token] for token in sorted(nucleus)])
    if abs(ends - place).min() < 1e-9:  # on a border
        return
    assert left.argmax() == sorted(nucleus)[int((ends <= place).sum())] and left.isfinite().sum() == 1


def test_draws_have_the_models_probabilities():
    logits = torch.tensor([2.0, 0.5, 1.0, -3.0]).expand(20_000, -1)
    numbers = torch.from_numpy(np.random.default_rng(0).random((20_000, 1), dtype=np.float32))
    drawn = SeededDraws(numbers, QuerySampling(top_k=3))(torch.zeros(20_000, 1), logits).argmax(-1)
    expected = logits[0, :3].softmax(-1)
    shares = torch.bincount(drawn, minlength=4) / 20_000
    torch.testing.assert_close(shares[:3], expected, atol=0.012, rtol=0)  # 3.5 standard errors
    assert shares[3] == 0


def test_a_document_gets_the_same_in_any_company(documents, alone):
    ids, texts = documents
    for batch_size, order in (
        (1, range(20)),
        (3, reversed(range(20))),
        (20, np.random.default_rng(1).permutation(20)),
    ):
        rows = list(order)
        found = generator(batch_size)([ids[row] for row in rows], [texts[row] for row in rows])
        assert found == [alone[ids[row]] for row in rows]
    assert len({query for queries in alone.values() for query in queries}) > 40, "samples, not one greedy answer"
    assert len({len(query.split()) for queries in alone.values() for query in queries}) > 2, "some end early"


def test_id_and_seed_tell_draws_apart(documents, alone):
    ids, texts = documents
    assert generator()(["other"], [texts[0]])[0] != alone[ids[0]]
    assert generator(sampling=QuerySampling(**vars(SAMPLING) | {"seed": 1}))([ids[0]], [texts[0]])[0] != alone[ids[0]]
    more = generator(sampling=QuerySampling(**vars(SAMPLING) | {"num_queries": 5}))([ids[0]], [texts[0]])[0]
    assert more[:3] == alone[ids[0]] and len(more) == 5
    draws = generator()
    np.testing.assert_array_equal(draws.numbers_of(7), draws.numbers_of("7"))


def test_settings_of_the_checkpoint_are_not_those_of_the_draw(documents, alone):
    ids, texts = documents
    model = tiny_query_model()
    model.generation_config.update(num_beams=3, do_sample=True, temperature=0.1, repetition_penalty=3.0, min_length=5)
    assert QueryGenerator(model, tiny_tokenizer(), SAMPLING)([ids[0]], [texts[0]])[0] == alone[ids[0]]


class Stopped(Exception):
    pass


def stopping_after(calls: int) -> QueryGenerator:
    """A generator that is killed in its next part."""
    draws = generator()
    whole, done = draws.draw, []

    def draw(ids, tokens):
        if len(done) == calls:
            raise Stopped
        done.append(ids)
        return whole(ids, tokens)

    draws.draw = draw
    draws.done = done
    return draws


def test_a_stop_costs_one_part(documents, alone, tmp_path):
    ids, texts = documents
    state = RunState(tmp_path)
    with pytest.raises(Stopped):
        generate_in_parts(stopping_after(3), ids, texts, state, Share(), documents_per_part=8)
    assert len(list(state.folder("parts").glob("*.json"))) == 1
    rest = stopping_after(99)
    found = generate_in_parts(rest, ids, texts, state, Share(), documents_per_part=8)
    assert found == [alone[document] for document in ids] and sum(map(len, rest.done)) == 12
    again = stopping_after(0)
    assert generate_in_parts(again, ids, texts, state, Share(), documents_per_part=8) == found


def test_processes_share_the_parts(documents, alone, tmp_path):
    ids, texts = documents
    state = RunState(tmp_path)
    second = stopping_after(99)
    assert generate_in_parts(second, ids, texts, state, Share(1, 2), documents_per_part=6) is None
    assert sum(map(len, second.done)) == 8
    first, order = stopping_after(99), []
    share = Share(0, 2, lambda: order.append(len(first.done)))
    found = generate_in_parts(first, ids, texts, state, share, documents_per_part=6)
    assert found == [alone[document] for document in ids]
    assert sum(map(len, first.done)) == 12 and order == [len(first.done)], "waits once, after its own"


def test_what_other_documents_left_is_not_taken(documents, alone, tmp_path):
    ids, texts = documents
    state = RunState(tmp_path)
    generate_in_parts(generator(), [f"x{name}" for name in ids], texts, state, Share())
    assert generate_in_parts(generator(), ids, texts, state, Share()) == [alone[document] for document in ids]


def test_distinct():
    assert distinct(["a b", "", "A  B", "?!", "_", "b", "ß", "SS", "水", "b"]) == ["a b", "b", "ß", "水"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_queries": 0}, "num_queries is 0"),
        ({"top_k": 0}, "top_k is 0"),
        ({"top_p": 0.0}, "top_p 0.0"),
        ({"top_p": 1.5}, "top_p 1.5"),
        ({"temperature": 0.0}, "temperature is 0.0"),
    ],
)
def test_settings_that_make_no_sense(settings, message):
    with pytest.raises(ValueError, match=message):
        QuerySampling(**settings)


def test_logits_that_are_no_numbers():
    draws = SeededDraws(torch.zeros(1, 1), QuerySampling())
    with pytest.raises(ValueError, match="no numbers"):
        draws(torch.zeros(1, 1), torch.full((1, 30), torch.nan))


def test_parts_are_json_that_names_their_documents(documents, tmp_path):
    ids, texts = documents
    state = RunState(tmp_path)
    generate_in_parts(generator(), ids, texts, state, Share(), documents_per_part=7)
    parts = sorted(state.folder("parts").iterdir())
    assert [path.name[:7] for path in parts] == ["000000-", "000001-", "000002-"]
    assert [len(json.loads(path.read_text())["queries"]) for path in parts] == [7, 7, 6]

"""Dense rescoring against a plain loop; whatever the batch; and what a file of vectors is checked for."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import KINDS, SIZES, tiny_inputs, tiny_model, tiny_tokenizer

from modeling_lmindexer import CorruptedFolderError, DocumentVectors, LMIndexerForSemanticID, SemanticIndex
from modeling_lmindexer.document_vectors import VECTORS_NAME, batches_by_length
from modeling_lmindexer.folder import update_manifest

POSITION_SIZES = [*SIZES["codebook_sizes"], 40]


def some_documents(number=30, seed=0) -> list[dict]:
    """Texts of one to nine words; the last two say the same."""
    random = np.random.default_rng(seed)
    texts = [" ".join(f"w{w}" for w in random.integers(2, 99, random.integers(1, 10))) for _ in range(number - 1)]
    return [{"id": f"d{i}", "text": text} for i, text in enumerate([*texts, texts[-1]])]


def attached(kind="t5", groups=3, **config):
    """Model, index and documents: so few different learned codes that most documents share theirs."""
    model, documents = tiny_model(kind, num_disambiguation_codes=40, **config), some_documents()
    codes = [[i % groups, i % groups] for i in range(len(documents))]
    index = SemanticIndex.from_codes([d["id"] for d in documents], codes, POSITION_SIZES)
    return model, index.attach(model, tiny_tokenizer()), documents


@torch.no_grad()
def first_state(model, input_ids) -> torch.Tensor:
    """`h^1` of one text, by the model's own forward."""
    output = model(input_ids=input_ids[None], decoder_input_ids=torch.zeros(1, 1, dtype=torch.long))
    return torch.nn.functional.normalize(output.decoder_last_hidden_state[0, 0], dim=0)


@pytest.mark.parametrize("kind", KINDS)
def test_vectors_are_first_states_whatever_the_batch(kind):
    model, index, documents = attached(kind)
    expected = [
        first_state(model, tiny_tokenizer()(d["text"], return_tensors="pt")["input_ids"][0]) for d in documents
    ]
    model.train()
    for batch_size in (1, 4, 64):
        vectors = DocumentVectors.of(index, documents[::-1], batch_size=batch_size)
        assert vectors.document_ids == index.document_ids and model.training
        torch.testing.assert_close(vectors.vectors, torch.stack(expected), atol=1e-5, rtol=0)
        assert torch.equal(vectors.vectors[-1], vectors.vectors[-2]), "equal texts have equal vectors"


@pytest.mark.parametrize("weight", [1e-3, 1.0, 1e4])
@pytest.mark.parametrize("allowed", [None, [f"d{i}" for i in range(0, 30, 4)]])
def test_search_adds_the_cosine_to_the_whole_beam(weight, allowed):
    model, index, documents = attached()
    vectors = DocumentVectors.of(index, documents, weight)
    plain = model.search(**tiny_inputs(), index=index, num_beams=30, top_k=30, allowed=allowed)
    result = model.search(**tiny_inputs(), index=index, num_beams=30, top_k=5, allowed=allowed, rescoring=vectors)
    by_id = dict(zip(index.document_ids, vectors.vectors, strict=True))
    lengths = tiny_inputs()["attention_mask"].sum(1)
    for row, length in enumerate(lengths):
        query = first_state(model, tiny_inputs()["input_ids"][row, :length])
        scores = {
            document: score + weight * float(query @ by_id[document])
            for document, score in zip(plain.documents[row], plain.scores[row].tolist(), strict=True)
        }
        found = result.documents[row]
        own = [scores[document] for document in found]
        torch.testing.assert_close(result.scores[row], torch.tensor(own), atol=1e-4 * max(1, weight), rtol=1e-5)
        np.testing.assert_allclose(own, sorted(scores.values())[::-1][:5], atol=1e-4 * max(1, weight))
        assert index.documents_of(result.sequences[row]) == [[document] for document in found]


def test_a_small_weight_orders_ties_and_nothing_else():
    """Before the last position is trained, the documents of a group are equally likely: they come by their cosines."""
    model, index, documents = attached(zeros=True, groups=4)
    plain = model.search(**tiny_inputs(), index=index, num_beams=30, top_k=30)
    vectors = DocumentVectors.of(index, documents, weight=1e-3)
    result = model.search(**tiny_inputs(), index=index, num_beams=30, top_k=30, rescoring=vectors)
    group = {document: tuple(row[:2]) for document, row in zip(index.document_ids, index.codes.tolist(), strict=True)}
    by_id = dict(zip(index.document_ids, vectors.vectors, strict=True))
    for row in range(3):
        query = first_state(model, tiny_inputs()["input_ids"][row, : tiny_inputs()["attention_mask"][row].sum()])
        before, after = plain.documents[row], result.documents[row]
        assert [group[document] for document in after] == [group[document] for document in before]
        assert after != before
        for _, members in itertools.groupby(after, key=group.get):
            cosines = [float(query @ by_id[document]) for document in members]
            np.testing.assert_allclose(cosines, sorted(cosines, reverse=True), atol=1e-3)


def test_a_batch_finds_what_one_text_finds():
    """Also where one text has less to find than the other."""
    model, index, documents = attached()
    vectors = DocumentVectors.of(index, documents, weight=3.0)
    masks = np.zeros((3, 30), dtype=bool)
    masks[0, ::2], masks[1, :2], masks[2, 0] = True, True, False
    for allowed in (None, masks):
        every = model.search(**tiny_inputs(), index=index, rescoring=vectors, allowed=allowed)
        for row, length in enumerate((7, 5, 2)):
            one = {name: value[row : row + 1, :length] for name, value in tiny_inputs().items()}
            own = None if allowed is None else masks[row : row + 1]
            alone = model.search(**one, index=index, rescoring=vectors, allowed=own)
            assert alone.documents == [every.documents[row]]


@given(st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=5), min_size=1, max_size=20), st.integers(1, 7))
def test_batches_hold_every_text_once(tokens, batch_size):
    batches, place = batches_by_length(tokens, batch_size)
    rows = [row for batch in batches for row in batch]
    assert [list(rows[i]) for i in place] == tokens and len(set(rows)) == len(rows)
    assert [len(row) for row in rows] == sorted(map(len, rows), reverse=True)
    assert all(len(batch) == batch_size for batch in batches[:-1]) and 0 < len(batches[-1]) <= batch_size


def test_a_folder_gives_back_what_it_was_given(tmp_path):
    model, index, documents = attached()
    vectors = DocumentVectors.of(index, documents, weight=0.3)
    update_manifest(tmp_path, [])
    vectors.save_pretrained(tmp_path)
    for load in (DocumentVectors.from_pretrained, LMIndexerForSemanticID.load_document_vectors):
        again = load(tmp_path, index)
        assert again.weight == 0.3 and again.document_ids == index.document_ids
        torch.testing.assert_close(again.vectors, vectors.vectors, atol=1e-6, rtol=0)
    file = tmp_path / VECTORS_NAME
    content = file.read_bytes()
    file.write_bytes(content[:-4])
    with pytest.raises(CorruptedFolderError, match="its manifest lists"):
        DocumentVectors.from_pretrained(tmp_path, index)
    (tmp_path / "manifest.json").unlink()
    with pytest.raises(CorruptedFolderError, match="does not hold vectors of documents"):
        DocumentVectors.from_pretrained(tmp_path, index)


def test_vectors_of_other_documents_are_refused(tmp_path):
    model, index, documents = attached()
    vectors = DocumentVectors.of(index, documents)
    vectors.save_pretrained(tmp_path)
    index.remove(["d3"])
    model.search(**tiny_inputs(), index=index, rescoring=vectors)  # fewer are no harm
    with pytest.raises(ValueError, match="vectors of 30 documents, which are not the 29 of the index"):
        DocumentVectors.from_pretrained(tmp_path, index)
    index.add([{"id": "new", "text": "w5 w6"}])
    with pytest.raises(ValueError, match="30 documents, which are not the 30"):
        DocumentVectors.from_pretrained(tmp_path, index)
    with pytest.raises(KeyError, match="1 documents have no vector, such as 'new'"):
        model.search(**tiny_inputs(), index=index, num_beams=30, rescoring=vectors, allowed=["new"])
    with pytest.raises(ValueError, match=r"1 documents of the index are not given: \['new'\]"):
        DocumentVectors.of(index, documents)


def test_sizes_and_weights_are_checked():
    model, index, _ = attached()
    with pytest.raises(ValueError, match=r"each of 2 documents, got an array of shape \(3, 4\)"):
        DocumentVectors(["a", "b"], torch.ones(3, 4))
    for weight in (0, -1, float("inf"), float("nan")):
        with pytest.raises(ValueError, match="expected a number above 0"):
            DocumentVectors(["a"], torch.ones(1, 4), weight)
    other = DocumentVectors(index.document_ids, torch.ones(30, 4))
    with pytest.raises(ValueError, match="4 dimensions, those of the texts 16"):
        model.search(**tiny_inputs(), index=index, rescoring=other)

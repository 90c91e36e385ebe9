"""New documents' IDs: those that the model writes, whatever they do to the last position; the others' stay."""

import numpy as np
import pytest
import torch
from tiny_models import tiny_model, tiny_tokenizer

from modeling_lmindexer import SemanticIndex
from trainers.new_documents import add_new, index_without

SIZES = [4, 5, 3]


def index_of(model, number: int = 12) -> SemanticIndex:
    codes = np.stack([np.arange(number) % 4, np.arange(number) % 5], axis=1)
    return SemanticIndex.from_codes([f"d{i}" for i in range(number)], codes, SIZES).attach(model, tiny_tokenizer())


def ids_of(index: SemanticIndex) -> dict:
    return dict(zip(index.document_ids, index.semantic_ids, strict=True))


def test_an_index_without_documents_keeps_the_other_ids():
    index = SemanticIndex(["a", "b", "c", "d"], [[0, 0, 0], [0, 0, 2], [3, 1, 0], [0, 0, 1]], SIZES)
    part = index_without(index, {"a", "c", "not there"})
    assert ids_of(part) == {"b": "<0><0><2>", "d": "<0><0><1>"}
    assert part.position_sizes == SIZES and part.has_disambiguation
    assert len(index) == 4 and len(part.tree) == 2
    with pytest.raises(ValueError, match="at least one"):
        index_without(index, "abcd")


@pytest.mark.parametrize("batch_size", [1, 64])
def test_new_documents_get_what_the_model_writes(batch_size):
    model = tiny_model()
    index = index_of(model)
    before = ids_of(index)
    documents = [{"id": f"n{i}", "text": f"w{5 + i} w{50 + i}"} for i in range(6)]
    add_new(index, documents, batch_size)
    after = ids_of(index)
    assert {name: after[name] for name in before} == before
    for document in documents:
        codes = model.assign(**tiny_tokenizer()(document["text"], return_tensors="pt", return_token_type_ids=False))
        codes = (codes[0] - torch.tensor(model.config.position_offsets[:2])).tolist()
        assert after[document["id"]].startswith("".join(f"<{code}>" for code in codes))
    add_new(index, [])
    assert ids_of(index) == after


def test_the_last_position_grows_when_it_must():
    """Nine documents that read the same, for three places: model and index get room for nine."""
    model = tiny_model()
    index = index_of(model)
    documents = [{"id": f"n{i}", "text": "w7 w8 w9"} for i in range(9)]
    with pytest.raises(ValueError, match="room for 3"):
        index.add(documents)
    add_new(index, documents)
    last = index.codes[-9:, -1]
    assert len(set(map(tuple, index.codes[-9:, :2].tolist()))) == 1 and len(set(last.tolist())) == 9
    assert index.position_sizes[-1] == model.config.position_sizes[-1] >= last.max() + 1
    inputs = tiny_tokenizer()("w7 w8", return_tensors="pt", return_token_type_ids=False)
    assert len(model.search(**inputs, index=index, num_beams=30, top_k=21).documents[0]) == 21

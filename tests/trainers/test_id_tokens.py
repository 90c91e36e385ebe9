"""IDs that a model reads: one token per code, with the code's direction."""

import numpy as np
import pytest
import torch
from tiny_retrieval import tiny_index
from tiny_training import tiny_corpus, tiny_indexer, tiny_tokenizer
from torch.nn import functional as F

from modeling_lmindexer import LMIndexerForSemanticID, SemanticIndex
from trainers.id_tokens import add_id_tokens, id_texts, id_tokens


def test_names_and_the_flat_ids_that_they_stand_for():
    index = SemanticIndex.from_codes(["b", "a", "c"], [[1, 0], [0, 1], [1, 1]], [2, 3], has_disambiguation=False)
    codes = {"<c1_0>": [1], "<c1_1>": [2], "<c2_0>": [3], "<c2_1>": [4], "<c2_2>": [5]}
    assert id_tokens(index) == codes and list(id_tokens(index)) == list(codes)
    prefixes = {"<p_0>": [1], "<p_0_1>": [1, 4], "<p_1>": [2], "<p_1_0>": [2, 3], "<p_1_1>": [2, 4]}
    assert id_tokens(index, "prefixes") == prefixes and list(id_tokens(index, "prefixes")) == list(prefixes)
    assert id_texts(index) == {"b": "<c1_1><c2_0>", "a": "<c1_0><c2_1>", "c": "<c1_1><c2_1>"}
    assert id_texts(index, "prefixes") == {"b": "<p_1><p_1_0>", "a": "<p_0><p_0_1>", "c": "<p_1><p_1_1>"}
    with pytest.raises(ValueError, match="codes or prefixes, not 'words'"):
        id_tokens(index, "words")


def test_prefixes_start_as_sums_and_documents_of_later_are_read_as_far_as_they_are_known():
    corpus, tokenizer = tiny_corpus(), tiny_tokenizer()
    index, model = tiny_index(corpus), tiny_indexer(num_reconstructor_layers=0)
    words = len(tokenizer)
    add_id_tokens(model, tokenizer, index, 0, "prefixes")
    names, weight = id_tokens(index, "prefixes"), model.get_input_embeddings().weight
    assert len(tokenizer) == len(weight) == words + len(names)
    first, second = (book.weight for book in model.codebooks.learned)
    own = index.codes[7].tolist()
    place = tokenizer.convert_tokens_to_ids(f"<p_{own[0]}_{own[1]}>")
    torch.testing.assert_close(
        F.cosine_similarity(weight[place], first[own[0]] + second[own[1]], dim=0), torch.tensor(1.0)
    )
    tokens = tokenizer(id_texts(index, "prefixes")[index.document_ids[7]])["input_ids"]
    assert tokens[1] == place and len(tokens) == len(own) + 1

    later = SemanticIndex(["new"], np.array([[*own[:2], 15]]), index.position_sizes)
    assert id_texts(later, "prefixes", tokenizer) == {"new": f"<p_{own[0]}><p_{own[0]}_{own[1]}>"}
    assert id_texts(later, "codes", tokenizer) == {"new": ""}, "none of these tokens were added"


@pytest.mark.parametrize("kind", ["t5", "bert"])
def test_ids_are_read_code_by_code(tmp_path, kind):
    corpus, tokenizer = tiny_corpus(), tiny_tokenizer()
    index, model = tiny_index(corpus), tiny_indexer(kind, num_reconstructor_layers=0)
    words, before = len(tokenizer), model.get_input_embeddings().weight.clone()
    add_id_tokens(model, tokenizer, index, 0)
    weight = model.get_input_embeddings().weight
    assert len(tokenizer) == len(weight) == words + 6 + 4 + 16
    assert torch.equal(weight[:words], before), "words stay as they are"
    codes = torch.cat([book.weight for book in model.codebooks.learned])
    torch.testing.assert_close(F.cosine_similarity(weight[words : words + 10], codes), torch.ones(10))
    torch.testing.assert_close(weight[words : words + 10].norm(dim=-1), before.norm(dim=-1).median().expand(10))
    assert weight[words + 10 :].norm(dim=-1).min() > 0, "those of an untrained position are drawn"
    texts = id_texts(index)
    for document, row in zip(index.document_ids, index.sequences.tolist(), strict=True):
        assert tokenizer(texts[document])["input_ids"] == [*(words + flat - 1 for flat in row), 2]
    history = f"{texts['d000']} common1 {texts['d111']}"
    assert len(tokenizer(history)["input_ids"]) == 3 + 1 + 3 + 1

    again = weight.clone()
    add_id_tokens(model, tokenizer, index, 0)
    assert torch.equal(model.get_input_embeddings().weight, again), "nothing is added twice"
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    loaded = LMIndexerForSemanticID.from_pretrained(tmp_path)
    assert torch.equal(loaded.get_input_embeddings().weight, again)
    assert loaded.config.backbone_config.vocab_size == len(again) and loaded.config.vocab_size == 1 + 6 + 4 + 16


def test_what_cannot_read_ids():
    tokenizer, index = tiny_tokenizer(), tiny_index(tiny_corpus())
    with pytest.raises(ValueError, match="num_reconstructor_layers=0"):
        add_id_tokens(tiny_indexer(), tokenizer, index, 0)
    with pytest.raises(ValueError, match="come from different runs"):
        add_id_tokens(tiny_indexer(num_reconstructor_layers=0), tokenizer, tiny_index(tiny_corpus(), (5, 4)), 0)


def test_a_model_with_more_room_than_the_index():
    tokenizer, index = tiny_tokenizer(), tiny_index(tiny_corpus())
    model = tiny_indexer(num_reconstructor_layers=0, num_disambiguation_codes=20)
    words = len(tokenizer)
    add_id_tokens(model, tokenizer, index, 0)
    assert len(tokenizer) == words + 6 + 4 + 16

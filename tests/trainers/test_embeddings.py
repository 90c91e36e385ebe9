"""Vectors of texts: pooled as the encoder's folder says, whatever the batches."""

import json

import numpy as np
import pytest
import torch
from tiny_training import WORDS, tiny_corpus, tiny_indexer, tiny_tokenizer
from transformers import BertConfig, BertModel, T5Config, T5ForConditionalGeneration

from trainers.embeddings import embed_texts, stated_pooling

TEXTS = [*list(tiny_corpus()["text"])[:9], WORDS[0], WORDS[0]]


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bert")
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(WORDS) + 3, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=40,
    )  # fmt: skip
    model = BertModel(config).eval()
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder, model


@torch.no_grad()
def states_one_by_one(model, max_length=64):
    """Encoder states `(tokens, hidden)` of every text, without any padding."""
    tokenizer = tiny_tokenizer()
    ids = [tokenizer(text, truncation=True, max_length=max_length)["input_ids"] for text in TEXTS]
    return [model(input_ids=torch.tensor([row])).last_hidden_state[0].numpy() for row in ids]


@pytest.mark.parametrize("batch_size", [1, 4, 64])
def test_any_batch_size_gives_the_mean_of_the_states(bert, batch_size):
    folder, model = bert
    vectors = embed_texts(folder, TEXTS, batch_size=batch_size, quiet=True)
    assert vectors.shape == (11, 16) and vectors.dtype == np.float32
    expected = [states.mean(axis=0) for states in states_one_by_one(model)]
    np.testing.assert_allclose(vectors, expected, atol=1e-5)


def test_first_tokens_and_long_texts(bert):
    folder, model = bert
    vectors = embed_texts(folder, TEXTS, pooling="cls", max_length=4, quiet=True)
    expected = [states[0] for states in states_one_by_one(model, max_length=4)]
    np.testing.assert_allclose(vectors, expected, atol=1e-5)
    # Not more than the tokenizer's own limit: more positions the model does not have.
    long = [" ".join(TEXTS)]
    np.testing.assert_array_equal(
        embed_texts(folder, long, max_length=10**6, quiet=True), embed_texts(folder, long, max_length=32, quiet=True)
    )


def test_texts_that_are_read_as_equal_get_equal_vectors(bert):
    texts = [f"{WORDS[1]} {WORDS[2]} {word}" for word in WORDS[3:8]] + TEXTS
    vectors = embed_texts(bert[0], texts, max_length=2, batch_size=3, quiet=True)
    assert len(np.unique(vectors[:5], axis=0)) == 1


def test_a_sentence_transformers_folder_says_how_to_pool(bert, tmp_path):
    folder, model = bert
    model.save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    settings = tmp_path / "1_Pooling" / "config.json"
    settings.parent.mkdir()
    assert stated_pooling(folder) == "mean"
    modes = {"word_embedding_dimension": 16, "pooling_mode_mean_tokens": False, "pooling_mode_cls_token": True}
    settings.write_text(json.dumps(modes))
    assert stated_pooling(tmp_path) == "cls"
    cls, mean = (embed_texts(folder, TEXTS, pooling=pooling, quiet=True) for pooling in ("cls", "mean"))
    np.testing.assert_array_equal(embed_texts(tmp_path, TEXTS, quiet=True), cls)
    np.testing.assert_array_equal(embed_texts(tmp_path, TEXTS, pooling="mean", quiet=True), mean)
    for named in ("cls", ["cls"]):  # as sentence-transformers writes it since its version 6
        settings.write_text(json.dumps({"embedding_dimension": 16, "pooling_mode": named}))
        assert stated_pooling(tmp_path) == "cls"
    both = modes | {"pooling_mode_mean_tokens": True}
    for wrong in ({"pooling_mode_max_tokens": True}, both, {"pooling_mode": ["cls", "mean"]}):
        settings.write_text(json.dumps(wrong))
        with pytest.raises(ValueError, match="pools by .*: set pooling, mean or cls"):
            embed_texts(tmp_path, TEXTS, quiet=True)


def test_of_an_encoder_decoder_the_encoder(tmp_path):
    torch.manual_seed(0)
    config = T5Config(vocab_size=len(WORDS) + 3, d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2)
    model = T5ForConditionalGeneration(config).eval()
    model.save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    expected = [states.mean(axis=0) for states in states_one_by_one(model.get_encoder())]
    np.testing.assert_allclose(embed_texts(tmp_path, TEXTS, batch_size=3, quiet=True), expected, atol=1e-5)


@pytest.mark.parametrize("kind", ["t5", "bert"])
@torch.no_grad()
def test_of_an_indexer_its_first_hidden_state(tmp_path, kind):
    """What the first code is read off: its logits' best is the code that the model assigns."""
    model = tiny_indexer(kind).eval()
    model.save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    vectors = embed_texts(tmp_path, TEXTS, batch_size=3, quiet=True)
    inputs = tiny_tokenizer()(TEXTS, padding=True, return_tensors="pt")
    hidden = model(inputs["input_ids"], inputs["attention_mask"]).decoder_last_hidden_state[:, 0]
    np.testing.assert_allclose(vectors, hidden, atol=1e-5)
    codes = model.codebooks.logits(torch.from_numpy(vectors), 0).argmax(-1)
    assigned = model.assign(inputs["input_ids"], inputs["attention_mask"])[:, 0] - 1
    assert codes.tolist() == assigned.tolist()


def test_what_cannot_be_embedded_is_an_error(bert):
    with pytest.raises(ValueError, match="pooling is mean or cls, not 'max'"):
        embed_texts(bert[0], TEXTS, pooling="max", quiet=True)


def test_a_text_without_tokens_is_an_error(bert, tmp_path):
    from transformers import PreTrainedTokenizerFast

    bert[1].save_pretrained(tmp_path)
    tokenizer = tiny_tokenizer()
    backend = tokenizer.backend_tokenizer
    backend.post_processor = None
    PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>").save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="finds nothing in 2 texts, the first is number 1"):
        embed_texts(tmp_path, ["common0", "", "common1", ""], quiet=True)

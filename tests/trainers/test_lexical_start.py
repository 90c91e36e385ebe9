"""A BERT whose states, before any training, add up to what latent semantic analysis says of a document."""

import numpy as np
import pytest
import torch
from sklearn.decomposition import TruncatedSVD
from sklearn.preprocessing import normalize
from tiny_adaptation import tokenizer_with_mask
from tiny_training import tiny_corpus
from transformers import BertConfig, BertModel, DistilBertConfig, DistilBertModel

from trainers.documents import IndexingDataset
from trainers.lexical_start import lexical_vectors, start_lexically

TEXTS = list(tiny_corpus()["text"])
VOCABULARY = len(tokenizer_with_mask())


def read(texts=TEXTS):
    return IndexingDataset(list(range(len(texts))), texts, tokenizer_with_mask(), 32, 0)


def new_bert(width=32, layers=2, dropout=0.0):
    torch.manual_seed(0)
    return BertModel(
        BertConfig(
            vocab_size=VOCABULARY, hidden_size=width, num_hidden_layers=layers, num_attention_heads=2,
            intermediate_size=64, max_position_embeddings=40, hidden_dropout_prob=dropout,
        )
    ).eval()  # fmt: skip


def lsa_by_words(size):
    """Documents `(N, size)`: linear counts times `idf * V * sqrt(S)` of the analysis of log counts."""
    documents = [text.split() for text in TEXTS]
    words = sorted({word for words in documents for word in words})
    counts = np.array([[document.count(word) for word in words] for document in documents], dtype=float)
    frequency = (counts > 0).sum(0)
    idf = np.where((frequency >= 2) & (frequency <= 30), np.log(60 / frequency), 0)
    analysis = TruncatedSVD(size, algorithm="arpack", random_state=0).fit(normalize(np.log1p(counts) * idf))
    return counts @ (idf[:, None] * analysis.components_.T * np.sqrt(analysis.singular_values_))


def cosines(vectors):
    vectors = normalize(vectors)
    return vectors @ vectors.T


@pytest.mark.parametrize("size", [5, 30])
def test_vectors_are_the_analysis_of_the_corpus(size):
    documents = read()
    vectors = lexical_vectors(documents, VOCABULARY, size, seed=0)
    assert vectors.shape == (VOCABULARY, size)
    found = np.array([vectors[documents[row]["input_ids"]].sum(0) for row in range(60)])
    np.testing.assert_allclose(cosines(found), cosines(lsa_by_words(size)), atol=0.02)


def test_a_small_corpus_lacks_directions():
    vectors = lexical_vectors(read(TEXTS[:7]), VOCABULARY, 30, seed=0)
    assert vectors.shape == (VOCABULARY, 30) and np.isfinite(vectors).all()
    assert vectors[:, :5].any() and not vectors[:, 7:].any()


@torch.no_grad()
def test_the_mean_of_the_states_is_lexical():
    """Whatever the depth; the untrained attention and positions disturb it a little."""
    expected = cosines(lsa_by_words(30))
    pairs = np.triu_indices(60, 1)
    for layers in (1, 3):
        model, documents = new_bert(32, layers), read()
        start_lexically(model, documents, seed=0)
        ids = [torch.from_numpy(documents[row]["input_ids"].astype(np.int64))[None] for row in range(60)]
        means = np.array([model(input_ids=row).last_hidden_state[0].mean(0).numpy() for row in ids])
        assert np.corrcoef(cosines(means)[pairs], expected[pairs])[0, 1] > 0.95
    torch.manual_seed(0)
    random = np.array([new_bert()(input_ids=row).last_hidden_state[0].mean(0).numpy() for row in ids])
    assert np.corrcoef(cosines(random)[pairs], expected[pairs])[0, 1] < 0.8


def test_what_is_set_and_what_is_left():
    model = new_bert()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    start_lexically(model, read(), seed=0)
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    layers = (f"encoder.layer.{i}.{part}" for i in range(2) for part in ("attention.output", "output"))
    expected = {"embeddings.word_embeddings.weight", "embeddings.token_type_embeddings.weight"}
    expected |= {f"embeddings.LayerNorm.{name}" for name in ("weight", "bias")}
    expected |= {f"{p}.{n}" for p in layers for n in ("dense.bias", "LayerNorm.weight", "LayerNorm.bias")}
    assert changed == expected
    assert not model.embeddings.word_embeddings.weight[:3].any()  # padding, unknown and end


def test_same_seed_same_start():
    models = [new_bert(), new_bert(), new_bert()]
    for model, seed in zip(models, (0, 0, 1), strict=True):
        start_lexically(model, read(), seed)
    first, same, other = (model.embeddings.word_embeddings.weight for model in models)
    assert torch.equal(first, same) and not torch.equal(first, other)


def test_other_models_are_refused():
    with pytest.raises(ValueError, match="hidden_dropout_prob=0.*0.1"):
        start_lexically(new_bert(dropout=0.1), read(), seed=0)
    config = DistilBertConfig(vocab_size=VOCABULARY, dim=16, n_layers=1, n_heads=2, hidden_dim=32)
    with pytest.raises(ValueError, match="'distilbert'"):
        start_lexically(DistilBertModel(config), read(), seed=0)

"""A start for a BERT without pretrained weights: the mean of its states is a lexical embedding before any training.

Latent semantic analysis (Deerwester et al., 1990) of the corpus itself gives the token embeddings, the longer the more
a token tells documents apart. A layer norm would put all tokens on one length again and let the commonest decide the
mean, so the norms start close to linear: each gets a large constant added to its input, which makes the lengths it
divides by nearly equal, and takes it from its output.
"""

import numpy as np
import torch
from transformers import BertModel

from .documents import IndexingDataset

# Root mean square of the constant; the longest token embeddings have 1.
_CONSTANT = 4.0
# Of the corpus's tokens so many per cent keep their length, the rest is cut to the longest of these.
_UNCUT = 99
_MIN_DOCUMENTS, _MAX_SHARE = 2, 0.5


@torch.no_grad()
def start_lexically(model: BertModel, documents: IndexingDataset, seed: int) -> None:
    """Sets embeddings, layer norms and the biases before them; the other weights stay as they are.

    Args:
        model: a new BERT without dropout of its states, which would let through a part of the constant only.
        documents: the corpus, read by the model's tokenizer.
        seed: of the analysis and of the directions.

    Raises:
        ValueError: another kind of model, or one with dropout; no token is in 2 to half of the documents.
    """
    config = model.config
    if config.model_type != "bert" or config.hidden_dropout_prob:
        raise ValueError(
            f"A lexical start is for a BERT with hidden_dropout_prob=0, not for a {config.model_type!r} with "
            f"{getattr(config, 'hidden_dropout_prob', None)}: set it to 0, or leave the start out."
        )
    width = config.hidden_size
    random = np.random.default_rng(seed).normal(size=(width, width - 1))
    # Orthogonal to the first axis, all ones, which a norm takes out; the second is the constant's.
    axes = np.linalg.qr(np.column_stack([np.ones(width), random]))[0]
    embeddings = lexical_vectors(documents, config.vocab_size, width - 2, seed) @ axes[:, 2:].T
    lengths = np.linalg.norm(embeddings, axis=1)
    longest = np.percentile(lengths[documents.tokens], _UNCUT)
    embeddings *= (np.sqrt(width) / np.maximum(lengths, longest).clip(min=np.finfo(float).tiny))[:, None]
    constant = torch.from_numpy(_CONSTANT * np.sqrt(width) * axes[:, 1])
    scale = np.sqrt(_CONSTANT**2 + np.square(embeddings[documents.tokens]).mean())
    model.embeddings.word_embeddings.weight.copy_(torch.from_numpy(embeddings))
    model.embeddings.token_type_embeddings.weight[0] = constant
    outputs = [output for layer in model.encoder.layer for output in (layer.attention.output, layer.output)]
    for output in outputs:
        output.dense.bias.copy_(constant)
    for norm in (model.embeddings.LayerNorm, *(output.LayerNorm for output in outputs)):
        norm.weight.fill_(scale)
        norm.bias.copy_(-constant)


def lexical_vectors(documents: IndexingDataset, vocab_size: int, size: int, seed: int) -> np.ndarray:
    """Token vectors `(vocab_size, size)` float64, whose sum over a document's tokens is its lexical embedding.

    Truncated SVD of the documents' TF-IDF weights (logarithmic counts, unit length); a token's vector is its right
    singular one by its inverse document frequency and by the roots of the singular values, which favour what many
    documents share. Tokens of one document or of more than half of them get zeros, as do directions that a small
    corpus lacks.
    """
    from scipy.sparse import csr_matrix
    from sklearn.decomposition import TruncatedSVD
    from sklearn.preprocessing import normalize

    idf = documents.count_weights(
        vocab_size, idf=True, min_frequency=_MIN_DOCUMENTS, max_frequency=_MAX_SHARE, by_count=True
    ).weights.astype(np.float64)
    rows = np.repeat(np.arange(len(documents)), documents.lengths)
    counts = csr_matrix((np.ones(len(rows)), (rows, documents.tokens)), shape=(len(documents), vocab_size))
    counts.sum_duplicates()
    counts.data = np.log1p(counts.data) * idf[counts.indices]
    components = min(size, len(documents), np.count_nonzero(idf))
    analysis = TruncatedSVD(components, random_state=seed)
    with np.errstate(invalid="ignore"):  # it also divides by the variance, which is 0 for equal documents
        analysis.fit(normalize(counts))
    vectors = analysis.components_.T * idf[:, None] * np.sqrt(analysis.singular_values_)
    return np.pad(vectors, [(0, 0), (0, size - components)])

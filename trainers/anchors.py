"""The embeddings that documents start with: what a pull keeps their states near to, and who is near to whom."""

from pathlib import Path

import numpy as np
import torch
from accelerate.utils import broadcast
from safetensors.torch import load_file, save_file

from modeling_lmindexer.backbones import pool
from modeling_lmindexer.folder import atomic_path

from .corpus_pass import CorpusPass
from .documents import IndexingDataset
from .training_args import SemanticIDTrainingArguments

# Dimensions of the projected words, as for the two-stage indexers that get them.
_LEXICAL_SIZE = 256


def find_anchors(
    corpus: CorpusPass, args: SemanticIDTrainingArguments, path: Path
) -> tuple[np.ndarray, np.ndarray | None]:
    """Where documents are pulled to, and their neighbours, if any setting asks for them.

    Args:
        corpus: the model as it starts, and the documents.
        args: of the run.
        path: of the file that a stopped run finds the starting embeddings in.

    Returns:
        `(N, dimensions)` float32 and row numbers `(N, number)`.
    """
    vectors = kept_anchors(corpus, args.anchor_lexical_weight, path, anew=args.go_on)
    if not args.needs_neighbours:
        return vectors, None
    neighbours = nearest_neighbours(vectors, args.num_neighbours)
    return neighbourhood_means(vectors, neighbours, args.anchor_smoothing), neighbours


def kept_anchors(corpus: CorpusPass, lexical_weight: float, path: Path, anew: bool) -> np.ndarray:
    """[`anchor_vectors`], computed once per run: a stopped one finds them in a file.

    Args:
        corpus, lexical_weight: see there.
        path: of the file.
        anew: whether to compute them although the file is there, for it may be of other settings.
    """
    if path.exists() and not anew:
        return load_file(path)["anchors"].numpy()
    # Every process takes the main one's: a projection may differ in the last bit between machines.
    anchors = torch.from_numpy(anchor_vectors(corpus, lexical_weight))
    anchors = broadcast(anchors.to(corpus.model.device)).cpu()
    if corpus.rank == 0:
        with atomic_path(path) as temporary:
            save_file({"anchors": anchors}, temporary)
    return anchors.numpy()


@torch.no_grad()
def anchor_vectors(corpus: CorpusPass, lexical_weight: float) -> np.ndarray:
    """The pooled embedding of every document, of length 1, and beside it the document's words.

    Args:
        corpus: the model as it starts, and the documents.
        lexical_weight: length of the words' vector; 0 leaves the words out.

    Returns:
        `(N, dimensions)` float32.
    """
    documents, config = corpus.documents, corpus.model.config
    pooled = torch.zeros(len(documents), config.hidden_size)
    for rows, batch in corpus.batches(corpus.by_length(), "starting embeddings"):
        states, mask = corpus.states(batch)
        pooled[rows] = torch.nn.functional.normalize(pool(states, mask, config.pooling).float(), dim=-1).cpu()
    vectors = corpus.combine(pooled).numpy()
    if not lexical_weight:
        return vectors
    return np.hstack([vectors, lexical_weight * lexical_vectors(documents)]).astype(np.float32)


def lexical_vectors(documents: IndexingDataset) -> np.ndarray:
    """The words that are reconstructed, by their weights, projected by a truncated SVD: `(N, 256)` of length 1."""
    from scipy.sparse import csr_array
    from sklearn.decomposition import TruncatedSVD
    from sklearn.preprocessing import normalize

    spans = [slice(*documents.offsets[row : row + 2]) for row in range(len(documents))]
    weights = np.concatenate(
        [documents.weigh_targets(documents.tokens[span], documents.is_excluded[span]) for span in spans]
    )
    rows = np.repeat(np.arange(len(documents)), documents.lengths)
    shape = (len(documents), len(documents.target_weights.weights))
    words = csr_array((weights, (rows, documents.tokens)), shape=shape)
    used = np.flatnonzero(words.sum(axis=0))
    words = normalize(words[:, used])
    with np.errstate(invalid="ignore"):  # it also divides by the variance, which is 0 for equal documents
        projection = TruncatedSVD(min(_LEXICAL_SIZE, *words.shape), random_state=documents.seed)
        return normalize(projection.fit_transform(words)).astype(np.float32)


def neighbourhood_means(vectors: np.ndarray, neighbours: np.ndarray, steps: int) -> np.ndarray:
    """Every document's vector averaged with its neighbours', `steps` times, each time on length 1.

    What is peculiar to a document goes, what it shares with those near to it stays.

    Args:
        vectors: `(N, D)`.
        neighbours: `(N, number)`, rows.
        steps: how often.
    """
    for _ in range(steps):
        means = vectors.copy()
        for column in neighbours.T:
            means += vectors[column]
        vectors = means / np.linalg.norm(means, axis=1, keepdims=True).clip(1e-12)
    return vectors


def nearest_neighbours(vectors: np.ndarray, number: int) -> np.ndarray:
    """The `number` nearest other documents of each by cosine, `(N, number)` int64, nearest first; chunk by chunk."""
    import faiss

    if number >= len(vectors):
        raise ValueError(f"{len(vectors)} documents have no {number} neighbours each: set num_neighbours lower.")
    unit = np.ascontiguousarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True).clip(1e-12), np.float32)
    index = faiss.IndexFlatIP(unit.shape[1])
    index.add(unit)
    found = index.search(unit, number + 1)[1]
    # A document is its own nearest one, unless others are equal to it.
    own = found == np.arange(len(found))[:, None]
    own[~own.any(axis=1), -1] = True
    return found[~own].reshape(len(found), number)

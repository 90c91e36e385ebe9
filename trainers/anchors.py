"""The embeddings that documents start with, and what of them a pull keeps the states of a position near to."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from accelerate.utils import broadcast
from safetensors.torch import load_file, save_file

from modeling_lmindexer.backbones import pool
from modeling_lmindexer.folder import atomic_path, reading_content

from .corpus_pass import CorpusPass
from .documents import IndexingDataset
from .neighbourhoods import nearest_neighbours, neighbourhood_means
from .progress import activity
from .training_args import SemanticIDTrainingArguments, value_at

# Dimensions of the projected words, as for the two-stage indexers that get them.
_LEXICAL_SIZE = 256


@dataclass(frozen=True)
class Anchors:
    """What the states of every position are pulled to.

    Attributes:
        vectors: `(N, dimensions)` float32, the embeddings that documents start with.
        neighbours: `(N, number)` rows, or None where no setting asks for them.
        args: of the run.
    """

    vectors: np.ndarray
    neighbours: np.ndarray | None
    args: SemanticIDTrainingArguments

    def at(self, position: int, groups: np.ndarray) -> np.ndarray:
        """`(N, dimensions)` of a position, counted from 0.

        Args:
            position: of the stage.
            groups: `(N,)` number of the prefix that a document shares with others.
        """
        steps = value_at(position, self.args.anchor_smoothing)
        vectors = neighbourhood_means(self.vectors, self.neighbours, steps) if steps else self.vectors
        return left_over(vectors, groups) if position and self.args.anchor_residuals else vectors


def find_anchors(corpus: CorpusPass, args: SemanticIDTrainingArguments, path: Path) -> Anchors:
    """Where documents are pulled to, and their neighbours if any setting asks for them.

    Args:
        corpus: the model as it starts, and the documents.
        args: of the run.
        path: of the file that a stopped run finds the starting embeddings in.
    """
    vectors = kept_anchors(corpus, args.anchor_lexical_weight, path, anew=args.go_on)
    if not args.needs_neighbours:
        return Anchors(vectors, None, args)
    unlike = corpus.documents.excluded_groups if args.neighbours_across_excluded else None
    with activity(f"the {args.num_neighbours} nearest of {len(vectors):,} documents"):
        neighbours = torch.from_numpy(nearest_neighbours(vectors, args.num_neighbours, unlike))
    return Anchors(vectors, broadcast(neighbours.to(corpus.model.device)).cpu().numpy(), args)


def left_over(vectors: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """What sets documents apart from those that share their prefix: vectors `(N, D)` less the mean of their group
    `(N,)`, on length 1. A document without peers keeps its vector, and one equal to their mean has none."""
    number = np.unique(groups, return_inverse=True)[1].reshape(-1)
    sizes = np.bincount(number)
    means = np.zeros((len(sizes), vectors.shape[1]))
    np.add.at(means, number, vectors)
    means /= np.where(sizes > 1, sizes, np.inf)[:, None]
    rest = vectors - means[number]
    lengths = np.linalg.norm(rest, axis=1, keepdims=True)
    return np.divide(rest, lengths, where=lengths > 1e-6, out=np.zeros_like(rest)).astype(np.float32)


def kept_anchors(corpus: CorpusPass, lexical_weight: float, path: Path, anew: bool) -> np.ndarray:
    """[`anchor_vectors`], computed once per run: a stopped one finds them in a file.

    Args:
        corpus, lexical_weight: see there.
        path: of the file.
        anew: whether to compute them although the file is there, for it may be of other settings.
    """
    if path.exists() and not anew:
        with reading_content(path, "Delete it, and it is computed again."):
            found = load_file(path)["anchors"]
            if found.ndim != 2 or len(found) != len(corpus.documents) or found.dtype != torch.float32:
                raise ValueError(f"anchors of shape {tuple(found.shape)} and {found.dtype}")
            if not found.isfinite().all():
                raise ValueError("anchors that are not finite")
            return found.numpy()
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

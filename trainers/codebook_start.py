"""Where a codebook starts: k-means of the corpus's hidden states, an agglomeration of them, or at random."""

import numpy as np
import torch
from accelerate.utils import broadcast

from modeling_lmindexer.codebooks import Codebook

from .clustering import Clustering, cluster, kmeans
from .micro_clusters import MicroClusters
from .prototypes import chunks
from .training_args import SemanticIDTrainingArguments, value_at


def initialize_codebook(
    codebook: Codebook, hidden: np.ndarray, args: SemanticIDTrainingArguments, position: int
) -> np.ndarray:
    """Gives the codebook of a position the clusters of hidden states `(N, hidden)` as codes; their labels `(N,)`.

    Every process takes the main one's result: a clustering may differ in the last bit between machines.
    """
    centroids, labels = np.empty(codebook.weight.shape, np.float32), np.empty(len(hidden), np.int64)
    if args.process_index == 0:
        centroids, labels = start_codebook(
            hidden, len(centroids), method=value_at(position, args.codebook_init), similarity=codebook.similarity,
            seed=args.seed + position, share=args.micro_share,
        )  # fmt: skip
    device = codebook.weight.device
    centroids, labels = (broadcast(torch.from_numpy(part).to(device)) for part in (centroids, labels))
    codebook.initialize(centroids.to(codebook.weight.dtype))
    return labels.cpu().numpy()


def start_codebook(
    vectors: np.ndarray, num_codes: int, *, method: str, similarity: str, seed: int, share: float = 0.35
) -> Clustering:
    """Centroids and codes of hidden states, the codes by the similarity that the model assigns them with.

    Args:
        vectors: `(N, D)`.
        num_codes: `K`.
        method: `kmeans`; `ward`, Ward's agglomeration of the documents; `micro`, of many small k-means clusters, each
            with one vote however many documents it has. The means of Ward's clusters become the centroids. `random`
            looks at no vector but for their length: a start that shows what the others are for.
        similarity: `cosine`, `dot` or `euclidean`.
        seed: of the clustering.
        share: small clusters per document for `micro`.

    Raises:
        ValueError: an unknown method; see [`kmeans`] for the rest.
    """
    if method not in ("kmeans", "ward", "micro", "random"):
        raise ValueError(f"method is one of kmeans, ward, micro and random, not {method!r}")
    if method == "kmeans":
        return kmeans(vectors, num_codes, similarity=similarity, seed=seed)
    if method == "random":
        return random_codebook(vectors, num_codes, seed)
    small = MicroClusters(share=1.0 if method == "ward" else share)

    def agglomerate(points: np.ndarray, directions: bool) -> np.ndarray:
        return small.agglomerate(0 if directions else 1, points, num_codes, seed).centres.copy()

    return cluster(vectors, num_codes, similarity, agglomerate)


def random_codebook(vectors: np.ndarray, num_codes: int, seed: int) -> Clustering:
    """Random directions `(K, D)` as long as the vectors `(N, D)` are in the mean, and the nearest of them to each.

    Codes of one length are in the same order by cosine, dot product and distance. Some may be nearest to no vector.
    """
    centroids = np.random.default_rng(seed).standard_normal((num_codes, vectors.shape[1]))
    centroids *= np.linalg.norm(vectors, axis=1).mean() / np.linalg.norm(centroids, axis=1, keepdims=True)
    centroids, labels = centroids.astype(np.float32), np.empty(len(vectors), dtype=np.int64)
    for part in chunks(len(vectors), num_codes):
        labels[part] = (vectors[part] @ centroids.T).argmax(axis=1)
    return Clustering(centroids, labels)

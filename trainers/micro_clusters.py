"""Ward's agglomeration of many small k-means clusters.

k-means cuts dense regions into many codes and leaves rare kinds of documents together. Many more centroids than codes
cover the rare kinds too, and Ward joins the centroids without regard to how many documents each has.
"""

from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np

from .hierarchical import distinct_rows, fit_tree
from .prototypes import Prototypes, cluster_means, lloyd
from .residual_kmeans import fit_residuals
from .two_stage import Codebooks, KMeansIndexer

# Ward compares all pairs: 30,000 points take 3.6 GB.
MOST_POINTS = 30_000


@dataclass
class MicroClusters(KMeansIndexer):
    """k-means with `share` x `N` centroids, then Ward on the centroids down to the size of the codebook.

    Attributes:
        share: centroids per document; 1 is Ward on the documents themselves.
        settling: iterations of Lloyd's that start from the means of Ward's clusters; 0 keeps Ward's clusters, whose
            codes then have many centroids each.
        later: whether later positions cluster what the first leaves over (`residual`, by k-means), or each cluster
            once more in the same way (`inside`).
        unit_residuals: see [`ResidualKMeans`].
        restarts: of the later positions' k-means.
    """

    share: float = 0.35
    settling: int = 0
    later: Literal["residual", "inside"] = "residual"
    unit_residuals: bool = False

    def __post_init__(self):
        super().__post_init__()
        if not 0 < self.share <= 1 or self.later not in ("residual", "inside"):
            raise ValueError(
                f"share={self.share} is above 0 and at most 1, and later={self.later!r} is residual or inside"
            )

    def fit_codebooks(self, vectors: np.ndarray, sizes: list[int], seed: int) -> Codebooks:
        """See the base class."""
        if self.later == "inside":
            return fit_tree(vectors, sizes, partial(self.agglomerate, seed=seed))

        def cluster(position: int, vectors: np.ndarray, size: int) -> Prototypes:
            return (self.kmeans if position else self.agglomerate)(position, vectors, size, seed)

        return fit_residuals(vectors, sizes, cluster, self.unit_residuals)

    def agglomerate(self, position: int, vectors: np.ndarray, size: int, seed: int) -> Prototypes:
        """The codes of vectors `(n, D)` by their small clusters."""
        similarity = "euclidean" if position else self.similarity
        points = self.centroids(vectors, size, seed + position)
        labels = ward(points, size)
        order = np.argsort(labels, kind="stable")
        prototypes = Prototypes(points[order], labels[order], size, similarity, np.empty(0))
        prototypes.centres = cluster_means(vectors, prototypes.assign(vectors), size)
        return lloyd(prototypes.centres, vectors, similarity, self.settling) if self.settling else prototypes

    def centroids(self, vectors: np.ndarray, size: int, seed: int) -> np.ndarray:
        """Centroids `(M, D)` of small clusters, at least as many as codes; or the distinct vectors themselves.

        scikit-learn's k-means, for it starts from the greedy k-means++: with a few documents per centroid Lloyd's
        moves little, and a start drawn without local trials costs .02 of AMI.
        """
        from sklearn.cluster import KMeans
        from threadpoolctl import threadpool_limits

        number = min(len(vectors), max(size, round(self.share * len(vectors))))
        if number > MOST_POINTS:
            raise ValueError(
                f"share={self.share} of {len(vectors):,} documents are {number:,} clusters, and Ward compares all "
                f"pairs: at most {MOST_POINTS:,}, set share to {MOST_POINTS / len(vectors):.2g} or less"
            )
        distinct = distinct_rows(vectors, number)
        if len(distinct) <= number:
            return vectors[distinct]
        with threadpool_limits(1):  # several threads would add up in any order
            return KMeans(number, n_init=1, max_iter=self.iterations, random_state=seed).fit(vectors).cluster_centers_


def ward(points: np.ndarray, size: int) -> np.ndarray:
    """Clusters `(M,)` of points `(M, D)`, agglomerated by the least growth of the variance inside them.

    Raises:
        ValueError: fewer points than clusters.
    """
    from sklearn.cluster import AgglomerativeClustering

    if len(points) < size:
        raise ValueError(f"{len(points)} distinct documents, {size} codes: set a smaller codebook for this corpus")
    return AgglomerativeClustering(size, linkage="ward").fit(points.astype(np.float64)).labels_.astype(np.int64)

"""The nearest centroid of every vector, exactly: by float32 scores, and by float64 where two are close."""

from collections.abc import Callable

import numpy as np
import torch

from .progress import progress_bar
from .prototypes import chunks

_COPIES = 8  # of a block of vectors, at once, in float64
_SCORES_ON_DEVICE = 2**28  # 1 GB in float32


def nearest_centroids(
    vectors: np.ndarray, centroids: np.ndarray, euclidean: bool, description: str | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The most similar centroid of every vector, the lowest of equals, and how similar it is.

    What counts is [`pair_scores`], in float64 and of each pair alone: the result depends on no thread, block or
    library. But faiss, or a GPU where there is one, finds the two best of all centroids in float32, in half the time
    and without a matrix of all scores; only where rounding may have changed their order are the scores of pairs
    compared.

    Args:
        vectors: `(N, D)` float32.
        centroids: `(K, D)` float32.
        euclidean: by squared distance; otherwise by dot product, where a zero vector gets label 0.
        description: of a bar that shows the progress; None for no bar.

    Returns:
        labels `(N,)` int64 and scores `(N,)` float64.
    """
    labels, scores = np.empty(len(vectors), dtype=np.int64), np.empty(len(vectors))
    # What is taken off all centroids changes no order; smaller numbers have smaller rounding errors.
    middle = centroids.mean(axis=0)
    shifted = centroids - middle
    longest = _lengths(shifted).max()
    two_best = _two_best_on_device if torch.cuda.is_available() else _two_best_by_faiss
    find = two_best(shifted, euclidean)
    with progress_bar(description=description, total=len(vectors), disable=description is None) as bar:
        for part in chunks(len(vectors), _COPIES * vectors.shape[1]):
            rows = vectors[part] - middle if euclidean else vectors[part]
            best, found = find(rows)
            lengths = _lengths(rows)
            margins = _margins(lengths, longest, rows.shape[1], euclidean)
            # Not `<=`: a score that overflowed compares as false, and is close to every other.
            with np.errstate(over="ignore", invalid="ignore"):
                close = ~(np.abs(np.diff(best, axis=1)).min(axis=1, initial=np.inf) > margins)
            if not euclidean:
                found[lengths == 0], close[lengths == 0] = 0, False
            close = np.flatnonzero(close)
            for some in chunks(len(close), _COPIES * len(centroids)):
                some = close[some]
                pairs = _candidates(rows[some], shifted, margins[some], euclidean)
                found[some] = _best_of_pairs(vectors[part][some], centroids, *pairs, euclidean)
            labels[part], scores[part] = found, pair_scores(vectors[part], centroids[found], euclidean)
            bar.update(len(rows))
    return labels, scores


def _two_best_by_faiss(centroids: np.ndarray, euclidean: bool) -> Callable:
    """A function of rows `(n, D)` to their two best scores `(n, 2)`, in float32, and the best centroids `(n,)`; one
    score, where there is one centroid."""
    import faiss

    metric = faiss.METRIC_L2 if euclidean else faiss.METRIC_INNER_PRODUCT

    def find(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        best, found = faiss.knn(rows, centroids, min(2, len(centroids)), metric)
        return best, found[:, 0]

    return find


def _two_best_on_device(centroids: np.ndarray, euclidean: bool, device: str = "cuda") -> Callable:
    """As [`_two_best_by_faiss`]; scores of squared distances are without the squares of the rows, whose order and
    differences they do not change."""
    columns = torch.from_numpy(centroids).to(device).T
    squares = columns.square().sum(dim=0)

    def of_block(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        scores = rows.to(device) @ columns
        if euclidean:
            scores = scores.mul_(2).sub_(squares)
        best, found = scores.max(dim=1, keepdim=True)
        if len(centroids) == 1:
            return best.cpu(), found[:, 0].cpu()
        second = scores.scatter_(1, found, -torch.inf).amax(dim=1, keepdim=True)
        return torch.cat([best, second], dim=1).cpu(), found[:, 0].cpu()

    def find(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        # Not torch.set_float32_matmul_precision, which fails or forgets where `--tf32` has set this.
        products, size = torch.backends.cuda.matmul, max(1, _SCORES_ON_DEVICE // len(centroids))
        precision = products.fp32_precision
        products.fp32_precision = "ieee"  # TF32 has errors beyond the margins
        try:
            blocks = [of_block(torch.tensor(rows[at : at + size])) for at in range(0, len(rows), size)]
        finally:
            products.fp32_precision = precision
        return tuple(torch.cat(parts).numpy() for parts in zip(*blocks, strict=True))

    return find


def pair_scores(vectors: np.ndarray, centroids: np.ndarray, euclidean: bool) -> np.ndarray:
    """Negative squared distances, or dot products, of vectors `(n, D)` and a centroid for each: `(n,)` float64."""
    vectors, centroids = vectors.astype(np.float64), centroids.astype(np.float64)
    return -np.square(vectors - centroids).sum(axis=1) if euclidean else (vectors * centroids).sum(axis=1)


def _lengths(vectors: np.ndarray) -> np.ndarray:
    return np.linalg.norm(vectors.astype(np.float64), axis=1)


def _margins(lengths: np.ndarray, longest: float, dimensions: int, euclidean: bool) -> np.ndarray:
    """How far apart two float32 scores of a vector may be in the wrong order: `(n,)`; infinite where they overflow.

    A sum of `D` products, added in any order, is off by at most `D` half units in the last place of the product of
    the two lengths; the other roundings, of what is shifted and of squares, by a few more.
    """
    largest = np.square(lengths + longest) if euclidean else lengths * longest
    single = np.finfo(np.float32)
    error = (dimensions + 8) * (single.eps / 2 * largest + single.tiny)
    return np.where(largest < single.max, 2 * error, np.inf)


def _candidates(
    rows: np.ndarray, centroids: np.ndarray, margins: np.ndarray, euclidean: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Places of all pairs that may have a row's best score, row by row, centroids ascending."""
    with np.errstate(over="ignore", invalid="ignore"):  # such a pair stays a candidate
        scores = rows @ centroids.T  # (n, K) float32
        if euclidean:
            scores = 2 * scores - np.square(centroids).sum(axis=1)
        return np.nonzero(~(scores < (scores.max(axis=1) - margins)[:, None]))


def _best_of_pairs(
    vectors: np.ndarray, centroids: np.ndarray, rows: np.ndarray, columns: np.ndarray, euclidean: bool
) -> np.ndarray:
    """The best centroid of every vector `(n, D)` among pairs, of which each vector has some: `(n,)`."""
    blocks = chunks(len(rows), _COPIES * vectors.shape[1])
    scores = np.concatenate([pair_scores(vectors[rows[b]], centroids[columns[b]], euclidean) for b in blocks])
    order = np.lexsort((columns, -scores, rows))
    return columns[order[np.unique(rows[order], return_index=True)[1]]]

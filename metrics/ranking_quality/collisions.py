"""Figures of rankings in which several documents share a place, because they share an ID."""

from collections.abc import Mapping, Sequence

import numpy as np

from .ranking import check_rankings


def expected_figures(
    rankings: Mapping[object, Sequence[Sequence]], qrels: Mapping[object, Mapping[object, int]], cutoffs: Sequence[int]
) -> dict[str, float]:
    """Recall and NDCG in the mean over all orders of the documents that share an ID.

    Whoever shows the documents of one ID in any order has these figures on average; the order of a corpus's file,
    which a plain evaluation would take, may be luck.

    Args:
        rankings: by query, the IDs' documents, best ID first.
        qrels: by query, the gain of every judged document; above 0 is relevant.
        cutoffs: of documents.

    Returns:
        `recall@k` and `ndcg@k`, means over all queries of `qrels`.

    Raises:
        RankingError: a document of two IDs, and where [`ranking_figures`] raises it.

    ```python
    >>> expected_figures({1: [["a", "b"]]}, {1: {"b": 1}}, [1])
    {'recall@1': 0.5, 'ndcg@1': 0.5}

    ```
    """
    check_rankings({query: [doc for group in row for doc in group] for query, row in rankings.items()}, qrels)
    by_text = {str(query): row for query, row in rankings.items()}
    sums = {f"{name}@{k}": 0.0 for k in cutoffs for name in ("recall", "ndcg")}
    for query, judged in qrels.items():
        gains = {str(doc): gain for doc, gain in judged.items() if gain > 0}
        per_rank = _gains_by_rank(by_text.get(str(query), []), gains, max(cutoffs))
        ideal = np.sort(list(gains.values()))[::-1].astype(float)
        discounts = 1 / np.log2(np.arange(2, max(len(ideal), max(cutoffs)) + 2))
        for k in cutoffs:
            best = (ideal[:k] * discounts[: len(ideal[:k])]).sum()
            sums[f"recall@{k}"] += per_rank[0, :k].sum() / len(gains)
            sums[f"ndcg@{k}"] += (per_rank[1, :k] * discounts[:k]).sum() / best
    return {name: float(value) / len(qrels) for name, value in sums.items()}


def _gains_by_rank(groups, gains: dict[str, int], depth: int) -> np.ndarray:
    """Expected relevant documents and expected gain at every rank, `(2, depth)`."""
    found, first = np.zeros((2, depth)), 0
    for group in groups:
        names = [str(doc) for doc in group]
        own = [gains[name] for name in names if name in gains]
        if names and first < depth:
            found[:, first : first + len(names)] += np.array([[len(own)], [sum(own)]]) / len(names)
        first += len(names)
    return found

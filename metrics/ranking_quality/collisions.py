"""Figures of rankings in which several documents share a place, because they share an ID."""

from collections.abc import Mapping, Sequence

import numpy as np

from .ranking import RankingError


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
        RankingError: a document of two IDs, or a query without any relevant document.

    ```python
    >>> expected_figures({1: [["a", "b"]]}, {1: {"b": 1}}, [1])
    {'recall@1': 0.5, 'ndcg@1': 0.5}

    ```
    """
    by_text = {str(query): row for query, row in rankings.items()}
    sums = {f"{name}@{k}": 0.0 for k in cutoffs for name in ("recall", "ndcg")}
    for query, judged in qrels.items():
        gains = {str(doc): gain for doc, gain in judged.items() if gain > 0}
        if not gains:
            raise RankingError(f"Query {query!r} has no relevant document: leave it out of the qrels.")
        per_rank = _gains_by_rank(query, by_text.get(str(query), []), gains, max(cutoffs))
        ideal = np.sort(list(gains.values()))[::-1].astype(float)
        discounts = 1 / np.log2(np.arange(2, max(len(ideal), max(cutoffs)) + 2))
        for k in cutoffs:
            best = (ideal[:k] * discounts[: len(ideal[:k])]).sum()
            sums[f"recall@{k}"] += per_rank[0, :k].sum() / len(gains)
            sums[f"ndcg@{k}"] += (per_rank[1, :k] * discounts[:k]).sum() / best
    return {name: float(value) / len(qrels) for name, value in sums.items()}


def _gains_by_rank(query, groups, gains: dict[str, int], depth: int) -> np.ndarray:
    """Expected relevant documents and expected gain at every rank, `(2, depth)`."""
    found, first, seen = np.zeros((2, depth)), 0, set()
    for group in groups:
        names = [str(doc) for doc in group]
        if seen & set(names) or len(set(names)) < len(names):
            raise RankingError(f"Query {query!r} has a document twice in its ranking; expected it once.")
        seen |= set(names)
        own = [gains[name] for name in names if name in gains]
        if names and first < depth:
            found[:, first : first + len(names)] += np.array([[len(own)], [sum(own)]]) / len(names)
        first += len(names)
    return found

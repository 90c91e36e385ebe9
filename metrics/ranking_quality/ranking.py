"""Rankings against judged documents, by trec_eval's definitions at any cut-off (through `ir_measures`)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

# Our names, which are the field's, and those of ir_measures.
MEASURES = {"recall": "R", "ndcg": "nDCG", "map": "AP", "mrr": "RR", "hit": "Success", "precision": "P"}


class RankingError(ValueError):
    """Rankings or judgements that cannot be evaluated; the message names the query and the document."""


@dataclass(frozen=True)
class RankingFigures:
    """Figures of every query, in the order of the judgements.

    Attributes:
        queries: ids of the judged queries, as text.
        values: by measure, such as `recall@10`, `(queries,)` float64.
    """

    queries: list[str]
    values: dict[str, np.ndarray]

    def means(self) -> dict[str, float]:
        """The mean of every measure over all judged queries."""
        return {name: float(values.mean()) for name, values in self.values.items()}

    def subset(self, queries) -> "RankingFigures":
        """The figures of some queries, such as those whose document was never seen in training."""
        kept = {str(query) for query in queries}
        mask = np.array([query in kept for query in self.queries], dtype=bool)
        return RankingFigures(
            [query for query in self.queries if query in kept],
            {name: values[mask] for name, values in self.values.items()},
        )


def ranking_figures(
    rankings: Mapping[object, Sequence], qrels: Mapping[object, Mapping[object, int]], measures: Sequence[str]
) -> RankingFigures:
    """Recall, NDCG and the like of rankings.

    Every judged query counts: one without a ranking has found nothing. Documents without a judgement are not relevant.

    Args:
        rankings: by query, its documents, best first. Order alone counts; there are no ties.
        qrels: by query, the gain of every judged document; above 0 is relevant.
        measures: `recall@k`, `ndcg@k`, `map@k`, `mrr@k`, `hit@k`, `precision@k` with any k.

    Returns:
        Figures of all queries of `qrels`, in its order.

    Raises:
        RankingError: a document twice in a ranking, a ranking of a query that is not judged, a query without any
            relevant document, or a measure that there is not.

    ```python
    >>> figures = ranking_figures({1: ["a", "b"], 2: ["a"]}, {1: {"b": 1}, 2: {"c": 1}}, ["recall@1", "mrr@5"])
    >>> figures.means()
    {'recall@1': 0.0, 'mrr@5': 0.25}

    ```
    """
    import ir_measures

    check_rankings(rankings, qrels)
    parsed = {_parse(name): name for name in measures}
    judged = {str(query): {str(doc): int(gain) for doc, gain in row.items()} for query, row in qrels.items()}
    # trec_eval sorts by score and breaks ties by document id: falling scores keep the order.
    run = {str(query): {str(doc): -float(rank) for rank, doc in enumerate(row)} for query, row in rankings.items()}
    place = {query: row for row, query in enumerate(judged)}
    values = {name: np.zeros(len(place)) for name in measures}
    for found in ir_measures.iter_calc(list(parsed), judged, {query: row for query, row in run.items() if row}):
        values[parsed[found.measure]][place[found.query_id]] = found.value
    return RankingFigures(list(place), values)


def _parse(name: str):
    """A measure of ir_measures."""
    import ir_measures

    kind, _, cutoff = name.partition("@")
    if kind not in MEASURES or not cutoff.isdigit() or cutoff.startswith("0"):
        known = ", ".join(f"{kind}@k" for kind in MEASURES)
        raise RankingError(f"There is no measure {name!r}; there are {known}, with a whole number k above 0.")
    return getattr(ir_measures, MEASURES[kind]) @ int(cutoff)


def check_rankings(rankings: Mapping[object, Sequence], qrels: Mapping[object, Mapping[object, int]]) -> None:
    """Raises RankingError where [`ranking_figures`] does."""
    if not qrels:
        raise RankingError("There are no judged queries; expected at least one with a relevant document.")
    for query, row in qrels.items():
        if any(gain != int(gain) for gain in row.values()):
            raise RankingError(f"Query {query!r} has a gain that is no whole number: {list(row.values())}.")
        if not any(gain > 0 for gain in row.values()):
            raise RankingError(
                f"Query {query!r} has no relevant document, so that no recall is defined: leave it out of the qrels."
            )
    judged = {str(query) for query in qrels}
    for query, row in rankings.items():
        if str(query) not in judged:
            raise RankingError(f"Query {query!r} has a ranking and no judgement: leave it out, or judge it.")
        if len({str(doc) for doc in row}) < len(row):
            seen: set = set()
            twice = next(doc for doc in row if str(doc) in seen or seen.add(str(doc)))
            raise RankingError(f"Query {query!r} has document {twice!r} twice in its ranking; expected it once.")

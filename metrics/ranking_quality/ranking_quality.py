"""`evaluate` module: how good rankings of documents are, by trec_eval's definitions."""

import datasets
import evaluate

from .ranking import ranking_figures

_DESCRIPTION = """
Rankings of documents against the relevant ones: recall, NDCG, MAP, MRR, hit rate and precision at any cut-off, as
trec_eval defines them, in the mean over all queries.
"""

_CITATION = """
@inproceedings{macavaney2022streamlining,
  title={Streamlining Evaluation with ir-measures},
  author={Sean MacAvaney and Craig Macdonald and Iadh Ounis},
  booktitle={European Conference on Information Retrieval},
  year={2022}
}
"""

_INPUTS_DESCRIPTION = """
Args:
    predictions: one list of document ids per query, as text, best first.
    references: one list of the relevant documents' ids per query.
    gains: as many whole numbers above 0 per query as it has relevant documents; default 1 each.
    measures: recall@k, ndcg@k, map@k, mrr@k, hit@k, precision@k with any k; default recall@10 and ndcg@10.

Returns:
    the mean of every measure over all queries.

Raises:
    ValueError: a document twice in a ranking, or a query without a relevant document.

Examples:
    >>> quality = evaluate.load("metrics/ranking_quality")
    >>> quality.compute(predictions=[["a", "b"], ["a"]], references=[["b"], ["c"]], measures=["recall@1", "mrr@5"])
    {'recall@1': 0.0, 'mrr@5': 0.25}
"""


class RankingQuality(evaluate.Metric):
    """Quality of rankings, see the module's description."""

    def _info(self):
        texts = datasets.Sequence(datasets.Value("string"))
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_INPUTS_DESCRIPTION,
            features=datasets.Features({"predictions": texts, "references": texts}),
        )

    def _compute(self, predictions, references, gains=None, measures=("recall@10", "ndcg@10")):
        gains = gains or [[1] * len(row) for row in references]
        qrels = {
            query: dict(zip(row, own, strict=True))
            for query, (row, own) in enumerate(zip(references, gains, strict=True))
        }
        return ranking_figures(dict(enumerate(predictions)), qrels, measures).means()

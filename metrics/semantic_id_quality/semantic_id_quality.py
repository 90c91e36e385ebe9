"""`evaluate` module: how well semantic IDs follow a corpus's categories, and how well they tell documents apart."""

import datasets
import evaluate
import numpy as np

from .quality import category_ami, code_perplexity, collisions

_DESCRIPTION = """
Semantic IDs, sequences of codes, against the categories of their documents: adjusted mutual information at every
prefix depth, perplexity of every position's codes, and collisions.
"""

_CITATION = """
@inproceedings{jin2024language,
  title={Language Models as Semantic Indexers},
  author={Bowen Jin and Hansi Zeng and Guoyin Wang and Xiusi Chen and Tianxin Wei and Ruirui Li and others},
  booktitle={International Conference on Machine Learning},
  year={2024}
}
"""

_INPUTS_DESCRIPTION = """
Args:
    predictions: one list of codes per document, all of one length, without the disambiguation position.
    references: one category path per document, labels joined by ' > ', empty where it is not known.

Returns:
    ami_1, ami_2, ..: adjusted mutual information of the first 1, 2, .. codes and the whole path; nan if the documents
        have fewer than two categories.
    perplexity_1, perplexity_2, ..: exp(entropy) of the codes of each position.
    sharing, crowded: shares of documents whose codes are those of another, and of more than four others.
    distinct, largest: number of distinct IDs, documents in the largest group.

Raises:
    ValueError: the documents' lists differ in length.

Examples:
    >>> quality = evaluate.load("metrics/semantic_id_quality")
    >>> result = quality.compute(predictions=[[0, 1], [0, 2], [1, 0], [1, 0]], references=["a", "a", "b > c", "b > c"])
    >>> result["ami_1"], result["perplexity_1"], result["distinct"]
    (1.0, 2.0, 3)
"""


class SemanticIDQuality(evaluate.Metric):
    """Quality of semantic IDs, see the module's description."""

    def _info(self):
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_INPUTS_DESCRIPTION,
            features=datasets.Features(
                {
                    "predictions": datasets.Sequence(datasets.Value("int64")),
                    "references": datasets.Value("string"),
                }
            ),
        )

    def _compute(self, predictions, references):
        depths = {len(codes) for codes in predictions}
        if len(depths) != 1:
            raise ValueError(f"all documents need equally many codes, these have {sorted(depths)}")
        codes = np.asarray(predictions, dtype=np.int64)  # (N, positions)
        paths = [reference.split(" > ") if reference else None for reference in references]
        result = {}
        for depth in range(1, codes.shape[1] + 1):
            result[f"ami_{depth}"] = category_ami(codes[:, :depth], paths)
            result[f"perplexity_{depth}"] = code_perplexity(codes[:, depth - 1])
        return result | collisions(codes)._asdict()

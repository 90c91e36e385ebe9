"""`evaluate` module: how well semantic IDs follow a corpus's categories, and how well they tell documents apart."""

import datasets
import evaluate
import numpy as np

# `evaluate` copies the files that are named in this one, and not the ones that those import.
# ruff: noqa: F401
from .agreement import category_agreement
from .categories import category_paths
from .chance import expected_sums
from .groups import group_numbers
from .neighbours import neighbour_agreement
from .quality import id_quality
from .structure import collisions

_DESCRIPTION = """
Semantic IDs, sequences of codes, against the categories of their documents: mutual information, adjusted for chance
and not, and purity, at every prefix depth and category level, and inside every prefix; use of every position's codes,
branching, and collisions; and how often nearest neighbours of another encoder share codes.
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
    codebook_sizes: size of every position's codebook, for shares of it.
    vectors: an array `(documents, dimensions)` of embeddings of another encoder, in the documents' order, for nearest
        neighbours; `seed` (0) draws 1,000 documents whose neighbours are looked for.

Returns:
    ami_1, ami_2, ..: adjusted mutual information of the first 1, 2, .. codes and the whole path; nan if the documents
        have fewer than two categories. In the same way nmi_t, homogeneity_t, completeness_t, purity_t (share of
        documents of their prefix's commonest category).
    ami_within_2, ..: of the second, .. code inside each of its prefixes, in the mean over documents; also nmi, ..
    ami_1_level_1, ..: the same figures, of the paths' first 1, 2, .. labels.
    perplexity_1, perplexity_2, ..: exp(entropy) of the codes of each position; used_t: how many occur;
        perplexity_share_t, used_share_t: divided by codebook_sizes.
    difference_ratio_pairs_t, difference_ratio_groups_t, fan_out_mean_t, fan_out_max_t: how a position's codes tell
        documents of one prefix apart, and how many there are per prefix. distinct_prefixes_t: of the first t codes.
    sharing, crowded: shares of documents whose codes are those of another, and of more than four others.
    distinct, largest: number of distinct IDs, documents in the largest group.
    neighbours_t, neighbours_chance_t: share of the 10 nearest neighbours with the same first t codes, and by chance.

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

    def _compute(self, predictions, references, codebook_sizes=None, vectors=None, seed=0):
        depths = {len(codes) for codes in predictions}
        if len(depths) != 1:
            raise ValueError(f"all documents need equally many codes, these have {sorted(depths)}")
        codes = np.asarray(predictions, dtype=np.int64)  # (N, positions)
        paths = [reference.split(" > ") if reference else None for reference in references]
        return id_quality(codes, paths, codebook_sizes=codebook_sizes, vectors=vectors, seed=seed)

"""The comparison: every method with its chosen settings, and rivals at other sizes of the first codebook."""

import math

import numpy as np

from metrics.semantic_id_quality import id_quality
from quality.bench import Bench
from quality.corpora import Corpus
from quality.methods import Found
from quality.tuning import best_of


def compare(bench: Bench, name: str, seed: int, methods: list[str], all_sizes: list[list[int]]) -> None:
    """Measures the rows that are not there yet."""
    keys = [
        bench.key("compare", name, method, best_of(bench, method), sizes, seed)
        for sizes in all_sizes
        for method in methods
    ]
    for key in keys:
        bench.row(key, lambda found, corpus, sizes=key["sizes"]: all_figures(found, corpus, sizes))


def all_figures(found: Found, corpus: Corpus, sizes: list[int]) -> dict:
    """Every figure of IDs, with categories of the reported documents, and what a reassignment does."""
    figures = id_quality(
        found.codes, corpus.categories, codebook_sizes=sizes, vectors=corpus.words, documents=corpus.reported
    )
    return figures | (reassigned(found) if len(found.codes) <= math.prod(sizes) else {})


def reassigned(found: Found) -> dict:
    """What becomes of the documents that share their codes."""
    result = found.reassign()
    return {
        "reassignment": result.figures(),
        "moved": float((result.moved_at >= 0).mean()),
        "left_colliding": len(result.codes) - len(np.unique(result.codes, axis=0)),
    }

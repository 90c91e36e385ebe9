"""How good semantic IDs are, as plain functions; `semantic_id_quality.py` beside them is the `evaluate` module."""

from .quality import (
    Collisions,
    DifferenceRatios,
    category_ami,
    code_perplexity,
    collisions,
    difference_ratios,
    macro_f1,
    multilabel_macro_f1,
    used_codes,
)

__all__ = [
    "Collisions",
    "DifferenceRatios",
    "category_ami",
    "code_perplexity",
    "collisions",
    "difference_ratios",
    "macro_f1",
    "multilabel_macro_f1",
    "used_codes",
]

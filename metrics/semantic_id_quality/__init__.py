"""How good semantic IDs are, as plain functions; `semantic_id_quality.py` beside them is the `evaluate` module."""

from .agreement import Agreement, agreement_within, category_agreement, category_ami, prefix_purity
from .categories import CategoryPaths, category_paths
from .neighbours import NeighbourAgreement, neighbour_agreement
from .quality import id_quality
from .reconstruction import macro_f1, multilabel_macro_f1
from .structure import (
    Collisions,
    Density,
    DifferenceRatios,
    FanOut,
    code_perplexity,
    collision_density,
    collisions,
    difference_ratios,
    fan_out,
    used_codes,
    used_share,
)

__all__ = [
    "Agreement",
    "CategoryPaths",
    "Collisions",
    "Density",
    "DifferenceRatios",
    "FanOut",
    "NeighbourAgreement",
    "agreement_within",
    "category_agreement",
    "category_ami",
    "category_paths",
    "code_perplexity",
    "collision_density",
    "collisions",
    "difference_ratios",
    "fan_out",
    "id_quality",
    "macro_f1",
    "multilabel_macro_f1",
    "neighbour_agreement",
    "prefix_purity",
    "used_codes",
    "used_share",
]

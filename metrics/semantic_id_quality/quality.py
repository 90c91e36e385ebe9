"""All figures of a corpus's semantic IDs at once, under stable names."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from .agreement import agreement_within, category_agreement, prefix_purity
from .categories import CategoryPaths, category_paths
from .groups import merge
from .neighbours import neighbour_agreement
from .structure import code_perplexity, collisions, difference_ratios, fan_out, used_codes, used_share


def id_quality(
    codes: np.ndarray,
    categories: Sequence[Any] | CategoryPaths | None = None,
    *,
    codebook_sizes: Sequence[int] | None = None,
    vectors: np.ndarray | None = None,
    documents: np.ndarray | None = None,
    seed: int = 0,
) -> dict[str, float]:
    """Every figure of semantic IDs, of positions and depths `t = 1..T` and of category levels `l = 1, 2, ..`.

    - `perplexity_t`, `used_t`: of the codes of position `t`; with codebook sizes also `perplexity_share_t` and
      `used_share_t`, divided by the size.
    - `difference_ratio_pairs_t`, `difference_ratio_groups_t`, `fan_out_mean_t`, `fan_out_max_t`: of the codes of
      position `t` among the documents that share the codes before it.
    - `distinct_prefixes_t`: of the first `t` codes. `sharing`, `crowded`, `distinct`, `largest`: of whole IDs.
    - With categories `ami_t`, `nmi_t`, `homogeneity_t`, `completeness_t`, `purity_t`: of the first `t` codes and whole
      category paths. From `t = 2` on `ami_within_t`, `nmi_within_t`, `homogeneity_within_t`, `completeness_within_t`:
      of the code of position `t` inside its prefixes, and `documents_within_t`, how many these are over. All of them
      with `_level_l` behind their names, too, for categories at a level.
    - With vectors `neighbours_t`, `neighbours_chance_t`: share of the 10 nearest neighbours that share the first `t`
      codes, and by chance.

    Args:
        codes: learned codes `(N, T)`, without the disambiguation position.
        categories: as of `category_ami`; without them their figures are left out.
        codebook_sizes: `T` sizes.
        vectors: `(N, D)` of an independent encoder.
        documents: `(N,)` booleans, the documents whose categories count; the other figures are over all.
        seed: of the documents whose neighbours are looked for.

    Raises:
        ValueError: codes that are not `(N, T)`; lengths that differ; see also the single figures.
    """
    codes = np.asarray(codes)
    if codes.ndim != 2 or not codes.shape[1]:
        raise ValueError(f"codes have the shape (documents, positions), not {codes.shape}")
    prefixes = [np.zeros(len(codes), dtype=np.int64)]  # their numbers; the first is the empty one
    for position in codes.T:
        prefixes.append(merge(prefixes[-1], position))
    figures = _structure(codes, prefixes, codebook_sizes)
    if categories is not None:
        figures |= _agreement(codes, prefixes, category_paths(categories), documents)
    if vectors is not None:
        found = neighbour_agreement(codes, vectors, seed=seed)
        for t in range(codes.shape[1]):
            figures[f"neighbours_{t + 1}"] = float(found.share[t])
            figures[f"neighbours_chance_{t + 1}"] = float(found.chance[t])
    return figures


def _structure(codes: np.ndarray, prefixes: list[np.ndarray], sizes: Sequence[int] | None) -> dict[str, float]:
    if sizes is not None and len(sizes) != codes.shape[1]:
        raise ValueError(f"{len(sizes)} codebook sizes are given for {codes.shape[1]} positions")
    figures = {}
    for t, column in enumerate(codes.T, start=1):
        ratios, branches = difference_ratios(prefixes[t - 1], column), fan_out(prefixes[t - 1], column)
        figures |= {
            f"perplexity_{t}": code_perplexity(column),
            f"used_{t}": used_codes(column),
            f"difference_ratio_pairs_{t}": ratios.pairs,
            f"difference_ratio_groups_{t}": ratios.groups,
            f"fan_out_mean_{t}": branches.mean,
            f"fan_out_max_{t}": branches.max,
            f"distinct_prefixes_{t}": int(prefixes[t].max(initial=-1)) + 1,
        }
        if sizes is not None:
            figures[f"perplexity_share_{t}"] = figures[f"perplexity_{t}"] / sizes[t - 1]
            figures[f"used_share_{t}"] = used_share(column, sizes[t - 1])
    return figures | collisions(prefixes[-1])._asdict()


def _agreement(
    codes: np.ndarray, prefixes: list[np.ndarray], categories: CategoryPaths, documents: np.ndarray | None
) -> dict[str, float]:
    figures = {}
    levels = range(1, len(categories.levels) + 1)
    for level in levels or [None]:
        chosen = {"level": level, "documents": documents}
        at_level = {}
        for t in range(1, len(prefixes)):
            *overall, _ = category_agreement(prefixes[t], categories, **chosen)
            names = [f"{name}_{t}" for name in ("ami", "nmi", "homogeneity", "completeness")]
            at_level |= dict(zip(names, overall, strict=True))
            at_level[f"purity_{t}"] = prefix_purity(prefixes[t], categories, **chosen)
            if t > 1:
                inside = agreement_within(prefixes[t - 1], codes[:, t - 1], categories, **chosen)
                at_level |= {f"{name}_within_{t}": value for name, value in inside._asdict().items()}
        if level is not None:
            figures |= {f"{name}_level_{level}": value for name, value in at_level.items()}
    # The deepest level is the whole path.
    return at_level | figures

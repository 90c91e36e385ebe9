"""Indexes of every kind of IDs, made with what `id_quality.py` chose for it, without a document that shares its ID."""

import math
from pathlib import Path

import numpy as np
from quality.bench import Bench
from quality.tuning import best_of

from modeling_lmindexer import SemanticIndex
from tasks.training import claim, described


def make_index(
    bench: Bench, method: str, name: str, sizes: list[int], seed: int, folder: Path, settings: dict
) -> None:  # fmt: skip
    """Writes the index of a data set, unless it is there, and beside it the model that learned the IDs, if one did and
    they are its codes alone.

    Documents that share their codes get others at the least cost, by the same procedure for every method; where there
    are fewer IDs than documents, a last position tells them apart.

    Args:
        bench: family, encoder and choices.
        method: of `id_quality.yaml`.
        name: of the data set there.
        sizes: of the codebooks.
        seed: of the method.
        folder: of the index.
        settings: of the method, above the chosen ones.
    """
    key = bench.key("downstream", name, method, best_of(bench, method) | settings, sizes, seed)
    folder.mkdir(parents=True, exist_ok=True)
    claim(described(folder), key)
    ids = bench.corpus(name).ids
    needs_model = bench.plan.methods[method].learns and math.prod(sizes) >= len(ids)
    if (folder / "semantic_ids.parquet").exists() and ((folder / "config.json").exists() or not needs_model):
        return
    found = bench.find(key)
    if math.prod(sizes) < len(ids):
        room = int(np.unique(found.codes, axis=0, return_counts=True)[1].max())
        index, told_apart = SemanticIndex.from_codes(ids, found.codes, [*sizes, room]), f"a last code of {room}"
    else:
        result = found.reassign()
        index = SemanticIndex.from_codes(ids, result.codes, sizes, has_disambiguation=False)
        told_apart = f"{(result.moved_at >= 0).mean():.1%} moved"
        if needs_model:
            found.save_model(folder)
    index.save_pretrained(folder)  # last: then all is there
    print(f"{folder.name}: {len(ids):,} documents, {told_apart}, {found.minutes or 0:.1f} min", flush=True)

"""Indexes of every kind of IDs, made with what `id_quality.py` chose for it, without a document that shares its ID."""

from pathlib import Path

from quality.bench import Bench
from quality.tuning import best_of

from modeling_lmindexer import SemanticIndex
from tasks.training import claim


def make_index(bench: Bench, method: str, name: str, sizes: list[int], seed: int, folder: Path) -> None:
    """Writes the index of a data set, unless it is there.

    Documents that share their codes get others at the least cost, by the same procedure for every method.

    Args:
        bench: family, encoder and choices.
        method: of `id_quality.yaml`.
        name: of the data set there.
        sizes: of the codebooks.
        seed: of the method.
        folder: of the index.
    """
    key = bench.key("downstream", name, method, best_of(bench, method), sizes, seed)
    folder.mkdir(parents=True, exist_ok=True)
    claim(folder.with_suffix(".json"), key)
    if (folder / "semantic_ids.parquet").exists():
        return
    found = bench.find(key)
    result = found.reassign()
    moved = (result.moved_at >= 0).mean()
    index = SemanticIndex.from_codes(bench.corpus(name).ids, result.codes, sizes, has_disambiguation=False)
    index.save_pretrained(folder)
    print(
        f"{folder.name}: {len(result.codes):,} documents, {moved:.1%} moved, {found.minutes or 0:.1f} min", flush=True
    )

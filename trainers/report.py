"""What a run reached: figures per position beside codes to compare with, and whether queries find their documents."""

from dataclasses import dataclass

import numpy as np
import torch
from transformers.utils import logging

from metrics.semantic_id_quality import collisions
from modeling_lmindexer import LMIndexerForSemanticID, SemanticIndex

from .figures import code_figures
from .progress import activity, progress_bar
from .rivals import distinct_random_codes, random_codes, tfidf_kmeans_codes

logger = logging.get_logger(__name__)

METHODS = {"lmindexer": "LMIndexer", "tfidf_kmeans": "TF-IDF + k-means", "random": "random IDs"}


@dataclass
class Queries:
    """Queries whose document is known: `texts[i]` looks for `targets[i]`, a document id."""

    texts: list[str]
    targets: list


def compare_codes(codes: np.ndarray, texts: list[str], categories: list | None, sizes: list[int], seed: int) -> dict:
    """Figures of learned codes, TF-IDF + k-means and random codes, per method and position.

    Args:
        codes: learned codes `(N, positions)`.
        texts: `N` texts.
        categories: one list of labels per document, or `None`.
        sizes: of the codebooks; all methods get the same.
    """
    methods = {"lmindexer": codes}
    try:
        with activity("codes of TF-IDF vectors, to compare with"):
            methods["tfidf_kmeans"] = tfidf_kmeans_codes(texts, sizes, seed)
    except ValueError as error:  # texts that it finds no words in, or too few different ones
        logger.warning(f"There are no codes of {METHODS['tfidf_kmeans']} to compare with: {error}")
    methods["random"] = random_codes(len(codes), sizes, seed)
    with activity("figures of the codes"):
        return {name: describe_codes(rows, categories) for name, rows in methods.items()}


def describe_codes(codes: np.ndarray, categories: list | None) -> dict:
    """Figures of codes `(N, positions)`, per position and of the whole."""
    shared = collisions(codes)
    return {
        "positions": [code_figures(codes[:, :t], codes[:, t], categories) for t in range(codes.shape[1])],
        "sharing": shared.sharing,
        "crowded": shared.crowded,
        "largest_group": shared.largest,
    }


@torch.no_grad()
def find_rate(
    model: LMIndexerForSemanticID, tokenizer, index: SemanticIndex, queries: Queries, *, top_k: int = 10,
    num_beams: int = 20, batch_size: int = 64, quiet: bool = False,
) -> float:  # fmt: skip
    """Share of the queries whose document is among the first `top_k` (Recall@k with one relevant document); `nan`
    without queries."""
    found = 0
    starts = range(0, len(queries.texts), batch_size)
    for start in progress_bar(starts, description="queries", disable=quiet):
        batch = tokenizer(queries.texts[start : start + batch_size], padding=True, return_tensors="pt").to(
            model.device
        )
        result = model.search(
            index=index, num_beams=num_beams, top_k=top_k,
            input_ids=batch["input_ids"], attention_mask=batch["attention_mask"],
        )  # fmt: skip
        targets = queries.targets[start : start + batch_size]
        found += sum(target in documents for target, documents in zip(targets, result.documents, strict=True))
    return found / len(queries.texts) if queries.texts else float("nan")


def query_figures(model, tokenizer, index: SemanticIndex, queries: Queries, seed: int, quiet: bool = False) -> dict:
    """Recall@10 of queries with the learned IDs, and with random IDs of the same shape, what chance would find."""
    random = random_index(index, seed)
    return {
        "queries": len(queries.texts),
        "recall_at_10": find_rate(model, tokenizer, index, queries, quiet=quiet),
        "recall_at_10_random_ids": find_rate(model, tokenizer, random, queries, quiet=quiet) if random else None,
        "recall_at_10_by_chance": min(1.0, 10 / len(index)),
    }


def random_index(index: SemanticIndex, seed: int) -> SemanticIndex | None:
    """The documents of an index with random IDs of the same shape; `None` where these share their learned codes more
    often than the last position can count."""
    sizes = index.codebook_sizes
    if not index.has_disambiguation:
        codes = distinct_random_codes(len(index), sizes, seed)
        return SemanticIndex.from_codes(index.document_ids, codes, sizes, has_disambiguation=False)
    codes = random_codes(len(index), sizes, seed)
    if np.unique(codes, axis=0, return_counts=True)[1].max() > index.position_sizes[-1]:
        return None
    return SemanticIndex.from_codes(index.document_ids, codes, index.position_sizes)


def sample_queries(ids: list, texts: list, number: int, seed: int) -> Queries:
    """A seeded sample of the documents that have a query (a text that is not empty)."""
    usable = [row for row, text in enumerate(texts) if text]
    rows = np.random.default_rng(seed).permutation(usable)[:number]
    return Queries([texts[row] for row in rows], [ids[row] for row in rows])


def format_table(header: list[str], rows: list[list], digits: int = 3) -> str:
    """A Markdown table; numbers with so many decimals, `-` for nothing."""

    def show(value) -> str:
        if value is None or (isinstance(value, float) and np.isnan(value)):
            return "-"
        return (
            f"{value:.{digits}f}"
            if isinstance(value, float)
            else f"{value:,}"
            if isinstance(value, int)
            else str(value)
        )

    cells = [header, *[[show(value) for value in row] for row in rows]]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    lines = ["| " + " | ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)) + " |" for row in cells]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


def position_table(comparison: dict) -> str:
    """One row per position and method."""
    rows = []
    for t in range(len(comparison["lmindexer"]["positions"])):
        for name, method in comparison.items():
            figures = method["positions"][t]
            rows.append(
                [
                    t + 1, METHODS[name], figures.get("ami"), figures.get("ami_prefix", figures.get("ami")),
                    figures["perplexity"], figures["difference_ratio_pairs"], figures["distinct_prefixes"],
                ]
            )  # fmt: skip
    return format_table(
        ["position", "codes", "AMI of the code", "AMI of the prefix", "perplexity", "difference ratio", "prefixes"],
        rows,
    )


def stage_table(figures: dict[str, dict]) -> str:
    """One row per stage: its loss at the start and at the end, and what its reconstructor and codes are worth."""
    names = ("loss_start", "loss_end", "reconstruction_f1", "perplexity", "ami")
    rows = [[stage, *[values.get(name) for name in names]] for stage, values in figures.items()]
    return format_table(["stage", "loss, start", "loss, end", "reconstruction F1", "perplexity", "AMI"], rows)

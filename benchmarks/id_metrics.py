"""Seconds of every figure of semantic IDs on a large synthetic corpus.

    python benchmarks/id_metrics.py
    python benchmarks/id_metrics.py 100000 --dimensions 64

Three positions of 512 skewed codes, 1,000 skewed categories in a tree of three levels that the first code follows in
half of the documents, embeddings around the first code. Prints one table; `value` is there to see that something was
computed. One thread; set OMP_NUM_THREADS to search neighbours with more.
"""

import argparse
import os
import platform
import resource
import sys
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

os.environ.setdefault("OMP_NUM_THREADS", "1")
import numpy as np
from scipy.sparse import csr_array

import metrics.semantic_id_quality as quality
from trainers.report import format_table

CODES, POSITIONS, BRANCHES, LEVELS, WORDS = 512, 3, 10, 3, 20_000


class Corpus(NamedTuple):
    """`codes` `(N, positions)`, `categories` N paths, `vectors` `(N, D)`, `words` `(2, N)` predicted and actual."""

    codes: np.ndarray
    categories: list[list[str]]
    vectors: np.ndarray
    words: np.ndarray


def skewed(rng: np.random.Generator, values: int, shape: tuple[int, ...]) -> np.ndarray:
    """Integers below `values`, the r-th of them about as frequent as r ** -0.5."""
    return (values * rng.random(shape) ** 2).astype(np.int64)


def make_corpus(documents: int, dimensions: int, seed: int) -> Corpus:
    """The corpus of this benchmark, the same for the same arguments."""
    rng = np.random.default_rng(seed)
    leaf, codes = skewed(rng, BRANCHES**LEVELS, (documents,)), skewed(rng, CODES, (documents, POSITIONS))
    follows = rng.random(documents) < 0.5
    codes[follows, 0] = leaf[follows] * 7 % CODES
    places = [BRANCHES ** (LEVELS - 1 - level) for level in range(LEVELS)]
    paths = [[str(number // place) for place in places] for number in range(BRANCHES**LEVELS)]
    vectors = rng.standard_normal((documents, dimensions), dtype=np.float32)
    centres = rng.standard_normal((CODES, dimensions), dtype=np.float32)
    for begin in range(0, documents, 2**16):
        vectors[begin : begin + 2**16] += centres[codes[begin : begin + 2**16, 0]]
    words = skewed(rng, WORDS, (2, documents))
    words[1, ::2] = words[0, ::2]
    return Corpus(codes, [list(paths[number]) for number in leaf], vectors, words)


def all_sizes(documents: int, seed: int) -> np.ndarray:
    """`(N,)` groups of 1, 2, 3, .. documents, shuffled: the worst case of AMI."""
    sizes = np.arange(1, int(np.sqrt(2 * documents)) + 2)
    return np.random.default_rng(seed).permutation(np.repeat(sizes, sizes)[:documents])


def figures(corpus: Corpus, seed: int) -> Iterator[tuple[str, Callable[[], float]]]:
    """Name and computation of every row; the computations of a row are done together, the last value is shown."""
    codes, paths = corpus.codes, quality.category_paths(corpus.categories)
    depths, levels = range(1, POSITIONS + 1), range(1, LEVELS + 1)
    columns = [(codes[:, :t], codes[:, t]) for t in range(POSITIONS)]
    yield "categories read", lambda: len(quality.category_paths(corpus.categories))
    for t in depths:
        yield (
            f"AMI, NMI, homogeneity, completeness of c^1..c^{t}, {LEVELS} levels",
            lambda t=t: [quality.category_agreement(codes[:, :t], paths, level=level).ami for level in levels][-1],
        )
    for t in depths[1:]:
        yield (
            f"the same of c^{t} within its prefixes, {LEVELS} levels",
            lambda t=t: [quality.agreement_within(*columns[t - 1], paths, level=level).ami for level in levels][-1],
        )
    yield (
        f"purity, {POSITIONS} depths, {LEVELS} levels",
        lambda: [quality.prefix_purity(codes[:, :t], paths, level=level) for t in depths for level in levels][-1],
    )
    yield "perplexity, 3 positions", lambda: [quality.code_perplexity(column) for _, column in columns][-1]
    yield "share of used codes, 3 positions", lambda: [quality.used_share(column, CODES) for _, column in columns][-1]
    yield (
        "difference ratios, 3 positions",
        lambda: [quality.difference_ratios(*column).pairs for column in columns][-1],
    )
    yield "fan-out, 3 positions", lambda: [quality.fan_out(*pair).mean for pair in columns][-1]
    yield "collisions", lambda: quality.collisions(codes).sharing
    yield "collision density", lambda: len(quality.collision_density(codes).size)
    yield (
        f"10 nearest neighbours of 1,000 documents, {corpus.vectors.shape[1]} dimensions",
        lambda: float(quality.neighbour_agreement(codes, corpus.vectors, seed=seed).share[0]),
    )
    yield "reconstruction Macro-F1 of a word per document", lambda: quality.macro_f1(*corpus.words)
    once, rows = np.ones(len(codes), dtype=bool), np.arange(len(codes) + 1)
    bags = [csr_array((once, row, rows), shape=(len(codes), WORDS)) for row in corpus.words]
    yield "reconstruction Macro-F1 of sets of words", lambda: quality.multilabel_macro_f1(*bags)
    yield (
        "id_quality: all of them but Macro-F1, from raw categories",
        lambda: len(quality.id_quality(codes, corpus.categories, vectors=corpus.vectors, seed=seed)),
    )
    groups = [all_sizes(len(codes), seed + number) for number in range(2)]
    yield "AMI, its worst case: all sizes differ", lambda: quality.category_ami(groups[0], groups[1].tolist())


def main() -> None:
    """Measures every row and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("documents", type=int, nargs="?", default=1_000_000)
    parser.add_argument("--dimensions", type=int, default=384)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rows = []
    corpus = make_corpus(options.documents, options.dimensions, options.seed)
    quality.id_quality(corpus.codes[:100], corpus.categories[:100], vectors=corpus.vectors[:100])  # the imports
    for name, compute in figures(corpus, options.seed):
        started = time.perf_counter()
        value = compute()
        rows.append([name, time.perf_counter() - started, value])
        print(f"{name}: {rows[-1][1]:.2f} s", file=sys.stderr, flush=True)
    print(f"{options.documents:,} documents\n")
    print(format_table(["figure", "seconds", "value"], rows))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    print(f"\npeak {peak:.1f} GB, of which the embeddings {corpus.vectors.nbytes / 1e9:.1f} GB")
    threads = os.environ["OMP_NUM_THREADS"]
    print(f"{platform.machine()}, {threads} thread(s), {time.strftime('%Y-%m-%d')}, numpy {np.__version__}")


if __name__ == "__main__":
    main()

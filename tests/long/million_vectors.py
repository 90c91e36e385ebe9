"""Clusters a million vectors into 51,200 by k-means, and checks what must hold of the result.

    python tests/long/million_vectors.py --vectors 1000000 --centroids 51200 --dimensions 384

The vectors are topics of very unequal sizes; one vector in twenty is a copy of another one, and two are zero. Prints
seconds, of the processor and, with the pauses of a process that is stopped or waits, of the clock; memory; and a line
per check. Exits with 1 when one does not hold: every code is used; the codes of a sample are those of all its scores
in float64; the centroids are closer to it than as many random vectors are; memory grew by less than three copies of
the vectors and 512 MB.
"""

import argparse
import hashlib
import sys
import time
from pathlib import Path

import numpy as np

from trainers.clustering import kmeans
from trainers.nearest import nearest_centroids
from trainers.prototypes import chunks

SAMPLE = 2_000
ZEROS = 2


def planted(number: int, dimensions: int, seed: int) -> np.ndarray:
    """Vectors `(number, dimensions)` float32."""
    rng = np.random.default_rng(seed)
    topics = max(2, number // 500)
    sizes = 1 / np.arange(1, topics + 1)
    vectors = rng.standard_normal((number, dimensions), dtype=np.float32)
    centres = rng.standard_normal((topics, dimensions), dtype=np.float32)
    for part in chunks(number, dimensions):
        vectors[part] += centres[rng.choice(topics, len(vectors[part]), p=sizes / sizes.sum())]
    copies = number // 20
    vectors[:copies] = vectors[copies + rng.integers(max(1, number // 1000), size=copies)]
    vectors[-ZEROS:] = 0
    return vectors


def best_of_all(vectors: np.ndarray, centroids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The centroid with the largest dot product, and this product, in float64: `(n,)` each."""
    columns = centroids.astype(np.float64).T
    found = [
        ((scores := vectors[part].astype(np.float64) @ columns).argmax(axis=1), scores.max(axis=1))
        for part in chunks(len(vectors), len(centroids))
    ]
    return tuple(np.concatenate(parts) for parts in zip(*found, strict=True))


def peak_mb() -> float:
    """Most memory that this process ever had; `getrusage` would count what its parent had when it began."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def assign(vectors: np.ndarray, options: argparse.Namespace) -> bool:
    """Finds the nearest of some vectors, as centroids, of every one; returns whether some are wrong."""
    rng = np.random.default_rng(options.seed)
    centroids = vectors[rng.choice(len(vectors) - ZEROS, options.centroids, replace=False)]
    started = time.time()
    labels, _ = nearest_centroids(vectors, centroids, False)
    print(
        f"{len(vectors):,} x {options.dimensions} vectors, {len(centroids):,} centroids: {time.time() - started:.1f} s"
    )
    rows = rng.choice(len(vectors) - ZEROS, min(SAMPLE, len(vectors) - ZEROS), replace=False)
    wrong = np.count_nonzero(best_of_all(vectors[rows], centroids)[0] != labels[rows])
    print(
        f"{wrong} of {len(rows):,} sampled vectors have another code than by float64" + ("   BROKEN" if wrong else "")
    )
    return bool(wrong)


def main() -> None:
    """Parses arguments, clusters and checks."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--vectors", type=int, default=1_000_000)
    parser.add_argument("--centroids", type=int, default=51_200)
    parser.add_argument("--dimensions", type=int, default=384)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--assignment_only", action="store_true", help="to vectors of the set: for a GPU")
    options = parser.parse_args()
    vectors = planted(options.vectors, options.dimensions, options.seed)
    if options.assignment_only:
        sys.exit(assign(vectors, options))
    before, wall, cpu = peak_mb(), time.time(), time.process_time()
    centroids, labels = kmeans(vectors, options.centroids, similarity="cosine", seed=options.seed)
    wall, cpu, grown = time.time() - wall, time.process_time() - cpu, peak_mb() - before
    copies, matrix = vectors.nbytes / 2**20, 4 * options.vectors * options.centroids / 2**20
    print(f"{options.vectors:,} x {options.dimensions} vectors, {options.centroids:,} centroids, cosine")
    print(f"{cpu:,.0f} s of one core, {wall:,.0f} s with the pauses; codes {hashlib.sha256(labels).hexdigest()[:16]}")
    print(f"memory grew by {grown:,.0f} MB; the vectors are {copies:,.0f} MB, all scores would be {matrix:,.0f} MB")

    rng = np.random.default_rng(options.seed)
    rows = rng.choice(len(vectors) - ZEROS, min(SAMPLE, len(vectors) - ZEROS), replace=False)
    sample = vectors[rows]
    codes, scores = best_of_all(sample, centroids)
    others = vectors[rng.choice(len(vectors) - ZEROS, options.centroids, replace=False)]
    others *= (np.linalg.norm(centroids[0]) / np.linalg.norm(others, axis=1))[:, None]
    used, wrong = len(np.unique(labels)), np.count_nonzero(codes != labels[rows])
    lengths = np.linalg.norm(sample, axis=1) * np.linalg.norm(centroids[0])
    near, random = (scores / lengths).mean(), (best_of_all(sample, others)[1] / lengths).mean()
    checks = {
        f"{used:,} of {options.centroids:,} codes are used": used == options.centroids,
        f"{wrong} of {len(rows):,} sampled vectors have another code than by float64": not wrong,
        f"zero vectors have the codes {labels[-ZEROS:].tolist()}": not labels[-ZEROS:].any(),
        f"mean cosine {near:.4f}, to as many random vectors {random:.4f}": near > random,
        "memory grew by less than three copies of the vectors and 512 MB": grown < 3 * copies + 512,
    }
    for line, holds in checks.items():
        print(line + ("" if holds else "   BROKEN"))
    sys.exit(not all(checks.values()))


if __name__ == "__main__":
    main()

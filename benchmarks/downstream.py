"""What semantic IDs are good for: recommendation beside systems that count.

    export LMINDEXER_DATA=...
    python benchmarks/downstream.py --set scientific
    python benchmarks/downstream.py --set beauty --runs LMIndexer=outputs/recommender rq-VAE=outputs/rq_vae

Full ranking of the items that a user has not had, leave-one-out. `--runs` names folders of `run_retrieval.py`; the
last column is the paired test of NDCG@10 against next-item co-occurrence, and in a row of its own stands the fusion of
every run with it.
"""

import argparse
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
from data.histories import History, read_histories
from tasks.counting import recommendations

from metrics.ranking_quality import RankingFigures, fuse, paired_test, ranking_figures, read_run
from trainers.report import format_table

SETS = {"beauty": "amazon_beauty_2014", "scientific": "amazon_scientific_2018"}
MEASURES = ("recall@5", "ndcg@5", "recall@10", "ndcg@10")
COUNTED = "co-occurrence"
_DEPTH = 20


def figures_of_systems(histories: list[History], runs: dict[str, Path]) -> dict[str, RankingFigures]:
    """Figures of all systems by name, those that count first."""
    qrels = {history.user: {history.items[-1]: 1} for history in histories}
    counted = recommendations(histories, _DEPTH, with_validation=False)
    rankings = {
        "popularity": recommendations(histories, _DEPTH, with_validation=False, counted=False),
        COUNTED: counted,
        f"{COUNTED}, validation counted": recommendations(histories, _DEPTH, with_validation=True),
    }
    for name, folder in runs.items():
        rankings[name] = read_run(folder / "run.test.trec")
        rankings[f"{name} + {COUNTED}"] = fuse([rankings[name], counted], _DEPTH)
    return {name: ranking_figures(ranking, qrels, MEASURES) for name, ranking in rankings.items()}


def table(figures: dict[str, RankingFigures]) -> str:
    """One row per system."""
    rows = []
    for name, own in figures.items():
        test = paired_test(own, figures[COUNTED], "ndcg@10") if name != COUNTED else None
        rows.append([name, *own.means().values(), test and f"{test.difference:+.4f} (p {test.p_value:.4f})"])
    return format_table(["system", *MEASURES, f"ndcg@10 less {COUNTED}'s"], rows, digits=4)


def main() -> None:
    """Reads the histories and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--set", choices=SETS, required=True)
    parser.add_argument("--runs", nargs="*", default=[], metavar="NAME=FOLDER", help="of run_retrieval.py")
    parser.add_argument("--data", type=Path, default=os.environ.get("LMINDEXER_DATA"), help="the data sets")
    options = parser.parse_args()
    if options.data is None:
        parser.error("set LMINDEXER_DATA or give --data: the folder of the data sets")
    runs = dict(run.split("=", 1) for run in options.runs)
    file = Path(options.data) / SETS[options.set] / "sequences.txt.gz"
    histories = read_histories(file, None)
    print(f"{options.set}: {len(histories):,} users\n")
    print(table(figures_of_systems(histories, {name: Path(folder) for name, folder in runs.items()})))


if __name__ == "__main__":
    main()

"""What every ingredient of the method does to the IDs: one table and one figure per study, beside what the paper says.

    export LMINDEXER_DATA=...
    python benchmarks/id_studies.py run --encoder all-MiniLM-L6-v2/
    python benchmarks/id_studies.py run --encoder all-MiniLM-L6-v2/ --study warm-up --family paper --seed 1
    python benchmarks/id_studies.py tables
    python benchmarks/id_studies.py figures

What is run and compared stands in `id_studies.yaml`. `run` appends a row per run to `results.jsonl` of one folder and
leaves out the rows that are there; a run that was stopped goes on after its last whole stage.
"""

import argparse
import os
import sys
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
import datasets
from quality.corpora import Corpus, read_corpus
from quality.rows import Results
from studies.drawing import Figures
from studies.plan import Plan, read_plan
from studies.tables import Found, print_tables
from studies.training import Training
from transformers.utils import logging


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line's options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["run", "tables", "figures"])
    parser.add_argument("--encoder", help="for run: folder or Hub repository of a sentence encoder")
    parser.add_argument("--study", nargs="+", help="default: all of the configuration")
    parser.add_argument("--family", nargs="+", help="of settings; default: all of the configuration")
    parser.add_argument("--set", help="a data set of the configuration; default: the first")
    parser.add_argument("--seed", nargs="+", type=int, help="for run; default: those of the configuration")
    parser.add_argument("--data", type=Path, default=os.environ.get("LMINDEXER_DATA"), help="folder of the data sets")
    parser.add_argument("--config", type=Path, default=Path(__file__).with_suffix(".yaml"))
    parser.add_argument("--output_dir", type=Path, default=Path("outputs/id_studies"))
    options = parser.parse_args(argv)
    if options.command == "run" and not options.encoder:
        parser.error("run needs --encoder")
    if options.command != "tables" and not options.data:
        parser.error(f"{options.command} reads the documents: set LMINDEXER_DATA or give --data")
    return options


def choose(chosen: list | None, existing, what: str) -> list:
    """What was asked for, or everything.

    Raises:
        ValueError: something that there is not.
    """
    unknown = sorted(set(chosen or []) - set(existing))
    if unknown:
        raise ValueError(f"There is no {what} {', '.join(unknown)}; there are {', '.join(existing)}.")
    return list(existing) if chosen is None else chosen


def follow(options: argparse.Namespace, plan: Plan) -> None:
    """Trains what is missing, prints tables, or draws."""
    studies = choose(options.study, plan.studies, "study")
    families = choose(options.family, plan.families, "family")
    name = choose(options.set and [options.set], plan.sets, "data set")[0]
    results = Results(options.output_dir)

    def corpus() -> Corpus:
        return read_corpus(options.data, plan.sets[name], has_choices=False)

    if options.command == "run":
        runs = plan.runs_of(name, studies, families, plan.seeds if options.seed is None else options.seed)
        Training(corpus(), options.encoder, plan.curves, results).do(runs)
        return
    found = Found.read(plan, name, studies, families, results)
    if options.command == "tables":
        print_tables(plan, found, studies, families)
        return
    figures = Figures(plan, name, found, options.output_dir, lambda: corpus().categories)
    for study in studies:
        for file in figures.draw(study, families):
            print(options.output_dir / file)


def main() -> None:
    """Reads the command line and the configuration."""
    options = parse_arguments()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    datasets.disable_progress_bars()
    try:
        follow(options, read_plan(options.config))
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()

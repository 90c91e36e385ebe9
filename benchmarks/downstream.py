"""What semantic IDs are good for: recommendation, product search, document retrieval, beside systems users would pick.

    export LMINDEXER_DATA=...
    python benchmarks/downstream.py index --set scientific --encoder all-MiniLM-L6-v2/
    python benchmarks/downstream.py train --set scientific
    python benchmarks/downstream.py train --set nfcorpus --encoder all-MiniLM-L6-v2/
    python benchmarks/downstream.py record --set scientific --runs SASRec=outputs/sasrec SASRec:1=outputs/sasrec_1
    python benchmarks/downstream.py tables

`downstream.yaml` holds data sets, kinds of IDs and the ways to train. `index` makes the IDs with the choices of
`id_quality.py`, `train` the generative models, and records their figures; both leave out what is there and go on after
a stop. `record` takes in runs of other systems: `NAME[:SEED]=FOLDER` with `run.test.trec`. Figures of every query are
kept in `--records`, so that `tables` can test any two systems; every generative model is there fused with the system
that needs no training, too.
"""

import argparse
import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
from tasks.identifiers import make_index
from tasks.plan import Plan, read_plan
from tasks.records import Records
from tasks.systems import Judged
from tasks.tables import table
from tasks.training import command_of, make_queries, run_logged, start_from

COMMANDS = ("index", "train", "record", "tables")
HERE = Path(__file__).parent


def parse_arguments(argv: list[str] | None = None) -> tuple[argparse.Namespace, Plan]:
    """The command line's options, and the plan that they name."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    add = {name: commands.add_parser(name) for name in COMMANDS}
    for name, command in add.items():
        command.add_argument("--config", type=Path, default=HERE / "downstream.yaml")
        command.add_argument("--records", type=Path, default=HERE.parent / "docs" / "benchmarks" / "downstream")
        command.add_argument("--data", type=Path, default=os.environ.get("LMINDEXER_DATA"))
        command.add_argument("--set", required=name != "tables", help="a data set of the configuration")
    for name in ("index", "train"):
        add[name].add_argument("--output_dir", type=Path, default=Path("outputs/downstream"))
        add[name].add_argument("--identifiers", nargs="+", help="kinds of IDs; default: all of the rows")
        add[name].add_argument("--seeds", type=int, nargs="+", help="default: all of the rows")
        add[name].add_argument("--encoder", type=Path, help="folder of the encoder that all IDs share")
    add["index"].add_argument("--choices", type=Path, default=HERE.parent / "docs" / "benchmarks" / "id_quality")
    add["train"].add_argument("--rows", nargs="+", help="ways to train; default: all")
    add["record"].add_argument("--runs", nargs="*", default=[], metavar="NAME[:SEED]=FOLDER")
    options = parser.parse_args(argv)
    plan = read_plan(options.config)
    if options.command == "index" and options.encoder is None:
        parser.error("index needs --encoder: the folder of the encoder that all IDs share")
    for option, known in (("set", plan.sets), ("identifiers", plan.identifiers), ("rows", plan.rows)):
        given = getattr(options, option, None) or []
        unknown = [name for name in ([given] if isinstance(given, str) else given) if name not in known]
        if unknown:
            parser.error(f"--{option} {' '.join(unknown)}: expected {', '.join(known)}")
    if options.command in ("index", "train") and not list(asked(options, plan)):
        parser.error(f"no row of {options.config} is for --set {options.set} with what else is asked for")
    if options.data is None and options.command != "tables":
        parser.error("set LMINDEXER_DATA or give --data: the folder of the data sets")
    return options, plan


@dataclass(frozen=True)
class Run:
    """A generative model to train: a row of the plan, on one kind of IDs, with one seed.

    Attributes:
        row: its name.
        settings: of `run_retrieval.py`.
        kind: of the IDs, as in the tables.
        method: that makes them.
        sizes: of the codebooks.
        indexer: settings of that method.
        seed: of IDs and training.
    """

    row: str
    settings: dict
    kind: str
    method: str
    sizes: list[int]
    indexer: dict
    seed: int

    def index(self, options: argparse.Namespace) -> Path:
        """Where the IDs are."""
        made = ["x".join(map(str, self.sizes)), *(f"{name}={value}" for name, value in self.indexer.items())]
        return options.output_dir / "indexes" / "-".join([options.set, self.method, *made, str(self.seed)])

    def folder(self, options: argparse.Namespace) -> Path:
        """Where the trained model is."""
        return options.output_dir / "runs" / f"{options.set}-{self.method}-{self.row.replace(' ', '_')}-{self.seed}"


def asked(options: argparse.Namespace, plan: Plan) -> Iterator[Run]:
    """The runs that the command line is about."""
    for name, row in plan.rows.items():
        if name not in (getattr(options, "rows", None) or plan.rows) or options.set not in (row.sets or plan.sets):
            continue
        for seed in options.seeds or row.seeds:
            for kind in row.identifiers:
                if kind in (options.identifiers or plan.identifiers):
                    sizes = row.sizes or plan.sizes
                    yield Run(name, row.settings, kind, plan.identifiers[kind], sizes, row.indexer, seed)


def make_indexes(options: argparse.Namespace, plan: Plan) -> None:
    """The command `index`."""
    from quality.bench import Bench
    from quality.plan import DataSet
    from quality.plan import read_plan as read_quality_plan
    from quality.rows import Results
    from quality.tuning import BEST_NAME

    results = Results(options.output_dir)  # where embeddings and unfinished runs are kept
    shutil.copy(options.choices / BEST_NAME, results.folder / BEST_NAME)
    entry, quality = plan.sets[options.set], read_quality_plan(HERE / "id_quality.yaml")
    if entry.documents:
        quality.sets[options.set] = DataSet(**entry.documents)
    bench = Bench(
        quality, plan.family, lambda _: options.encoder, options.data, results, results.folder / "encoder_states"
    )
    for run in asked(options, plan):
        make_index(bench, run.method, options.set, run.sizes, run.seed, run.index(options), run.indexer)


def train_all(options: argparse.Namespace, plan: Plan) -> None:
    """The command `train`."""
    entry = plan.sets[options.set]
    judged, records = Judged(entry, options.data), Records(options.records, options.set)
    queries = make_queries(entry, options.data, options.output_dir / "queries" / options.set)
    states = options.output_dir / "encoder_states"
    for run in asked(options, plan):
        folder = run.folder(options)
        settings = {"queries_file": queries} | entry.settings | run.settings
        settings = start_from(options.encoder, run.index(options), settings, states)
        command = command_of(entry, options.data, run.index(options), settings, run.seed, folder)
        print(f"{run.kind}, {run.row}, seed {run.seed}: its progress is in {folder}.log", flush=True)
        run_logged(command, folder, index=run.index(options))
        judged.record(records, f"{run.kind}, {run.row}", run.seed, folder)
        print(f"{run.kind}, {run.row}, seed {run.seed}: done, {folder}", flush=True)


def record(options: argparse.Namespace, plan: Plan) -> None:
    """The command `record`: systems that need no training, and the runs that are named."""
    judged, records = Judged(plan.sets[options.set], options.data), Records(options.records, options.set)
    judged.record_untrained(records)
    for run in options.runs:
        name, _, folder = run.partition("=")
        name, _, seed = name.partition(":")
        if not folder or not (seed or "0").isdigit():
            raise ValueError(f"--runs {run}: expected NAME=FOLDER or NAME:SEED=FOLDER")
        judged.record(records, name, int(seed or 0), Path(folder))


def in_order(systems: dict, plan: Plan, fused: str) -> dict:
    """Systems as they were recorded, and after them the generative models in the order of the plan, each with its
    fusion, whose name ends with `fused`."""
    own = [f"{kind}, {row}" for row in plan.rows for kind in plan.identifiers]
    place = {name: number for number, name in enumerate(own)}
    return {name: systems[name] for name in sorted(systems, key=lambda name: place.get(name.removesuffix(fused), -1))}


def print_tables(options: argparse.Namespace, plan: Plan) -> None:
    """The command `tables`."""
    for name in [options.set] if options.set else plan.sets:
        entry, records = plan.sets[name], Records(options.records, name)
        for split in records.splits():
            systems = in_order(records.read(split), plan, f" + {entry.reference}")
            number = len(next(iter(next(iter(systems.values())).values())).queries)
            own = [f"{plan.own}, {row}" for row in plan.rows if f"{plan.own}, {row}" in systems][:1]
            print(f"\n{name}, {split}, {number:,} queries\n")
            print(table(systems, entry.measures, entry.tested, [entry.reference, *own]))


def main() -> None:
    """Parses the arguments and runs."""
    options, plan = parse_arguments()
    run = {"index": make_indexes, "train": train_all, "record": record, "tables": print_tables}[options.command]
    try:
        run(options, plan)
    except (ValueError, OSError, RuntimeError, ImportError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()

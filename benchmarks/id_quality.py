"""Semantic IDs of an LMIndexer beside those of every two-stage indexer: trials, comparison, tables.

    export LMINDEXER_DATA=...
    python benchmarks/id_quality.py tune --encoder all-MiniLM-L6-v2/
    python benchmarks/id_quality.py choose
    python benchmarks/id_quality.py compare --encoder all-MiniLM-L6-v2/ --set beauty --seed 0
    python benchmarks/id_quality.py match --encoder all-MiniLM-L6-v2/ --set beauty --seed 0
    python benchmarks/id_quality.py tables --figure outputs/id_quality/ami.png

`id_quality.yaml` holds families, data sets, sizes and grids. Every command appends to `results.jsonl` of one folder
and leaves out the rows that are there; several may run at once. The family `pretrained` has one encoder, which stays
as it is; `scratch` one per data set, made by `examples/adapt_encoder.py`, in folders of the sets' names; in `unfrozen`
the encoder learns too, and reads more of a document: that wants a GPU, which is used where there is one.
"""

import argparse
import os
import sys
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
import datasets
import torch
from quality.bench import Bench
from quality.comparing import compare
from quality.figure import save_figure
from quality.matching import match
from quality.plan import Plan, read_plan
from quality.rows import Results
from quality.tables import print_tables
from quality.tuning import choose, tune
from threadpoolctl import threadpool_limits
from transformers.utils import logging


def parse_arguments(argv: list[str] | None = None) -> tuple[argparse.Namespace, Plan]:
    """The command line's options, and the plan that they name."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    add = {name: commands.add_parser(name) for name in ("tune", "choose", "compare", "match", "tables")}
    for command in add.values():
        command.add_argument("--config", type=Path, default=Path(__file__).with_suffix(".yaml"))
        command.add_argument("--output_dir", type=Path, default=Path("outputs/id_quality"))
        command.add_argument("--family", help="default: the first of the configuration")
    for command in (add["tune"], add["compare"], add["match"]):
        command.add_argument("--encoder", type=Path, help="folder of the encoder that all data sets share")
        command.add_argument("--scratch_encoders", type=Path, help="folder with one encoder per data set")
        command.add_argument("--encoder_cache_dir", type=Path, help="default: inside output_dir")
        command.add_argument("--data", type=Path, default=os.environ.get("LMINDEXER_DATA"))
        command.add_argument("--methods", nargs="+", help="default: all")
        command.add_argument("--threads", type=int, default=1)
    for command in (add["compare"], add["match"]):
        command.add_argument("--set", required=True, help="a data set of the configuration")
        command.add_argument("--seed", type=int, default=0)
    add["tables"].add_argument("--figure", type=Path, help="where to draw the family's comparison as bars")
    add["compare"].add_argument("--sizes", type=int, nargs="+", help="default: all of the configuration")
    options = parser.parse_args(argv)
    plan = read_plan(options.config)
    options.family = options.family or next(iter(plan.families))
    for option, known in (("family", plan.families), ("methods", plan.methods), ("set", plan.sets)):
        asked = getattr(options, option, None) or []
        unknown = [name for name in ([asked] if isinstance(asked, str) else asked) if name not in known]
        if unknown:
            parser.error(f"--{option} {' '.join(unknown)}: expected {', '.join(known)}")
    return options, plan


def encoder_folder(options: argparse.Namespace, plan: Plan, name: str) -> Path:
    """Where the encoder of a data set is."""
    if plan.families[options.family].encoder_per_set:
        if options.scratch_encoders is None:
            raise ValueError(
                f"--family {options.family} needs --scratch_encoders: a folder with one encoder per data set"
            )
        return options.scratch_encoders / name
    if options.encoder is None:
        raise ValueError(f"--family {options.family} needs --encoder: the folder of a sentence encoder")
    return options.encoder


def make_bench(options: argparse.Namespace, plan: Plan) -> Bench:
    """What the commands work with."""
    measures = options.command in ("tune", "compare", "match")
    if measures and options.data is None:
        raise ValueError("set LMINDEXER_DATA or --data: the folder of the data sets")
    cache = getattr(options, "encoder_cache_dir", None) or options.output_dir / "encoder_states"
    return Bench(
        plan, options.family, lambda name: encoder_folder(options, plan, name), options.data if measures else None,
        Results(options.output_dir), cache,
    )  # fmt: skip


def run(options: argparse.Namespace, plan: Plan) -> None:
    """One command."""
    bench = make_bench(options, plan)
    methods = getattr(options, "methods", None) or list(plan.methods)
    if options.command == "tune":
        tune(bench, methods)
    elif options.command == "choose":
        choose(bench)
    elif options.command == "compare":
        compare(bench, options.set, options.seed, methods, [options.sizes] if options.sizes else plan.sizes)
    elif options.command == "match":
        match(bench, options.set, options.seed, methods)
    else:
        benches = [replace(bench, family=family) for family in plan.families]
        print_tables(benches)
        if options.figure:
            save_figure(bench, options.figure)


def main() -> None:
    """Parses the arguments and runs."""
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    datasets.disable_progress_bars()
    try:
        options, plan = parse_arguments()
        threads = getattr(options, "threads", 1)
        torch.set_num_threads(threads)
        with threadpool_limits(threads):
            run(options, plan)
    except (ValueError, OSError, ImportError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()

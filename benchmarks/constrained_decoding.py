"""What the constraint, its filters and updates, whole `generate` and the exact search cost, as ratios within one run.

    python benchmarks/constrained_decoding.py --output_dir outputs/constrained_decoding
    python benchmarks/constrained_decoding.py --sections constraint --settings A B C D
    python benchmarks/constrained_decoding.py --device cuda --sections constraint search

Sections: `constraint` (memory, builds, steps), `filters`, `updates`, `search` (whole runs of models with random
weights). Prints all tables and plots them, and writes `results.json` after every row; started again with the same
settings it goes on. Times are medians, and a result is freed within its time.
"""

import argparse
import platform
import sys
import time
from dataclasses import replace
from pathlib import Path

import torch
import transformers
from decoding.report import Results, print_tables, save_plot
from decoding.search import search_rows
from decoding.settings import SETTINGS, SHAPES, SKEW, Plan, available_bytes, plan_of
from decoding.steps import constraint_rows, device_rows, filter_rows, pending_rows
from decoding.structure import structure_rows, update_rows

D_BYTES = 6 * 10**9  # its codes, both layouts of its tree, what a build takes, the scores


def constraint(plan: Plan, results: Results) -> None:
    """Memory and builds, which are the host's, and steps."""
    if plan.device.type == "cuda":
        device_rows(plan, results)
    else:
        structure_rows(plan, results)
    constraint_rows(plan, results)


def updates(plan: Plan, results: Results) -> None:
    """Changes, and steps before they are compacted."""
    update_rows(plan, results)
    pending_rows(plan, results)


SECTIONS = {"constraint": constraint, "filters": filter_rows, "updates": updates, "search": search_rows}


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line's options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sections", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, help="default: A B C, and D where 6 GB are free")
    parser.add_argument("--models", nargs="+", choices=SHAPES, default=list(SHAPES), help="of the section search")
    parser.add_argument("--batches", nargs="+", type=int, help="queries of a run of the section search: 1 32")
    parser.add_argument("--sources", nargs="+", type=int, help="lengths of their inputs: 32 512")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=15, help="rounds; of long runs 3, of short ones up to 100")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output_dir", type=Path, default=Path("outputs/constrained_decoding"))
    parser.add_argument("--quick", action="store_true", help="everything small, to see that it runs")
    options = parser.parse_args(argv)
    if options.settings is None:
        fits = options.quick or available_bytes() > D_BYTES
        options.settings = [name for name in SETTINGS if name != "D" or fits]
    return options


def main() -> None:
    """Measures what is missing, prints the tables and plots them."""
    options = parse_arguments()
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    transformers.logging.set_verbosity_error()
    device = torch.cuda.get_device_name(options.device) if options.device.startswith("cuda") else platform.machine()
    run = {
        "device": device, "threads": options.threads, "seed": options.seed, "quick": options.quick,
        "repeats": options.repeats, "skew": SKEW, "torch": torch.__version__.split("+")[0],
        "transformers": transformers.__version__,
    }  # fmt: skip
    try:
        results = Results(options.output_dir, run)
    except ValueError as error:
        sys.exit(f"error: {error}")
    plan, started = plan_of(options), time.time()
    searches = {"batches": options.batches, "sources": options.sources}
    searches = replace(plan, **{name: tuple(values) for name, values in searches.items() if values})
    for section in options.sections:
        SECTIONS[section](searches if section == "search" else plan, results)
    print_tables(results)
    save_plot(results)
    print(f"\n{(time.time() - started) / 60:.1f} minutes; rows and plot in {results.folder}")


if __name__ == "__main__":
    main()

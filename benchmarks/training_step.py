"""What a training step costs beside its floor and beside the layout of the authors' code, in one run.

    LMINDEXER_DATA=... python benchmarks/training_step.py --threads 2
    LMINDEXER_DATA=... python benchmarks/training_step.py --shapes MiniLM-L6 --checkpoint all-MiniLM-L6-v2/

A step is the trainer's own: the next batch of its loader with all that the collator does, losses, gradients, their
clipping, AdamW. The floor makes the passes that the stage needs as bare modules on the same batch, ready as tensors,
and AdamW's step. The authors' layout is described in `steps/authors_layout.py`; it collates, and steps with AdamW too.
Each round makes one step of each; the table has the medians. Models have random weights, unless there is a checkpoint;
documents are Amazon's Scientific without their categories, or without `LMINDEXER_DATA` Python's documentation.
"""

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
import datasets
import torch
from data import CorpusArguments, load_corpus
from steps.rounds import measure
from steps.setting import STAGES, Setting, shapes
from transformers.utils import logging

from trainers.progress import progress_bar
from trainers.report import format_table

ITEMS = Path("amazon_scientific_2018") / "items.jsonl.gz"


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line's options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=os.environ.get("LMINDEXER_DATA"), help="the data sets")
    parser.add_argument("--shapes", nargs="+", choices=shapes(), default=["tiny", "T5-small", "MiniLM-L6"])
    parser.add_argument("--checkpoint", type=Path, help="folder of an encoder, for MiniLM-L6's weights and tokenizer")
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=list(STAGES))
    parser.add_argument("--views", nargs="+", choices=["identical", "dropout"], default=["identical"])
    parser.add_argument("--without_authors", action="store_true", help="leave the authors' layout out")
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--length", type=int, default=128, help="most tokens of a document")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--cpu_time", action="store_true", help="CPU seconds: for one thread on a busy machine")
    return parser.parse_args(argv)


def rows(options: argparse.Namespace, corpus: datasets.Dataset, output_dir: Path):
    """A row per shape, stage and kind of views."""
    clock = time.process_time if options.cpu_time else time.perf_counter
    for shape in options.shapes:
        checkpoint = options.checkpoint if shape == "MiniLM-L6" else None
        setting = Setting(corpus, shape, checkpoint, "", options.batch_size, options.length, output_dir)
        tokenizer = setting.tokenizer()
        for setting.views in options.views:
            for stage in progress_bar(options.stages, description=f"{shape}, {setting.views} views"):
                found = measure(setting, tokenizer, stage, options.rounds, not options.without_authors, clock)
                ours, floor, authors = found["trainer"], found["floor"], found.get("authors' layout")
                rival = [authors, authors / ours] if authors else [None, None]
                yield [shape, setting.views, stage, ours, floor, ours / floor, *rival]


def main() -> None:
    """Measures, prints each row when it is there, then the table."""
    options = parse_arguments()
    logging.set_verbosity_error()
    datasets.disable_progress_bars()
    torch.set_num_threads(options.threads)
    file = str(Path(options.data) / ITEMS) if options.data else None
    corpus = load_corpus(CorpusArguments(train_file=file, drop_empty_texts=True))
    names = ["shape", "views", "stage", "step (s)", "floor (s)", "/ floor", "authors' layout (s)", "/ step"]
    table = []
    with tempfile.TemporaryDirectory() as folder:
        for row in rows(options, corpus, Path(folder)):
            table.append(row)
            # A row takes up to minutes: whoever stops the run has those before.
            print(format_table(names, [row]), end="\n\n", flush=True)
    print(format_table(names, table))


if __name__ == "__main__":
    main()

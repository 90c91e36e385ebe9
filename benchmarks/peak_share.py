"""The share of a GPU's bf16 peak that a training step of the indexing stages reaches.

    python benchmarks/peak_share.py
    python benchmarks/peak_share.py --variants compiled --shortest 0.25 --profile outputs/profiles

A step is the trainer's own, loader and collator included, and ends when the device is done. Its operations are those
of matrix products and attention, forward and backward, as torch counts them; what activation checkpointing or chunks
of losses compute twice counts once. Peaks are that of the data sheet, and what one large product of two matrices
reaches in the same run. Models have random weights; documents are words drawn by Zipf's law, of which a T5's
vocabulary is full.
"""

import argparse
import gc
import os
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
import datasets
import torch
import transformers
from steps.drawn_texts import drawn_corpus, tokenizer_of
from steps.peak import measured_rate, nominal_rate, operations, profiled, step_seconds
from steps.setting import STAGES, T5_WORDS, Setting, shapes
from transformers.utils import logging

from modeling_lmindexer import word_losses
from trainers.report import format_table

VARIANTS = {
    "plain": {},
    "compiled": {"torch_compile": True},
    "checkpointed": {"gradient_checkpointing": True},
    "both": {"torch_compile": True, "gradient_checkpointing": True},
}
_WARM_UP = 4


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line's options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--shape", choices=shapes(), default="T5-base")
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=["continuous", "discrete"])
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=["plain", "compiled"])
    parser.add_argument(
        "--without_liger", action="store_true", help="our own losses in chunks, also where it is there"
    )
    parser.add_argument("--dropout", type=float, default=0.1, help="of the backbone; T5's own by default")
    parser.add_argument("--batch_size", type=int, default=128)
    parser.add_argument("--length", type=int, default=512, help="tokens of the longest documents")
    parser.add_argument(
        "--shortest", type=float, default=1.0, help="of the shortest documents, as a share of --length"
    )
    parser.add_argument("--documents", type=int, default=4096)
    parser.add_argument("--workers", type=int, default=8, help="processes that prepare batches")
    parser.add_argument("--rounds", type=int, default=12, help="steps after the first four")
    parser.add_argument("--matrix", type=int, default=8192, help="rows of the product that peaks are measured with")
    parser.add_argument("--profile", type=Path, help="folder for tables of the kernels of three steps")
    return parser.parse_args(argv)


def row(options: argparse.Namespace, corpus: datasets.Dataset, variant: str, stage: str, peak: float) -> list:
    """One line of the table."""
    switches = {"use_cpu": options.device == "cpu", "bf16": True, "dataloader_num_workers": options.workers}
    steps = _WARM_UP + options.rounds
    with tempfile.TemporaryDirectory() as folder:
        setting = Setting(
            corpus, options.shape, None, "identical", options.batch_size, options.length, Path(folder),
            switches=switches | VARIANTS[variant], dropout=options.dropout,
        )  # fmt: skip
        trainer = setting.trainer(tokenizer_of(T5_WORDS - 1), stage, steps)
        counted = operations(trainer)
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        table = options.profile and options.profile / f"{variant}-{stage}.txt"
        with profiled(table, steps) as profiler:
            seconds = step_seconds(trainer, _WARM_UP, profiler)
    memory = torch.cuda.max_memory_allocated() / 2**30 if torch.cuda.is_available() else None
    rate, nominal = counted / seconds, nominal_rate(trainer.args.device)
    tokens = trainer.documents.lengths.mean() * options.batch_size
    del trainer
    gc.collect()
    share = rate / nominal if nominal else None
    return [
        stage,
        variant,
        seconds * 1e3,
        tokens / seconds / 1e3,
        counted / 1e12,
        rate / 1e12,
        share,
        rate / peak,
        memory,
    ]


def main() -> None:
    """Measures, and prints each row when it is there, then the table."""
    options = parse_arguments()
    logging.set_verbosity_error()
    datasets.disable_progress_bars()
    if options.without_liger:
        word_losses.liger_losses = lambda: None
    device = torch.device(options.device)
    peak = measured_rate(device, options.matrix)
    card = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    liger = not options.without_liger and device.type == "cuda" and word_losses.liger_losses() is not None
    print(f"{card}, torch {torch.__version__}, transformers {transformers.__version__}, liger: {liger}")
    print(f"bf16 product of {options.matrix} x {options.matrix}: {peak / 1e12:.3g} TFLOP/s\n", flush=True)
    corpus = drawn_corpus(options.documents, options.length, T5_WORDS - 1, shortest=options.shortest, seed=0)
    names = ["stage", "variant", "step (ms)", "1,000 tokens/s", "TFLOP", "TFLOP/s", "/ nominal", "/ measured", "GB"]
    table = []
    for variant in options.variants:
        os.environ.pop("ACCELERATE_DYNAMO_BACKEND", None)  # in which transformers leaves what the last one asked for
        for stage in options.stages:
            table.append(row(options, corpus, variant, stage, peak))
            print(format_table(names, table[-1:]), end="\n\n", flush=True)
    print(format_table(names, table))


if __name__ == "__main__":
    main()

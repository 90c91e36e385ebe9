"""Gives every document of a corpus of any size its semantic ID, by a trained model, and writes a new model folder.

    python examples/index_documents.py --model_name_or_path outputs/python_docs --input_files 'shards/*.parquet' \\
        --output_dir outputs/catalogue --id_column id --text_columns title description
    torchrun --nproc_per_node 2 examples/index_documents.py --model_name_or_path ... --input_files ... --output_dir ...
    python examples/index_documents.py --shard_index 3 --num_shards 8 ...

Files are .jsonl, .csv (also as .gz) or .parquet, read part by part. Started again with the same settings after a
stop, it goes on. Several processes, also on several machines with one file system, share the parts; whichever ends
last, or one more call, builds the index from them within `--memory_gb`.
"""

import os
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import torch
from data.indexing import EXPECTED, IndexingArguments, report
from transformers import HfArgumentParser
from transformers.utils import logging

from trainers.bulk_indexing import Leftovers, ShardShare, check_target, index_corpus
from trainers.stop_signals import StopSignals


@dataclass
class BulkArguments(IndexingArguments):
    """The same, and where the model runs."""

    use_cpu: bool = field(default=False, metadata={"help": "Leave a GPU alone."})


def share_of_work(share: ShardShare) -> ShardShare:
    """As given, or as torchrun says."""
    if share.num_shards == 1 and "RANK" in os.environ:
        return ShardShare(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]))
    return share


def run(arguments: BulkArguments, share: ShardShare, leftovers: Leftovers) -> None:
    """Indexes, and prints what came of it."""
    began = time.perf_counter()
    share = share_of_work(share)
    say = print if share.shard_index == 0 else (lambda *values, **options: None)
    sources = arguments.sources()
    check_target(arguments.model_name_or_path, Path(arguments.output_dir))
    has_gpu = torch.cuda.is_available() and not arguments.use_cpu
    assigner = arguments.assigner(f"cuda:{int(os.environ.get('LOCAL_RANK', 0))}" if has_gpu else "cpu")
    result = index_corpus(
        arguments.model_name_or_path, sources, arguments.parts_folder(assigner), assigner, arguments.memory, share,
        leftovers, say=lambda step: say(step, flush=True),
    )  # fmt: skip
    report(result, arguments.output_dir, time.perf_counter() - began)


def main() -> None:
    """Parses the arguments and runs."""
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        arguments = HfArgumentParser((BulkArguments, ShardShare, Leftovers)).parse_args_into_dataclasses()
        with StopSignals():
            run(*arguments)
    except EXPECTED as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()

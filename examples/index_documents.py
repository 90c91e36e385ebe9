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
from data.rows import CorpusError
from data.shards import find_shards
from transformers import HfArgumentParser
from transformers.utils import logging

from modeling_lmindexer import CorruptedFolderError
from trainers.bulk_assignment import BulkAssigner
from trainers.bulk_index import UnusableShardsError
from trainers.bulk_indexing import BulkResult, Leftovers, ShardShare, check_target, index_corpus
from trainers.corpus_parts import PARTS_NAME, PartsFolder
from trainers.run_state import ExistingRunError
from trainers.stop_signals import StopSignals
from trainers.weights_digest import digest_of_weights


@dataclass
class BulkArguments:
    """The model, the documents, and what the work may take."""

    model_name_or_path: str = field(metadata={"help": "Trained indexer: a folder that run_indexing.py wrote."})
    input_files: list[str] = field(metadata={"help": "Files of documents, or patterns such as 'shards/*.parquet'."})
    output_dir: str = field(metadata={"help": "The new model folder."})
    id_column: str = field(default="id", metadata={"help": "The column with the documents' ids."})
    text_columns: list[str] | None = field(
        default=None, metadata={"help": "The columns that make up a text; as for run_indexing.py."}
    )
    tokens_per_batch: int = field(default=8192, metadata={"help": "Tokens that the model reads at a time."})
    records_per_part: int = field(default=20_000, metadata={"help": "Documents of a part: what a stop may cost."})
    memory_gb: float = field(default=2.0, metadata={"help": "Memory for sorting all documents, beside the model's."})
    bf16: bool = field(default=False, metadata={"help": "Compute in bfloat16."})
    use_cpu: bool = field(default=False, metadata={"help": "Leave a GPU alone."})

    def __post_init__(self):
        for name in ("tokens_per_batch", "records_per_part", "memory_gb"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)}; give a number above 0.")


def share_of_work(share: ShardShare) -> ShardShare:
    """As given, or as torchrun says."""
    if share.num_shards == 1 and "RANK" in os.environ:
        return ShardShare(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]))
    return share


def run(arguments: BulkArguments, share: ShardShare, leftovers: Leftovers) -> None:
    """Indexes, and prints what came of it."""
    began, target = time.perf_counter(), Path(arguments.output_dir)
    share = share_of_work(share)
    say = print if share.shard_index == 0 else (lambda *values, **options: None)
    sources = find_shards(arguments.input_files, arguments.id_column, arguments.text_columns)
    check_target(arguments.model_name_or_path, target)
    has_gpu = torch.cuda.is_available() and not arguments.use_cpu
    device = f"cuda:{int(os.environ.get('LOCAL_RANK', 0))}" if has_gpu else "cpu"
    assigner = BulkAssigner.from_pretrained(
        arguments.model_name_or_path, device, arguments.bf16, arguments.tokens_per_batch
    )
    settings = {
        "model": digest_of_weights(assigner.model), "bf16": arguments.bf16, "id_column": arguments.id_column,
        "text_columns": arguments.text_columns, "max_length": assigner.max_length,
    }  # fmt: skip
    folder = PartsFolder(target / PARTS_NAME, settings, arguments.records_per_part)
    memory = int(arguments.memory_gb * 1e9)
    result = index_corpus(
        arguments.model_name_or_path, sources, folder, assigner, memory, share, leftovers,
        say=lambda step: say(step, flush=True),
    )  # fmt: skip
    report(result, target, time.perf_counter() - began)


def report(result: BulkResult, target: Path, seconds: float) -> None:
    """Prints the figures of a call."""
    if result.assigned:
        rate = result.assigned / result.seconds
        print(f"{result.assigned:,} documents read in {result.seconds:.1f} s: {rate:,.0f} documents/s")
    if result.index is None:
        print("Other processes have parts to do, or build the index: this one is done.")
        return
    index = result.index
    print(f"{index.documents:,} documents in {result.parts:,} parts, {seconds:.1f} s in all")
    prefixes = ", ".join(f"{number:,}" for number in index.distinct_prefixes)
    print(f"distinct prefixes of 1 to {len(index.distinct_prefixes)} codes: {prefixes}")
    print(f"documents that share their learned codes: at most {index.largest_group:,}")
    print(f"{result.note}\nModel folder: {target}" if result.note else f"Model folder: {target}")
    print(f'Search it: python examples/search.py {target} "what to look for"')


def main() -> None:
    """Parses the arguments and runs."""
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        arguments = HfArgumentParser((BulkArguments, ShardShare, Leftovers)).parse_args_into_dataclasses()
        with StopSignals():
            run(*arguments)
    except (CorpusError, UnusableShardsError, ExistingRunError, CorruptedFolderError, ValueError, OSError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()

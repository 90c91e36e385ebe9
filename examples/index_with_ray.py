"""Gives every document of a corpus its semantic ID on a Ray cluster, and writes a new model folder.

    pip install 'ray[data]'
    python examples/index_with_ray.py --model_name_or_path outputs/python_docs --input_files 'shards/*.parquet' \\
        --output_dir outputs/catalogue --actors 4 --cpus_per_actor 1

Ray Data shares the files out to tasks that read them, and their parts to actors that each hold the model and write
them, and tries again what fails; all machines see the same folders. The parts are those of `index_documents.py`, which
needs no Ray: either goes on after a stop of the other, and the index is built from them here, within `--memory_gb`.
"""

import sys
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from logging import getLogger
from pathlib import Path

import numpy as np
from data.indexing import EXPECTED, IndexingArguments, report
from data.shards import ShardFile
from transformers import HfArgumentParser
from transformers.utils import logging

from trainers.bulk_assignment import BulkAssigner
from trainers.bulk_indexing import Leftovers, ShardShare, check_target, index_corpus, naming_rows, unfinished
from trainers.corpus_parts import PartsFolder
from trainers.progress import progress_bar
from trainers.stop_signals import StopSignals, leave_on_signal

try:
    import ray
except ImportError:
    ray = None


@dataclass
class RayArguments(IndexingArguments):
    """The same, and what Ray may take."""

    actors: int = field(default=2, metadata={"help": "Copies of the model."})
    cpus_per_actor: float = field(
        default=0.5,
        metadata={"help": "So that not all CPUs go to the actors: the reading tasks would wait for ever."},
    )
    gpus_per_actor: float = field(default=0, metadata={"help": "A GPU or a part of one for each."})


class PartWriter:
    """Gives the documents of parts their codes, and writes them; one per actor.

    Args:
        arguments: of the script, with paths that all machines know.
        folder: of the parts.
        beside: a folder for what is not whole.
    """

    def __init__(self, arguments: RayArguments, folder: PartsFolder, beside: Path):
        self.assigner = arguments.assigner("cuda" if arguments.gpus_per_actor else "cpu")
        self.folder, self.beside = folder, beside / uuid.uuid4().hex

    def __call__(self, row: dict) -> dict:
        source, state, records = row["source"], row["state"], row["records"]
        with naming_rows(source, records):
            found = self.assigner({"id": records.ids, "text": records.texts})
        codes = np.column_stack([column for name, column in found.items() if name != "id"])
        self.folder.write(source, state, records, codes, self.beside)
        return {"documents": len(records.ids)}


def read_parts(row: dict, size: int) -> Iterator[dict]:
    """The parts of a file that are to be done; the same ones when Ray tries again."""
    for state, records in row["work"].records(size, ShardShare()):
        yield {"source": row["work"].source, "state": state, "records": records}


def assign_with_ray(
    arguments: RayArguments, sources: Sequence[ShardFile], assigner: BulkAssigner, folder: PartsFolder,
    share: ShardShare, beside: Path,
) -> int:  # fmt: skip
    """Writes the parts that are not there yet; returns the number of their documents."""
    work = [{"work": item} for item in unfinished(sources, folder)]
    if not work:
        return 0
    ray.data.DataContext.get_current().target_max_block_size = 1  # bytes: a part is given to an actor when it is read
    parts = ray.data.from_items(work, override_num_blocks=len(work)).flat_map(partial(read_parts, size=folder.size))
    written = parts.map(
        PartWriter,
        fn_constructor_args=(arguments, folder, beside),
        compute=ray.data.ActorPoolStrategy(size=arguments.actors),
        num_cpus=arguments.cpus_per_actor,
        num_gpus=arguments.gpus_per_actor or None,
    )
    count = 0
    with progress_bar(description="documents") as bar:
        for row in written.iter_rows():
            count += row["documents"]
            bar.update(row["documents"])
            leave_on_signal("between two parts")
    return count


def run(arguments: RayArguments, leftovers: Leftovers) -> None:
    """Indexes, and prints what came of it."""
    began = time.perf_counter()
    # Workers have other working folders.
    sources = [replace(source, path=source.path.resolve()) for source in arguments.sources()]
    target, model = Path(arguments.output_dir).resolve(), Path(arguments.model_name_or_path)
    arguments = replace(
        arguments, output_dir=str(target),
        model_name_or_path=str(model.resolve()) if model.exists() else arguments.model_name_or_path,
    )  # fmt: skip
    check_target(arguments.model_name_or_path, target)
    assigner = arguments.assigner("cpu")
    result = index_corpus(
        arguments.model_name_or_path, sources, arguments.parts_folder(assigner), assigner, arguments.memory,
        ShardShare(), leftovers, assign=partial(assign_with_ray, arguments),
    )  # fmt: skip
    report(result, arguments.output_dir, time.perf_counter() - began)


def message_of(error: Exception) -> str:
    """What a task of ours said, without what Ray wraps around it and adds; all of it where the error is Ray's own."""
    cause = error
    while cause is not None:
        if isinstance(cause, EXPECTED) and not isinstance(cause, ray.exceptions.RayError):
            return (str(cause) or repr(cause)).splitlines()[0]
        cause = getattr(cause, "cause", None) or cause.__cause__
    return str(error)


def main() -> None:
    """Parses the arguments and runs."""
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    if ray is None:
        sys.exit("error: this needs Ray: pip install 'ray[data]', or use index_documents.py")
    try:
        arguments = HfArgumentParser((RayArguments, Leftovers)).parse_args_into_dataclasses()
        ray.init(logging_level="error", log_to_driver=False)
        getLogger("ray.data").setLevel("CRITICAL")  # what ends the run is said below
        with StopSignals():  # in the place of Ray's
            run(*arguments)
    except ray.exceptions.RayError as error:  # first: those of tasks are of their causes' kinds, too
        sys.exit(f"error: {message_of(error)}")
    except EXPECTED as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()

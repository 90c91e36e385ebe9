"""Gives every document of a corpus its semantic ID on a Ray cluster, and writes a new model folder.

    pip install 'ray[data]'
    python examples/index_with_ray.py --model_name_or_path outputs/python_docs --input_files shards/*.parquet \\
        --output_dir outputs/catalogue --actors 4 --cpus_per_actor 1

Ray Data reads the files, shares them out to actors that each hold the model, and tries again what fails; the index is
then built here within `--memory_gb`, as by `index_documents.py`, which needs no Ray and goes on after a stop.
"""

import shutil
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from data.corpora import TEXT_COLUMNS, document_id, document_text
from data.rows import CorpusError
from data.shards import find_shards
from transformers import HfArgumentParser
from transformers.utils import logging

from trainers.bulk_assignment import BulkAssigner
from trainers.bulk_index import UnusableShardsError
from trainers.bulk_indexing import check_target, write_indexed_folder
from trainers.corpus_parts import PARTS_NAME, Part, SourceState
from trainers.run_state import ExistingRunError

try:
    import ray
except ImportError:
    ray = None


@dataclass
class RayArguments:
    """The model, the documents, and what the work may take."""

    model_name_or_path: str = field(metadata={"help": "Trained indexer, at a path or name that all machines have."})
    input_files: list[str] = field(metadata={"help": "Files of documents, or patterns."})
    output_dir: str = field(metadata={"help": "The new model folder."})
    id_column: str = field(default="id", metadata={"help": "The column with the documents' ids."})
    text_columns: list[str] | None = field(default=None, metadata={"help": "The columns that make up a text."})
    batch_size: int = field(default=1024, metadata={"help": "Documents that an actor gets at a time."})
    actors: int = field(default=2, metadata={"help": "Copies of the model."})
    cpus_per_actor: float = field(
        default=0.5,
        metadata={"help": "So that not all CPUs go to the actors: the reading tasks would wait for ever."},
    )
    gpus_per_actor: float = field(default=0, metadata={"help": "A GPU or a part of one for each."})
    bf16: bool = field(default=False, metadata={"help": "Compute in bfloat16."})
    memory_gb: float = field(default=2.0, metadata={"help": "Memory for sorting all documents."})


class RowAssigner:
    """Rows of documents to their ids and codes; one per actor.

    Args:
        name_or_path: of the model.
        id_column, text_columns: as for [`data.shards.ShardFile`].
        device, bf16: as for [`BulkAssigner`].
        are_typed: whether ids that look like numbers are numbers only if the file says so.
    """

    def __init__(
        self, name_or_path: str, id_column: str, text_columns: list[str] | None, device: str, bf16: bool,
        are_typed: bool,
    ):  # fmt: skip
        self.assigner = BulkAssigner.from_pretrained(name_or_path, device, bf16)
        self.id_column, self.text_columns, self.are_typed = id_column, text_columns, are_typed

    def __call__(self, table: pa.Table) -> pa.Table:
        rows = table.to_pylist()
        columns = self.text_columns or [name for name in TEXT_COLUMNS if name in table.column_names]
        found = [document_id(row, self.id_column, not self.are_typed, f"The document {row}") for row in rows]
        texts = [document_text(row, columns) for row in rows]
        empty = [document for (document, _), text in zip(found, texts, strict=True) if not text]
        if empty:
            raise CorpusError(f"{len(empty)} documents have no text in {', '.join(columns)}: {empty[:5]}.")
        are_numbers = all(is_number for _, is_number in found)
        ids = [int(document) if are_numbers else document for document, _ in found]
        codes = self.assigner({"id": ids, "text": texts})
        return pa.table({name: pa.array(values) for name, values in codes.items()})


def assigned(arguments: RayArguments) -> "ray.data.Dataset":
    """The ids and codes of all documents, not computed yet."""
    shards = find_shards(arguments.input_files, arguments.id_column, arguments.text_columns)
    kind = shards[0].kind
    read = {"json": ray.data.read_json, "csv": ray.data.read_csv, "parquet": ray.data.read_parquet}[kind]
    device = "cuda" if arguments.gpus_per_actor else "cpu"
    return read([str(shard.path.resolve()) for shard in shards]).map_batches(
        RowAssigner,
        fn_constructor_args=(
            arguments.model_name_or_path, arguments.id_column, arguments.text_columns, device, arguments.bf16,
            kind != "csv",
        ),
        batch_size=arguments.batch_size,
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(size=arguments.actors),
        num_cpus=arguments.cpus_per_actor,
        num_gpus=arguments.gpus_per_actor or None,
    )  # fmt: skip


def part_of(file: Path) -> Part:
    """A file that Ray has written as a part of the corpus."""
    return Part(file, pq.ParquetFile(file).metadata.num_rows, 0, True, True, SourceState(str(file), 0, 0, ""), "")


def run(arguments: RayArguments) -> None:
    """Indexes, and prints what came of it."""
    target = Path(arguments.output_dir)
    check_target(arguments.model_name_or_path, target)
    folder = target / PARTS_NAME / "ray"
    shutil.rmtree(folder, ignore_errors=True)
    assigned(arguments).write_parquet(str(folder.resolve()))
    parts = [part_of(file) for file in sorted(folder.glob("*.parquet"))]
    index, note = write_indexed_folder(
        arguments.model_name_or_path, parts, "", target, target / PARTS_NAME / ".work",
        int(arguments.memory_gb * 1e9), print,
    )  # fmt: skip
    print(f"{index.documents:,} documents, at most {index.largest_group:,} of which share their learned codes. {note}")
    print(f"Model folder: {target}")


def main() -> None:
    """Parses the arguments and runs."""
    logging.set_verbosity_error()
    if ray is None:
        sys.exit("error: this needs Ray: pip install 'ray[data]', or use index_documents.py")
    try:
        run(HfArgumentParser(RayArguments).parse_args_into_dataclasses()[0])
    except (CorpusError, UnusableShardsError, ExistingRunError, ray.exceptions.RayError, ValueError, OSError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()

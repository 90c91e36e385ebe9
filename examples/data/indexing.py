"""What the scripts that index a corpus of any size take, whatever engine they run on, and what they print of it."""

from dataclasses import dataclass, field
from pathlib import Path

from modeling_lmindexer import CorruptedFolderError
from trainers.bulk_assignment import BulkAssigner
from trainers.bulk_index import UnusableShardsError
from trainers.bulk_indexing import BulkResult
from trainers.corpus_parts import PARTS_NAME, PartsFolder
from trainers.run_state import ExistingRunError
from trainers.weights_digest import digest_of_weights

from .rows import CorpusError
from .shards import ShardFile, find_shards

# What a user can mend: said in a line.
EXPECTED = (CorpusError, UnusableShardsError, ExistingRunError, CorruptedFolderError, ValueError, OSError)


@dataclass
class IndexingArguments:
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

    def __post_init__(self):
        for name in ("tokens_per_batch", "records_per_part", "memory_gb"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)}; give a number above 0.")

    @property
    def memory(self) -> int:
        """`memory_gb` in bytes."""
        return int(self.memory_gb * 1e9)

    def sources(self) -> list[ShardFile]:
        """The files; raises what [`find_shards`] raises."""
        return find_shards(self.input_files, self.id_column, self.text_columns)

    def assigner(self, device: str) -> BulkAssigner:
        """The model on a device; raises what [`BulkAssigner.from_pretrained`] raises."""
        return BulkAssigner.from_pretrained(self.model_name_or_path, device, self.bf16, self.tokens_per_batch)

    def parts_folder(self, assigner: BulkAssigner) -> PartsFolder:
        """Where parts are written, and what their codes depend on."""
        settings = {
            "model": digest_of_weights(assigner.model), "bf16": self.bf16, "id_column": self.id_column,
            "text_columns": self.text_columns, "max_length": assigner.max_length,
        }  # fmt: skip
        return PartsFolder(Path(self.output_dir) / PARTS_NAME, settings, self.records_per_part)


def report(result: BulkResult, target: str, seconds: float) -> None:
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

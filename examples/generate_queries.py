"""Writes pseudo queries: what a document may be searched by, so that an indexer learns to find it.

    python examples/generate_queries.py --beir_dir shop --method titles key_phrases --output_dir outputs/queries
    accelerate launch examples/generate_queries.py --beir_dir squad --output_dir outputs/queries \\
        --model_name_or_path doc2query/msmarco-t5-base-v1

A model, any encoder-decoder that turns documents into queries, draws `--num_queries` of every document; without one
they are made of the documents' titles, leading sentences and key phrases, in turns. `queries.jsonl` has a row per
query, `document_id` and `text`, as `run_retrieval.py --queries_file` reads it. Started again with the same settings
after a stop, it goes on.
"""

import hashlib
import sys
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, replace
from datetime import timedelta
from pathlib import Path

import datasets
import torch
from accelerate import PartialState
from data import CorpusArguments, CorpusError, load_corpus
from data.beir import BeirFolder
from data.pseudo_queries import METHODS, make_queries, write_queries
from transformers import AutoConfig, AutoModelForSeq2SeqLM, AutoTokenizer, HfArgumentParser
from transformers.utils import is_torch_bf16_gpu_available, logging

from modeling_lmindexer import LMIndexerConfig
from trainers.folder_lock import FolderLock
from trainers.leave_together import leave_together
from trainers.query_generation import QueryGenerator, QuerySampling, Share, distinct, generate_in_parts, has_words
from trainers.retrieval_data import TokenizedTexts
from trainers.run_state import RunState
from trainers.stop_signals import StopSignals
from trainers.weights_digest import digest_of_weights

QUERIES_NAME = "queries.jsonl"
_PATIENCE = timedelta(days=2)  # that a process waits for the others' last parts
_READ = ("model_name_or_path", "dtype", "prefix", "max_source_length")  # what a query depends on, beside its draw


@dataclass
class QueryArguments:
    """The documents, if they are a BEIR folder, and what makes queries of them."""

    output_dir: str = field(metadata={"help": "Folder for the queries, and for the parts that are done."})
    beir_dir: str | None = field(
        default=None, metadata={"help": "A BEIR folder, in the place of --train_file or --dataset_name."}
    )
    model_name_or_path: str | None = field(
        default=None, metadata={"help": "An encoder-decoder that turns documents into queries."}
    )
    method: list[str] = field(
        default_factory=list, metadata={"help": f"Without a model: {', '.join(METHODS)}, or several, in turns."}
    )
    prefix: str = field(default="", metadata={"help": "What the model reads before a document."})
    max_source_length: int = field(default=512, metadata={"help": "Tokens that it reads of a document."})
    batch_size: int = field(default=16, metadata={"help": "Documents at a time, each with all of its queries."})
    dtype: str = field(
        default="auto",
        metadata={
            "help": "Of the weights; auto: bfloat16 where the GPU computes in it.",
            "choices": ["auto", "float32", "bfloat16"],
        },
    )
    use_cpu: bool = field(default=False, metadata={"help": "Leave a GPU alone."})
    start_over: bool = field(default=False, metadata={"help": "Delete what another run left there, and begin."})
    go_on: bool = field(
        default=False, metadata={"help": "Keep the parts of a run with other settings that have the same documents."}
    )

    def __post_init__(self):
        if bool(self.model_name_or_path) == bool(self.method):
            raise ValueError(f"Give either --model_name_or_path or --method, one or several of {', '.join(METHODS)}.")
        unknown = [name for name in self.method if name not in METHODS]
        if unknown:
            raise ValueError(f"--method {unknown[0]} is none; there are {', '.join(METHODS)}.")
        if self.start_over and self.go_on:
            raise ValueError("start_over and go_on exclude each other: choose one.")
        if self.batch_size < 1 or self.max_source_length < 2:
            raise ValueError("batch_size is at least 1, max_source_length at least 2.")
        if self.dtype == "auto":
            is_possible = is_torch_bf16_gpu_available() and not self.use_cpu
            self.dtype = "bfloat16" if is_possible else "float32"


@dataclass
class Documents:
    """Ids, texts, and titles, where there are some."""

    ids: list
    texts: list[str]
    titles: list[str] | None


def load_documents(arguments: QueryArguments, corpus_arguments: CorpusArguments) -> Documents:
    """The documents of a BEIR folder, or of a file or data set, whose titles are the column `--query_column`."""
    if arguments.beir_dir:
        if corpus_arguments.train_file or corpus_arguments.dataset_name:
            raise CorpusError("Give one source of documents: --beir_dir, --train_file or --dataset_name.")
        folder = BeirFolder(arguments.beir_dir)
        return Documents(list(folder.documents["id"]), list(folder.documents["text"]), folder.titles)
    if "titles" in arguments.method and corpus_arguments.query_column is None:
        corpus_arguments = replace(corpus_arguments, query_column="title")
    corpus = load_corpus(corpus_arguments)
    titles = list(corpus["query"]) if "query" in corpus.column_names else None
    return Documents(list(corpus["id"]), list(corpus["text"]), titles)


def load_model(arguments: QueryArguments, device: torch.device):
    """The checkpoint, to generate with, and its tokenizer."""
    path = arguments.model_name_or_path
    config = AutoConfig.from_pretrained(path)
    if config.model_type == LMIndexerConfig.model_type or not config.is_encoder_decoder:
        raise CorpusError(
            f"{path} is a {config.model_type}; expected an encoder-decoder that writes text, such as a T5 of the "
            "doc2query family."
        )
    model = AutoModelForSeq2SeqLM.from_pretrained(path, dtype=getattr(torch, arguments.dtype)).eval()
    return model.to(device), AutoTokenizer.from_pretrained(path)


def settings_of(arguments: QueryArguments, sampling: QuerySampling, documents: Documents, made_by: dict) -> dict:
    """What the queries depend on, as JSON."""
    names = _READ if arguments.model_name_or_path else ("method",)
    texts = hashlib.sha256(repr((documents.ids, documents.texts, documents.titles)).encode()).hexdigest()
    return {name: getattr(arguments, name) for name in names} | asdict(sampling) | {"documents": texts} | made_by


def claim(state: RunState, arguments: QueryArguments, settings: dict, process: PartialState) -> None:
    """Takes the output folder; all processes look, so that all are refused."""
    with process.main_process_first():
        state.claim(settings, start_over=arguments.start_over and process.is_main_process, go_on=arguments.go_on)


def draw(
    arguments: QueryArguments, sampling: QuerySampling, documents: Documents, process: PartialState
) -> list[list[str]] | None:
    """Queries of a model; None on other processes than the main one."""
    model, tokenizer = load_model(arguments, process.device)
    texts = TokenizedTexts.of(
        [arguments.prefix + text for text in documents.texts], tokenizer,
        min(arguments.max_source_length, tokenizer.model_max_length), "documents", documents.ids,
    )  # fmt: skip
    state = RunState(arguments.output_dir)
    claim(state, arguments, settings_of(arguments, sampling, documents, {"model": digest_of_weights(model)}), process)
    generator = QueryGenerator(model, tokenizer, sampling, arguments.batch_size)
    share = Share(process.process_index, process.num_processes, process.wait_for_everyone)
    return generate_in_parts(generator, documents.ids, texts, state, share)


def run(
    arguments: QueryArguments, corpus_arguments: CorpusArguments, sampling: QuerySampling, process: PartialState
) -> None:
    """Loads, makes the queries and writes them."""
    with process.main_process_first():
        documents = load_documents(arguments, corpus_arguments)
    if arguments.model_name_or_path:
        queries = draw(arguments, sampling, documents, process)
    else:
        claim(RunState(arguments.output_dir), arguments, settings_of(arguments, sampling, documents, {}), process)
        if process.is_main_process:
            queries = make_queries(documents.texts, documents.titles, arguments.method, sampling.num_queries)
    if not process.is_main_process:
        return
    kept = [distinct(own) for own in queries]
    path = Path(arguments.output_dir) / QUERIES_NAME
    write_queries(path, documents.ids, kept)
    drawn, left = (sum(map(len, table)) for table in (queries, kept))
    blank = sum(not has_words(query) for own in queries for query in own)
    print(
        f"{left:,} queries of {len(kept):,} documents, {sum(not own for own in kept):,} of which have none; "
        f"{drawn - left - blank:,} that a document had already and {blank:,} empty ones were dropped: {path}"
    )


def main() -> None:
    """Parses the arguments and runs."""
    logging.set_verbosity_warning()
    logging.disable_progress_bar()
    datasets.disable_progress_bars()
    try:
        parser = HfArgumentParser((QueryArguments, CorpusArguments, QuerySampling))
        arguments, *others = parser.parse_args_into_dataclasses()
        process = PartialState(cpu=arguments.use_cpu, timeout=_PATIENCE)
        with FolderLock(arguments.output_dir) if process.is_main_process else nullcontext(), StopSignals():
            run(arguments, *others, process)
        leave_together()
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()

"""Teaches an indexer a task, recommendation, product search or document retrieval, and measures it.

    python examples/run_retrieval.py --task recommendation --model_name_or_path outputs/items \\
        --items_file items.jsonl.gz --sequences_file sequences.txt.gz --output_dir outputs/recommender
    accelerate launch examples/run_retrieval.py --task retrieval --index outputs/index --beir_dir squad \\
        --model_name_or_path google-t5/t5-small --output_dir outputs/squad

It starts from a trained indexer's folder, or, with `--index`, from a plain backbone, or without one from a new model
of `--model_size`, that is to write the IDs of that index. It leaves the fine-tuned model folder, `metrics.json` and a
TREC run per test split. Started again with the same settings after a stop, it goes on.
"""

import sys
from dataclasses import dataclass, field, replace

import datasets
import numpy as np
from data import CorpusArguments, CorpusError, load_corpus, train_tokenizer
from data.beir import BeirFolder, held_out
from data.histories import WINDOWS, history_text, read_histories, read_histories_as
from data.new_documents import NewDocumentArguments, NewDocuments
from data.pseudo_queries import add_pseudo_queries, origin_of_pairs
from data.shapes import MODEL_SIZES
from transformers import AutoConfig, AutoTokenizer, HfArgumentParser, T5Config
from transformers.utils import logging

from metrics.ranking_quality import confidence_interval, write_run
from modeling_lmindexer import DocumentVectors, LMIndexerConfig, LMIndexerForSemanticID, SemanticIndex
from modeling_lmindexer.document_vectors import VECTORS_NAME
from trainers import (
    SemanticRetrievalTrainer,
    SemanticRetrievalTrainingArguments,
)
from trainers.adapters import with_adapter
from trainers.id_tokens import ID_TOKENS, PREFIXES, add_id_tokens, id_texts
from trainers.model_folder import whole_folder
from trainers.report import format_table
from trainers.retrieval import Queries
from trainers.retrieval_start import indexer_for

TASKS = ("recommendation", "search", "retrieval")
_HISTORY_TOKENS = 256  # a dozen items as text and ID
HISTORIES = ("text", "ids", "both")


@dataclass
class TaskArguments(NewDocumentArguments):
    """The task, its data, and how histories are read."""

    task: str = field(metadata={"help": "What is learned.", "choices": list(TASKS)})
    items_file: str | None = field(default=None, metadata={"help": "The items: .jsonl, .csv or .parquet, also .gz."})
    sequences_file: str | None = field(
        default=None, metadata={"help": "Histories: a line per user, `user item item ...`, oldest first; also .gz."}
    )
    beir_dir: str | None = field(
        default=None, metadata={"help": "Folder with corpus.jsonl, queries.jsonl and qrels/<split>.tsv."}
    )
    queries_file: str | None = field(
        default=None,
        metadata={"help": "Pseudo queries of a BEIR folder's documents, by generate_queries.py, to learn from too."},
    )
    text_columns: list[str] | None = field(
        default=None, metadata={"help": "Columns of an item's text, in this order."}
    )
    history: str = field(
        default="both", metadata={"help": "What is read of an item in a history.", "choices": list(HISTORIES)}
    )
    id_tokens: str = field(
        default=PREFIXES,
        metadata={
            "help": "How a history's IDs are read: a token per code, or per prefix, the longest one an item's own.",
            "choices": list(ID_TOKENS),
        },
    )
    skip_missing: bool = field(
        default=False,
        metadata={"help": "Items without text or ID are read nowhere, and as an answer count as not found."},
    )
    repeats: bool = field(
        default=False, metadata={"help": "Things are bought again: recommend what a user has had, too."}
    )
    max_history: int = field(default=20, metadata={"help": "Items read of a history, the newest ones."})
    history_words: int = field(default=12, metadata={"help": "Words read of an item in a history."})
    windows: str = field(
        default="sliding",
        metadata={
            "help": "Training histories: all of a user, or five drawn ones as in the paper.",
            "choices": list(WINDOWS),
        },
    )
    validation_share: float = field(
        default=0.125, metadata={"help": "Of the training queries, where a BEIR folder has no qrels/dev.tsv."}
    )
    rescoring_weight: float = field(
        default=0.0,
        metadata={"help": "Of the cosine of query and document, added to log p of the beam's documents; 0: none."},
    )


@dataclass
class StartArguments:
    """The model to start from, and the IDs that it writes."""

    model_name_or_path: str | None = field(
        default=None, metadata={"help": "An indexer's folder, or with --index a plain backbone."}
    )
    index: str | None = field(default=None, metadata={"help": "Folder with the IDs; default: the indexer's own."})
    model_size: str = field(
        default="tiny",
        metadata={"help": "Shape of the T5 trained from scratch otherwise.", "choices": list(MODEL_SIZES)},
    )
    vocab_size: int = field(default=6000, metadata={"help": "Tokens of the tokenizer trained for that."})
    lora_rank: int = field(
        default=0, metadata={"help": "Above 0: the task is learned in adapters of that rank, merged at the end."}
    )
    dropout: float = field(default=0.1, metadata={"help": "Of a model that does not start from an indexer."})
    max_source_length: int = field(default=64, metadata={"help": "Tokens that such a model reads of a document."})


@dataclass
class Task:
    """Documents, training pairs, validation queries, and test queries by split."""

    documents: datasets.Dataset
    pairs: datasets.Dataset
    validation: datasets.Dataset
    tests: dict[str, datasets.Dataset]
    origin: str = ""  # of the pairs, where they are not all of one kind


def load_beir(arguments: TaskArguments, seed: int) -> Task:
    """A task of a BEIR folder; every split whose name begins with `test` is measured."""
    folder = BeirFolder(arguments.beir_dir)
    names = folder.splits()
    tests = [name for name in names if name.startswith("test")]
    pseudo = add_pseudo_queries(folder, arguments.queries_file) if arguments.queries_file else {}
    if not ("train" in names or pseudo) or not tests:
        raise CorpusError(
            f"{arguments.beir_dir}/qrels has {names}; expected train.tsv, or a --queries_file, and test.tsv."
        )
    train = folder.qrels("train") if "train" in names else {}
    if "dev" in names:
        dev = folder.qrels("dev")
    elif train:
        train, dev = held_out(train, arguments.validation_share, seed)
    else:
        pseudo, dev = held_out(pseudo, arguments.validation_share, seed)
    return Task(
        folder.documents, folder.pairs(train | pseudo), folder.judged_queries(dev),
        {name: folder.judged_queries(folder.qrels(name)) for name in tests},
        f" ({origin_of_pairs(train, pseudo)})" if pseudo else "",
    )  # fmt: skip


def corpus_of(arguments: TaskArguments) -> CorpusArguments:
    """The items of recommendation."""
    return CorpusArguments(
        train_file=arguments.items_file, text_columns=arguments.text_columns, drop_empty_texts=arguments.skip_missing
    )


def load_recommendation(arguments: TaskArguments, items, index: SemanticIndex, seed: int) -> Task:
    """Histories as text, as IDs, or as both."""
    texts = dict(zip(items["id"], items["text"], strict=True)) if arguments.history != "ids" else {}
    ids = id_texts(index, arguments.id_tokens) if arguments.history != "text" else None
    render = history_text(texts, ids, arguments.max_history, arguments.history_words)
    known = [item for item in index.document_ids if not texts or item in texts]
    histories = read_histories(arguments.sequences_file, known, arguments.skip_missing)
    pairs, validation, test = read_histories_as(histories, render, known, arguments.windows, seed, arguments.repeats)
    return Task(items, pairs, validation, {"test": test})


def load_start(arguments: StartArguments, texts: list[str], seed: int):
    """Model, tokenizer and index."""
    path = arguments.model_name_or_path
    if path and AutoConfig.from_pretrained(path).model_type == LMIndexerConfig.model_type:
        model = LMIndexerForSemanticID.from_pretrained(path, num_reconstructor_layers=0)
        index = SemanticIndex.from_pretrained(arguments.index or path)
        return model, AutoTokenizer.from_pretrained(path), index
    if not arguments.index:
        raise CorpusError("There are no IDs: give an indexer's folder as --model_name_or_path, or an --index.")
    index = SemanticIndex.from_pretrained(arguments.index)
    length = {"max_source_length": arguments.max_source_length, "dropout": arguments.dropout}
    if path:
        return indexer_for(index, path, seed, **length), AutoTokenizer.from_pretrained(path), index
    tokenizer = train_tokenizer(texts, arguments.vocab_size, model_max_length=arguments.max_source_length)
    shape = T5Config(
        vocab_size=len(tokenizer), dropout_rate=arguments.dropout, decoder_start_token_id=0,
        **MODEL_SIZES[arguments.model_size],
    )  # fmt: skip
    return indexer_for(index, shape, seed, **length), tokenizer, index


def check_rescoring(weight: float, index: SemanticIndex, documents) -> None:
    """Raises CorpusError for what would stop the rescoring after all the training."""
    if not 0 <= weight < float("inf"):
        raise CorpusError(f"--rescoring_weight is {weight}; expected a number of at least 0.")
    missing = set(index.document_ids).difference(documents["id"]) if weight else ()
    if missing:
        raise CorpusError(
            f"--rescoring_weight needs the texts of all documents of the index: {len(missing)} have none, such as "
            f"{min(missing)!r}."
        )


def without_new(new: NewDocuments, task: Task, index: SemanticIndex, start: StartArguments, training):
    """Task and index to train with."""
    reads = training.document_epochs > 0 or training.document_share > 0
    index = new.set_apart(index, is_own=start.index is None, reads_documents=reads)
    pairs, validation = new.of(task.pairs, "target", new=False), new.judged(task.validation, "seen")
    return replace(task, pairs=pairs, validation=validation), index


def run(task_arguments: TaskArguments, start: StartArguments, training: SemanticRetrievalTrainingArguments) -> None:
    """Loads, trains, measures and writes."""
    seed, is_main = training.seed, training.process_index == 0
    is_recommendation = task_arguments.task == "recommendation"
    if is_recommendation and not (task_arguments.items_file and task_arguments.sequences_file):
        raise CorpusError("--task recommendation needs --items_file and --sequences_file.")
    if is_recommendation and task_arguments.queries_file:
        raise CorpusError("--queries_file is for --task search and retrieval: histories have no pseudo queries.")
    if not is_recommendation and not task_arguments.beir_dir:
        raise CorpusError(f"--task {task_arguments.task} needs --beir_dir.")
    reads_ids = is_recommendation and task_arguments.history != "text"
    if start.lora_rank and (reads_ids or not start.model_name_or_path):
        raise CorpusError(
            "--lora_rank adapts a pretrained model that learns no new tokens: give --model_name_or_path, and for "
            "recommendation --history text."
        )
    if is_recommendation and training.max_query_length is None:
        training.max_query_length = _HISTORY_TOKENS
    with training.main_process_first(desc="data"):
        task = None if is_recommendation else load_beir(task_arguments, seed)
        documents = task.documents if task else load_corpus(corpus_of(task_arguments))
    new = NewDocuments.choose(task_arguments, documents, seed)
    model, tokenizer, index = load_start(start, list(documents["text"]), seed)
    check_rescoring(task_arguments.rescoring_weight, index, documents)
    if is_recommendation:
        task = load_recommendation(task_arguments, documents, index, seed)
        if reads_ids:
            add_id_tokens(model, tokenizer, index, seed, task_arguments.id_tokens)
    if new:
        index.attach(model.to(training.device), tokenizer)
        task, index = without_new(new, task, index, start, training)
    if start.lora_rank:
        model = with_adapter(model, start.lora_rank, seed)
    if is_main:
        queries = ", ".join(f"{len(table):,} {name}" for name, table in task.tests.items())
        print(
            f"{len(documents):,} documents, {len(task.pairs):,} training pairs{task.origin}, "
            f"{len(task.validation):,} validation and {queries} queries; {index}", flush=True,
        )  # fmt: skip
    trainer = SemanticRetrievalTrainer(
        model, training, task.pairs, index, tokenizer, eval_dataset=task.validation,
        documents=new.of(documents, new=False) if new else documents,
    )  # fmt: skip
    queries = {split: trainer.read_queries(table) for split, table in task.tests.items()}  # read before all the work
    cut = (np.concatenate([one.texts.lengths for one in queries.values()]) >= trainer.length).mean()
    if is_main and cut > 0:
        print(f"{cut:.1%} of the test queries fill max_query_length, {trainer.length} tokens, and are cut there.")
    figures = trainer.train()
    if start.lora_rank:
        trainer.model = trainer.unwrap().merge_and_unload()
    trainer.index.attach(trainer.unwrap(), tokenizer)
    if new:
        trainer.index = new.bring_back(trainer.index)
        queries |= {split: trainer.read_queries(table) for split, table in new.apart(task.tests).items()}
    report(trainer, task, queries, task_arguments, figures)


def report(
    trainer: SemanticRetrievalTrainer, task: Task, queries: dict[str, Queries], arguments: TaskArguments, figures: dict
) -> None:
    """Searches the test queries, prints the figures, and writes the folder."""
    measures, rows, found, vectors = trainer.settings.measures, [], {}, None
    metrics = {"task": arguments.task, "documents": len(task.documents), "pairs": len(task.pairs), "stages": figures}
    if arguments.rescoring_weight:
        vectors = DocumentVectors.of(trainer.index, task.documents, arguments.rescoring_weight)
        if trainer.queries:  # the weight is to be chosen by these
            queries = {"validation": trainer.queries} | queries
    for split, own in queries.items():
        found[split] = rankings = trainer.rank(own, vectors)
        measured = rankings.figures(own, measures)
        intervals = {measure: confidence_interval(values) for measure, values in measured.values.items()}
        metrics[split] = {"queries": len(own), "figures": measured.means(), "intervals": intervals}
        rows.append([split, len(own), *measured.means().values()])
    if trainer.args.process_index:
        return
    with whole_folder(trainer.run_dir, trainer.unwrap(), trainer.tokenizer, trainer.index, metrics) as folder:
        for split, rankings in found.items():
            write_run(folder / f"run.{split}.trec", rankings.documents, rankings.scores)
        if vectors:
            vectors.save_pretrained(folder)
    if not vectors:  # those of an earlier search would not fit the runs
        (trainer.run_dir / VECTORS_NAME).unlink(missing_ok=True)
    print(f"\n{format_table(['split', 'queries', *measures], rows)}\n\nModel folder: {trainer.run_dir}")


def main() -> None:
    """Parses the arguments and runs."""
    parser = HfArgumentParser((TaskArguments, StartArguments, SemanticRetrievalTrainingArguments))
    task, start, training = parser.parse_args_into_dataclasses()
    logging.set_verbosity_error() if training.process_index else logging.set_verbosity_warning()
    logging.disable_progress_bar()
    datasets.disable_progress_bars()
    try:
        run(task, start, training)
    except (ValueError, OSError, ImportError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()

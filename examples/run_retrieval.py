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
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path

import datasets
import numpy as np
from data import CorpusError, document_table, load_corpus, train_tokenizer
from data.new_documents import NewDocuments
from data.shapes import MODEL_SIZES
from data.tasks import RECOMMENDATION, Task, TaskArguments, corpus_of, how_to_ask, load_beir, load_recommendation
from transformers import AutoConfig, AutoTokenizer, HfArgumentParser, T5Config
from transformers.utils import logging

from metrics.ranking_quality import confidence_interval, write_run
from modeling_lmindexer import DocumentVectors, LMIndexerConfig, LMIndexerForSemanticID, SemanticIndex
from modeling_lmindexer.document_vectors import VECTORS_NAME
from trainers import SemanticRetrievalTrainer, SemanticRetrievalTrainingArguments
from trainers.adapters import with_adapter
from trainers.folder_lock import FolderLock
from trainers.id_tokens import PREFIXES, add_id_tokens
from trainers.leave_together import leave_together
from trainers.model_folder import whole_folder
from trainers.prefix_codes import code_per_prefix, tie_codes, untie_codes
from trainers.publishing import publish, settings_of
from trainers.report import format_table
from trainers.retrieval import Queries
from trainers.retrieval_args import EXISTING
from trainers.retrieval_start import indexer_for
from trainers.task_card import TaskCard, write_task_card

_HISTORY_TOKENS = 256  # a dozen items as text and ID


@dataclass
class StartArguments:
    """The model to start from, and the IDs that it writes."""

    model_name_or_path: str | None = field(
        default=None, metadata={"help": "An indexer's folder, or with --index a plain backbone."}
    )
    index: str | None = field(default=None, metadata={"help": "Folder with the IDs; default: the indexer's own."})
    code_per_prefix: bool = field(
        default=False,
        metadata={
            "help": "For histories of IDs: every prefix of an ID gets a code of its own, with the vector that its "
            "token is read with. Learns faster; for up to some ten thousand items, to which none are added later."
        },
    )
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
    licence: str | None = field(default=None, metadata={"help": "Licence of the result, for the model card."})


def load_start(arguments: StartArguments, texts: list[str], seed: int):
    """Model, tokenizer and index."""
    path = arguments.model_name_or_path
    if path and AutoConfig.from_pretrained(path).model_type == LMIndexerConfig.model_type:
        if arguments.code_per_prefix:
            raise CorpusError(
                f"--code_per_prefix is for a new model: {path} has learned codes. Give its folder as --index instead."
            )
        model = LMIndexerForSemanticID.from_pretrained(path, num_reconstructor_layers=0)
        index = SemanticIndex.from_pretrained(arguments.index or path)
        model.config.codebook_fingerprint = index.codebook_fingerprint  # it learns these IDs, whatever it wrote before
        return model, AutoTokenizer.from_pretrained(path), index
    if not arguments.index:
        raise CorpusError("There are no IDs: give an indexer's folder as --model_name_or_path, or an --index.")
    index = SemanticIndex.from_pretrained(arguments.index)
    if arguments.code_per_prefix:
        index = code_per_prefix(index)
    length = {"max_source_length": arguments.max_source_length, "dropout": arguments.dropout}
    if path:
        return indexer_for(index, path, seed, **length), AutoTokenizer.from_pretrained(path), index
    tokenizer = train_tokenizer(texts, arguments.vocab_size, model_max_length=arguments.max_source_length)
    shape = T5Config(
        vocab_size=len(tokenizer), dropout_rate=arguments.dropout, decoder_start_token_id=0,
        **MODEL_SIZES[arguments.model_size],
    )  # fmt: skip
    return indexer_for(index, shape, seed, **length), tokenizer, index


def check_ids(index: SemanticIndex, documents) -> None:
    """Raises CorpusError where the index has numbers for ids and the documents text, or the other way round, and for
    ids that no run file can hold."""
    spaced = [value for value in documents["id"] if len(str(value).split()) != 1]
    if spaced:
        raise CorpusError(f"{len(spaced)} ids have white space, which a run file cannot hold, such as {spaced[0]!r}.")
    kinds = {type(index.document_ids[0]), type(documents["id"][0])}
    if len(kinds) > 1:
        raise CorpusError(
            f"The index has ids such as {index.document_ids[0]!r}, the documents such as {documents['id'][0]!r}: make "
            "the index from the same file, with ids as text (of a BEIR folder they always are)."
        )


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
    if new.new_ids == "model" and training.loss_over == EXISTING:
        raise CorpusError("--new_ids model writes IDs that nobody has yet, which --loss_over existing does not learn.")
    pairs, validation = new.of(task.pairs, "target", new=False), new.judged(task.validation, "seen")
    left_out = len(task.pairs) - len(pairs)
    origin = f"{task.origin}, without {left_out:,} of new documents" if left_out else task.origin
    return replace(task, pairs=pairs, validation=validation, origin=origin), index


def check_arguments(task_arguments, start, training, is_recommendation: bool, reads_ids: bool) -> None:
    """Raises CorpusError for what is missing, or does not go together."""
    if is_recommendation and not (task_arguments.items_file and task_arguments.sequences_file):
        raise CorpusError("--task recommendation needs --items_file and --sequences_file.")
    if is_recommendation and task_arguments.queries_file:
        raise CorpusError("--queries_file is for --task search and retrieval: histories have no pseudo queries.")
    if not is_recommendation and not task_arguments.beir_dir:
        raise CorpusError(f"--task {task_arguments.task} needs --beir_dir.")
    for name, value in (("lora_rank", start.lora_rank), ("freeze_encoder", training.freeze_encoder)):
        if value and (reads_ids or not start.model_name_or_path):
            raise CorpusError(
                f"--{name} is for a pretrained model that learns no new tokens: give --model_name_or_path, and for "
                "recommendation --history text."
            )
    if start.code_per_prefix and not (reads_ids and task_arguments.id_tokens == PREFIXES):
        raise CorpusError(
            "--code_per_prefix is for recommendation that reads prefixes: give --history ids or both, --id_tokens "
            f"{PREFIXES}."
        )
    if start.code_per_prefix and (task_arguments.hold_out_documents or task_arguments.new_documents_file):
        raise CorpusError("--code_per_prefix leaves no codes for documents that come later: leave one of the two out.")
    if start.lora_rank and training.freeze_encoder:
        raise CorpusError("--lora_rank puts adapters into the encoder that --freeze_encoder keeps: choose one.")


def run(task_arguments: TaskArguments, start: StartArguments, training: SemanticRetrievalTrainingArguments) -> None:
    """Loads, trains, measures and writes."""
    seed, is_main = training.seed, training.process_index == 0
    is_recommendation = task_arguments.task == RECOMMENDATION
    reads_ids = is_recommendation and task_arguments.history != "text"
    check_arguments(task_arguments, start, training, is_recommendation, reads_ids)
    if is_recommendation and training.max_query_length is None:
        training.max_query_length = _HISTORY_TOKENS
    with training.main_process_first(desc="data"):
        task = None if is_recommendation else load_beir(task_arguments, seed)
        documents = task.documents if task else load_corpus(corpus_of(task_arguments))
    new = NewDocuments.choose(task_arguments, documents, seed)
    read = new.of(documents, new=False) if new else documents
    model, tokenizer, index = load_start(start, list(read["text"]), seed)
    check_ids(index, documents)
    check_rescoring(task_arguments.rescoring_weight, index, documents)
    if is_recommendation:
        task = load_recommendation(task_arguments, documents, index, seed)
        if reads_ids:
            add_id_tokens(model, tokenizer, index, seed, task_arguments.id_tokens)
        if start.code_per_prefix:
            tie_codes(model, tokenizer, index)
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
        documents=read,
    )  # fmt: skip
    queries = {split: trainer.read_queries(table) for split, table in task.tests.items()}  # read before all the work
    cut = (np.concatenate([one.texts.lengths for one in queries.values()]) >= trainer.length).mean()
    if is_main and cut > 0:
        print(f"{cut:.1%} of the test queries fill max_query_length, {trainer.length} tokens; longer ones are cut.")
    figures = trainer.train()
    if start.lora_rank:
        trainer.model = trainer.unwrap().merge_and_unload()
    untie_codes(trainer.unwrap())
    trainer.index.attach(trainer.unwrap(), tokenizer)
    if new:
        trainer.index = new.bring_back(trainer.index)
        queries |= {split: trainer.read_queries(table) for split, table in new.apart(task.tests).items()}
    report(trainer, task, queries, task_arguments, start, figures)
    if training.push_to_hub and is_main:
        repo_id = training.hub_model_id or trainer.run_dir.name
        publish(trainer.run_dir, repo_id, settings_of(training), token=training.hub_token)


def report(
    trainer: SemanticRetrievalTrainer, task: Task, queries: dict[str, Queries], arguments: TaskArguments,
    start: StartArguments, figures: dict,
) -> None:  # fmt: skip
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
    table = format_table(["split", "queries", *measures], rows)
    with whole_folder(trainer.run_dir, trainer.unwrap(), trainer.tokenizer, trainer.index, metrics) as folder:
        for split, rankings in found.items():
            write_run(folder / f"run.{split}.trec", rankings.documents, rankings.scores)
        if vectors:
            vectors.save_pretrained(folder)
        texts = document_table(task.documents, arguments.kept_characters)
        if texts is not None:
            texts.save_pretrained(folder)
        measured = {split: metrics[split]["figures"] for split in found}
        write_task_card(card_of(trainer, task, arguments, start, table, measured, found), folder / "README.md")
    if not vectors:  # those of an earlier search would not fit the runs
        for name in (VECTORS_NAME, "run.validation.trec"):
            (trainer.run_dir / name).unlink(missing_ok=True)
    print(f"\n{table}\n\nModel folder: {trainer.run_dir}")


def card_of(
    trainer: SemanticRetrievalTrainer, task: Task, arguments: TaskArguments, start: StartArguments, table: str,
    figures: dict, found: dict,
) -> TaskCard:  # fmt: skip
    """What the model card says."""
    reading, query_code = how_to_ask(arguments)
    split, first = next((name, queries[0]) for name, queries in task.tests.items())
    texts = dict(zip(task.documents["id"], task.documents["text"], strict=True))
    answers = found[split].documents[first["id"]][:3]
    example = "\n".join([first["text"], *(f"  -> {one}: {texts.get(one, '')[:80]}" for one in answers)])
    return TaskCard(
        name=trainer.args.hub_model_id or str(trainer.run_dir), task=arguments.task, documents=len(task.documents),
        pairs=len(task.pairs), sizes=trainer.index.position_sizes, reading=reading, query_code=query_code,
        example=example, table=table, figures=figures, num_beams=trainer.settings.num_beams,
        dataset=Path(arguments.beir_dir or arguments.sequences_file).name, base_model=start.model_name_or_path,
        rescoring_weight=arguments.rescoring_weight, licence=start.licence,
    )  # fmt: skip


def main() -> None:
    """Parses the arguments and runs."""
    logging.disable_progress_bar()
    datasets.disable_progress_bars()
    try:
        parser = HfArgumentParser((TaskArguments, StartArguments, SemanticRetrievalTrainingArguments))
        task, start, training = parser.parse_args_into_dataclasses()
        logging.set_verbosity_error() if training.process_index else logging.set_verbosity_warning()
        with nullcontext() if training.process_index else FolderLock(training.output_dir):
            run(task, start, training)
        leave_together()
    except (ValueError, OSError, ImportError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()

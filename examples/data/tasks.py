"""The tasks: what is learned, from which files, and how its queries become texts."""

from dataclasses import dataclass, field

from datasets import Dataset

from modeling_lmindexer import SemanticIndex
from trainers.id_tokens import ID_TOKENS, PREFIXES, id_texts

from .beir import BeirFolder, held_out
from .corpora import KEPT, CorpusArguments
from .histories import WINDOWS, history_text, read_histories, read_histories_as
from .new_documents import NewDocumentArguments
from .pseudo_queries import add_pseudo_queries, origin_of_pairs
from .rows import CorpusError

RECOMMENDATION = "recommendation"
TASKS = (RECOMMENDATION, "search", "retrieval")
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
    kept_characters: int = field(default=500, metadata={"help": KEPT})


@dataclass
class Task:
    """Documents, training pairs, validation queries, and test queries by split."""

    documents: Dataset
    pairs: Dataset
    validation: Dataset
    tests: dict[str, Dataset]
    origin: str = ""  # of the pairs, where they are not all of one kind


def load_beir(arguments: TaskArguments, seed: int) -> Task:
    """A task of a BEIR folder; every split but `train` and `dev` is measured."""
    folder = BeirFolder(arguments.beir_dir)
    names = folder.splits()
    tests = [name for name in names if name not in ("train", "dev")]
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


def how_to_ask(arguments: TaskArguments) -> tuple[str, str]:
    """How a query becomes a text, in words, and Python that makes `query` from one, for the model card."""
    ask = 'query = tokenizer("{}", return_tensors="pt")'
    if arguments.task != RECOMMENDATION:
        return "A query is read as it is.", ask.format("what to look for")
    what = {
        "text": f"the first {arguments.history_words} words of each",
        "ids": f"the semantic ID of each, a token per {arguments.id_tokens.removesuffix('es').removesuffix('s')}",
        "both": f"of each the semantic ID and the first {arguments.history_words} words",
    }[arguments.history]
    reading = f"A history is read as its last {arguments.max_history} items, the newest first: {what}."
    if arguments.history != "ids":
        return reading, ask.format("the newest item, and those before it, as in the example below")
    code = f'''from trainers.id_tokens import id_texts

names = id_texts(index, "{arguments.id_tokens}", tokenizer)
history = index.document_ids[:3]  # what a user has had, the newest first
query = tokenizer(" ".join(names[item] for item in history), return_tensors="pt")'''
    return reading, code

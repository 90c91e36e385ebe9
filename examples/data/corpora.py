"""Any collection of documents becomes one `datasets.Dataset` with the columns `id`, `text`, `category` and `query`."""

import html
import re
from collections import Counter
from dataclasses import dataclass, field

from datasets import Dataset, Features, List, Value, load_dataset

from modeling_lmindexer import DocumentTable

from .python_docs import python_docs
from .rows import JSON, CorpusError, decode_rows, kind_of_file, read_rows

TEXT_COLUMNS = ("title", "description", "brand", "text")
CATEGORY_COLUMNS = ("categories", "category")
KEPT = "Of every text, kept in documents.parquet for people to read; 0: the folder that is written has no texts."
NUM_EXAMPLES = 5  # how many offending ids a message names
_TAGS = "a|b|big|blockquote|body|br|center|div|em|font|h[1-6]|head|hr|html|i|img|li|ol|p|pre|small|span|strong|sub|sup"
_TAG = re.compile(rf"</?(?:{_TAGS}|table|tbody|td|th|thead|tr|tt|u|ul)(?:\s[^<>]*)?/?>|<!--.*?-->", re.I | re.S)


@dataclass
class CorpusArguments:
    """Where the documents come from. With neither a file nor a data set: Python's standard library documentation."""

    train_file: str | None = field(
        default=None,
        metadata={"help": "Documents in a file, one per row: .jsonl, .json or .csv (also as .gz), or .parquet."},
    )
    dataset_name: str | None = field(
        default=None, metadata={"help": "Documents in a data set of the Hub, or in a local folder that holds one."}
    )
    dataset_config_name: str | None = field(default=None, metadata={"help": "The configuration of that data set."})
    dataset_split: str = field(default="train", metadata={"help": "The split of that data set."})
    id_column: str = field(
        default="id", metadata={"help": "The column with the documents' ids: unique, whole numbers or text."}
    )
    text_columns: list[str] | None = field(
        default=None,
        metadata={
            "help": "The columns that make up a document's text, in this order, one per line; empty ones are left "
            "out. Default: those of title, description, brand, text that exist."
        },
    )
    category_column: str | None = field(
        default=None,
        metadata={
            "help": "The column with the documents' categories, used to judge the semantic IDs, never in the text: "
            "a list from general to specific, or text with ' > ' between the levels. Default: categories, or "
            "category, if there is one; '' for none."
        },
    )
    excluded_columns: list[str] | None = field(
        default=None,
        metadata={
            "help": "Columns whose words are not reconstructed from the IDs, such as brand: what documents share by "
            "their maker is not what they are about."
        },
    )
    query_column: str | None = field(
        default=None, metadata={"help": "The column with a query per document, kept apart from the text."}
    )
    max_documents: int | None = field(default=None, metadata={"help": "Read the first so many documents only."})
    drop_empty_texts: bool = field(
        default=False,
        metadata={
            "help": "Leave out documents without any text, which otherwise are an error. (Of Amazon-Beauty 2014, "
            "7 of 12,101 items have no title, brand or description.)"
        },
    )
    kept_characters: int = field(default=500, metadata={"help": KEPT})

    def __post_init__(self) -> None:
        if self.train_file is not None and self.dataset_name is not None:
            raise ValueError("Give either train_file or dataset_name, not both.")
        if self.max_documents is not None and self.max_documents < 1:
            raise ValueError(f"max_documents={self.max_documents}: expected at least 1, or none for all documents.")
        for name in ("text_columns", "excluded_columns"):
            if isinstance(getattr(self, name), str):  # `text_columns: title` in a YAML file
                setattr(self, name, [getattr(self, name)])


def document_table(corpus: Dataset, kept_characters: int) -> DocumentTable | None:
    """What a folder keeps of the documents for people to read; nothing where no character is to be kept."""
    return DocumentTable.of(corpus, kept_characters) if kept_characters > 0 else None


def load_corpus(arguments: CorpusArguments) -> Dataset:
    """The documents that the arguments name, in the order of their source.

    Returns:
        A data set with the columns `id` (unique; int64 if every id is a whole number, else string), `text` (not
        empty, without HTML, white space collapsed), and where the source has them `category` (list of strings,
        general to specific, may be empty), `query` and `excluded` (strings, may be empty).

    Raises:
        FileNotFoundError: there is no such file.
        CorpusError: the source cannot be read or has no rows, a column is missing, ids are missing or repeated, or
            texts are empty.
    """
    if arguments.train_file is None and arguments.dataset_name is None:
        return _first(python_docs(), arguments.max_documents)
    if arguments.train_file is not None:
        source = arguments.train_file
        rows, columns = read_rows(arguments.train_file)
    else:
        source = arguments.dataset_name
        rows = load_dataset(source, arguments.dataset_config_name, split=arguments.dataset_split)
        columns = rows.column_names
    if not len(rows):
        raise CorpusError(f"{source} holds no rows; expected one per document.")
    choice = _Columns.choose(arguments, columns, source)
    try:
        corpus = _documents(_first(rows, arguments.max_documents), choice)
    except UnicodeError as error:  # bytes that are no text, or half of a character in another column
        raise CorpusError(
            f"{source} holds text that is no Unicode ({error}): write the file anew in UTF-8."
        ) from error
    _check_ids(corpus["id"][:], source, choice.id)
    return _without_empty_texts(corpus, arguments.drop_empty_texts, source, choice.text)


@dataclass
class _Columns:
    """Which of a source's columns hold what."""

    id: str
    text: list[str]
    category: str | None
    query: str | None
    excluded: list[str]
    ids_are_text: bool  # the source has no other type, so that a number is known by its look only

    @classmethod
    def choose(cls, arguments: CorpusArguments, columns: list[str], source: str) -> "_Columns":
        text = arguments.text_columns or [name for name in TEXT_COLUMNS if name in columns]
        category = arguments.category_column
        if category is None:
            category = next((name for name in CATEGORY_COLUMNS if name in columns), None)
        query, excluded = arguments.query_column, arguments.excluded_columns or []
        asked = {"id_column": [arguments.id_column], "text_columns": text or [" or ".join(TEXT_COLUMNS)]}
        asked |= {"category_column": [category] if category else [], "query_column": [query] if query else []}
        asked |= {"excluded_columns": excluded}
        for argument, names in asked.items():
            missing = [name for name in names if name not in columns]
            if missing:
                raise CorpusError(
                    f"{source} has no column {', '.join(missing)}; it has {', '.join(columns)}. "
                    f"Name the right one with --{argument}."
                )
        is_csv = arguments.train_file is not None and kind_of_file(arguments.train_file) == "csv"
        return cls(arguments.id_column, text, category or None, query or None, excluded, is_csv)


def _documents(rows: Dataset, columns: _Columns) -> Dataset:
    """One document per row; ids are text unless all of them are whole numbers."""
    needed = {JSON, columns.id, *columns.text, *columns.excluded, columns.category, columns.query}
    rows = rows.select_columns([name for name in rows.column_names if name in needed])
    features = {"id": Value("string"), "is_number": Value("bool"), "text": Value("string")}
    features |= {"category": List(Value("string"))} if columns.category else {}
    features |= {"query": Value("string")} if columns.query else {}
    features |= {"excluded": Value("string")} if columns.excluded else {}
    corpus = rows.map(
        lambda batch, indices: _document_batch(decode_rows(batch), indices, columns),
        batched=True,
        with_indices=True,
        remove_columns=rows.column_names,
        features=Features(features),
        load_from_cache_file=False,  # the cache's key does not see changes of the functions that are called
        desc="Reading documents",
    )
    are_numbers = all(corpus["is_number"][:])
    corpus = corpus.remove_columns("is_number")
    return corpus.cast_column("id", Value("int64")) if are_numbers else corpus


def _document_batch(rows: list[dict], indices: list[int], columns: _Columns) -> dict[str, list]:
    documents: dict[str, list] = {"id": [], "is_number": [], "text": []}
    for index, row in zip(indices, rows, strict=True):
        document, is_number = document_id(row, columns.id, columns.ids_are_text, f"Row {index + 1}")
        documents["id"].append(document)
        documents["is_number"].append(is_number)
        documents["text"].append(document_text(row, columns.text))
        check_unicode(document, f"Row {index + 1}")
        check_unicode(documents["text"][-1], f"Row {index + 1}")
    if columns.category:
        documents["category"] = [category_path(row.get(columns.category)) for row in rows]
    if columns.query:
        documents["query"] = [clean_text(row.get(columns.query)) for row in rows]
    if columns.excluded:
        documents["excluded"] = [clean_text([row.get(name) for name in columns.excluded]) for row in rows]
    return documents


def document_id(row: dict, column: str, may_be_text: bool, where: str) -> tuple[str, bool]:
    """A row's id as text, and whether it is a whole number.

    Args:
        may_be_text: the source has no other type, so that a number is known by its look only.
        where: the row stands, for a message.

    Raises:
        CorpusError: it has none.
    """
    value = row.get(column)
    if not isinstance(value, int | str) or isinstance(value, bool) or not str(value).strip():
        raise CorpusError(f"{where} has {column}={value!r}; expected a whole number or text as the document's id.")
    return str(value).strip(), _is_number(value, may_be_text)


def document_text(row: dict, columns: list[str]) -> str:
    """A row's text: its columns, one per line, empty ones left out."""
    return "\n".join(filter(None, (clean_text(row.get(name)) for name in columns)))


def check_unicode(text: str, where: str) -> None:
    """Raises CorpusError for half of a character, as `"\\ud800"` in JSON is: no file takes it.

    Args:
        where: it stands, for the message.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        half = text[error.start].encode(errors="backslashreplace").decode()
        raise CorpusError(
            f"{where} has half of a character, '{half}', in its id or text: write the file anew in UTF-8, or put "
            "something else there."
        ) from error


def _is_number(value: int | str, may_be_text: bool) -> bool:
    if isinstance(value, str):  # "007" is not a number: it could not be written back
        return may_be_text and re.fullmatch(r"0|-?[1-9]\d{0,17}", value.strip(), re.ASCII) is not None
    return -(2**63) <= value < 2**63


def clean_text(value: str | int | float | list | None) -> str:
    """A cell as text on one line: a list's entries one after another, no HTML tags or entities, nothing for None."""
    if value is None:
        return ""
    if isinstance(value, list):
        return " ".join(filter(None, map(clean_text, value)))
    return " ".join(html.unescape(_TAG.sub(" ", str(value))).split())


def category_path(value: str | int | list | None) -> list[str]:
    """A cell as a path of categories, general to specific; of a list of paths the first."""
    if isinstance(value, list):
        if value and isinstance(value[0], list):
            value = value[0]
        return [text for text in map(clean_text, value) if text]
    return [text for text in clean_text(value).split(" > ") if text]


def _first(rows: Dataset, count: int | None) -> Dataset:
    return rows if count is None else rows.select(range(min(count, len(rows))))


def _check_ids(ids: list[int] | list[str], source: str, column: str) -> None:
    repeated = [value for value, count in Counter(ids).items() if count > 1]
    if repeated:
        raise CorpusError(
            f"{source}: {len(repeated)} ids in column {column} stand for several documents: {_some(repeated)}. "
            "Expected one row per id: remove the repetitions or name another --id_column."
        )


def _without_empty_texts(corpus: Dataset, drop: bool, source: str, columns: list[str]) -> Dataset:
    is_empty = [not text for text in corpus["text"][:]]
    if not any(is_empty):
        return corpus
    if drop and not all(is_empty):
        return corpus.select([index for index, empty in enumerate(is_empty) if not empty])
    empty_ids = [value for value, empty in zip(corpus["id"], is_empty, strict=True) if empty]
    raise CorpusError(
        f"{source}: {len(empty_ids)} of {len(corpus)} documents have no text in {', '.join(columns)}: ids "
        f"{_some(empty_ids)}. Name more columns with --text_columns, or leave them out with --drop_empty_texts."
    )


def _some(values: list) -> str:
    named = ", ".join(map(repr, values[:NUM_EXAMPLES]))
    return named if len(values) <= NUM_EXAMPLES else f"{named} and {len(values) - NUM_EXAMPLES} more"

"""NQ320k: Natural Questions as document retrieval, as NCI made it and the paper's authors after it.

Every question's page is a document, and pages with the same title are one: the first, training before validation. The
title counts as BERT's uncased tokenizer writes it.
"""

import csv
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ..corpora import clean_text
from ..rows import CorpusError
from .files import check_columns, record, text_lines
from .forms import Retrieval

_NCI = ("query", "id", "long_answer", "short_answer", "title", "abstract", "content", "doc_tac", "language")
_TAG = re.compile(r"<[^<>]+>")
_LIST_END = "</Ul>"  # what follows the last but one of them is a page's references and links


@dataclass
class NaturalQuestionsSettings:
    """How titles are compared."""

    title_tokenizer: str | None = field(
        default=None,
        metadata={
            "help": "A folder or name of BERT's uncased tokenizer, which makes words outside its vocabulary equal, "
            "as in the published set. Default: its rules of lower case, accents and punctuation alone."
        },
    )


def convert_nq(inputs: dict[str, list[Path]], settings: NaturalQuestionsSettings) -> Retrieval:
    """Pages, numbered in the order in which they appear, and questions; `test` is Natural Questions' validation set.

    Args:
        inputs: `train` and `test`, each either Google's file (v1.0-simplified_simplified-nq-train.jsonl.gz,
            v1.0-simplified_nq-dev-all.jsonl.gz) or the .tsv that NCI's notebook makes of it (nq_train.tsv,
            nq_dev.tsv).
        settings: see there.

    Raises:
        CorpusError: a line that is none, or a question's id twice.
    """
    queries: dict[str, str] = {}
    qrels: dict[str, dict[str, dict[str, int]]] = {"train": {}, "test": {}}
    plain = title_form(settings.title_tokenizer)

    def documents() -> Iterator[dict]:
        known: dict[str, str] = {}
        for split, judged in qrels.items():
            (path,) = inputs[split]
            read = _nci if path.name.removesuffix(".gz").endswith(".tsv") else _google
            for where, page in read(path):
                if page.id in queries:
                    raise CorpusError(f"{where}: question {page.id} is there already; expected every id once.")
                title = plain(page.title)
                is_new, number = title not in known, known.setdefault(title, str(len(known)))
                queries[page.id], judged[page.id] = page.query, {number: 1}
                if is_new:
                    yield {"_id": number, "title": page.title, "text": page.text}

    return Retrieval(documents(), queries, qrels)


@dataclass
class _Page:
    id: str  # of the question
    query: str
    title: str
    text: str


def title_form(tokenizer: str | None) -> Callable[[str], str]:
    """What makes titles of one page equal: words in lower case without accents, punctuation apart."""
    if tokenizer is not None:
        from transformers import AutoTokenizer

        bert = AutoTokenizer.from_pretrained(tokenizer)
        return lambda title: bert.decode(bert.convert_tokens_to_ids(bert.tokenize(title)))
    from tokenizers import normalizers, pre_tokenizers

    lower, words = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    return lambda title: " ".join(word for word, _ in words.pre_tokenize_str(lower.normalize_str(title)))


def _google(path: Path) -> Iterator[tuple[str, _Page]]:
    """Google's training file has a page's text and its title in it; its validation file has tokens and a title."""
    for number, line in text_lines(path):
        where = f"{path}, line {number}"
        row = record(line, where, ("example_id", "question_text"))
        if "document_text" in row:
            page = row["document_text"]
            title = page.partition("<H1>")[2].partition("</H1>")[0] if "<H1>" in page else ""
        else:
            check_columns(row, ("document_tokens", "document_title"), where)
            page, title = " ".join(token["token"] for token in row["document_tokens"]), row["document_title"]
        yield where, _Page(str(row["example_id"]), clean_text(row["question_text"]), clean_text(title), _body(page))


def _body(page: str) -> str:
    """A page's first paragraph and what follows, without tags, up to the last list but one."""
    head, end, _ = page.partition("</P>")
    abstract = head.partition("<P>")[2] if end else ""
    content = page.rsplit(_LIST_END, 2)[0][len(head + end) if end else 0 :]
    return clean_text(_TAG.sub(" ", f"{abstract} {content}"))


def _nci(path: Path) -> Iterator[tuple[str, _Page]]:
    """Rows of a table with tabs, quotes where pandas puts them, and no header."""
    csv.field_size_limit(sys.maxsize)
    lines = (line + "\n" for _, line in text_lines(path))
    for number, values in enumerate(csv.reader(lines, delimiter="\t"), start=1):
        where = f"{path}, row {number}"
        if len(values) != len(_NCI):
            raise CorpusError(f"{where} has {len(values)} values; expected {len(_NCI)}: {', '.join(_NCI)}.")
        row = dict(zip(_NCI, values, strict=True))
        text = clean_text(_TAG.sub(" ", f"{row['abstract']} {row['content']}"))
        yield where, _Page(row["id"], clean_text(row["query"]), clean_text(row["title"]), text)

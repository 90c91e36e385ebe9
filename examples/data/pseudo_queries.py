"""Queries made of the documents themselves, without a model, and the file of any such queries."""

import json
import re
from collections.abc import Iterable, Sequence
from itertools import zip_longest
from pathlib import Path

import numpy as np

from modeling_lmindexer.folder import atomic_path
from trainers.query_generation import distinct

from .beir import BeirFolder
from .rows import CorpusError, rows_with

METHODS = ("titles", "leading_sentences", "key_phrases")
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+|(?<=[。！？])")
_LEAST_CHARACTERS = 12  # of a sentence; less ends at an abbreviation
_MOST_WORDS = 24
_PHRASE_WORDS = (1, 3)


def make_queries(
    texts: Sequence[str], titles: Sequence[str] | None, methods: Sequence[str], num_queries: int
) -> list[list[str]]:
    """Queries of every document, of several methods in turns.

    Args:
        texts: `N` documents.
        titles: as many, empty where a document has none; no leading sentences.
        methods: of `METHODS`.
        num_queries: at most so many of a document; there may be fewer, or none.

    Raises:
        CorpusError: titles are asked for, and there are none.
    """
    if "titles" in methods and not any(titles or []):
        raise CorpusError(
            "--method titles: the documents have none. Name their column with --query_column, or leave titles out."
        )
    titles = list(titles or [""] * len(texts))
    makers = {
        "titles": lambda: [[title] for title in titles],
        "leading_sentences": lambda: [
            leading_sentences(text.removeprefix(title)) for text, title in zip(texts, titles, strict=True)
        ],
        "key_phrases": lambda: key_phrases(texts, num_queries),
    }
    found = [makers[method]() for method in dict.fromkeys(methods)]
    return [distinct(in_turns(own))[:num_queries] for own in zip(*found, strict=True)]


def in_turns(lists: Sequence[list[str]]) -> list[str]:
    """The first of every list, then the second ones, and so on."""
    return [value for values in zip_longest(*lists) for value in values if value is not None]


def leading_sentences(text: str) -> list[str]:
    """The sentences of a text, of which a line may hold several, each cut after 24 words.

    ```python
    >>> leading_sentences("By Dr. Smith. It heals.\\nAcme")
    ['By Dr. Smith.', 'It heals.']

    ```
    """
    found = []
    for line in text.splitlines():
        sentence = ""
        for part in _SENTENCE_END.split(line):
            sentence = f"{sentence} {part}".strip()
            if len(sentence) >= _LEAST_CHARACTERS:
                found.append(" ".join(sentence.split()[:_MOST_WORDS]))
                sentence = ""
    return found


def key_phrases(texts: Sequence[str], number: int) -> list[list[str]]:
    """Up to `number` phrases of one to three words of every document, those of the highest TF-IDF first.

    Words of most documents (in a corpus of at least 1,000, of a fifth) are in no phrase, and no phrase of a document
    has all the words of another. In so large a corpus, a phrase is one that two documents have.
    """
    from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer

    if not texts:
        return []
    is_large = len(texts) >= 1000
    counter = CountVectorizer(binary=True)
    try:
        frequency = np.asarray(counter.fit_transform(texts).sum(0))[0]
        common = counter.get_feature_names_out()[frequency > (0.2 if is_large else 0.5) * len(texts)]
        vectorizer = TfidfVectorizer(
            ngram_range=_PHRASE_WORDS, stop_words=list(common), sublinear_tf=True, min_df=2 if is_large else 1
        )
        weights = vectorizer.fit_transform(texts).tocsr()
    except ValueError:  # there are no words, or all of them are common
        return [[] for _ in texts]
    phrases, found = vectorizer.get_feature_names_out(), []
    for row in range(len(texts)):
        span = slice(weights.indptr[row], weights.indptr[row + 1])
        own = zip(phrases[weights.indices[span]], weights.data[span].round(6), strict=True)
        # Of equal weight, the longest: its parts say less.
        ranked = sorted(own, key=lambda entry: (-entry[1], -entry[0].count(" "), entry[0]))
        found.append(without_overlap((phrase for phrase, _ in ranked), number))
    return found


def without_overlap(phrases: Iterable[str], number: int) -> list[str]:
    """The first phrases of which none has all the words of another."""
    kept: dict[str, set[str]] = {}
    for phrase in phrases:
        if len(kept) == number:
            break
        words = set(phrase.split())
        if not any(words <= other or words >= other for other in kept.values()):
            kept[phrase] = words
    return list(kept)


def write_queries(path: str | Path, ids: Sequence, queries: Sequence[Sequence[str]]) -> None:
    """Writes a JSON line, `document_id` and `text`, for every query of every document; atomically."""
    with atomic_path(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        for document, own in zip(ids, queries, strict=True):
            for text in own:
                file.write(json.dumps({"document_id": document, "text": text}, ensure_ascii=False) + "\n")


def add_pseudo_queries(folder: BeirFolder, file: str | Path) -> dict[str, dict[str, int]]:
    """Adds the queries of a file to those of a BEIR folder.

    Args:
        folder: gets one query for each text.
        file: `document_id` and `text` per row: .jsonl, .csv or .parquet, also .gz.

    Returns:
        their judgements: a text that stands there for several documents asks for all of them.

    Raises:
        CorpusError: a row without text, or with a document that the folder does not have; with its number.
    """
    known, names, qrels = set(folder.documents["id"]), {}, {}
    stem = "pseudo"
    while any(query.startswith(stem) for query in folder.queries):  # no query of the folder's own is one of these
        stem += "-query"
    for number, row in enumerate(rows_with(file, ("document_id", "text")), start=1):
        document, text = str(row.get("document_id", "")), " ".join(str(row.get("text") or "").split())
        if document not in known:
            raise CorpusError(
                f"{file}, row {number}: document {document!r} is not in {folder.folder}/corpus.jsonl: generate the "
                "queries from this corpus, or remove the row."
            )
        if not text:
            raise CorpusError(f"{file}, row {number}: the query of document {document!r} is empty; remove the row.")
        name = names.setdefault(text, f"{stem}-{len(names)}")
        folder.queries[name] = text
        qrels.setdefault(name, {})[document] = 1
    return qrels


def origin_of_pairs(judged: dict[str, dict[str, int]], pseudo: dict[str, dict[str, int]]) -> str:
    """What to say of training pairs of judged and of pseudo queries."""
    targets = [[d for row in qrels.values() for d, gain in row.items() if gain > 0] for qrels in (judged, pseudo)]
    new = set(targets[1]) - set(targets[0])
    return (
        f"{len(targets[0]):,} of judged queries, {len(targets[1]):,} of pseudo queries for {len(set(targets[1])):,} "
        f"documents, of which {len(new):,} have no judged one"
    )

"""Searches a model folder or a Hub repository: a text in, documents out.

    python examples/search.py outputs/python_docs "read a file line by line"
    python examples/search.py org/lmindexer-beauty --queries queries.txt
    python examples/search.py outputs/python_docs

Without a query it asks for one after the other. Where the folder has vectors of its documents, what the beam finds is
ordered by them, too; where it keeps their texts, each is shown by its beginning.
"""

import argparse
import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from transformers import AutoModel, AutoTokenizer
from transformers.utils import logging

from modeling_lmindexer import DocumentTable, DocumentVectors, SemanticIndex
from modeling_lmindexer.text_codes import tokenize

SHOWN = 70  # characters of a document's text


def read_queries(arguments: argparse.Namespace) -> Iterator[str]:
    """The query of the command line, the lines of a file, or what is typed."""
    if arguments.query:
        yield arguments.query
    elif arguments.queries:
        yield from filter(None, map(str.strip, Path(arguments.queries).read_text(encoding="utf-8").splitlines()))
    else:
        while True:
            try:
                query = input("query (empty to leave): " if sys.stdin.isatty() else "").strip()
            except EOFError:
                return
            if not query:
                return
            yield query


def beginning(table: DocumentTable | None, document) -> str:
    """Of a document's text, to stand behind its id; nothing where the folder keeps no text of it."""
    text = table.text_of(document) if table else None
    return f": {' '.join(text.split())[:SHOWN]}" if text else ""


def main() -> None:
    """Loads the folder once, then answers every query."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="model folder or Hub repository")
    parser.add_argument("query", nargs="?", help="text to search with")
    parser.add_argument("--queries", help="file with one query per line")
    parser.add_argument("--top_k", type=int, default=10, help="documents per query")
    parser.add_argument("--num_beams", type=int, default=20, help="width of the beam search")
    arguments = parser.parse_args()
    logging.disable_progress_bar()
    vectors, table = None, None
    try:
        index = SemanticIndex.from_pretrained(arguments.model)
        with contextlib.suppress(FileNotFoundError):
            vectors = DocumentVectors.from_pretrained(arguments.model, index)
        with contextlib.suppress(FileNotFoundError):
            table = DocumentTable.from_pretrained(arguments.model)
        model = AutoModel.from_pretrained(arguments.model).eval()  # importing modeling_lmindexer has registered it
        tokenizer = AutoTokenizer.from_pretrained(arguments.model)
    except (OSError, ValueError) as error:
        sys.exit(f"error: {error}")
    semantic_ids = dict(zip(index.document_ids, index.semantic_ids, strict=True))
    for query in read_queries(arguments):
        inputs = tokenize(tokenizer, query, model.config.max_source_length, return_tensors="pt")
        with torch.inference_mode():
            result = model.search(
                index=index, num_beams=max(arguments.num_beams, arguments.top_k), top_k=arguments.top_k,
                rescoring=vectors, input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"],
            )  # fmt: skip
        print(f"\n{query}")
        for document, score in zip(result.documents[0], result.scores[0].tolist(), strict=False):
            print(f"  {score:8.3f}  {semantic_ids[document]:18}  {document}{beginning(table, document)}")


if __name__ == "__main__":
    main()

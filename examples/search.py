"""Searches a model folder or a Hub repository: a text in, documents out.

    python examples/search.py outputs/python_docs "read a file line by line"
    python examples/search.py org/lmindexer-beauty --queries queries.txt
    python examples/search.py outputs/python_docs

Without a query it asks for one after the other. Where the folder has vectors of its documents, what the beam finds is
ordered by them, too; where it keeps their texts, each is shown by its beginning.
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

from transformers import AutoModel, AutoTokenizer, pipeline
from transformers.utils import logging

from modeling_lmindexer import SemanticIndex

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
    num_beams = max(arguments.num_beams, arguments.top_k)
    try:
        # One by one, so that an error names the file; pipeline("semantic-retrieval", arguments.model) loads the same.
        parts = {
            "index": SemanticIndex.from_pretrained(arguments.model),
            "model": AutoModel.from_pretrained(arguments.model),  # importing modeling_lmindexer has registered it
            "tokenizer": AutoTokenizer.from_pretrained(arguments.model),
        }
        search = pipeline("semantic-retrieval", **parts, top_k=arguments.top_k, num_beams=num_beams)
        _ = search.vectors  # loaded before the first query, too
    except (OSError, ValueError) as error:
        sys.exit(f"error: {error}")
    for query in read_queries(arguments):
        print(f"\n{query}")
        for found in search(query):
            text = f": {' '.join(found['text'].split())[:SHOWN]}" if found["text"] else ""
            print(f"  {found['score']:8.3f}  {found['semantic_id']:18}  {found['id']}{text}")


if __name__ == "__main__":
    main()

"""Data for the scripts beside this folder: a corpus becomes a `datasets.Dataset` with one row per document."""

from .corpora import CorpusArguments, CorpusError, document_table, load_corpus
from .python_docs import python_docs
from .tokenizer import train_tokenizer

__all__ = ["CorpusArguments", "CorpusError", "document_table", "load_corpus", "python_docs", "train_tokenizer"]

"""Makes a BEIR folder of your own tables: documents, and which of them answer which query.

    python examples/make_beir.py --train_file products.csv --judgements_file judgements.csv --output_dir shop

`judgements.csv` has the columns `query` and `document_id`, and perhaps `gain`, how good the document is, and `split`,
train, dev or test. The column `title` of the documents, if there is one, becomes their title.
"""

import sys
from dataclasses import dataclass, field, replace

import datasets
from data import CorpusArguments, CorpusError, load_corpus
from data.beir_writer import document_rows, read_judgements, write_beir
from data.rows import read_rows
from transformers import HfArgumentParser


@dataclass
class FolderArguments:
    """The judgements, and the folder."""

    judgements_file: str = field(metadata={"help": "query, document_id, perhaps gain and split: .csv, .jsonl, ..."})
    output_dir: str = field(metadata={"help": "Folder for corpus.jsonl, queries.jsonl and qrels/<split>.tsv."})
    test_share: float = field(
        default=0.2, metadata={"help": "Of the queries, where there is no column split; 1: all are for the test."}
    )
    seed: int = field(default=42, metadata={"help": "Of that share."})

    def __post_init__(self):
        if not 0 < self.test_share <= 1:
            raise ValueError(f"test_share is {self.test_share}; expected more than 0, at most 1.")


def run(arguments: FolderArguments, corpus_arguments: CorpusArguments) -> None:
    """Reads both tables and writes the folder."""
    if corpus_arguments.train_file is None:
        raise CorpusError("Name the documents' file with --train_file.")
    if "title" in read_rows(corpus_arguments.train_file)[1]:
        corpus_arguments = replace(corpus_arguments, query_column="title")
    corpus = load_corpus(corpus_arguments)
    judged = read_judgements(arguments.judgements_file, corpus["id"], arguments.test_share, arguments.seed)
    write_beir(arguments.output_dir, document_rows(corpus), judged)
    splits = ", ".join(f"{len(qrels):,} {split}" for split, qrels in judged.items())
    print(f"{len(corpus):,} documents, {splits} queries: {arguments.output_dir}")


def main() -> None:
    """Parses the arguments and runs."""
    datasets.disable_progress_bars()
    try:
        run(*HfArgumentParser((FolderArguments, CorpusArguments)).parse_args_into_dataclasses())
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()

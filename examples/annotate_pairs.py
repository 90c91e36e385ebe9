"""People judge semantic IDs: writes a sheet of pairs of documents that share a prefix, and scores it when it is full.

    python examples/annotate_pairs.py draw --indexes outputs/items outputs/two_stage --train_file items.jsonl.gz
    python examples/annotate_pairs.py score --sheet outputs/annotation/pairs.csv

`draw` mixes the same number of pairs of every index. Annotators get `pairs.csv` alone and fill in 1 where two
documents are about similar things, else 0; `pairs.key.csv` says which index a pair is of, and stays with you.
"""

import sys
from dataclasses import dataclass, field
from pathlib import Path

import datasets
from data import CorpusArguments, load_corpus
from transformers import HfArgumentParser
from transformers.utils import logging

from modeling_lmindexer import CorruptedFolderError, SemanticIndex
from trainers.annotation import draw_blind, score_sheet, write_sheet
from trainers.report import format_table


@dataclass
class AnnotationArguments:
    """Which pairs are drawn, and where the sheet is."""

    indexes: list[str] = field(
        default_factory=list, metadata={"help": "For draw: model folders, or folders of two-stage indexes."}
    )
    depth: int = field(default=1, metadata={"help": "For draw: first codes that the documents of a pair share."})
    pairs: int = field(default=20, metadata={"help": "For draw: pairs of every index."})
    annotators: list[str] = field(
        default_factory=list, metadata={"help": "For draw: names, one column to fill for each; default: one column."}
    )
    max_characters: int = field(default=1000, metadata={"help": "For draw: shown of a text."})
    seed: int = field(default=0, metadata={"help": "For draw: of the pairs and of their order."})
    sheet: str = field(default="outputs/annotation/pairs.csv", metadata={"help": "The sheet; its key is beside it."})


def draw(corpus_arguments: CorpusArguments, arguments: AnnotationArguments) -> None:
    """Writes sheet and key."""
    sheet = Path(arguments.sheet)
    if sheet.exists():
        raise ValueError(f"{sheet} is there, and may have been filled: name another --sheet")
    if not arguments.indexes or len(set(arguments.indexes)) < len(arguments.indexes):
        raise ValueError("--indexes names the folders to compare, each once")
    indexes = {folder: SemanticIndex.from_pretrained(folder) for folder in arguments.indexes}
    corpus = load_corpus(corpus_arguments)
    texts = dict(zip(corpus["id"], corpus["text"], strict=True))
    pairs = draw_blind(indexes, arguments.depth, arguments.pairs, arguments.seed)
    sheet.parent.mkdir(parents=True, exist_ok=True)
    key = write_sheet(
        pairs, texts, sheet, annotators=arguments.annotators, max_characters=arguments.max_characters
    )  # fmt: skip
    print(f"{len(pairs)} pairs of {len(indexes)} indexes: {sheet}, to be filled with 1 or 0. Key: {key}")


def score(arguments: AnnotationArguments) -> None:
    """Prints the accuracy of every index, and how far annotators agree."""
    sheet = Path(arguments.sheet)
    found = score_sheet(sheet, sheet.with_suffix(".key.csv"))
    rows = [[s.index, s.annotator, s.pairs, s.accuracy, s.low, s.high] for s in found.scores]
    print(format_table(["index", "annotator", "pairs", "accuracy", "95 %: from", "to"], rows))
    if found.kappa:
        print()
        print(format_table(["index", "accuracy, mean of annotators"], [list(row) for row in found.accuracy.items()]))
        print()
        print(
            format_table(["annotators", "Cohen's kappa"], [[" and ".join(who), k] for who, k in found.kappa.items()])
        )


def main() -> None:
    """Parses the arguments and runs."""
    parser = HfArgumentParser((CorpusArguments, AnnotationArguments))
    parser.add_argument("command", choices=["draw", "score"])
    corpus_arguments, arguments, others = parser.parse_args_into_dataclasses()
    logging.set_verbosity_warning()
    datasets.disable_progress_bars()
    try:
        draw(corpus_arguments, arguments) if others.command == "draw" else score(arguments)
    except (ValueError, OSError, CorruptedFolderError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()

"""Changes the index of a model folder, or looks at it: documents come, go and change, and no other ID does.

    python examples/update_index.py outputs/items --add new.jsonl --remove gone.txt
    python examples/update_index.py outputs/items --update changed.csv --id_column sku --text_columns title text
    python examples/update_index.py outputs/items --merge outputs/other_shop --on_conflict keep
    python examples/update_index.py outputs/items --verify --train_file items.jsonl
    python examples/update_index.py outputs/items --drift new.jsonl --train_file items.jsonl
    python examples/update_index.py outputs/items --changes 3

Changes are made in the order remove, update, add, merge, and saved once, all of them or none; each is a version.
`--verify` looks at the folder after that, and exits with status 1 where something is wrong.
"""

import argparse
import sys
from pathlib import Path

from data import CorpusArguments, CorpusError, load_corpus

from modeling_lmindexer import SemanticIndex
from modeling_lmindexer.folder import replaced_together
from modeling_lmindexer.index_check import check_folder


def parse_arguments() -> argparse.Namespace:
    """What to change, and what to look at."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", help="model folder that run_indexing.py wrote")
    parser.add_argument("--remove", help="file with one document id per line")
    parser.add_argument("--update", help="documents with changed texts: .jsonl, .json, .csv or .parquet")
    parser.add_argument("--add", help="new documents, a file as for --update")
    parser.add_argument("--merge", help="folder with another index of the same model")
    parser.add_argument("--on_conflict", choices=["refuse", "keep", "replace"], default="refuse",
                        help="what becomes of documents that are in both indexes")  # fmt: skip
    parser.add_argument("--room", type=int, help="codes of the last position: makes room in index and model first")
    parser.add_argument("--verify", action="store_true", help="check that all files of the folder fit together")
    parser.add_argument("--drift", help="documents to compare with those of the index, a file as for --update")
    parser.add_argument("--changes", type=int, metavar="SINCE", help="print what changed after this version")
    parser.add_argument("--train_file", help="texts of known documents: a sample for --verify and --drift")
    parser.add_argument("--sample", type=int, default=256, help="how many of them")
    parser.add_argument("--seed", type=int, default=0, help="of that sample and of the draws of --drift")
    parser.add_argument("--id_column", default="id", help="column with the documents' ids")
    parser.add_argument("--text_columns", nargs="+", help="columns that make up a text, as for run_indexing.py")
    parser.add_argument("--batch_size", type=int, default=64, help="documents that the model reads at once")
    return parser.parse_args()


def documents_of(arguments: argparse.Namespace, file: str, index: SemanticIndex):
    """The documents of a file; ids are text where those of the index are."""
    corpus = load_corpus(
        CorpusArguments(train_file=file, id_column=arguments.id_column, text_columns=arguments.text_columns)
    )
    return [{"id": known_id(row["id"], index), "text": row["text"]} for row in corpus]


def known_id(value: int | str, index: SemanticIndex) -> int | str:
    """The id as the index has ids: a file of numbers may be of text."""
    kind = type(index.document_ids[0])
    try:
        return kind(value)
    except ValueError:
        raise CorpusError(f"{value!r} is no id like those of the index, which are whole numbers.") from None


def change(arguments: argparse.Namespace, index: SemanticIndex) -> None:
    """Makes all changes that were asked for, and says what each did."""
    if arguments.room is not None:
        model, _ = index.load_model()
        model.resize_disambiguation(arguments.room)
        index.resize_disambiguation(arguments.room)
        print(f"the last position has room for {arguments.room:,} codes")
    if arguments.remove:
        lines = Path(arguments.remove).read_text(encoding="utf-8").splitlines()
        gone = [known_id(line.strip(), index) for line in lines if line.strip()]
        index.remove(gone)
        print(f"removed {len(set(gone)):,} documents")
    if arguments.update:
        documents = documents_of(arguments, arguments.update, index)
        before = index.sequences_of([document["id"] for document in documents])
        moved = int((index.update(documents, arguments.batch_size) != before).any(1).sum())
        print(f"updated {len(documents):,} documents, {moved:,} with another ID")
    if arguments.add:
        print(f"added {len(index.add(documents_of(arguments, arguments.add, index), arguments.batch_size)):,} documents")
    if arguments.merge:
        count = len(index)
        renumbered = index.merge(SemanticIndex.from_pretrained(arguments.merge), arguments.on_conflict)
        print(f"merged {len(index) - count:,} documents, {len(renumbered):,} of them renumbered")
        for document, (there, here) in renumbered.items():
            print(f"  {document}: {there} is {here} here")


def save(index: SemanticIndex, folder: str) -> None:
    """The index, and a model whose last position has grown, get their names together."""
    room, config = index.position_sizes[-1], index.load_model()[0].config
    with replaced_together(folder) as new:
        if index.has_disambiguation and room > config.num_disambiguation_codes:
            index.model.resize_disambiguation(room)
        if index.model.config.num_disambiguation_codes != saved_room(folder):
            index.model.save_pretrained(new)
        index.save_pretrained(new)


def main() -> None:
    """Changes, then looks."""
    arguments = parse_arguments()
    bad = False
    try:
        if any((arguments.remove, arguments.update, arguments.add, arguments.merge, arguments.room)):
            index = SemanticIndex.from_pretrained(arguments.folder)
            version = index.version
            change(arguments, index)
            index.save_with_model(arguments.folder)
            print(f"{arguments.folder}: version {version} became {index.version}, {len(index):,} documents")
        bad = look(arguments)
    except (CorpusError, KeyError, OSError, ValueError) as error:
        sys.exit(f"error: {error.args[0] if isinstance(error, KeyError) else error}")
    if bad:
        sys.exit(1)

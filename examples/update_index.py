"""Changes the index of a model folder, or looks at it: documents come, go and change, and no other ID does.

    python examples/update_index.py outputs/items --add new.jsonl --remove gone.txt
    python examples/update_index.py outputs/items --update changed.csv --id_column sku --text_columns title text
    python examples/update_index.py outputs/items --merge outputs/other_shop --on_conflict keep
    python examples/update_index.py outputs/items --verify --train_file items.jsonl
    python examples/update_index.py outputs/items --drift new.jsonl --train_file items.jsonl
    python examples/update_index.py outputs/items --changes 3

Changes are made in the order remove, update, add, merge, and saved once, all of them or none; each is a version.
`--drift` looks at the index before that, `--changes` and `--verify` after it. `--verify` exits with status 1 where
something is wrong.
"""

import argparse
import sys
from pathlib import Path

import datasets
from data import CorpusArguments, CorpusError, load_corpus
from transformers.utils import logging

from modeling_lmindexer import SemanticIndex
from modeling_lmindexer.folder import remove_partial
from modeling_lmindexer.index_check import check_folder
from trainers.folder_lock import FolderLock
from trainers.new_documents import ids_like, make_room, sample_of, save_with_model, with_ids_like


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


def documents_of(arguments: argparse.Namespace, file: str | None) -> list[dict] | None:
    """The documents of a file, if one is given."""
    if file is None:
        return None
    names = {"id_column": arguments.id_column, "text_columns": arguments.text_columns}
    corpus = load_corpus(CorpusArguments(train_file=file, **names))
    return [{"id": row["id"], "text": row["text"]} for row in corpus]


def change(arguments: argparse.Namespace, index: SemanticIndex) -> None:
    """Makes all changes that were asked for, and says what each did."""
    if arguments.room is not None:
        make_room(index, arguments.room)
        print(f"the last position has room for {arguments.room:,} codes")
    if arguments.remove:
        count, lines = len(index), Path(arguments.remove).read_text(encoding="utf-8").splitlines()
        index.remove(ids_like(index, [line.strip() for line in lines if line.strip()]))
        print(f"removed {count - len(index):,} documents")
    if arguments.update:
        documents = with_ids_like(index, documents_of(arguments, arguments.update))
        before = index.sequences_of([document["id"] for document in documents])
        moved = int((index.update(documents, arguments.batch_size) != before).any(1).sum())
        print(f"updated {len(documents):,} documents, {moved:,} with another ID")
    if arguments.add:
        documents = with_ids_like(index, documents_of(arguments, arguments.add))
        print(f"added {len(index.add(documents, arguments.batch_size)):,} documents")
    if arguments.merge:
        count = len(index)
        renumbered = index.merge(SemanticIndex.from_pretrained(arguments.merge), arguments.on_conflict)
        print(f"merged {len(index) - count:,} documents, {len(renumbered):,} of them renumbered")
        for document, (there, here) in renumbered.items():
            print(f"  {document}: {there} is {here} here")


def compare(arguments: argparse.Namespace, index: SemanticIndex) -> None:
    """Prints how far documents are from those of the index."""
    known = documents_of(arguments, arguments.train_file)
    reference = None if known is None else sample_of(index, known, arguments.sample, arguments.seed)
    new = documents_of(arguments, arguments.drift)
    print(index.drift(new, reference, batch_size=arguments.batch_size, seed=arguments.seed))


def look(arguments: argparse.Namespace) -> bool:
    """Prints what was asked for; true where the folder is not whole."""
    if arguments.changes is not None:
        for row in SemanticIndex.from_pretrained(arguments.folder).changes(arguments.changes):
            document = "" if row.document is None else f"  {row.document}"
            print(f"{row.version:6}  {row.action:6}  {row.before or '-'} > {row.after or '-'}{document}")
    if not arguments.verify:
        return False
    texts = documents_of(arguments, arguments.train_file)
    report = check_folder(arguments.folder, texts, arguments.sample, arguments.seed, arguments.batch_size)
    print(report)
    return bool(report.problems)


def main() -> None:
    """Compares, changes, then looks."""
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    datasets.disable_progress_bars()
    arguments = parse_arguments()
    changing = (arguments.remove, arguments.update, arguments.add, arguments.merge, arguments.room)
    try:
        if arguments.drift:
            compare(arguments, SemanticIndex.from_pretrained(arguments.folder))
        if any(changing):
            if not Path(arguments.folder).is_dir():
                raise FileNotFoundError(f"{arguments.folder} is no local folder: download it first, to change it.")
            with FolderLock(arguments.folder):
                remove_partial(arguments.folder)
                index = SemanticIndex.from_pretrained(arguments.folder)
                version = index.version
                change(arguments, index)
                save_with_model(index, arguments.folder)
            print(f"{arguments.folder}: version {version} became {index.version}, {len(index):,} documents")
        is_bad = look(arguments)
    except (CorpusError, KeyError, OSError, ValueError) as error:
        sys.exit(f"error: {error.args[0] if isinstance(error, KeyError) else error}")
    if is_bad:
        sys.exit(1)


if __name__ == "__main__":
    main()

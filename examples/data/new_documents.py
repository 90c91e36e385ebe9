"""Documents that take no part in a task's training: chosen, kept out of its tables and index, and measured apart."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from datasets import Dataset

from modeling_lmindexer import SemanticIndex
from trainers.new_documents import add_new, index_without

from .rows import CorpusError

PARTS = ("seen", "unseen")
NEW_IDS = ("index", "model")


@dataclass(kw_only=True)
class NewDocumentArguments:
    """Which documents come after training, and who gives them IDs; a part of a script's own arguments."""

    new_documents_file: str | None = field(
        default=None,
        metadata={"help": "Ids, one per line, of documents that are added after training and measured apart."},
    )
    hold_out_documents: float = field(default=0.0, metadata={"help": "Or a seeded share of all documents."})
    new_ids: str = field(
        default="index",
        metadata={
            "help": "Who gives them IDs: who gave the others theirs, which is the index, or an indexer before it "
            "learns the task; or the fine-tuned model.",
            "choices": list(NEW_IDS),
        },
    )


class NewDocuments:
    """Documents that are new to the task.

    Args:
        documents: their columns `id` and `text`.
        new_ids: see [`NewDocumentArguments`].
    """

    def __init__(self, documents: Dataset, new_ids: str):
        self.documents, self.new_ids = documents, new_ids
        self.ids = frozenset(documents["id"])
        self.whole_index: SemanticIndex | None = None

    @classmethod
    def choose(cls, arguments: NewDocumentArguments, documents: Dataset, seed: int) -> "NewDocuments | None":
        """Those of a file, or a seeded share; None where neither is asked for.

        Raises:
            CorpusError: both; a share that is not from 0 to below 1; ids that are not known; none, or all of them.
        """
        file, share = arguments.new_documents_file, arguments.hold_out_documents
        if file is None and share == 0:
            return None
        if file is not None and share:
            raise CorpusError("Give either --new_documents_file or --hold_out_documents, not both.")
        if arguments.task == "recommendation":
            raise CorpusError("New documents are for search and retrieval: histories hold items that are known.")
        if file is None:
            if not 0 < share < 1:
                raise CorpusError(f"--hold_out_documents is {share}; expected a share from 0 to below 1.")
            rows = np.random.default_rng(seed).permutation(len(documents))[: round(share * len(documents))]
        else:
            rows = rows_of_file(file, documents)
        if not 0 < len(rows) < len(documents):
            raise CorpusError(f"{len(rows)} of {len(documents)} documents are new; expected some, and not all.")
        return cls(documents.select(np.sort(rows)), arguments.new_ids)

    def of(self, table: Dataset, column: str = "id", new: bool = True) -> Dataset:
        """The rows of a table whose document is new, or those whose is not."""
        return table.select([row for row, document in enumerate(table[column]) if (document in self.ids) == new])

    # -- the index ----------------------------------------------------------------------------------------------------

    def set_apart(self, index: SemanticIndex, is_own: bool, reads_documents: bool) -> SemanticIndex:
        """The index of the others, to train with.

        IDs that belong together were given by one function. So an indexer gives new documents theirs before it
        learns the task, and an index from elsewhere has to have them; a model that learned another's IDs writes them
        only where it is asked to, and it must have learned to read documents then.

        Args:
            index: of all documents, or without the new ones, with a model attached.
            is_own: whether the model is the indexer whose IDs these are.
            reads_documents: whether documents are among what it learns from.

        Raises:
            CorpusError: the new documents can get no IDs.
        """
        missing = [row for row in self.documents if row["id"] not in index.ids]
        if self.new_ids == "model" and not (is_own or reads_documents):
            raise CorpusError(
                "--new_ids model lets a model write IDs that never learns to read documents: give --document_epochs "
                "or --document_share."
            )
        if self.new_ids == "index":
            if missing and not is_own:
                raise CorpusError(
                    f"{len(missing)} new documents have no ID in --index, such as {missing[0]['id']!r}: let what made "
                    "that index give them theirs, or the fine-tuned model with --new_ids model."
                )
            add_new(index, missing)
            self.whole_index = index
        return index_without(index, self.ids)

    def bring_back(self, index: SemanticIndex) -> SemanticIndex:
        """The index that was trained with, its model attached, and the new documents with their IDs."""
        if self.whole_index is not None:
            return self.whole_index.attach(index.model, index.tokenizer)
        add_new(index, list(self.documents))
        return index

    # -- the queries --------------------------------------------------------------------------------------------------

    def judged(self, queries: Dataset, part: str) -> Dataset:
        """Queries with those of their judged documents that are `seen`, or `unseen`; those without a relevant one
        are left out.

        Raises:
            CorpusError: none is left.
        """
        rows = self._judged(queries, part)
        if not rows:
            raise CorpusError(f"Of {len(queries)} queries none asks for a document that is {part}.")
        return Dataset.from_list(rows)

    def _judged(self, queries: Dataset, part: str, hide: bool = False) -> list[dict]:
        rows = []
        for row in queries:
            judged = list(zip(row["relevant"], row["gains"], strict=True))
            own = [pair for pair in judged if (pair[0] in self.ids) == (part == "unseen")]
            if any(gain > 0 for _, gain in own):
                others = [document for document, gain in judged if gain > 0 and (document, gain) not in own]
                relevant, gains = map(list, zip(*own, strict=True))
                rows.append(row | {"relevant": relevant, "gains": gains} | ({"hidden": others} if hide else {}))
        return rows

    def apart(self, tests: dict[str, Dataset]) -> dict[str, Dataset]:
        """`<split>_seen` and `<split>_unseen` of every test split, without what is empty.

        A query's relevant documents of the other part are hidden: no answer here, and no mistake either. Where a
        folder has such splits of its own, they are what is measured.
        """
        tables = {}
        for split, queries in tests.items():
            if split.endswith(PARTS) or any(f"{split}_{part}" in tests for part in PARTS):
                continue
            tables |= {f"{split}_{part}": self._judged(queries, part, hide=True) for part in PARTS}
        return {name: Dataset.from_list(rows) for name, rows in tables.items() if rows}


def rows_of_file(file: str, documents: Dataset) -> list[int]:
    """Rows of the documents whose ids stand in a file, one per line.

    Raises:
        CorpusError: there is no such file, or an id is not known.
    """
    path = Path(file).expanduser()
    if not path.is_file():
        raise CorpusError(f"new_documents_file={file!r} is not a file; expected one with an id per line.")
    place = {str(document): row for row, document in enumerate(documents["id"])}
    rows = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        name = line.strip()
        if name and name not in place:
            raise CorpusError(f"{file}, line {number}: {name!r} is no document of the corpus; leave it out.")
        if name:
            rows[place[name]] = None
    return list(rows)

"""The document index: which document has which semantic ID, and which ID belongs to which document."""

import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch

from .coded_documents import CodedDocuments
from .document_ids import IDS_NAME
from .folder import MANIFEST_NAME, CorruptedFolderError, reading_again, replaced_together, resolve_file, verify_files
from .free_codes import TakenCodes
from .index_changes import CHANGES_NAME, Change, ChangeLog, undo
from .index_merge import plan_merge
from .index_rules import check_disambiguation, check_ids, check_kind, check_room
from .index_table import IndexTable
from .prefix_tree import PrefixTree
from .text_codes import assigned_ids, last_logits


class SemanticIndex(CodedDocuments):
    """Documents and their semantic IDs, both ways.

    ```python
    >>> index = SemanticIndex.from_codes(["b", "a", "c"], [[0, 1], [0, 1], [1, 0]], position_sizes=[2, 2, 4])
    >>> index.semantic_ids
    ['<0><1><1>', '<0><1><0>', '<1><0><0>']
    >>> index.documents_of(index.sequences[1:])
    [['a'], ['c']]

    ```

    Args:
        document_ids: `N` ids, all integers or all strings.
        codes: `(N, positions)`, the disambiguation position last, if there is one.
        position_sizes: codes per position.
        has_disambiguation: whether the last position tells apart documents that share all learned codes.

    Attributes:
        position_sizes: codes per position, the disambiguation position's room last, if there is one.
        has_disambiguation: whether there is one; otherwise IDs are the learned codes alone.
        tree: the prefix tree of the IDs.
        ids: the documents' ids, and the numbers that the tree gives them.
        codebook_fingerprint: of the codebooks that gave the IDs, where it is known; see [`LMIndexerConfig`].
        log: the versions so far, and what each changed.
    """

    def __init__(
        self, document_ids: Sequence, codes: np.ndarray, position_sizes: Sequence[int], has_disambiguation: bool = True
    ):
        super().__init__(document_ids, codes, position_sizes, has_disambiguation)
        self.name_or_path: str | None = None
        self.hub_kwargs: dict = {}
        self.model, self.tokenizer = None, None
        self.codebook_fingerprint: str | None = None
        self.log = ChangeLog()

    @property
    def version(self) -> int:
        """How often the index has been changed: every `add`, `remove`, `update`, `merge` and resizing counts."""
        return self.log.version

    def check_model(self, config) -> None:
        """Raises ValueError when a model's codebooks are not those of this index; its last room may be larger.

        `config` is the model's. Their fingerprints are compared where both are known.
        """
        expected, found = config.position_sizes, self.position_sizes
        more_room = config.has_disambiguation and expected[:-1] == found[:-1] and expected[-1] >= found[-1]
        if config.has_disambiguation != self.has_disambiguation or not (expected == found or more_room):
            only_one = ", and only one of them has a disambiguation position"
            differ = only_one if config.has_disambiguation != self.has_disambiguation else ""
            raise ValueError(
                f"The index has {found} codes per position, the model {expected}{differ}: they come from different "
                "runs. Load both from one folder."
            )
        fingerprint = config.codebook_fingerprint
        if None not in (fingerprint, self.codebook_fingerprint) and fingerprint != self.codebook_fingerprint:
            raise ValueError(
                f"The IDs of the index come from other codebooks ({self.codebook_fingerprint[:8]}) than the "
                f"model's ({fingerprint[:8]}), of the same sizes. Load both from one folder; for a model that is to "
                "learn these IDs, set model.config.codebook_fingerprint = index.codebook_fingerprint."
            )

    def attach(self, model, tokenizer) -> "SemanticIndex":
        """Gives the index the model and tokenizer for `encode` and `add`; otherwise its folder's are loaded."""
        self.check_model(model.config)
        self.model, self.tokenizer = model, tokenizer
        self.codebook_fingerprint = self.codebook_fingerprint or model.config.codebook_fingerprint
        return self

    def load_model(self):
        """Model and tokenizer of this index: the attached ones, or those in the folder that it was loaded from."""
        if self.model is None:
            if self.name_or_path is None:
                raise ValueError("This index was not loaded from a model folder: call index.attach(model, tokenizer).")
            from transformers import AutoModel, AutoTokenizer

            model = AutoModel.from_pretrained(self.name_or_path, **self.hub_kwargs).eval()
            self.attach(model, AutoTokenizer.from_pretrained(self.name_or_path, **self.hub_kwargs))
        return self.model, self.tokenizer

    def encode(self, texts: Iterable[str], batch_size: int = 64) -> torch.LongTensor:
        """Flat ids of texts at the learned positions, as `model.assign`: `(texts, learned positions)`.

        Texts longer than the model takes are cut, as in training; `batch_size` of them are read at once.
        """
        return assigned_ids(*self.load_model(), list(texts), batch_size)

    def add(self, documents: Iterable[dict], batch_size: int = 64) -> torch.LongTensor:
        """Adds documents `{"id": ..., "text": ...}`; no other ID changes.

        Without a disambiguation position, a document whose learned codes are taken gets the most likely free code at
        the last position; the lowest id chooses first. The model reads `batch_size` texts at once.

        Returns:
            their flat ids `(documents, positions)`.

        Raises:
            ValueError: an id that is there already, or a group or prefix with no room left. Nothing is added then.
        """
        documents = list(documents)
        new_ids = [document["id"] for document in documents]
        present = [document for document in new_ids if document in self.ids]
        if present:
            raise ValueError(f"Documents {present[:5]} are in the index already: remove them first, or update them.")
        if not documents:
            return torch.empty(0, len(self.position_sizes), dtype=torch.long)
        new_ids = check_ids(new_ids)
        check_kind([*new_ids, *self.ids.numbered[:1]])
        texts = [document["text"] for document in documents]
        codes = self._assigned(self._learned(texts, batch_size), new_ids, texts, batch_size)
        self._insert(new_ids, codes)
        self.log.record("add", (new_ids, None, codes))
        return torch.from_numpy(codes + self.offsets)

    def update(self, documents: Iterable[dict], batch_size: int = 64) -> torch.LongTensor:
        """Takes over changed texts of documents `{"id": ..., "text": ...}` that are there; no other ID changes.

        A document whose learned codes stay keeps its whole ID. One that gets another goes to the end of
        `document_ids`, as if it had been removed and added. Without a disambiguation position, a document also keeps
        its ID where only the last code differs and the one it would have is another document's. The model reads
        `batch_size` texts at once.

        Returns:
            their flat ids `(documents, positions)`.

        Raises:
            KeyError: an id that is not in the index.
            ValueError: an id that is given twice, or a group or prefix with no room left. Nothing is changed then.
        """
        documents = list(documents)
        if not documents:
            return torch.empty(0, len(self.position_sizes), dtype=torch.long)
        ids, texts = check_ids([d["id"] for d in documents]), [d["text"] for d in documents]
        before = self.codes_of(ids)
        learned = self._learned(texts, batch_size)
        stays = (learned == before[:, : learned.shape[1]]).all(axis=1)
        if not self.has_disambiguation:
            others = TakenCodes(self.tree, self.offsets, learned[:, :-1], leaving=before)
            stays |= (learned[:, :-1] == before[:, :-1]).all(axis=1) & others.has(learned[:, -1])
        moving, after = np.flatnonzero(~stays), before.copy()
        if len(moving):
            moved, moved_texts = ([values[i] for i in moving] for values in (ids, texts))
            after[moving] = self._assigned(learned[moving], moved, moved_texts, batch_size, before[moving])
            self._delete(moved)
            self._insert(moved, after[moving])
            self._forget_removed()
        self.log.record("update", (ids, before, after))
        return torch.from_numpy(after + self.offsets)

    def _learned(self, texts: list[str], batch_size: int) -> np.ndarray:
        """Learned codes `(texts, learned positions)`."""
        return self.encode(texts, batch_size).numpy() - self.offsets[: len(self.codebook_sizes)]

    def _assigned(
        self, learned: np.ndarray, ids: list, texts: list[str], batch_size: int, leaving: np.ndarray | None = None
    ) -> np.ndarray:
        """Codes `(n, positions)` of documents with `learned` codes that are free, or become so by IDs `leaving`."""
        if self.has_disambiguation:
            numbers = TakenCodes(self.tree, self.offsets, learned, leaving).least_free(ids)
            check_room(int(numbers.max()) + 1, self.position_sizes[-1])
            return np.column_stack([learned, numbers])

        def logits(rows: np.ndarray) -> np.ndarray:
            prefixes = torch.from_numpy(learned[rows, :-1] + self.offsets[:-1])
            return last_logits(*self.load_model(), [texts[row] for row in rows], prefixes, batch_size)

        taken = TakenCodes(self.tree, self.offsets, learned[:, :-1], leaving)
        last = taken.most_likely_free(learned, ids, self.position_sizes[-1], logits)
        return np.column_stack([learned[:, :-1], last])

    def remove(self, document_ids: Sequence) -> None:
        """Removes documents by their `document_ids`; no other ID changes.

        Raises:
            KeyError: an id that is not in the index; ValueError: no document would be left. Nothing is removed then.
        """
        document_ids = list(dict.fromkeys(document_ids))
        before = self.codes_of(document_ids)
        if len(document_ids) == len(self):
            raise ValueError("This would remove every document; an index holds at least one.")
        if not document_ids:
            return
        self._delete(document_ids)
        self._forget_removed()
        self.log.record("remove", (document_ids, before, None))

    def merge(self, other: "SemanticIndex", on_conflict: str = "refuse") -> dict:
        """Takes over the documents of another index of the same model, with their IDs; no ID of this one changes.

        Where an ID is taken, its document gets the least free number at the disambiguation position. The room of that
        position becomes the larger of both; a model needs as much, see `model.resize_disambiguation`.

        Args:
            other: stays as it is.
            on_conflict: what becomes of documents that are in both: `refuse` to merge, `keep` this index's ID, or
                `replace` it by the other's, unless their learned codes are the same.

        Returns:
            by document id, the semantic IDs in the other index and here of those that were renumbered.

        Raises:
            ValueError: other sizes or codebooks, ids of another kind, documents in both with `refuse`, IDs that are
                taken where there is no disambiguation position, or no room left. Nothing is changed then.
        """
        plan = plan_merge(self, other, on_conflict)
        room = self.position_sizes[-1]
        moved = [document for document in plan.document_ids if document in self.ids]
        if not plan.document_ids and not plan.confirmed and plan.room == room:
            return {}
        before = dict(zip(moved, self.codes_of(moved), strict=True))
        self.position_sizes[-1] = plan.room
        self.codebook_fingerprint = self.codebook_fingerprint or other.codebook_fingerprint
        if plan.document_ids:
            if moved:
                self._delete(moved)
            self._insert(plan.document_ids, plan.codes)
            self._forget_removed()
        new = [row for row, document in enumerate(plan.document_ids) if document not in before]
        confirmed = self.codes_of(plan.confirmed)
        self.log.record(
            "merge",
            ([plan.document_ids[row] for row in new], None, plan.codes[new]),
            (moved, np.array(list(before.values())), self.codes_of(moved)),
            (plan.confirmed, confirmed, confirmed),
        )
        return plan.renumbered

    def resize_disambiguation(self, num_codes: int) -> None:
        """Gives the last position room for `num_codes`, as `model.resize_disambiguation` does; no ID changes.

        Raises:
            ValueError: less room than there is, or no such position.
        """
        check_disambiguation(self.has_disambiguation)
        room = self.position_sizes[-1]
        if num_codes < room:
            raise ValueError(f"The last position has room for {room} codes; it cannot shrink to {num_codes}.")
        if num_codes > room:
            self.position_sizes[-1] = int(num_codes)
            self.log.record("resize", ([None], np.array([[room]]), np.array([[num_codes]])))

    def changes(self, since: int = 0) -> Iterator[Change]:
        """What a cache that holds version `since` must refresh, in order; see [`Change`].

        Raises:
            ValueError: no such version; CorruptedFolderError: the folder's changelog is missing or of another index.
        """
        return self.log.since(since)

    def at(self, version: int) -> dict:
        """Semantic IDs by document as they were at an earlier version, from the changes since; errors as `changes`."""
        return undo(dict(zip(self.document_ids, self.semantic_ids, strict=True)), self.changes(version))

    def forget_changes(self) -> None:
        """Starts the versions anew at 0; no ID changes."""
        self.log = ChangeLog()

    def drift(self, documents: Iterable[dict], reference: Iterable[dict] | None = None, **settings):
        """How far new documents are from those that the model was trained on.

        Args:
            documents: `{"id": ..., "text": ...}`.
            reference: documents of the index as they were in training, to compare with.
            settings: of [`measure_drift`], such as `batch_size` and `seed`.

        Returns:
            figures that print as a table and say when to retrain.
        """
        from .index_drift import measure_drift

        return measure_drift(self, documents, reference, **settings)

    def save_pretrained(self, folder: str | os.PathLike) -> None:
        """Writes `semantic_ids.parquet`, `prefix_tree.safetensors` and, from version 1 on, `index_changes.parquet`.

        All at once: a folder that is read meanwhile, or left by a process that was killed, holds the old index or the
        new one. The folder's manifest, if it has one, lists them.
        """
        sizes = (list(self.position_sizes), self.has_disambiguation)
        versions = (self.codebook_fingerprint, self.version, self.log.count)
        table = IndexTable(self.document_ids, self.codes, *sizes, *versions)
        with replaced_together(folder, without=() if self.version else (CHANGES_NAME,)) as new:
            table.write(new / IDS_NAME)
            if self.version:
                self.log.write(new, has_numbers=type(self.document_ids[0]) is int)
            # Rows of the table are the documents' numbers in the file of the tree.
            renumbered = len(self) < self.ids.count
            (PrefixTree.from_sequences(self.sequences) if renumbered else self.tree).save_pretrained(new)

    @classmethod
    @reading_again
    def from_pretrained(cls, name_or_path: str | os.PathLike, **hub_kwargs) -> "SemanticIndex":
        """Loads an index from a folder or a Hub repository, checked against its manifest.

        Args:
            name_or_path: folder or Hub repository.
            hub_kwargs: `revision`, `token`, `cache_dir`, `local_files_only`, `subfolder`.

        Raises:
            FileNotFoundError: no such folder, repository or file.
            CorruptedFolderError: a table that cannot be read or holds something else.
        """
        path = resolve_file(name_or_path, IDS_NAME, **hub_kwargs)
        verify_files([path], resolve_file(name_or_path, MANIFEST_NAME, optional=True, **hub_kwargs))
        table = IndexTable.read(path)
        try:
            index = cls(table.document_ids, table.codes, table.position_sizes, table.has_disambiguation)
        except ValueError as error:
            raise CorruptedFolderError(
                f"{path} is not a table of semantic IDs: {error} Download or write the folder again."
            ) from error
        return index.belonging_to(name_or_path, table, **hub_kwargs)

    def belonging_to(self, name_or_path: str | os.PathLike, table: IndexTable, **hub_kwargs) -> "SemanticIndex":
        """Gives the index the folder or repository that its table comes from, with its model and its changelog.

        Args:
            name_or_path: folder or Hub repository.
            table: the table read from there.
            hub_kwargs: that it was read with.
        """
        self.codebook_fingerprint = table.codebook_fingerprint
        self.log = ChangeLog(table.version, table.num_changes, (str(name_or_path), hub_kwargs))
        self.name_or_path, self.hub_kwargs = str(name_or_path), hub_kwargs
        return self

    def push_to_hub(self, repo_id: str, *, private: bool | None = None, token: str | None = None, **kwargs) -> str:
        """Uploads the index's files to a Hub repository, made when there is none; returns the commit's address.

        Args:
            repo_id: `name` or `organisation/name`.
            private: whether a new repository is.
            token: of the Hub; default the one that is logged in.
            kwargs: of the upload, such as `commit_message`.
        """
        from .hub import upload_folder

        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder)
            return upload_folder(folder, repo_id, private=private, token=token, **kwargs)

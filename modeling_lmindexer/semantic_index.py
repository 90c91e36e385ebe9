"""The document index: which document has which semantic ID, and which ID belongs to which document."""

import json
import os
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from transformers.utils import logging

from .document_ids import IDS_NAME, DocumentIds
from .folder import MANIFEST_NAME, CorruptedFolderError, atomic_path, resolve_file, update_manifest, verify_files
from .logits_process import PrefixTreeLogitsProcessor
from .prefix_tree import PrefixTree

try:
    import pyarrow
    import pyarrow.parquet
except ImportError:  # only reading and writing the table of IDs needs it
    pyarrow = None

logger = logging.get_logger(__name__)


def number_in_group(codes: np.ndarray, document_ids: Sequence) -> np.ndarray:
    """Disambiguation codes `(N,)`: the place of each document among those with its codes, in order of document id.

    Args:
        codes: learned codes `(N, positions)`.
        document_ids: `N` ids, all integers or all strings.
    """
    order = np.lexsort((np.asarray(document_ids), *codes.T[::-1]))
    sorted_codes = codes[order]
    starts = np.ones(len(codes), dtype=bool)
    starts[1:] = (sorted_codes[1:] != sorted_codes[:-1]).any(axis=1)
    numbers = np.arange(len(codes))
    result = np.empty(len(codes), dtype=np.int64)
    result[order] = numbers - np.maximum.accumulate(np.where(starts, numbers, 0))
    return result


class SemanticIndex:
    """Documents and their semantic IDs, both ways.

    ```python
    >>> index = SemanticIndex.from_codes(["b", "a", "c"], [[0, 1], [0, 1], [1, 0]], position_sizes=[2, 2, 4])
    >>> index.semantic_ids
    ['<0><1><1>', '<0><1><0>', '<1><0><0>']
    >>> index.documents_of(index.sequences[1:])
    [['a'], ['c']]

    ```

    Attributes:
        position_sizes: codes per position, the disambiguation position's room last.
        tree: the prefix tree of the IDs.
        ids: the documents' ids, and the numbers that the tree gives them.
    """

    def __init__(self, document_ids: Sequence, codes: np.ndarray, position_sizes: Sequence[int]):
        document_ids = check_ids(document_ids)
        codes = check_codes(np.asarray(codes, dtype=np.int64), document_ids, position_sizes)
        self.position_sizes = [int(size) for size in position_sizes]
        self.name_or_path: str | None = None
        self.hub_kwargs: dict = {}
        self.model, self.tokenizer = None, None
        self.ids = DocumentIds(document_ids)
        self._codes = codes  # by document number, with room for more at the end
        self.tree = PrefixTree.from_sequences(torch.from_numpy(codes + self._offsets))
        if len(self.tree) != len(self):
            raise ValueError(f"{len(self)} documents have only {len(self.tree)} different IDs; each needs its own.")

    @classmethod
    def from_codes(cls, document_ids: Sequence, codes, position_sizes: Sequence[int]) -> "SemanticIndex":
        """An index from learned codes; the disambiguation position counts the documents that share them.

        Args:
            document_ids: `N` ids, all integers or all strings.
            codes: learned codes `(N, positions - 1)`.
            position_sizes: codes per position, the room of the disambiguation position last.

        Raises:
            ValueError: duplicate ids, codes outside their codebook, or a group that outgrows the room.
        """
        document_ids = check_ids(document_ids)
        codes = np.asarray(codes, dtype=np.int64)
        if codes.ndim != 2 or len(codes) != len(document_ids):
            raise ValueError(f"Expected codes for {len(document_ids)} documents, got an array of shape {codes.shape}.")
        numbers = number_in_group(codes, document_ids)
        return cls(document_ids, np.column_stack([codes, numbers]), position_sizes)

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def document_ids(self) -> list:
        """Ids of the documents, in the order in which they were added."""
        return self.ids.present

    @property
    def codes(self) -> np.ndarray:
        """`(N, positions)`, the disambiguation position last."""
        codes = self._codes[: self.ids.count]
        return codes if len(self) == self.ids.count else codes[self.ids.rows]

    @property
    def sequences(self) -> torch.LongTensor:
        """Flat ids `(N, positions)`."""
        return torch.from_numpy(self.codes + self._offsets)

    @property
    def _offsets(self) -> np.ndarray:
        return np.cumsum([1, *self.position_sizes[:-1]])

    def __repr__(self) -> str:
        return f"SemanticIndex({len(self):,} documents, {' x '.join(map(str, self.position_sizes))} codes)"

    @property
    def semantic_ids(self) -> list[str]:
        """The IDs as text, such as `<12><407><0>`."""
        return ["".join(f"<{code}>" for code in row) for row in self.codes.tolist()]

    @property
    def logits_processor(self) -> PrefixTreeLogitsProcessor:
        """Keeps `generate` on the IDs of this index."""
        return PrefixTreeLogitsProcessor(self.tree, document_ids=self.ids)

    def filtered(self, allowed) -> PrefixTree:
        """A view of the tree with the allowed documents only, for the time of a request.

        Args:
            allowed: a boolean mask `(N,)` in the order of `document_ids`, or document ids; or one of these per row of
                a batch: a mask `(batch, N)`, or a list of lists of ids.

        Raises:
            ValueError: a mask of another length; KeyError: an id that is not in the index.
        """
        tree = self.tree.snapshot()
        return tree.filtered(self.ids.mask(allowed, tree.num_documents))

    def documents_of(self, ids: torch.Tensor) -> list[list]:
        """Documents of flat ids `(rows, positions)`, or `(rows, 1 + positions)` as `generate` returns them.

        Returns:
            one list per row: the document with that ID, or nothing.

        Raises:
            ValueError: another number of positions than the index has.
        """
        ids = torch.as_tensor(ids).cpu()
        positions = len(self.position_sizes)
        if ids.ndim != 2 or ids.shape[1] not in (positions, positions + 1):
            raise ValueError(
                f"Expected flat ids of shape (rows, {positions}), or (rows, {positions + 1}) with the start id first; "
                f"got {tuple(ids.shape)}."
            )
        tree = self.tree.snapshot()
        rows, numbers = tree.documents(tree.walk(ids[:, -positions:]), positions)
        found: list[list] = [[] for _ in ids]
        for row, number in zip(rows.tolist(), numbers.tolist(), strict=True):
            found[row].append(self.ids.numbered[number])
        return found

    def rows_of(self, documents) -> np.ndarray:
        """Row numbers of document ids, or of the true entries of a mask `(N,)` in the order of `document_ids`.

        Raises:
            ValueError: a mask of another length; KeyError: an id that is not in the index.
        """
        if not isinstance(documents, np.ndarray | torch.Tensor):
            documents = list(documents)
            if documents and all(type(document) is bool for document in documents):
                documents = np.array(documents)
        if isinstance(documents, np.ndarray | torch.Tensor):
            if documents.dtype in (np.bool_, torch.bool):
                if documents.shape != (len(self),):
                    raise ValueError(f"Expected a mask of shape ({len(self)},), got {tuple(documents.shape)}.")
                return torch.as_tensor(documents).cpu().numpy().nonzero()[0]
            documents = documents.tolist()
        numbers = self.ids.find(documents)
        return numbers if len(self) == self.ids.count else np.searchsorted(self.ids.rows, numbers)

    def sequences_of(self, document_ids: Sequence) -> torch.LongTensor:
        """Flat ids `(documents, positions)`: the labels to fine-tune on."""
        return torch.from_numpy(self._codes[self.ids.find(list(document_ids))] + self._offsets)

    def check_model(self, config) -> None:
        """Raises ValueError when a model's codebooks are not those of this index; its last room may be larger."""
        expected, found = config.position_sizes, self.position_sizes
        if expected[:-1] != found[:-1] or expected[-1] < found[-1]:
            raise ValueError(
                f"The index has {found} codes per position, the model {expected}: they come from different runs. Load "
                "both from one folder."
            )

    def attach(self, model, tokenizer) -> "SemanticIndex":
        """Gives the index the model and tokenizer for `encode` and `add`; otherwise its folder's are loaded."""
        self.check_model(model.config)
        self.model, self.tokenizer = model, tokenizer
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

    @torch.no_grad()
    def encode(self, texts: Iterable[str], batch_size: int = 64) -> torch.LongTensor:
        """Flat ids of texts at the learned positions, as `model.assign`: `(texts, positions - 1)`.

        Texts longer than the model takes are cut, with a warning.
        """
        model, tokenizer = self.load_model()
        texts = list(texts)
        ids = []
        training = model.training
        model.eval()
        for start in range(0, len(texts), batch_size):
            # Not cut by the tokenizer: the model does it, and says so.
            inputs = tokenizer(texts[start : start + batch_size], padding=True, return_tensors="pt").to(model.device)
            ids.append(model.assign(inputs["input_ids"], inputs["attention_mask"]).cpu())
        model.train(training)
        return torch.cat(ids) if ids else torch.empty(0, len(self.position_sizes) - 1, dtype=torch.long)

    def add(self, documents: Iterable[dict], batch_size: int = 64) -> torch.LongTensor:
        """Adds documents `{"id": ..., "text": ...}`; no other ID changes.

        Returns:
            their flat ids `(documents, positions)`.

        Raises:
            ValueError: an id that is there already, or a group with no room left.
        """
        documents = list(documents)
        new_ids = [document["id"] for document in documents]
        present = [document for document in new_ids if document in self.ids]
        if present:
            raise ValueError(f"Documents {present[:5]} are in the index already: remove them first.")
        if not documents:
            return torch.empty(0, len(self.position_sizes), dtype=torch.long)
        new_ids = check_ids(new_ids)
        check_kind([*new_ids, *self.ids.numbered[:1]])
        learned = self.encode([document["text"] for document in documents], batch_size)
        numbers = self._free_numbers(learned, new_ids)
        codes = np.column_stack([learned.numpy() - self._offsets[:-1], numbers])
        check_room(int(numbers.max()) + 1, self.position_sizes[-1])
        sequences = torch.from_numpy(codes + self._offsets)
        self._append(codes)
        self.tree.add(sequences)
        self.ids.add(new_ids)
        return sequences

    def _free_numbers(self, learned: torch.LongTensor, new_ids: list) -> np.ndarray:
        """Disambiguation codes `(documents,)` for new documents with `learned` flat ids: the least that are free."""
        tree, level = self.tree.snapshot(), learned.shape[1]
        groups, group_of = torch.unique(learned, dim=0, return_inverse=True)
        rows, flat, _ = tree.expand(tree.walk(groups), level)
        taken: list[set] = [set() for _ in groups]
        for row, code in zip(rows.tolist(), (flat - int(self._offsets[-1])).tolist(), strict=True):
            taken[row].add(code)
        numbers = np.zeros(len(new_ids), dtype=np.int64)
        for i in np.argsort(np.asarray(new_ids), kind="stable"):
            used = taken[group_of[i]]
            numbers[i] = next(n for n in range(len(used) + 1) if n not in used)
            used.add(int(numbers[i]))
        return numbers

    def _append(self, codes: np.ndarray) -> None:
        """Puts `codes` `(documents, positions)` behind the others; a full array is doubled: many adds stay cheap."""
        count = self.ids.count
        if count + len(codes) > len(self._codes):
            room = np.zeros((count + max(count, len(codes)), codes.shape[1]), dtype=np.int64)
            room[:count] = self._codes[:count]
            self._codes = room
        self._codes[count : count + len(codes)] = codes

    def remove(self, document_ids: Sequence) -> None:
        """Removes documents; no other ID changes. Raises KeyError for an id that is not in the index."""
        document_ids = list(document_ids)
        if len(set(self.ids.find(document_ids).tolist())) == len(self):
            raise ValueError("This would remove every document; an index holds at least one.")
        if not document_ids:
            return
        self.tree.remove(self.ids.remove(document_ids))
        if 2 * len(self) < self.ids.count:
            self._forget_removed()

    def _forget_removed(self) -> None:
        """Numbers the documents anew, when most numbers are those of removed ones."""
        ids, codes, sequences = list(self.document_ids), self.codes, self.sequences
        self.ids, self._codes, self.tree = DocumentIds(ids), codes, PrefixTree.from_sequences(sequences)

    def resize_disambiguation(self, num_codes: int) -> None:
        """Gives the last position room for `num_codes`, as `model.resize_disambiguation` does; no ID changes.

        Raises:
            ValueError: less room than there is.
        """
        if num_codes < self.position_sizes[-1]:
            raise ValueError(
                f"The last position has room for {self.position_sizes[-1]} codes; it cannot shrink to {num_codes}."
            )
        self.position_sizes[-1] = num_codes

    def save_pretrained(self, folder: str | os.PathLike) -> None:
        """Writes `semantic_ids.parquet` (`id`, `codes`, `semantic_id`) and `prefix_tree.safetensors`, atomically."""
        if pyarrow is None:
            raise ImportError("Writing an index needs pyarrow: pip install pyarrow")
        folder = Path(folder)
        table = pyarrow.table(
            {"id": self.document_ids, "codes": self.codes.tolist(), "semantic_id": self.semantic_ids}
        )
        table = table.replace_schema_metadata({"position_sizes": json.dumps(self.position_sizes)})
        with atomic_path(folder / IDS_NAME) as temporary:
            pyarrow.parquet.write_table(table, temporary)
        if (folder / MANIFEST_NAME).exists():
            update_manifest(folder, [IDS_NAME])
        # Rows of the table are the documents' numbers in the file of the tree.
        renumbered = len(self) < self.ids.count
        (PrefixTree.from_sequences(self.sequences) if renumbered else self.tree).save_pretrained(folder)

    @classmethod
    def from_pretrained(cls, name_or_path: str | os.PathLike, **hub_kwargs) -> "SemanticIndex":
        """Loads an index from a folder or a Hub repository, checked against its manifest.

        Raises:
            FileNotFoundError: no such folder, repository or file.
            CorruptedFolderError: a table that cannot be read or holds something else.
        """
        if pyarrow is None:
            raise ImportError("Reading an index needs pyarrow: pip install pyarrow")
        path = resolve_file(name_or_path, IDS_NAME, **hub_kwargs)
        verify_files([path], resolve_file(name_or_path, MANIFEST_NAME, optional=True, **hub_kwargs))
        try:
            table = pyarrow.parquet.read_table(path, columns=["id", "codes"])
            sizes = json.loads(table.schema.metadata[b"position_sizes"])
            codes = np.array(table["codes"].to_pylist(), dtype=np.int64)
            index = cls(table["id"].to_pylist(), codes, sizes)
        except (pyarrow.ArrowException, OSError, KeyError, TypeError, ValueError) as error:
            raise CorruptedFolderError(f"{path} is not a table of semantic IDs: {error}") from error
        index.name_or_path, index.hub_kwargs = str(name_or_path), hub_kwargs
        return index

    def push_to_hub(self, repo_id: str, *, private: bool | None = None, token: str | None = None, **kwargs) -> str:
        """Uploads the index's files to a Hub repository, made when there is none; returns the commit's address."""
        from .hub import upload_folder

        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder)
            return upload_folder(folder, repo_id, private=private, token=token, **kwargs)


def check_ids(document_ids: Sequence) -> list:
    """The ids as a list, once they are known to be unique and of one kind.

    Raises:
        ValueError: none at all, duplicates, or anything but all integers or all strings.
    """
    ids = document_ids.tolist() if isinstance(document_ids, np.ndarray | torch.Tensor) else list(document_ids)
    ids = [i.item() if isinstance(i, np.generic) else i for i in ids]
    if not ids:
        raise ValueError("There are no documents; an index holds at least one.")
    check_kind(ids)
    if len(set(ids)) < len(ids):
        seen: set = set()
        repeated = list(dict.fromkeys(i for i in ids if i in seen or seen.add(i)))
        raise ValueError(f"{len(repeated)} document ids occur more than once: {repeated[:5]}. Make them unique.")
    return ids


def check_kind(ids: list) -> None:
    """Raises ValueError for ids that are not all integers or all strings."""
    if not (all(type(i) is int for i in ids) or all(type(i) is str for i in ids)):
        raise ValueError(
            f"Document ids must be all integers or all strings, got {sorted({type(i).__name__ for i in ids})}."
        )


def check_codes(codes: np.ndarray, document_ids: list, position_sizes: Sequence[int]) -> np.ndarray:
    """The codes `(N, positions)`, once they are known to fit their positions.

    Raises:
        ValueError: another shape, a code outside its codebook, or a group larger than the room of the last position.
    """
    if codes.shape != (len(document_ids), len(position_sizes)):
        raise ValueError(f"Expected codes of shape {(len(document_ids), len(position_sizes))}, got {codes.shape}.")
    sizes = np.asarray(position_sizes)
    outside = codes < 0
    outside[:, :-1] |= codes[:, :-1] >= sizes[:-1]
    if outside.any():
        row = int(outside.any(axis=1).argmax())
        raise ValueError(
            f"Document {document_ids[row]!r} has the codes {codes[row].tolist()}; the sizes are {sizes.tolist()}."
        )
    check_room(int(codes[:, -1].max()) + 1, sizes[-1])
    return codes


def check_room(documents: int, room: int) -> None:
    """Raises ValueError when a group of documents outgrows the room of the last position."""
    if documents > room:
        raise ValueError(
            f"{documents} documents share their learned codes, the last position has room for {room}: call "
            f"model.resize_disambiguation({documents}) or more, and the same of the index if there is one."
        )

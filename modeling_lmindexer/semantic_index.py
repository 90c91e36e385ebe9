"""The document index: which document has which semantic ID, and which ID belongs to which document."""

import json
import os
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from transformers.utils import logging

from .document_ids import IDS_NAME, DocumentIds
from .folder import MANIFEST_NAME, CorruptedFolderError, atomic_path, resolve_file, update_manifest, verify_files
from .index_rules import (
    check_codes,
    check_disambiguation,
    check_free,
    check_ids,
    check_kind,
    check_room,
    number_in_group,
)
from .logits_process import PrefixTreeLogitsProcessor
from .prefix_tree import PrefixTree

try:
    import pyarrow
    import pyarrow.parquet
except ImportError:  # only reading and writing the table of IDs needs it
    pyarrow = None

logger = logging.get_logger(__name__)


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
        position_sizes: codes per position, the disambiguation position's room last, if there is one.
        has_disambiguation: whether there is one; otherwise IDs are the learned codes alone.
        tree: the prefix tree of the IDs.
        ids: the documents' ids, and the numbers that the tree gives them.
    """

    def __init__(
        self, document_ids: Sequence, codes: np.ndarray, position_sizes: Sequence[int], has_disambiguation: bool = True
    ):
        document_ids = check_ids(document_ids)
        codes = check_codes(np.asarray(codes, dtype=np.int64), document_ids, position_sizes, has_disambiguation)
        self.has_disambiguation = bool(has_disambiguation)
        self.position_sizes = [int(size) for size in position_sizes]
        self.name_or_path: str | None = None
        self.hub_kwargs: dict = {}
        self.model, self.tokenizer = None, None
        self.ids = DocumentIds(document_ids)
        self._codes = codes  # by document number, with room for more at the end
        self.tree = PrefixTree.from_sequences(torch.from_numpy(codes + self._offsets))
        if len(self.tree) != len(self):
            way_out = "" if has_disambiguation else " Make them unique with trainers.reassignment.reassign."
            raise ValueError(
                f"{len(self)} documents have only {len(self.tree)} different IDs; each needs its own.{way_out}"
            )

    @classmethod
    def from_codes(
        cls, document_ids: Sequence, codes, position_sizes: Sequence[int], has_disambiguation: bool = True
    ) -> "SemanticIndex":
        """An index from learned codes; the disambiguation position counts the documents that share them.

        Args:
            document_ids: `N` ids, all integers or all strings.
            codes: learned codes `(N, learned positions)`.
            position_sizes: codes per position, the room of the disambiguation position last.
            has_disambiguation: False for IDs that are the learned codes alone, and `position_sizes` theirs.

        Raises:
            ValueError: duplicate ids, codes outside their codebook, a group that outgrows the room, or documents that
                share all codes where nothing tells them apart.
        """
        document_ids = check_ids(document_ids)
        codes = np.asarray(codes, dtype=np.int64)
        if codes.ndim != 2 or len(codes) != len(document_ids):
            raise ValueError(f"Expected codes for {len(document_ids)} documents, got an array of shape {codes.shape}.")
        if has_disambiguation:
            codes = np.column_stack([codes, number_in_group(codes, document_ids)])
        return cls(document_ids, codes, position_sizes, has_disambiguation)

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def document_ids(self) -> list:
        """Ids of the documents, in the order in which they were added."""
        return self.ids.present

    @property
    def codes(self) -> np.ndarray:
        """`(N, positions)`, the disambiguation position last, if there is one."""
        codes = self._codes[: self.ids.count]
        return codes if len(self) == self.ids.count else codes[self.ids.rows]

    @property
    def sequences(self) -> torch.LongTensor:
        """Flat ids `(N, positions)`."""
        return torch.from_numpy(self.codes + self._offsets)

    @property
    def codebook_sizes(self) -> list[int]:
        """Codes per learned position."""
        return self.position_sizes[: len(self.position_sizes) - self.has_disambiguation]

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
        more_room = config.has_disambiguation and expected[:-1] == found[:-1] and expected[-1] >= found[-1]
        if config.has_disambiguation != self.has_disambiguation or not (expected == found or more_room):
            only_one = ", and only one of them has a disambiguation position"
            differ = only_one if config.has_disambiguation != self.has_disambiguation else ""
            raise ValueError(
                f"The index has {found} codes per position, the model {expected}{differ}: they come from different "
                "runs. Load both from one folder."
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
        """Flat ids of texts at the learned positions, as `model.assign`: `(texts, learned positions)`.

        Texts longer than the model takes are cut, with a warning.
        """
        model, _ = self.load_model()
        texts = list(texts)
        if not texts:
            return torch.empty(0, len(self.codebook_sizes), dtype=torch.long)
        return self._read(texts, batch_size, lambda inputs, _: model.assign(**inputs))

    def _read(self, texts: list[str], batch_size: int, function: Callable) -> torch.Tensor:
        """Rows of `function(inputs, part)` for every batch of texts, `part` of them, in evaluation mode."""
        model, tokenizer = self.load_model()
        rows, training = [], model.training
        model.eval()
        for part in (slice(start, start + batch_size) for start in range(0, len(texts), batch_size)):
            # Not cut by the tokenizer: the model does it, and says so.
            inputs = tokenizer(texts[part], padding=True, return_tensors="pt").to(model.device)
            rows.append(function({name: inputs[name] for name in ("input_ids", "attention_mask")}, part).cpu())
        model.train(training)
        return torch.cat(rows)

    def add(self, documents: Iterable[dict], batch_size: int = 64) -> torch.LongTensor:
        """Adds documents `{"id": ..., "text": ...}`; no other ID changes.

        Without a disambiguation position, a document whose learned codes are taken gets the most likely free code at
        the last position; the lowest id chooses first.

        Returns:
            their flat ids `(documents, positions)`.

        Raises:
            ValueError: an id that is there already, or a group or prefix with no room left.
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
        texts = [document["text"] for document in documents]
        codes = self.encode(texts, batch_size).numpy() - self._offsets[: len(self.codebook_sizes)]
        if self.has_disambiguation:
            codes = np.column_stack([codes, self._free_numbers(codes, new_ids)])
            check_room(int(codes[:, -1].max()) + 1, self.position_sizes[-1])
        else:
            codes[:, -1] = self._free_codes(codes, new_ids, texts, batch_size)
        sequences = torch.from_numpy(codes + self._offsets)
        self._append(codes)
        self.tree.add(sequences)
        self.ids.add(new_ids)
        return sequences

    def _taken(self, prefixes: np.ndarray) -> tuple[list[set], np.ndarray]:
        """Codes at the last position that documents have, for each different one of `prefixes` `(n, positions - 1)`
        in order, and which of these is whose `(n,)`."""
        tree, level = self.tree.snapshot(), len(self.position_sizes) - 1
        groups, group_of = np.zeros((1, 0), dtype=np.int64), np.zeros(len(prefixes), dtype=np.int64)
        if level:
            groups, group_of = np.unique(prefixes, axis=0, return_inverse=True)
        rows, flat, _ = tree.expand(tree.walk(torch.from_numpy(groups + self._offsets[:-1])), level)
        taken: list[set] = [set() for _ in groups]
        for row, code in zip(rows.tolist(), (flat - int(self._offsets[-1])).tolist(), strict=True):
            taken[row].add(code)
        return taken, group_of.reshape(-1)

    def _free_codes(self, codes: np.ndarray, new_ids: list, texts: list[str], batch_size: int) -> np.ndarray:
        """Last codes `(documents,)` for new documents with learned `codes`: theirs, or the most likely free ones."""
        taken, group_of = self._taken(codes[:, :-1])
        check_free(taken, group_of, codes, self.position_sizes[-1])
        wanted = [set(used) for used in taken]
        crowded = np.zeros(len(taken), dtype=bool)
        for group, code in zip(group_of.tolist(), codes[:, -1].tolist(), strict=True):
            crowded[group] |= code in wanted[group]
            wanted[group].add(code)
        last = codes[:, -1].copy()
        rows = np.flatnonzero(crowded[group_of])
        if not len(rows):
            return last
        scores = self._last_logits([texts[row] for row in rows], codes[rows, :-1], batch_size)
        for i in np.argsort(np.asarray([new_ids[row] for row in rows]), kind="stable"):
            used = taken[group_of[rows[i]]]
            if int(last[rows[i]]) in used:
                scores[i, list(used)] = -np.inf
                last[rows[i]] = scores[i].argmax()
            used.add(int(last[rows[i]]))
        return last

    @torch.no_grad()
    def _last_logits(self, texts: list[str], prefixes: np.ndarray, batch_size: int) -> np.ndarray:
        """The model's logits `(texts, codes)` at the last position after codes `(texts, positions - 1)`."""
        model, _ = self.load_model()
        ids = torch.from_numpy(prefixes + self._offsets[:-1])
        ids = torch.nn.functional.pad(ids, (1, 0), value=model.config.decoder_start_token_id)

        def logits(inputs: dict, part: slice) -> torch.Tensor:
            return model(**inputs, decoder_input_ids=ids[part].to(model.device)).code_logits[-1].float()

        return self._read(texts, batch_size, logits).numpy()

    def _free_numbers(self, codes: np.ndarray, new_ids: list) -> np.ndarray:
        """Disambiguation codes `(documents,)` for new documents with learned `codes`: the least that are free."""
        taken, group_of = self._taken(codes)
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
            ValueError: less room than there is, or no such position.
        """
        check_disambiguation(self.has_disambiguation)
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
        shape = {"position_sizes": self.position_sizes, "has_disambiguation": self.has_disambiguation}
        table = table.replace_schema_metadata({name: json.dumps(value) for name, value in shape.items()})
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
            has_disambiguation = json.loads(table.schema.metadata.get(b"has_disambiguation", b"true"))
            index = cls(table["id"].to_pylist(), codes, sizes, has_disambiguation)
        except (pyarrow.ArrowException, OSError, KeyError, TypeError, ValueError, RecursionError) as error:
            raise CorruptedFolderError(f"{path} is not a table of semantic IDs: {error}") from error
        index.name_or_path, index.hub_kwargs = str(name_or_path), hub_kwargs
        return index

    def push_to_hub(self, repo_id: str, *, private: bool | None = None, token: str | None = None, **kwargs) -> str:
        """Uploads the index's files to a Hub repository, made when there is none; returns the commit's address."""
        from .hub import upload_folder

        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder)
            return upload_folder(folder, repo_id, private=private, token=token, **kwargs)

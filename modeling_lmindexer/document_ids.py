"""What users call their documents, and the numbers that a prefix tree gives them."""

import os
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import BoolTensor, LongTensor, Tensor

from .folder import MANIFEST_NAME, reading_again, reading_content, resolve_file, verify_files
from .index_rules import check_ids
from .parquet import arrow
from .prefix_arrays import is_integer

IDS_NAME = "semantic_ids.parquet"


class DocumentIds:
    """The ids of documents, which are numbered in the order in which they came; a removed one's number stays free.

    ```python
    >>> ids = DocumentIds(["b", "a", "c"])
    >>> ids.remove(["a"]), ids.add(["d"])
    (array([1]), array([3]))
    >>> ids.present
    ['b', 'c', 'd']
    >>> ids.mask(["d", "b"])
    tensor([ True, False, False,  True])

    ```

    Args:
        ids: all different; or a function that loads them when they are first needed.
    """

    def __init__(self, ids: Sequence | Callable[[], Sequence]):
        self._load = ids if callable(ids) else None
        self._all = None if callable(ids) else list(ids)
        self._numbers: dict | None = None
        self._gone = np.zeros(0, dtype=bool)  # by number, false beyond its end
        self._present: list | None = None

    @classmethod
    def of_folder(cls, name_or_path: str | os.PathLike, count: int, **hub_kwargs) -> "DocumentIds":
        """Those of a model folder or Hub repository, `count` of them; row numbers, where it has no table of ids.

        A table that is damaged or of another number is a CorruptedFolderError when the ids are first needed.
        """

        @reading_again
        def load() -> Sequence | None:
            path = resolve_file(name_or_path, IDS_NAME, optional=True, **hub_kwargs)
            if path is None:
                return None
            parquet = arrow().parquet  # outside of what takes every error for a damaged file
            verify_files([path], resolve_file(name_or_path, MANIFEST_NAME, optional=True, **hub_kwargs))
            with reading_content(path, "Download or write the folder again."):
                ids = check_ids(parquet.read_table(path, columns=["id"])["id"].to_pylist())
                if len(ids) != count:
                    raise ValueError(f"it has {len(ids)} ids, and the prefix tree beside it {count} documents")
                return ids

        return cls(load)

    @property
    def are_numbers(self) -> bool:
        """Whether there are no ids, only numbers."""
        return self.numbered is None

    def __len__(self) -> int:
        return self.count - int(self._gone.sum())

    def __contains__(self, document) -> bool:
        return document in self.numbers

    @property
    def count(self) -> int:
        """Documents numbered so far."""
        return len(self.numbered)

    @property
    def numbered(self) -> list | None:
        """Ids by number, removed ones too; `None` where there turn out to be none."""
        if self._all is None and self._load is not None:
            self._all, self._load = self._load(), None
        return self._all

    @property
    def numbers(self) -> dict:
        """Numbers by id, of the documents that are there."""
        if self._numbers is None:
            self._numbers = {document: number for number, document in enumerate(self.numbered)}
        return self._numbers

    @property
    def present(self) -> list:
        """Ids of the documents that are there, in the order of their numbers: the rows of a mask."""
        if not self._gone.any():
            return self.numbered
        if self._present is None:
            rows = self.rows.tolist()
            self._present = [self.numbered[number] for number in rows]
        return self._present

    @property
    def rows(self) -> np.ndarray:
        """Numbers of the documents that are there, ascending."""
        alive = np.ones(self.count, dtype=bool)
        alive[: len(self._gone)] = ~self._gone
        return alive.nonzero()[0]

    def add(self, ids: Sequence) -> np.ndarray:
        """Numbers new documents, none of which is there."""
        first, self._present = self.count, None
        self.numbers.update({document: first + i for i, document in enumerate(ids)})
        self.numbered.extend(ids)
        return np.arange(first, self.count)

    def remove(self, ids: Sequence) -> np.ndarray:
        """Forgets documents; returns their numbers. Raises KeyError for an id that is not there."""
        numbers = np.unique(self.find(ids))
        for document in set(ids):
            del self.numbers[document]
        self._gone = np.concatenate([self._gone, np.zeros(self.count - len(self._gone), dtype=bool)])
        self._gone[numbers] = True
        self._present = None
        return numbers

    def find(self, ids: Sequence) -> np.ndarray:
        """Numbers of documents. Raises KeyError for an id that is not there."""
        try:
            return np.array([self.numbers[document] for document in ids], dtype=np.int64)
        except KeyError:
            unknown = [document for document in ids if document not in self.numbers]
            raise KeyError(f"{len(unknown)} documents are not in the index: {unknown[:5]}. Add them first.") from None

    def mask(self, allowed, count: int | None = None) -> BoolTensor:
        """Flags by number, `(count,)` or `(batch, count)`, of what a user allows.

        Args:
            count: how many numbers the tree knows, which another thread may just be changing.
            allowed: a boolean mask `(documents,)` or `(batch, documents)` over [`~DocumentIds.present`]; document ids;
                or a list of lists of document ids, one per row of the batch.

        Raises:
            ValueError: a mask of another length; KeyError: an id that is not there.
        """
        if count is not None:
            mask = self.mask(allowed)
            return torch.nn.functional.pad(mask, (0, count - mask.shape[-1]))
        if not isinstance(allowed, np.ndarray | torch.Tensor):
            allowed = list(allowed)
            if allowed and all(isinstance(row, list | tuple | set | np.ndarray | torch.Tensor) for row in allowed):
                return torch.stack([self.mask(row) for row in allowed])
            if allowed and all(type(document) is bool for document in allowed):
                allowed = np.array(allowed)
        if isinstance(allowed, np.ndarray | torch.Tensor):
            if allowed.dtype in (np.bool_, torch.bool):
                return self._mask_of_rows(torch.as_tensor(allowed).cpu())
            allowed = allowed.tolist()
        mask = torch.zeros(self.count, dtype=torch.bool)
        mask[torch.from_numpy(self.find(allowed))] = True
        return mask

    def _mask_of_rows(self, rows: BoolTensor) -> BoolTensor:
        if rows.ndim not in (1, 2) or rows.shape[-1] != len(self):
            raise ValueError(
                f"Expected a mask of shape ({len(self)},) or (batch, {len(self)}), got {tuple(rows.shape)}."
            )
        if not self._gone.any():
            return rows
        mask = torch.zeros(*rows.shape[:-1], self.count, dtype=torch.bool)
        mask[..., torch.from_numpy(self.rows)] = rows
        return mask


def document_mask(allowed, count: int, device: torch.device) -> BoolTensor:
    """A mask `(count,)` or `(batch, count)` from a mask, document numbers, or a list of lists of numbers.

    Raises:
        ValueError: a mask of another length, or numbers outside `[0, count)`.
    """
    nested = (list, tuple, set, np.ndarray, Tensor)
    if isinstance(allowed, (list, tuple)) and allowed and all(isinstance(row, nested) for row in allowed):
        return torch.stack([document_mask(row, count, device) for row in allowed])
    if isinstance(allowed, (list, tuple)) and allowed and all(type(flag) is bool for flag in allowed):
        allowed = torch.tensor(allowed)
    if isinstance(allowed, (np.ndarray, Tensor)) and allowed.dtype in (np.bool_, torch.bool):
        mask = torch.as_tensor(allowed, device=device)
        if mask.ndim not in (1, 2) or mask.shape[-1] != count or len(mask) == 0:
            raise ValueError(
                f"Found a mask of shape {tuple(mask.shape)}: expected ({count},) or (batch, {count}), one flag per "
                "document."
            )
        return mask
    numbers = document_numbers(allowed, device)
    outside = numbers[(numbers < 0) | (numbers >= count)]
    if len(outside):
        raise ValueError(f"Found document numbers such as {outside[:5].tolist()}: they go from 0 to {count - 1}.")
    mask = torch.zeros(count, dtype=torch.bool, device=device)
    mask[numbers] = True
    return mask


def document_numbers(documents, device: torch.device) -> LongTensor:
    """Integers `(N,)` from any array or collection of them. Raises ValueError for anything else."""
    if not isinstance(documents, (np.ndarray, Tensor)):
        documents = np.array(list(documents))
        documents = documents if documents.size else documents.astype(np.int64)
    if documents.ndim != 1 or isinstance(documents, np.ndarray) and documents.dtype.kind not in "iu":
        raise ValueError(
            f"Found documents of shape {tuple(documents.shape)} and dtype {documents.dtype}: expected a boolean mask, "
            "document numbers, or a list of lists of document numbers."
        )
    documents = torch.as_tensor(documents, device=device)
    if not is_integer(documents):
        raise ValueError(f"Found documents of dtype {documents.dtype}: expected document numbers.")
    return documents.long()

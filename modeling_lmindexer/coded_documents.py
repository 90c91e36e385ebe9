"""Documents and their semantic IDs, both ways: the codes of every document, and the tree of all IDs."""

from collections.abc import Sequence
from typing import Self

import numpy as np
import torch

from .document_ids import DocumentIds
from .index_rules import check_codes, check_ids, id_texts, number_in_group
from .logits_process import PrefixTreeLogitsProcessor
from .prefix_tree import PrefixTree


class CodedDocuments:
    """Documents with their codes, and the tree of these. [`SemanticIndex`] adds a model, versions and files.

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
        self._codes = codes  # by document number, with room for more at the end
        # Exchanged together: who searches in another thread needs the ids that go with the numbers of the tree.
        self._numbered = DocumentIds(document_ids), PrefixTree.from_sequences(torch.from_numpy(codes + self.offsets))
        if len(self.tree) != len(self):
            way_out = "" if has_disambiguation else " Make them unique with trainers.reassignment.reassign."
            raise ValueError(
                f"{len(self)} documents have only {len(self.tree)} different IDs; each needs its own.{way_out}"
            )

    @classmethod
    def from_codes(
        cls, document_ids: Sequence, codes, position_sizes: Sequence[int], has_disambiguation: bool = True
    ) -> Self:
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

    @property
    def ids(self) -> DocumentIds:
        """The documents' ids, and the numbers that the tree gives them."""
        return self._numbered[0]

    @property
    def tree(self) -> PrefixTree:
        """The prefix tree of the IDs."""
        return self._numbered[1]

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
        return torch.from_numpy(self.codes + self.offsets)

    @property
    def codebook_sizes(self) -> list[int]:
        """Codes per learned position."""
        return self.position_sizes[: len(self.position_sizes) - self.has_disambiguation]

    @property
    def offsets(self) -> np.ndarray:
        """First flat id of every position `(positions,)`."""
        return np.cumsum([1, *self.position_sizes[:-1]])

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self):,} documents, {' x '.join(map(str, self.position_sizes))} codes)"

    @property
    def semantic_ids(self) -> list[str]:
        """The IDs as text, such as `<12><407><0>`."""
        return id_texts(self.codes)

    @property
    def logits_processor(self) -> PrefixTreeLogitsProcessor:
        """Keeps `generate` on the IDs of this index."""
        ids, tree = self._numbered
        return PrefixTreeLogitsProcessor(tree, document_ids=ids)

    def filtered(self, allowed) -> PrefixTree:
        """A view of the tree with the allowed documents only, for the time of a request.

        Args:
            allowed: a boolean mask `(N,)` in the order of `document_ids`, or document ids; or one of these per row of
                a batch: a mask `(batch, N)`, or a list of lists of ids.

        Raises:
            ValueError: a mask of another length; KeyError: an id that is not in the index.
        """
        ids, tree = self._numbered
        tree = tree.snapshot()
        return tree.filtered(ids.mask(allowed, tree.num_documents))

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
        document_ids, tree = self._numbered
        tree = tree.snapshot()
        rows, numbers = tree.documents(tree.walk(ids[:, -positions:]), positions)
        found: list[list] = [[] for _ in ids]
        for row, number in zip(rows.tolist(), numbers.tolist(), strict=True):
            found[row].append(document_ids.numbered[number])
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

    def codes_of(self, document_ids: Sequence) -> np.ndarray:
        """Codes `(documents, positions)` of `document_ids`. Raises KeyError for an id that is not in the index."""
        return self._codes[self.ids.find(list(document_ids))]

    def sequences_of(self, document_ids: Sequence) -> torch.LongTensor:
        """Flat ids `(documents, positions)` of `document_ids`: the labels to fine-tune on; errors as `codes_of`."""
        return torch.from_numpy(self.codes_of(document_ids) + self.offsets)

    def _insert(self, ids: list, codes: np.ndarray) -> None:
        """Puts documents with `codes` `(documents, positions)` behind the others, whose IDs are free.

        A full array is doubled: many adds stay cheap. Whoever searches meanwhile finds a number's id before the tree
        gives out the number.
        """
        count = self.ids.count
        if count + len(codes) > len(self._codes):
            room = np.zeros((count + max(count, len(codes)), codes.shape[1]), dtype=np.int64)
            room[:count] = self._codes[:count]
            self._codes = room
        self._codes[count : count + len(codes)] = codes
        self.ids.add(ids)
        self.tree.add(torch.from_numpy(codes + self.offsets))

    def _delete(self, ids: list) -> None:
        self.tree.remove(self.ids.remove(ids))

    def _forget_removed(self) -> None:
        """Numbers the documents anew, when most numbers are those of removed ones."""
        if 2 * len(self) < self.ids.count:
            ids, codes, sequences = list(self.document_ids), self.codes, self.sequences
            self._codes, self._numbered = codes, (DocumentIds(ids), PrefixTree.from_sequences(sequences))

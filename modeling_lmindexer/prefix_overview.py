"""What is under a prefix of semantic IDs: its documents, their categories, and the codes that come next."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from .coded_documents import CodedDocuments
from .document_table import DocumentTable
from .index_rules import id_texts


@dataclass(frozen=True)
class PrefixOverview:
    """The documents under one prefix.

    Attributes:
        codes: of the prefix, one for each of its positions; none for the whole index.
        semantic_id: the same as text, such as `<12><407>`.
        documents: how many there are.
        categories: their categories and how many documents have each, the most frequent first, then by name; at the
            first position one level below what all documents share, at the second two levels, and so on.
        samples: ids of some of the documents, evenly spread over the prefix in the order of their IDs.
    """

    codes: tuple[int, ...]
    semantic_id: str
    documents: int
    categories: tuple[tuple[str, int], ...]
    samples: tuple

    def share_of(self, category: str) -> float:
        """Share of the documents with a category."""
        return dict(self.categories).get(category, 0) / self.documents


class IDTreeOverview:
    """The tree of semantic IDs as people read it, down from the root; a picture of the index as it is now.

    ```python
    >>> from modeling_lmindexer import SemanticIndex
    >>> index = SemanticIndex.from_codes(["a", "b", "c"], [[0, 1], [0, 0], [1, 1]], position_sizes=[2, 2, 4])
    >>> table = DocumentTable(["a", "b", "c"], ["shoe", "boot", "hat"], [["Shoes"], ["Shoes"], ["Hats"]])
    >>> tree = IDTreeOverview(index, table)
    >>> [(child.semantic_id, child.documents, child.categories) for child in tree.children(())]
    [('<0>', 2, (('Shoes', 2),)), ('<1>', 1, (('Hats', 1),))]
    >>> tree.overview([0]).samples
    ('b', 'a')

    ```

    Args:
        index: documents and their IDs.
        table: their categories; default: none are known.
    """

    def __init__(self, index: CodedDocuments, table: DocumentTable | None = None):
        codes, ids = index.codes, index.document_ids
        order = np.lexsort(codes.T[::-1])
        self.codes = codes[order]  # sorted, so that a prefix is a run of rows
        self.document_ids = [ids[row] for row in order]
        self.table = table
        self._labels: dict[int, tuple[np.ndarray, list[str]]] = {}  # by depth: a number for each row, and their names

    @property
    def positions(self) -> int:
        """Positions of a whole ID."""
        return self.codes.shape[1]

    def documents(self, codes: Sequence[int] = ()) -> list:
        """Ids of all documents under a prefix, in the order of their IDs.

        Raises:
            KeyError: there is no document under it; ValueError: it has more codes than an ID.
        """
        return self.document_ids[self._rows(codes)]

    def overview(self, codes: Sequence[int] = (), num_samples: int = 3) -> PrefixOverview:
        """What is under a prefix; errors as [`IDTreeOverview.documents`].

        Args:
            codes: of the prefix; none for the whole index.
            num_samples: documents that are named, at most.
        """
        codes, rows = tuple(int(code) for code in codes), self._rows(codes)
        return self._summary(codes, rows, num_samples)

    def children(self, codes: Sequence[int] = (), num_samples: int = 3) -> list[PrefixOverview]:
        """The prefixes with one code more, in the order of their codes; none under a whole ID.

        `num_samples` and errors are as for [`~IDTreeOverview.overview`].
        """
        codes, rows = tuple(int(code) for code in codes), self._rows(codes)
        if len(codes) == self.positions:
            return []
        following = self.codes[rows, len(codes)]
        values, starts = np.unique(following, return_index=True)
        ends = [*starts[1:], len(following)]
        return [
            self._summary((*codes, int(value)), slice(rows.start + int(start), rows.start + int(end)), num_samples)
            for value, start, end in zip(values, starts, ends, strict=True)
        ]

    def num_children(self, codes: Sequence[int] = ()) -> int:
        """How many prefixes have one code more; as many as [`~IDTreeOverview.children`], but only counted.

        Args:
            codes: of the prefix; errors as for [`IDTreeOverview.documents`].
        """
        rows = self._rows(codes)
        return 0 if len(codes) == self.positions else int(np.count_nonzero(self._begins[len(codes), rows]))

    @cached_property
    def _begins(self) -> np.ndarray:
        """Whether a row `(positions, documents)` is the first with its codes up to a position."""
        begins = np.ones((self.positions, len(self.codes)), dtype=bool)
        before = np.zeros(max(0, len(self.codes) - 1), dtype=bool)
        for position, column in enumerate(self.codes.T):
            before |= column[1:] != column[:-1]
            begins[position, 1:] = before
        return begins

    def _summary(self, codes: tuple[int, ...], rows: slice, num_samples: int) -> PrefixOverview:
        number = rows.stop - rows.start
        places = np.unique(np.linspace(rows.start, rows.stop - 1, max(0, num_samples)).round().astype(int))
        samples = tuple(self.document_ids[place] for place in places)
        return PrefixOverview(codes, prefix_text(codes), number, self._categories(max(1, len(codes)), rows), samples)

    def _categories(self, depth: int, rows: slice) -> tuple[tuple[str, int], ...]:
        if self.table is None:
            return ()
        if depth not in self._labels:  # once: the root has all documents under it
            labels = [self.table.label_of(document, depth) for document in self.document_ids]
            names = sorted(set(labels) - {None})
            numbers = {None: -1} | {name: number for number, name in enumerate(names)}
            self._labels[depth] = np.array([numbers[label] for label in labels]), names
        labels, names = self._labels[depth]
        found, counts = np.unique(labels[rows], return_counts=True)
        order = [place for place in np.argsort(-counts, kind="stable") if found[place] >= 0]
        return tuple((names[found[place]], int(counts[place])) for place in order)

    def _rows(self, codes: Sequence[int]) -> slice:
        """Rows of the documents under a prefix."""
        if len(codes) > self.positions:
            raise ValueError(f"A prefix has at most {self.positions} codes, those of a whole ID; got {list(codes)}.")
        start, end = 0, len(self.codes)
        for position, code in enumerate(codes):
            column = self.codes[start:end, position]
            start, end = (start + int(np.searchsorted(column, code, side)) for side in ("left", "right"))
            if start == end:
                raise KeyError(f"No document's ID begins with {prefix_text(codes[: position + 1])}.")
        return slice(start, end)


def prefix_text(codes: Sequence[int]) -> str:
    """Codes as text, such as `<12><407>`; nothing for none."""
    return id_texts(np.array([list(codes)], dtype=np.int64))[0] if len(codes) else ""

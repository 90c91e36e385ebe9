"""The prefix tree of semantic IDs: built, filtered for a request, changed while it is searched, saved and loaded."""

import os
import threading

import torch
from torch import LongTensor, Tensor
from torch.nn.functional import pad

from .document_ids import document_mask, document_numbers
from .prefix_arrays import PADDING, as_rows, build_arrays, is_integer
from .prefix_file import read_prefix_tree, write_prefix_tree
from .prefix_filter import AllowedNodes, Removals, whole_words
from .prefix_reader import PrefixReader
from .prefix_segment import PrefixSegment
from .prefix_state import Part, TreeState, live_documents

LAYOUTS = ("fast", "compact")
FEW = 512  # so many added documents are kept apart from the other pending ones, to be merged with them less often
COMPACT_ABOVE = 1_024  # pending documents, or a 16th of all if that is more
COMPACT_SHARE = 16


class PrefixTree(PrefixReader):
    """All prefixes of a set of code sequences, and the documents that the sequences are the IDs of.

    Build one with [`~PrefixTree.from_sequences`]; the constructor takes a ready `state`, its `layout`, and whether it
    `is_view` of another tree, which cannot be changed. Documents are numbered in the order of their rows; several may
    have one sequence. [`~PrefixTree.filtered`] gives views for a request, [`~PrefixTree.add`] and
    [`~PrefixTree.remove`] change the tree in place, also while other threads search it.

    ```python
    >>> from modeling_lmindexer.prefix_tree import PrefixTree
    >>> tree = PrefixTree.from_sequences([[3, 5], [3, 6], [4, 5]])
    >>> tree
    PrefixTree(3 sequences of 2 codes, codes up to 6, fast layout, 86 bytes on cpu)
    >>> tree.children([3])
    tensor([5, 6])
    >>> tree.contains([[3, 6], [4, 6]])
    tensor([ True, False])
    >>> tree.filtered([0, 2]).children([3])
    tensor([5])

    ```

    Nodes are numbers: 0 is the root, -1 stands for a prefix that is not in the tree. They hold for one level, and
    until the tree changes; a search of several steps works on a [`~PrefixTree.snapshot`].
    """

    def __init__(self, state: TreeState, layout: str, is_view: bool = False):
        super().__init__(state, layout, is_view)
        self._changing = None if is_view else threading.Lock()
        self._places: dict[int, Tensor] = {}  # by segment: places of its document numbers, see remove

    @classmethod
    def from_sequences(cls, sequences, lengths=None, layout: str = "fast") -> "PrefixTree":
        """Builds the tree of `sequences`, in any order. Row `i` is the ID of document `i`.

        Args:
            sequences: an integer array or tensor `(N, positions)`, or a list of lists of integers, whose lengths may
                differ. All codes are 0 or more. The tree lives on the device of the tensor.
            lengths: `(N,)`, how many codes of each row count; all of them by default. Not with lists.
            layout: `fast`, or `compact`, which takes less than half the memory and walks position by position.

        Raises:
            ValueError: no sequences, an empty sequence, not integers, not two-dimensional, a negative code.
        """
        if layout not in LAYOUTS:
            raise ValueError(f"Found layout={layout!r}: expected one of {LAYOUTS}.")
        rows, lengths = as_rows(sequences, lengths)
        segment = PrefixSegment(build_arrays(rows, lengths), layout == "fast").to(rows.device)
        return cls(TreeState((Part(segment, None),), len(rows)), layout)

    def filtered(self, allowed) -> "PrefixTree":
        """A view with the `allowed` documents only, for the time of a request: nothing is built again.

        Args:
            allowed: a boolean mask `(num_documents,)`; document numbers; or one of these per row of the batch: a mask
                `(batch, num_documents)`, or a list of lists of document numbers. With one per row, the rows given to
                other methods are shared out evenly: of `rows`, row `i` has the filter `i * batch // rows`.

        Raises:
            ValueError: a mask of another length, or numbers that no document has.
        """
        state = self._state
        mask = document_mask(allowed, state.num_documents, self.device)
        batch = len(mask) if mask.ndim == 2 else None
        if batch is not None:
            mask = whole_words(mask)
        elif state.batch is not None:
            mask = mask[:, None]
        if None not in (batch, state.batch) and batch != state.batch:
            raise ValueError(f"Found {batch} filters for a view that has {state.batch}: expected as many, or one.")
        parts = []
        for segment, flags in state.parts:
            numbers = segment.arrays.documents
            places = mask[: segment.arrays.count] if numbers is None else mask.index_select(0, numbers)
            if flags is not None:
                places = places & (flags.places[:, None] if mask.ndim > flags.places.ndim else flags.places)
            parts.append(Part(segment, AllowedNodes.from_documents(segment, places, batch or state.batch)))
        return self._view(TreeState(tuple(parts), state.num_documents, batch or state.batch, state.removed))

    def add(self, sequences, lengths=None) -> LongTensor:
        """Adds documents; what it costs grows with their number, not with the tree, except when it is compacted.

        They are kept apart from the others until more than a 16th of all documents is pending; then the tree is built
        again from all of them.

        Args:
            sequences, lengths: as for [`~PrefixTree.from_sequences`].

        Returns:
            their numbers `(N,)`, from `num_documents` on.

        Raises:
            ValueError: as from_sequences; sequences of another length when all have the same; a view.
        """
        self._check_is_no_view()
        rows, lengths = as_rows(sequences, lengths)
        if self.fixed_length and (lengths is not None or rows.shape[1] != self.depth):
            found = f"{rows.shape[1]}" if lengths is None else f"up to {rows.shape[1]}"
            raise ValueError(f"Found sequences of {found} codes: those of this tree have {self.depth}.")
        rows = rows.long().to(self.device)
        if lengths is None:
            lengths = torch.full((len(rows),), rows.shape[1], device=self.device)
        with self._changing:
            base, *added = self._state.parts
            numbers = torch.arange(self.num_documents, self.num_documents + len(rows), device=self.device)
            # Few documents join the last few; when these become many, they join all that are pending.
            few = [part for part in added[-1:] if part.segment.arrays.count < FEW]
            joining = few if len(rows) + sum(part.segment.arrays.count for part in few) < FEW else added
            fresh = self._built([*map(live_documents, joining), (rows, lengths.to(self.device), numbers)])
            kept = added[: len(added) - len(joining)]
            self._replace((base, *kept, Part(fresh, None)), self.num_documents + len(rows), self._state.removed)
        return numbers

    def remove(self, documents) -> None:
        """Removes documents by their numbers; what it costs grows with how many they are, as in [`~PrefixTree.add`].

        The first removal after a compaction also finds the place of every document, once.

        Raises:
            ValueError: numbers that no document has, or a view.
        """
        self._check_is_no_view()
        numbers = torch.unique(document_numbers(documents, self.device))
        with self._changing:
            parts, missing, found = list(self._state.parts), numbers, []
            for i, (_, flags) in enumerate(parts):
                places = self._places_of(i, missing)
                known = places >= 0
                if flags is not None:
                    known &= flags.places[places.clamp(min=0)]
                if known.any():
                    found.append((i, places[known]))
                    missing = missing[~known]
            if len(missing):
                raise ValueError(f"Found {len(missing)} numbers that no document has, such as {missing[:5].tolist()}.")
            removed = self._state.removed
            for i, places in found:
                segment, flags = parts[i]
                parts[i] = Part(segment, Removals.none(segment) if flags is None else flags)
                parts[i].flags.remove(segment, places)
                removed += len(places) if i == 0 else 0
            self._replace(tuple(parts), self.num_documents, removed)

    def compact(self) -> None:
        """Builds the tree again from the documents that it has now; their numbers stay."""
        self._check_is_no_view()
        with self._changing:
            self._compact()

    def relabelled(self, token_ids) -> "PrefixTree":
        """The tree with every code replaced by a token id, to constrain a model with a vocabulary of its own.

        ```python
        >>> PrefixTree.from_sequences([[0, 1], [1, 0]]).relabelled([[10, 11], [20, 21]]).sequences()
        tensor([[10, 21],
                [11, 20]])

        ```

        Args:
            token_ids: integers `(codes,)`, or `(positions, codes)` where the same code means another token at another
                position. Entries of codes that no sequence has are not looked at.

        Raises:
            ValueError: the table lacks positions or codes of the tree, a token id is negative, or two codes of one
                position have the same token.
        """
        table = torch.as_tensor(token_ids, device=self.device)
        if table.ndim not in (1, 2) or not is_integer(table):
            raise ValueError(
                f"token_ids has shape {tuple(table.shape)} and dtype {table.dtype}: give integers (codes,) or "
                "(positions, codes)."
            )
        table = table.long().expand(self.depth, -1) if table.ndim == 1 else table.long()
        if len(table) < self.depth or table.shape[1] <= self.max_code:
            raise ValueError(
                f"token_ids covers {len(table)} positions and codes below {table.shape[1]}: the tree has {self.depth} "
                f"positions and codes up to {self.max_code}. Give every code a token id."
            )
        for position in range(self.depth):
            tokens = table[position, self.codes_at(position)]
            if tokens.min() < 0:
                raise ValueError(f"token_ids has {int(tokens.min())} at position {position}: token ids are 0 or more.")
            if len(tokens) > len(tokens.unique()):
                raise ValueError(
                    f"token_ids has {len(tokens.unique())} different tokens for {len(tokens)} codes of position "
                    f"{position}: give each code of a position a token of its own."
                )
        documents = []
        for rows, lengths, numbers in map(live_documents, self._state.parts):
            positions = torch.arange(rows.shape[1], device=self.device)
            tokens = torch.where(rows == PADDING, PADDING, table[positions, rows.clamp(min=0)])
            documents.append((tokens, lengths, numbers))
        segment = self._built(documents)
        return PrefixTree(TreeState((Part(segment, None),), self.num_documents), self.layout)

    def save_pretrained(self, folder: str | os.PathLike) -> None:
        """Writes `prefix_tree.safetensors` into `folder`, and lists it in the folder's manifest if there is one.

        What is pending is compacted in the file; document numbers stay.
        """
        parts = self._state.parts
        pending = len(parts) > 1 or parts[0].flags is not None
        segment = self._built(list(map(live_documents, parts))) if pending else parts[0].segment
        write_prefix_tree(folder, segment.arrays, self.num_documents)

    @classmethod
    def from_pretrained(
        cls, name_or_path: str | os.PathLike, layout: str | None = None, memory_map: bool = False, **hub_kwargs
    ) -> "PrefixTree":
        """Reads the tree of a folder or of a Hub repository, on the CPU.

        Args:
            name_or_path: folder or Hub repository.
            layout: `fast` or `compact`; by default `fast`, with `memory_map` `compact`.
            memory_map: leave the arrays in the file, from where the system loads what is looked at. The keys of the
                `fast` layout are made in memory all the same.
            hub_kwargs: `revision`, `token`, `cache_dir`, `local_files_only`, `subfolder`.

        Raises:
            FileNotFoundError: no such folder, repository or file.
            CorruptedFolderError: the file is not the one its manifest lists, or not a prefix tree through and through.
        """
        layout = layout or ("compact" if memory_map else "fast")
        if layout not in LAYOUTS:
            raise ValueError(f"Found layout={layout!r}: expected one of {LAYOUTS}.")
        arrays, num_documents = read_prefix_tree(name_or_path, memory_map, **hub_kwargs)
        segment = PrefixSegment(arrays, layout == "fast")
        return cls(TreeState((Part(segment, None),), num_documents), layout)

    def __getstate__(self) -> dict:
        # Neither a lock nor what is found by the identity of an object belongs in a copy.
        return vars(self) | {"_changing": None, "_places": {}}

    def __setstate__(self, values: dict) -> None:
        vars(self).update(values)
        self._changing = None if self._is_view else threading.Lock()

    def _check_is_no_view(self) -> None:
        if self._is_view:
            raise ValueError("This is a view of a tree (filtered, a snapshot or on another device): change the tree.")

    def _replace(self, parts: tuple[Part, ...], num_documents: int, removed: int) -> None:
        """The next state: other threads see the old one or the new one."""
        known = {id(part.segment) for part in parts}
        self._places = {key: places for key, places in self._places.items() if key in known}
        self._state = TreeState(parts, num_documents, removed=removed)
        if self.pending > max(COMPACT_ABOVE, num_documents // COMPACT_SHARE):
            self._compact()

    def _compact(self) -> None:
        documents = list(map(live_documents, self._state.parts))
        if self.pending and any(len(numbers) for _, _, numbers in documents):
            self._places = {}
            self._state = TreeState((Part(self._built(documents), None),), self.num_documents)

    def _built(self, documents: list[tuple[LongTensor, LongTensor, LongTensor]]) -> PrefixSegment:
        """A segment of documents: sequences `(N, positions)` padded with -1, lengths `(N,)` and numbers `(N,)`."""
        documents = [live for live in documents if len(live[2])]
        if not documents:
            raise ValueError("All documents of this tree were removed: there is nothing to build it from.")
        depth = max(int(lengths.max()) for _, lengths, _ in documents)
        rows = torch.cat([pad(rows, (0, depth - rows.shape[1]), value=PADDING) for rows, _, _ in documents])
        lengths, numbers = (torch.cat([each[i] for each in documents]) for i in (1, 2))
        # A tree of several lengths stays one, whatever is left of it: its processors expect the end of an ID.
        arrays = build_arrays(rows, None if self.fixed_length else lengths, numbers)
        return PrefixSegment(arrays, self.layout == "fast").to(self.device)

    def _places_of(self, part: int, numbers: LongTensor) -> LongTensor:
        """Where the documents with `numbers` stand in a part, -1 where they do not."""
        arrays = self._state.parts[part].segment.arrays
        if arrays.documents is None:
            return torch.where((numbers >= 0) & (numbers < arrays.count), numbers, -1)
        key = id(self._state.parts[part].segment)
        if key not in self._places:
            places = torch.full((int(arrays.documents.max()) + 1,), -1, dtype=torch.int32, device=self.device)
            places[arrays.documents] = torch.arange(arrays.count, dtype=torch.int32, device=self.device)
            self._places[key] = places
        places = self._places[key]
        known = (numbers >= 0) & (numbers < len(places))
        return torch.where(known, places[numbers.clamp(0, len(places) - 1)].long(), -1)

"""Reading a prefix tree: which code may follow a prefix, and which documents are at its end."""

from collections.abc import Sequence

import torch
from torch import BoolTensor, LongTensor, Tensor
from torch.nn.functional import pad

from .prefix_arrays import PADDING
from .prefix_children import merged_padded
from .prefix_filter import AllowedNodes
from .prefix_mask import write_allowed, write_continuations
from .prefix_segment import PrefixSegment
from .prefix_state import Part, TreeState, any_row


class PrefixReader:
    """What can be asked of a [`PrefixTree`] and of its views."""

    def __init__(self, state: TreeState, layout: str, is_view: bool = False):
        self._state, self.layout, self._is_view = state, layout, is_view

    def _view(self, state: TreeState):
        return type(self)(state, self.layout, is_view=True)

    def __len__(self) -> int:
        found = 0
        for i, (segment, flags) in enumerate(self._state.parts):
            if i == 0 and flags is None and segment.arrays.fixed_length:
                found += segment.count(segment.depth)  # asked before every search
                continue
            for level, nodes in self._ends(segment, flags):
                if i > 0:
                    paths = segment.paths(nodes, level)
                    earlier = TreeState(self._state.parts[:i], self.num_documents, self.num_filters)
                    nodes = nodes[~self._view(earlier).contains_in_any(paths)]
                found += len(nodes)
        return found

    def __repr__(self) -> str:
        length = f"{self.depth}" if self.fixed_length else f"up to {self.depth}"
        pending = f"{self.pending:,} documents pending, " if self.pending else ""
        return (
            f"PrefixTree({len(self):,} sequences of {length} codes, codes up to {self.max_code:,}, {pending}"
            f"{self.layout} layout, {self.nbytes:,} bytes on {self.device})"
        )

    @property
    def state(self) -> TreeState:
        """What the tree consists of now; another object after every change."""
        return self._state

    @property
    def num_documents(self) -> int:
        """Documents numbered so far, removed ones too: the length of a mask."""
        return self._state.num_documents

    @property
    def num_filters(self) -> int | None:
        """Filters of a view with one per row of the batch."""
        return self._state.batch

    @property
    def pending(self) -> int:
        """Documents added and removed since the last compaction."""
        return sum(part.segment.arrays.count for part in self._state.parts[1:]) + self._state.removed

    @property
    def depth(self) -> int:
        """Length of the longest sequence."""
        return self._state.depth

    @property
    def max_code(self) -> int:
        """Largest code of all positions."""
        return self._state.max_code

    @property
    def fixed_length(self) -> bool:
        """Whether all sequences have `depth` codes."""
        return all(part.segment.arrays.fixed_length for part in self._state.parts)

    @property
    def device(self) -> torch.device:
        """Where the arrays are."""
        return self._state.parts[0].segment.device

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays, the map to the documents and the flags of filters and removals included."""
        return sum(p.segment.nbytes + (0 if p.flags is None else p.flags.nbytes) for p in self._state.parts)

    def to(self, device: str | torch.device):
        """A view of the tree on `device`; itself when it is there already."""
        if torch.empty(0, device=device).device == self.device:
            return self
        parts = (Part(s.to(device), None if flags is None else flags.to(device)) for s, flags in self._state.parts)
        return self._view(TreeState(tuple(parts), self.num_documents, self.num_filters, self._state.removed))

    def snapshot(self):
        """The tree as it is now: what is added later is not in it, what is removed later leaves it, too."""
        return self._view(self._state)

    def sequences(self) -> LongTensor:
        """All sequences `(len(tree), depth)` in lexicographic order, shorter ones padded with -1."""
        rows = []
        for segment, flags in self._state.parts:
            for level, nodes in self._ends(segment, flags):
                paths = segment.paths(nodes, level)
                rows.append(pad(paths, (0, self.depth - paths.shape[1]), value=PADDING))
        rows = torch.cat(rows)
        return rows if len(self._state.parts) == 1 and self.fixed_length else torch.unique(rows, dim=0)

    def codes_at(self, position: int, allowed_only: bool = True) -> LongTensor:
        """The different codes that sequences have at `position` (from 0), ascending.

        Args:
            allowed_only: leave out those that filters and removals leave no document.
        """
        found = []
        for segment, flags in self._state.parts:
            if position < segment.depth:
                if flags is None or not allowed_only:
                    found.append(segment.distinct_codes(position))
                else:
                    level = segment.levels[position]
                    found.append(level.codes[any_row(flags.nodes[position])].long() + level.offset)
        return torch.cat(found).unique()

    def has_code(self, code: int) -> bool:
        """Whether any sequence has the code, at any position."""
        return any(
            bool((level.codes == code - level.offset).any())
            for part in self._state.parts
            for level in part.segment.levels
            if level.low <= code <= level.high
        )

    def walk(self, prefixes: LongTensor) -> LongTensor:
        """Nodes `(rows,)` of the prefixes `(rows, level)`; -1 for those not in the tree. Filters are not looked at."""
        state = self._state
        return state.joined([part.segment.walk(prefixes) for part in state.parts], prefixes.shape[1])

    def is_alive(self, nodes: LongTensor, level: int) -> BoolTensor:
        """Whether an allowed document is at or below each of `nodes` `(rows,)` of `level`."""
        state, alive = self._state, torch.zeros_like(nodes, dtype=torch.bool)
        batch_rows = state.batch_rows(len(nodes), nodes.device)
        for (_, flags), own in zip(state.parts, state.split(nodes, level), strict=True):
            there = own >= 0
            if flags is not None and level == 0:
                some = flags.places.any(0)
                there &= some if batch_rows is None else some[batch_rows]
            elif flags is not None and level <= len(flags.nodes):
                there &= flags.of_nodes(own.clamp(min=0), level, batch_rows)
            alive |= there
        return alive

    def is_terminal(self, nodes: LongTensor, level: int) -> BoolTensor:
        """Whether an allowed sequence ends at each of `nodes` `(rows,)` of `level`, maybe the prefix of others."""
        state, found = self._state, torch.zeros_like(nodes, dtype=torch.bool)
        batch_rows = state.batch_rows(len(nodes), nodes.device)
        for (segment, flags), own in zip(state.parts, state.split(nodes, level), strict=True):
            if 0 < level <= segment.depth:
                known = own.clamp(min=0)
                ends = (own >= 0) & segment.is_terminal(known, level)
                found |= ends if flags is None else ends & flags.of_ends(known, level, batch_rows)
        return found

    def contains(self, sequences) -> BoolTensor:
        """Which of the sequences `(rows, positions)`, padded with -1 behind their end, the tree holds `(rows,)`."""
        tree, sequences = self.snapshot(), torch.as_tensor(sequences, device=self.device)
        lengths = (sequences != PADDING).cumprod(1).sum(1)
        found = torch.zeros_like(lengths, dtype=torch.bool)
        for level in range(1, min(sequences.shape[1], tree.depth) + 1):
            if (here := lengths == level).any():
                found |= here & tree.is_terminal(tree.walk(sequences[:, :level]), level)
        # A code behind padding is no sequence.
        return found & ((sequences != PADDING).sum(1) == lengths)

    def contains_in_any(self, sequences: LongTensor) -> BoolTensor:
        """As [`~PrefixTree.contains`], by any of the filters where there is one per row."""
        if self.num_filters is None:
            return self.contains(sequences)
        return self.contains(sequences.repeat(self.num_filters, 1)).view(self.num_filters, len(sequences)).any(0)

    def expand(self, nodes: LongTensor, level: int) -> tuple[LongTensor, LongTensor, LongTensor]:
        """All allowed children of `nodes` `(rows,)` of `level`, one behind the other; node -1 has none.

        Returns:
            Three tensors `(children,)`: the row of each child, its code, and its node on `level + 1`, in the order of
            rows and codes.
        """
        state = self._state
        if level == 0 and state.batch is None:
            # The most children of all, and the same at the beginning of every search.
            codes, children = state.root_children
            rows = (nodes >= 0).nonzero().squeeze(1)
            return rows.repeat_interleave(len(codes)), codes.repeat(len(rows)), children.repeat(len(rows))
        return state.children(nodes, level)

    def expand_padded(self, nodes: LongTensor, level: int) -> tuple[LongTensor, LongTensor]:
        """As [`~PrefixTree.expand`] in shapes that are the same for any `nodes`, without waiting for a GPU.

        Returns:
            codes and nodes `(rows, widest(level))`; node -1 where there is no child, and some code of the position.
            Codes ascend within a row, except behind those of the last compaction.
        """
        state = self._state
        batch_rows = state.batch_rows(len(nodes), nodes.device)
        found = merged_padded(state.parts, state.split(nodes, level), level, batch_rows)
        return found[0], state.joined(found[1], level + 1)

    def widest(self, level: int) -> int:
        """Columns of [`~PrefixTree.expand_padded`] on `level`: most children of a node, added ones counted apart."""
        segments = (part.segment for part in self._state.parts)
        return sum(segment.levels[level].widest for segment in segments if level < segment.depth)

    def children(self, prefix: Sequence[int]) -> LongTensor:
        """The codes that may follow `prefix`, ascending; none when it is not in the tree.

        ```python
        >>> from modeling_lmindexer.prefix_tree import PrefixTree
        >>> PrefixTree.from_sequences([[3, 5], [3, 6], [4, 5]]).children([])
        tensor([3, 4])

        ```
        """
        prefixes = torch.as_tensor(prefix, dtype=torch.int64, device=self.device)[None]
        tree = self.snapshot()
        nodes = tree.walk(prefixes.expand(tree.num_filters or 1, -1))
        return torch.unique(tree.expand(nodes, prefixes.shape[1])[1])

    def documents(self, nodes: LongTensor, level: int) -> tuple[LongTensor, LongTensor]:
        """The allowed documents whose sequences end at `nodes` `(rows,)` of `level`.

        Returns:
            Two tensors `(documents,)`: the row of each, ascending, and its number.
        """
        state = self._state
        batch_rows, found = state.batch_rows(len(nodes), nodes.device), []
        for (segment, flags), own in zip(state.parts, state.split(nodes, level), strict=True):
            rows, places = segment.documents_at(own, level)
            if flags is not None:
                index = places if batch_rows is None else places * flags.places.shape[1] + batch_rows[rows]
                allowed = flags.places.reshape(-1)[index]
                rows, places = rows[allowed], places[allowed]
            found.append(torch.stack([rows, segment.numbers(places)]))
        found = torch.cat(found, dim=1)
        rows, numbers = found if len(state.parts) == 1 else found[:, found[0].argsort(stable=True)]
        return rows, numbers

    def mask_scores(self, scores: Tensor, nodes: LongTensor, level: int) -> Tensor:
        """A copy of `scores` `(rows, vocabulary)` with -inf wherever the code is no allowed child of the row's node.

        Args:
            scores: one column per code.
            nodes: `(rows,)`, nodes of `level`; a row with node -1 becomes -inf throughout.

        Raises:
            ValueError: the tree has codes without a column.
        """
        masked = torch.full_like(scores, -torch.inf, memory_format=torch.contiguous_format)
        self.write_allowed(masked, scores, nodes, level)
        return masked

    def write_allowed(self, out: Tensor, scores: Tensor, nodes: LongTensor | None, level: int) -> list:
        """As [`~PrefixTree.mask_scores`], from `scores` into `out`, which is all -inf; returns the regions written to.

        Without `nodes`, all rows are at the root.
        """
        self._check_width(scores)
        return write_allowed(self._state, out, scores, nodes, level)

    def write_continuations(self, out: Tensor, scores: Tensor, tokens: LongTensor, skipped: int) -> list:
        """As [`~PrefixTree.write_allowed`], from `scores` into `out`, for rows with prefixes `tokens[:, skipped:]`."""
        self._check_width(scores)
        written = write_continuations(self._state, out, scores, tokens, skipped)
        if written is not None:
            return written
        prefixes = tokens[:, skipped:]
        level = prefixes.shape[1]
        return write_allowed(self._state, out, scores, self.walk(prefixes) if level else None, level)

    def _check_width(self, scores: Tensor) -> None:
        if self.max_code >= scores.shape[1]:
            raise ValueError(
                f"The tree has codes up to {self.max_code}, the scores have {scores.shape[1]} columns: give token_ids "
                "that map the codes to the model's tokens, or resize the model's token embeddings."
            )

    @staticmethod
    def _ends(segment: PrefixSegment, flags: AllowedNodes | None):
        """Level by level, the nodes at which an allowed sequence ends."""
        for level in range(1, segment.depth + 1):
            if segment.arrays.fixed_length and level < segment.depth:
                continue
            nodes = torch.arange(segment.count(level), device=segment.device)
            ends = segment.is_terminal(nodes, level)
            if flags is not None:
                ends &= any_row((flags.nodes if flags.ends is None else flags.ends)[level - 1])
            yield level, nodes[ends]

"""The prefix tree of semantic IDs: which code may follow a prefix.

Nodes of a level are numbered in lexicographic order; the root is node 0 of level 0. The keys of a level's nodes,
`parent * (max_code + 1) + code`, ascend, so one binary search takes a whole batch of prefixes a level down, and the
children of a node are one slice.
"""

import os
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import BoolTensor, LongTensor, Tensor

from .folder import MANIFEST_NAME, CorruptedFolderError, atomic_path, resolve_file, update_manifest, verify_files
from .prefix_arrays import (
    FORMAT_NAME,
    FORMAT_VERSION,
    INT32_MAX,
    PADDING,
    PrefixArrays,
    as_rows,
    build_arrays,
    checked_arrays,
    is_integer,
    lexicographic_order,
)

PREFIX_TREE_NAME = "prefix_tree.safetensors"


class PrefixTree:
    """All prefixes of a set of code sequences. Immutable; build one with [`~PrefixTree.from_sequences`].

    ```python
    >>> from modeling_lmindexer.prefix_tree import PrefixTree
    >>> tree = PrefixTree.from_sequences([[3, 5], [3, 6], [4, 5]])
    >>> tree
    PrefixTree(3 sequences of 2 codes, codes up to 6, 60 bytes on cpu)
    >>> tree.children([3])
    tensor([5, 6])
    >>> tree.contains([[3, 6], [4, 6]])
    tensor([ True, False])

    ```
    """

    def __init__(self, arrays: PrefixArrays):
        self._keys, self._starts, self._terminal, self.max_code = arrays
        self._root_row: Tensor | None = None  # (vocabulary,), see mask_scores

    @classmethod
    def from_sequences(cls, sequences, lengths=None) -> "PrefixTree":
        """Builds the tree of `sequences`, in any order; sequences that occur twice count once.

        Args:
            sequences: an integer array or tensor `(N, positions)`, or a list of lists of integers, whose lengths may
                differ. All codes are 0 or more. The tree lives on the device of the tensor.
            lengths: `(N,)`, how many codes of each row count; all of them by default. Not with lists.

        Raises:
            ValueError: no sequences, an empty sequence, not integers, not two-dimensional, a negative code.
        """
        rows, lengths = as_rows(sequences, lengths)
        return cls(build_arrays(rows.T.contiguous(), lengths))

    def __len__(self) -> int:
        if self._terminal is None:
            return len(self._keys[-1])
        return sum(int(ends.sum()) for ends in self._terminal)

    def __repr__(self) -> str:
        length = f"{self.depth}" if self.fixed_length else f"up to {self.depth}"
        return (
            f"PrefixTree({len(self):,} sequences of {length} codes, codes up to {self.max_code:,}, "
            f"{self.nbytes:,} bytes on {self.device})"
        )

    @property
    def depth(self) -> int:
        """Length of the longest sequence."""
        return len(self._keys)

    @property
    def fixed_length(self) -> bool:
        """Whether all sequences have `depth` codes."""
        return self._terminal is None

    @property
    def device(self) -> torch.device:
        return self._keys[0].device

    @property
    def nbytes(self) -> int:
        """Bytes that the arrays take."""
        return sum(array.nbytes for array in [*self._keys, *self._starts, *(self._terminal or [])])

    def to(self, device: str | torch.device) -> "PrefixTree":
        """The same tree on `device`; itself when it is there already."""
        keys, starts, terminal = (
            [array.to(device) for array in arrays] for arrays in (self._keys, self._starts, self._terminal or [])
        )
        if keys[0] is self._keys[0]:
            return self
        return PrefixTree(PrefixArrays(keys, starts, terminal or None, self.max_code))

    def sequences(self) -> LongTensor:
        """All sequences `(len(tree), depth)` in lexicographic order, shorter ones padded with -1."""
        if self._terminal is None:
            return self._paths(torch.arange(len(self), device=self.device), self.depth)
        ends = [ends.nonzero().squeeze(1) for ends in self._terminal]
        rows = torch.cat([self._paths(nodes, level) for level, nodes in enumerate(ends, start=1)])
        order = lexicographic_order(rows.T.contiguous(), self.max_code)
        return rows if order is None else rows[order]

    def codes_at(self, position: int) -> LongTensor:
        """The different codes that sequences have at `position` (from 0), ascending."""
        return torch.unique(self._keys[position] % self._base)

    def walk(self, prefixes: LongTensor) -> LongTensor:
        """Node numbers `(rows,)` of the prefixes `(rows, level)` on that level; -1 for a prefix not in the tree."""
        nodes = torch.zeros(len(prefixes), dtype=torch.int64, device=self.device)
        for level in range(prefixes.shape[1]):
            nodes = self._step(nodes, prefixes[:, level], level)
        return nodes

    def is_terminal(self, nodes: LongTensor, level: int) -> BoolTensor:
        """Whether a sequence ends at each of the `nodes` `(rows,)` of `level`; it may be a prefix of longer ones."""
        if level == 0 or level > self.depth or (self._terminal is None and level < self.depth):
            return torch.zeros_like(nodes, dtype=torch.bool)
        alive = nodes >= 0
        return alive if level == self.depth else alive & self._terminal[level - 1][nodes.clamp(min=0)]

    def contains(self, sequences) -> BoolTensor:
        """Which of the sequences `(rows, positions)`, padded with -1 behind their end, the tree holds `(rows,)`."""
        sequences = torch.as_tensor(sequences, device=self.device)
        lengths = (sequences != PADDING).cumprod(1).sum(1)
        nodes = torch.zeros_like(lengths)
        found = torch.zeros_like(lengths, dtype=torch.bool)
        for level in range(min(sequences.shape[1], self.depth)):
            nodes = self._step(nodes, sequences[:, level], level)
            found |= (lengths == level + 1) & self.is_terminal(nodes, level + 1)
        # A code behind padding is no sequence.
        return found & ((sequences != PADDING).sum(1) == lengths)

    def expand(self, nodes: LongTensor, level: int) -> tuple[LongTensor, LongTensor, LongTensor]:
        """All children of `nodes` `(rows,)` of `level`, one behind the other; node -1 has none.

        Returns:
            Three tensors `(children,)`: the row of each child, its code, and its node number on `level + 1`.
        """
        if level >= self.depth:
            empty = nodes.new_empty(0)
            return empty, empty, empty
        starts, clamped = self._starts[level], nodes.clamp(min=0)
        first = starts[clamped].long()
        counts = (starts[clamped + 1] - first).masked_fill(nodes < 0, 0)
        rows = torch.repeat_interleave(counts)
        # Child i of all stands at `first` of its row plus i less the children of the rows before.
        children = (first - counts.cumsum(0) + counts)[rows] + torch.arange(len(rows), device=rows.device)
        return rows, self._keys[level][children] - nodes[rows] * self._base, children

    def children(self, prefix: Sequence[int]) -> LongTensor:
        """The codes that may follow `prefix`, ascending; none when it is not in the tree.

        ```python
        >>> PrefixTree.from_sequences([[3, 5], [3, 6], [4, 5]]).children([])
        tensor([3, 4])

        ```
        """
        prefixes = torch.as_tensor(prefix, dtype=torch.int64, device=self.device)[None]
        return self.expand(self.walk(prefixes), prefixes.shape[1])[1]

    def mask_scores(self, scores: Tensor, nodes: LongTensor, level: int) -> Tensor:
        """A copy of `scores` `(rows, vocabulary)` with -inf wherever the code is not a child of the row's node.

        Args:
            scores: one column per code.
            nodes: `(rows,)`, nodes of `level`; a row with node -1 becomes -inf throughout.

        Raises:
            ValueError: the tree has codes without a column.
        """
        vocabulary = scores.shape[1]
        if self.max_code >= vocabulary:
            raise ValueError(
                f"The tree has codes up to {self.max_code}, the scores have {vocabulary} columns: give token_ids that "
                "map the codes to the model's tokens, or resize the model's token embeddings."
            )
        if level == 0:
            # All first codes are allowed in every row: no gathering, and the row of flags is the same in every call.
            if self._root_row is None or len(self._root_row) != vocabulary:
                self._root_row = torch.zeros(vocabulary, dtype=torch.bool, device=self.device)
                self._root_row[self._keys[0]] = True
            masked = torch.where(self._root_row, scores, -torch.inf)
            masked[nodes < 0] = -torch.inf
            return masked
        rows, codes, _ = self.expand(nodes, level)
        cells = rows * vocabulary + codes
        masked = torch.full_like(scores, -torch.inf, memory_format=torch.contiguous_format)
        masked.view(-1).scatter_(0, cells, scores.take(cells))
        return masked

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
        rows = self.sequences()
        tokens = table[torch.arange(self.depth, device=self.device), rows.clamp(min=0)]
        return PrefixTree.from_sequences(tokens, None if self.fixed_length else (rows != PADDING).sum(1))

    def save_pretrained(self, folder: str | os.PathLike) -> None:
        """Writes `prefix_tree.safetensors` into `folder`, and lists it in the folder's manifest if there is one."""
        folder = Path(folder)
        dtype = torch.int32 if self.max_code <= INT32_MAX else torch.int64
        arrays = {f"starts.{position}": starts for position, starts in enumerate(self._starts)}
        arrays |= {f"codes.{position}": (keys % self._base).to(dtype) for position, keys in enumerate(self._keys)}
        arrays |= {f"terminal.{position}": ends for position, ends in enumerate(self._terminal or [])}
        with atomic_path(folder / PREFIX_TREE_NAME) as temporary:
            save_file(arrays, temporary, metadata={"format": FORMAT_NAME, "version": str(FORMAT_VERSION)})
        if (folder / MANIFEST_NAME).exists():
            update_manifest(folder, [PREFIX_TREE_NAME])

    @classmethod
    def from_pretrained(cls, name_or_path: str | os.PathLike, **hub_kwargs) -> "PrefixTree":
        """Reads the tree of a folder or of a Hub repository, on the CPU.

        Args:
            hub_kwargs: `revision`, `token`, `cache_dir`, `local_files_only`, `subfolder`.

        Raises:
            FileNotFoundError: no such folder, repository or file.
            CorruptedFolderError: the file is not the one its manifest lists, or not a prefix tree through and through.
        """
        path = resolve_file(name_or_path, PREFIX_TREE_NAME, **hub_kwargs)
        verify_files([path], resolve_file(name_or_path, MANIFEST_NAME, optional=True, **hub_kwargs))
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                arrays = {name: file.get_tensor(name) for name in file.keys()}
            return cls(checked_arrays(metadata, arrays))
        except (SafetensorError, ValueError, OSError) as error:
            raise CorruptedFolderError(
                f"{path} is not a complete prefix tree: {error} Download it again, or write it again with "
                "PrefixTree.save_pretrained."
            ) from error

    @property
    def _base(self) -> int:
        return self.max_code + 1

    def _paths(self, nodes: LongTensor, level: int) -> LongTensor:
        """The prefixes `(rows, depth)` of `nodes` `(rows,)` of `level`, padded with -1."""
        paths = torch.full((len(nodes), self.depth), PADDING, device=self.device)
        for position in reversed(range(level)):
            keys = self._keys[position][nodes]
            nodes = keys // self._base
            paths[:, position] = keys - nodes * self._base
        return paths

    def _step(self, nodes: LongTensor, codes: LongTensor, level: int) -> LongTensor:
        """From `nodes` of `level` to their children with `codes`, on `level + 1`; all three `(rows,)`, -1 for none."""
        if level >= self.depth:
            return torch.full_like(nodes, -1)
        # A code outside the tree's range would make the key of another parent's child; that of node -1 is negative.
        possible = (codes >= 0) & (codes <= self.max_code)
        wanted = torch.where(possible, nodes * self._base + codes, -1)
        keys = self._keys[level]
        children = torch.searchsorted(keys, wanted).clamp(max=len(keys) - 1)
        return torch.where(keys[children] == wanted, children, -1)

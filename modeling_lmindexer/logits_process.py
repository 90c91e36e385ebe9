"""Keeps `generate` inside the prefix tree: only semantic IDs that exist can come out."""

import copy
import inspect
import os
from collections.abc import Iterator

import torch
from torch import BoolTensor, FloatTensor, LongTensor, Tensor
from transformers import LogitsProcessor

from .document_ids import DocumentIds
from .prefix_arrays import PADDING
from .prefix_mask import Written
from .prefix_tree import PrefixTree
from .score_buffer import ScoreBuffer, minus_infinity_like

# Scores, and columns, from which their memory is re-used: less is written faster than looked after.
WORTH_KEEPING, WIDE = 2**20, 2**13


class PrefixTreeLogitsProcessor(LogitsProcessor):
    """Allows at each step the codes that continue some sequence of a [`PrefixTree`], and nothing else.

    It keeps no state between the steps, so one processor serves any number of calls, batches, beams and threads, and
    sees at once what is added to or removed from its tree. A row that has left the tree gets -inf throughout: it can
    neither return nor become free.

    ```python
    >>> import torch
    >>> from modeling_lmindexer.logits_process import PrefixTreeLogitsProcessor
    >>> from modeling_lmindexer.prefix_tree import PrefixTree
    >>> trie = PrefixTreeLogitsProcessor(PrefixTree.from_sequences([[3, 5], [3, 6], [4, 5]]))
    >>> trie(torch.tensor([[0, 3], [0, 4]]), torch.zeros(2, 8))
    tensor([[-inf, -inf, -inf, -inf, -inf, 0., 0., -inf],
            [-inf, -inf, -inf, -inf, -inf, 0., -inf, -inf]])

    ```

    Args:
        tree: the sequences that may come out.
        prompt_length: tokens of each row before the first code: 1, the start token, for an encoder-decoder; for a
            decoder alone the padded length of its prompt.
        token_ids: the model's token of every code, see [`PrefixTree.relabelled`]; by default a code is its token.
        eos_token_id: the token that ends a sequence, allowed exactly where one of the tree ends. Needed when sequences
            have different lengths; then generate takes `max_new_tokens=tree.depth + 1`, otherwise `tree.depth`.
        pad_token_id: allowed too, next to `eos_token_id`, in rows that have ended. A row with no token left, because
            its filter allows nothing or its prefix is no ID's, gets a very low score there instead of -inf:
            sampling goes on, beams prefer anything else, and [`~PrefixTreeLogitsProcessor.is_valid`] tells.
        reuse_buffer: from a million scores of a large vocabulary on, write into the memory of an earlier step
            when nobody holds its scores any more, and set back only what that step had written; memory is fresh where
            they are still held, as by sampling with `output_scores`.
        document_ids: what [`~PrefixTreeLogitsProcessor.filtered`] may call the documents; by default their numbers.

    Raises:
        ValueError: a negative prompt length, sequences of different lengths without `eos_token_id`, or an
            `eos_token_id` that is also the token of a code.
    """

    def __init__(
        self,
        tree: PrefixTree,
        prompt_length: int = 1,
        token_ids=None,
        eos_token_id: int | None = None,
        pad_token_id: int | None = None,
        reuse_buffer: bool = True,
        document_ids: DocumentIds | None = None,
    ):
        if prompt_length < 0:
            raise ValueError(f"Found prompt_length={prompt_length}: expected 0 or more tokens.")
        if token_ids is not None:
            tree = tree.relabelled(token_ids)
        if eos_token_id is None and not tree.fixed_length:
            raise ValueError(
                f"The sequences of {tree} differ in length: give eos_token_id, the token that ends the shorter ones."
            )
        self._tree = tree
        self.prompt_length = prompt_length
        self.eos_token_id = eos_token_id
        self.pad_token_id = pad_token_id
        self.document_ids = document_ids
        self._buffer = ScoreBuffer() if reuse_buffer else None
        self._check_end(tree)
        # State of the tree at the last step, device of the scores, and its snapshot there.
        self._seen: tuple = (None, None, None)

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | os.PathLike,
        *,
        prompt_length: int = 1,
        token_ids=None,
        eos_token_id: int | None = None,
        pad_token_id: int | None = None,
        reuse_buffer: bool = True,
        **kwargs,
    ) -> "PrefixTreeLogitsProcessor":
        """A processor for the tree of a folder or Hub repository.

        Args:
            name_or_path: folder or Hub repository.
            prompt_length, token_ids, eos_token_id, pad_token_id, reuse_buffer: as for the class.
            kwargs: as for [`PrefixTree.from_pretrained`].

        Raises:
            FileNotFoundError: no such folder, repository or file.
            CorruptedFolderError: the file is not the one its manifest lists, or no prefix tree.
        """
        tree = PrefixTree.from_pretrained(name_or_path, **kwargs)
        hub_kwargs = {name: value for name, value in kwargs.items() if name not in ("layout", "memory_map")}
        return cls(
            tree,
            prompt_length,
            token_ids,
            eos_token_id,
            pad_token_id,
            reuse_buffer,
            DocumentIds.of_folder(name_or_path, tree.num_documents, **hub_kwargs),
        )

    @property
    def tree(self) -> PrefixTree:
        """The tree of tokens."""
        return self._tree

    def filtered(self, allowed) -> "PrefixTreeLogitsProcessor":
        """A processor that allows some documents only, for the time of a request: nothing is built again.

        Args:
            allowed: a boolean mask `(documents,)`, or `(batch, documents)`: one filter for every row of the batch; or
                document ids, as one list, or as one list per row. Ids are those of the index that the processor comes
                from, and row numbers of the sequences where there is none.

        Raises:
            ValueError: a mask of another length; KeyError: an id that no document has.
        """
        view = copy.copy(self)
        tree = self._tree.snapshot()
        if self.document_ids is not None and not self.document_ids.are_numbers:
            allowed = self.document_ids.mask(allowed, tree.num_documents)
        view._tree = tree.filtered(allowed)
        return view

    def is_valid(self, sequences: LongTensor, num_return_sequences: int = 1) -> BoolTensor:
        """Which sequences `(rows, prompt_length + tokens)`, as `generate` returns them, are results `(rows,)`.

        Beam search fills up with repetitions and impossible rows when there are fewer IDs than beams: such a row is
        not in the tree, or repeats one before it among the `num_return_sequences` of its text.
        """
        tokens = sequences[:, self.prompt_length :].to(self._tree.device)
        if self.eos_token_id is not None:
            ended = (tokens == self.eos_token_id).cumsum(1) > 0
            tokens = tokens.masked_fill(ended, PADDING)
        valid = self._tree.contains(tokens) if tokens.shape[1] else tokens.new_zeros(len(tokens), dtype=torch.bool)
        if len(tokens) % num_return_sequences:
            raise ValueError(
                f"Found {len(tokens)} sequences: expected a multiple of num_return_sequences={num_return_sequences}."
            )
        groups = tokens.unflatten(0, (-1, num_return_sequences))  # (texts, sequences, tokens)
        same = (groups[:, :, None] == groups[:, None]).all(-1).tril(-1).any(-1)
        return (valid & ~same.flatten()).to(sequences.device)

    # generate wants a list of processors. As a list of itself, the bare processor can be handed to any model.
    def __len__(self) -> int:
        return 1

    def __iter__(self) -> Iterator["PrefixTreeLogitsProcessor"]:
        yield self

    def __call__(self, input_ids: LongTensor, scores: FloatTensor) -> FloatTensor:
        """A copy of `scores` `(rows, vocabulary)` with -inf where a token leads out of the tree.

        Args:
            input_ids: `(rows, prompt_length + level)`, the prompt and the tokens so far.

        Raises:
            ValueError: fewer tokens than the prompt, more than an ID has, or a vocabulary without the tree's tokens.
        """
        level = input_ids.shape[1] - self.prompt_length
        self._check_level(level)
        tree = self._tree_on(scores.device)

        def write(masked: Tensor) -> list:
            written = tree.write_continuations(masked, scores, input_ids, self.prompt_length)
            if self.eos_token_id is not None or self.pad_token_id is not None:
                generated = input_ids[:, self.prompt_length :]  # (rows, level)
                written += self._write_special_tokens(masked, scores, tree, generated)
            return written

        # Setting back what was written takes longer than setting everything, where that is little.
        large = scores.numel() >= WORTH_KEEPING and scores.shape[1] >= WIDE
        if self._buffer is not None and large and not torch.compiler.is_compiling():
            return self._buffer.fill(scores, write)
        masked = minus_infinity_like(scores)
        write(masked)
        return masked

    def _tree_on(self, device: torch.device) -> PrefixTree:
        """The tree as it is at this step, on the scores' device."""
        state, seen_device, seen = self._seen
        if state is not self._tree.state or device != seen_device:
            snapshot = self._tree.snapshot()
            self._check_end(snapshot)
            seen = snapshot.to(device)
            self._seen = snapshot.state, device, seen
        return seen

    def _write_special_tokens(
        self, masked: Tensor, scores: Tensor, tree: PrefixTree, generated: LongTensor
    ) -> list[Written]:
        """Allows the tokens that are no codes, in the rows that may have them; returns the columns written to."""
        level, written = generated.shape[1], []
        nodes = tree.walk(generated)

        def allow(token: int, rows: BoolTensor, values) -> None:
            masked[:, token] = torch.where(rows, values, masked[:, token])
            written.append(Written(columns=slice(token, token + 1)))

        ended = torch.zeros_like(nodes, dtype=torch.bool)
        if self.eos_token_id is not None:
            ended = (generated == self.eos_token_id).any(1)
            allow(self.eos_token_id, ended | tree.is_terminal(nodes, level), scores[:, self.eos_token_id])
            if self.pad_token_id not in (None, self.eos_token_id):
                allow(self.pad_token_id, ended, scores[:, self.pad_token_id])
        if self.pad_token_id is not None:
            dead = ~ended & ~tree.is_alive(nodes, level)
            # Far below any other score, and still finite when the scores of all steps are added up.
            allow(self.pad_token_id, dead, torch.finfo(scores.dtype).min / 256)
        return written

    def _check_end(self, tree: PrefixTree) -> None:
        """The end must not be a code, of what was added to the tree either."""
        if self.eos_token_id is not None and tree.has_code(self.eos_token_id):
            raise ValueError(
                f"eos_token_id={self.eos_token_id} is also a code of the tree: map the codes to others with token_ids."
            )

    def _check_level(self, level: int) -> None:
        if level < 0:
            raise ValueError(
                f"input_ids has {self.prompt_length + level} tokens, the prompt {self.prompt_length}: give the "
                "prompt_length that the model's input has (1 for an encoder-decoder)."
            )
        if self.eos_token_id is None and level >= self._tree.depth:
            raise ValueError(
                f"generate asked for token {level + 1} of IDs with {self._tree.depth}: set "
                f"max_new_tokens={self._tree.depth}, or check prompt_length={self.prompt_length}."
            )


# transformers asks for it at every step, and inspect would work it out anew.
PrefixTreeLogitsProcessor.__call__.__signature__ = inspect.signature(PrefixTreeLogitsProcessor.__call__)

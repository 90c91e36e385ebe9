"""Keeps `generate` inside the prefix tree: only semantic IDs that exist can come out."""

import os
from collections.abc import Iterator

from torch import FloatTensor, LongTensor
from transformers import LogitsProcessor

from .prefix_tree import PrefixTree


class PrefixTreeLogitsProcessor(LogitsProcessor):
    """Allows at each step the codes that continue some sequence of a [`PrefixTree`], and nothing else.

    It keeps no state between the steps, so one processor serves any number of calls, batches and beams. A row that has
    left the tree gets -inf throughout: it can neither return nor become free.

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
        pad_token_id: allowed too, next to `eos_token_id`, in rows that have ended.

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
    ):
        if prompt_length < 0:
            raise ValueError(f"Found prompt_length={prompt_length}: expected 0 or more tokens.")
        if token_ids is not None:
            tree = tree.relabelled(token_ids)
        if eos_token_id is None and not tree.fixed_length:
            raise ValueError(
                f"The sequences of {tree} differ in length: give eos_token_id, the token that ends the shorter ones."
            )
        if eos_token_id is not None and any((tree.codes_at(p) == eos_token_id).any() for p in range(tree.depth)):
            raise ValueError(
                f"eos_token_id={eos_token_id} is also a code of the tree: map the codes to others with token_ids."
            )
        self._tree = tree
        self.prompt_length = prompt_length
        self.eos_token_id = eos_token_id
        self.pad_token_id = pad_token_id

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | os.PathLike,
        *,
        prompt_length: int = 1,
        token_ids=None,
        eos_token_id: int | None = None,
        pad_token_id: int | None = None,
        **hub_kwargs,
    ) -> "PrefixTreeLogitsProcessor":
        """A processor for the tree of a folder or Hub repository; see [`PrefixTree.from_pretrained`]."""
        tree = PrefixTree.from_pretrained(name_or_path, **hub_kwargs)
        return cls(tree, prompt_length, token_ids, eos_token_id, pad_token_id)

    @property
    def tree(self) -> PrefixTree:
        """The tree of tokens, on the device of the last call's scores."""
        return self._tree

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
        if self._tree.device != scores.device:
            self._tree = self._tree.to(scores.device)
        generated = input_ids[:, self.prompt_length :]  # (rows, level)
        nodes = self._tree.walk(generated)
        masked = self._tree.mask_scores(scores, nodes, level)
        if self.eos_token_id is not None:
            ended = (generated == self.eos_token_id).any(1)
            allowed = {self.eos_token_id: ended | self._tree.is_terminal(nodes, level)}
            if self.pad_token_id not in (None, self.eos_token_id):
                allowed[self.pad_token_id] = ended
            for token, rows in allowed.items():
                masked[:, token] = masked[:, token].where(~rows, scores[:, token])
        return masked

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

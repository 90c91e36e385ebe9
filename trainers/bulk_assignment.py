"""Codes of many texts: tokenised beside the model, read in batches of like length, without beams."""

import queue
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from transformers import AutoConfig, AutoTokenizer, PreTrainedTokenizerBase

from modeling_lmindexer import LMIndexerConfig, LMIndexerForSemanticID
from modeling_lmindexer.text_codes import tokenize

from .documents import pad

_TEXTS_AT_A_TIME = 1024  # tokenised: what a tokenizer makes of a text takes many times its room
T = TypeVar("T")


class UnusableTextError(ValueError):
    """A text that the tokenizer finds nothing in; `row` is its place among those given."""

    def __init__(self, row: int):
        super().__init__(f"the tokenizer finds nothing in text {row}")
        self.row = row


class BulkAssigner:
    """Writes the learned codes of texts, as `model.assign` does.

    Codes do not depend on the texts beside them, but for the last bits of sums, which decide where two codes are as
    likely as float32 (or bfloat16) can tell.

    Args:
        model: in evaluation mode, on its device and in its type.
        tokenizer: of the model.
        tokens_per_batch: of a batch, padding among them.
    """

    def __init__(
        self, model: LMIndexerForSemanticID, tokenizer: PreTrainedTokenizerBase, tokens_per_batch: int = 8192
    ):
        self.model, self.tokenizer, self.tokens_per_batch = model, tokenizer, tokens_per_batch
        self.max_length = model.config.max_source_length
        self.offsets = np.array(model.config.position_offsets[: model.config.num_learned_positions], dtype=np.int64)

    @classmethod
    def from_pretrained(
        cls, name_or_path: str | Path, device: str | torch.device = "cpu", bf16: bool = False,
        tokens_per_batch: int = 8192,
    ) -> "BulkAssigner":  # fmt: skip
        """That of a model folder or Hub repository.

        Raises:
            ValueError: it is no indexer.
        """
        found = AutoConfig.from_pretrained(name_or_path).model_type
        if found != LMIndexerConfig.model_type:
            raise ValueError(
                f"{name_or_path} is a {found}, expected an indexer: a folder that run_indexing.py wrote. Train one "
                "first."
            )
        dtype = torch.bfloat16 if bf16 else torch.float32
        model = LMIndexerForSemanticID.from_pretrained(name_or_path, dtype=dtype).eval().to(device)
        return cls(model, AutoTokenizer.from_pretrained(name_or_path), tokens_per_batch)

    def tokenize(self, texts: list[str]) -> list[np.ndarray]:
        """Token ids of each text, cut as in training.

        Raises:
            UnusableTextError: the tokenizer finds nothing in a text, special tokens aside.
        """
        tokens, special = [], set(self.tokenizer.all_special_ids)
        for start in range(0, len(texts), _TEXTS_AT_A_TIME):
            encoded = tokenize(
                self.tokenizer, texts[start : start + _TEXTS_AT_A_TIME], self.max_length,
                return_attention_mask=False, return_token_type_ids=False,
            )["input_ids"]  # fmt: skip
            for row in encoded:
                if len(row) < 4 and special.issuperset(row):  # more tokens are never all special
                    raise UnusableTextError(len(tokens))
                tokens.append(np.array(row, dtype=np.int32))
        return tokens

    def batches(self, tokens: list[np.ndarray]) -> Iterator[tuple[np.ndarray, torch.Tensor, torch.Tensor]]:
        """Rows, token ids and mask `(texts, longest)` of batches within the budget; the longest texts come first."""
        order = np.argsort([-len(row) for row in tokens], kind="stable")
        start = 0
        while start < len(order):
            rows = order[start : start + max(1, self.tokens_per_batch // len(tokens[order[start]]))]
            input_ids = pad([tokens[row].astype(np.int64) for row in rows], self.tokenizer.pad_token_id or 0)
            lengths = torch.tensor([len(tokens[row]) for row in rows])
            yield rows, input_ids, (torch.arange(input_ids.shape[1]) < lengths[:, None]).long()
            start += len(rows)

    @torch.inference_mode()
    def assign(self, tokens: list[np.ndarray]) -> np.ndarray:
        """Learned codes `(texts, positions)`, int32."""
        codes = np.empty((len(tokens), len(self.offsets)), dtype=np.int32)
        for rows, input_ids, mask in self.batches(tokens):
            ids = self.model.assign(input_ids.to(self.model.device), mask.to(self.model.device))
            codes[rows] = ids.cpu().numpy() - self.offsets
        return codes

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """For engines that map batches, such as Ray Data.

        Args:
            batch: columns `id` and `text`.

        Returns:
            columns `id` and `c0`, `c1`, ..., as in the parts of [`trainers.corpus_parts.PartsFolder`].
        """
        codes = self.assign(self.tokenize([str(text) for text in batch["text"]]))
        return {"id": batch["id"]} | {f"c{t}": column for t, column in enumerate(codes.T)}


def ahead(items: Iterable[T], depth: int = 1) -> Iterator[T]:
    """The items, made by a thread that is up to `depth` of them ahead; its errors are raised here."""
    ready: queue.Queue = queue.Queue(maxsize=depth)
    stopped = threading.Event()

    def put(kind: str, value) -> None:
        while not stopped.is_set():
            try:
                return ready.put((kind, value), timeout=0.1)
            except queue.Full:
                continue

    def make() -> None:
        try:
            for item in items:
                put("item", item)
                if stopped.is_set():
                    return
            put("end", None)
        except BaseException as error:  # noqa: BLE001 - it is the other thread's to raise
            put("error", error)

    thread = threading.Thread(target=make, daemon=True)
    thread.start()
    try:
        while True:
            kind, value = ready.get()
            if kind == "error":
                raise value
            if kind == "end":
                return
            yield value
    finally:
        stopped.set()
        thread.join()

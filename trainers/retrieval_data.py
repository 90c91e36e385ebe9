"""Pairs of a text and the ID of the document that it asks for, as the downstream trainer sees them."""

import hashlib
from dataclasses import dataclass

import datasets
import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from modeling_lmindexer import SemanticIndex

from .documents import pad
from .encoder_cache import EncoderStates, pad_states
from .prefix_sampler import SampleKey
from .progress import activity

_NAMED = 5  # offending rows in a message


class UnusablePairsError(ValueError):
    """Pairs or queries that cannot be used; the message names them."""


@dataclass
class TokenizedTexts:
    """Token ids of texts, one after the other.

    Attributes:
        tokens: int32, of all texts.
        offsets: `(texts + 1,)`, where each begins.
    """

    tokens: np.ndarray
    offsets: np.ndarray

    @classmethod
    def of(
        cls, texts: list[str], tokenizer: PreTrainedTokenizerBase, max_length: int, what: str, names: list
    ) -> "TokenizedTexts":
        """Texts as token ids, cut after `max_length`.

        Raises:
            UnusablePairsError: a text without a token; `what` it is stands in the message, and its name.
        """
        with activity(f"tokenising {len(texts):,} {what}"):
            encoded = tokenizer(texts, truncation=True, max_length=max_length, return_attention_mask=False)[
                "input_ids"
            ]
        special = set(tokenizer.all_special_ids)
        empty = [name for name, tokens in zip(names, encoded, strict=True) if special.issuperset(tokens)]
        if empty:
            raise UnusablePairsError(
                f"{len(empty)} of {len(texts)} {what} have no words: {empty[:_NAMED]}. Leave them out."
            )
        lengths = [len(row) for row in encoded]
        return cls(np.concatenate(encoded).astype(np.int32), np.concatenate([[0], np.cumsum(lengths)]))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, row: int) -> np.ndarray:
        return self.tokens[self.offsets[row] : self.offsets[row + 1]]

    @property
    def lengths(self) -> np.ndarray:
        """Tokens per text."""
        return np.diff(self.offsets)


class PairDataset(torch.utils.data.Dataset):
    """Pairs of the task, and after them as many document → ID pairs as make up a share of an epoch.

    The documents go round: every epoch shows the next ones of a seeded order.

    Args:
        pairs: of the task, None for none.
        documents: texts of documents with their own IDs, None for none.
        share: of documents in an epoch; without pairs an epoch is all documents.
        seed: of the documents' order, and of what is left out.
        token_dropout: share of a text's tokens that an epoch leaves out, others every time.
        cut_share: share of the texts of which an epoch has only a beginning, of any length.
        special: ids of tokens that are always there, such as that of a text's end.
    """

    def __init__(
        self, pairs: "Pairs | None", documents: "Pairs | None", share: float, seed: int, token_dropout: float = 0.0,
        cut_share: float = 0.0, special: tuple[int, ...] = (),
    ):  # fmt: skip
        self.pairs, self.documents, self.seed = pairs, documents, seed
        self.token_dropout, self.cut_share, self.special = token_dropout, cut_share, special
        number = 0 if pairs is None else len(pairs)
        extra = round(share / (1 - share) * number) if pairs is not None else len(documents)
        self.num_pairs, self.num_documents = number, extra
        self.order = np.random.default_rng(seed).permutation(len(documents)) if extra else np.empty(0, dtype=np.int64)

    def __len__(self) -> int:
        return self.num_pairs + self.num_documents

    def documents_of(self, epoch: int) -> np.ndarray:
        """Rows of the documents that an epoch shows, in the order in which it has them."""
        return np.take(self.order, np.arange(self.num_documents) + epoch * self.num_documents, mode="wrap")

    def lengths(self, epoch: int) -> np.ndarray:
        """Tokens of all texts of an epoch, before some are dropped."""
        parts = [] if self.pairs is None else [self.pairs.texts.lengths]
        if self.num_documents:
            parts.append(self.documents.texts.lengths[self.documents_of(epoch)])
        return np.concatenate(parts)

    def __getitem__(self, key: SampleKey | int) -> dict:
        row, epoch, weight = key if isinstance(key, tuple) else (int(key), 0, 1)
        changes = self.token_dropout > 0 or self.cut_share > 0
        random = np.random.default_rng((self.seed, epoch, row)) if changes else None
        source = self.pairs
        if row >= self.num_pairs:
            place = row - self.num_pairs + epoch * self.num_documents
            source, row = self.documents, self.order[place % len(self.order)]
        text = source.texts[row]
        if random is not None:
            text = self.shortened(text, random)
        item = {"input_ids": text, "labels": source.labels[row], "weight": weight}
        return item if source.states is None else item | {"states": source.states[row]}

    def shortened(self, tokens: np.ndarray, random: np.random.Generator) -> np.ndarray:
        """`(tokens,)` without what an epoch leaves out; one of its own is always left."""
        is_special = np.isin(tokens, self.special)
        own = np.flatnonzero(~is_special)
        if not len(own):
            return tokens
        if random.random() < self.cut_share:
            own = own[: random.integers(1, len(own) + 1)]
        draws = random.random(len(own))
        is_special[own[(draws >= self.token_dropout) | (draws == draws.max())]] = True
        return tokens[is_special]


@dataclass
class Pairs:
    """Texts with the flat ids `(pairs, positions)` of their documents, and what a frozen encoder makes of them."""

    texts: TokenizedTexts
    labels: np.ndarray
    states: EncoderStates | None = None

    @classmethod
    def of(
        cls, table: datasets.Dataset, target: str, index: SemanticIndex, tokenizer: PreTrainedTokenizerBase,
        max_length: int, what: str,
    ) -> "Pairs":  # fmt: skip
        """Rows of a table with the column `text` and the column `target`, ids of documents.

        Raises:
            UnusablePairsError: a text without words, or a target that the index does not have.
        """
        if not len(table):
            raise UnusablePairsError(f"There are no {what}; expected at least one.")
        targets = list(table[target])
        known = set(index.document_ids)
        unknown = [(row, value) for row, value in enumerate(targets) if value not in known]
        if unknown:
            named = ", ".join(f"{value!r} in row {row}" for row, value in unknown[:_NAMED])
            raise UnusablePairsError(
                f"{len(unknown)} of {len(targets)} {what} have a target that is not in the index: {named}. Index all "
                "documents first, or leave these pairs out."
            )
        named = targets if what == "documents" else [f"row {row}, of {value}" for row, value in enumerate(targets)]
        texts = TokenizedTexts.of(list(table["text"]), tokenizer, max_length, what, named)
        return cls(texts, index.sequences_of(targets).numpy())

    def __len__(self) -> int:
        return len(self.labels)

    def digest(self) -> str:
        """Hash of all tokens and labels."""
        sha = hashlib.sha256()
        for values in (self.texts.tokens, self.texts.offsets, self.labels):
            sha.update(values.tobytes())
        return sha.hexdigest()


@dataclass
class PairCollator:
    """Pads texts on the right; `counts` `(batch,)` is 0 for rows that only fill a batch up."""

    pad_token_id: int

    def __call__(self, items: list[dict]) -> dict[str, torch.Tensor]:
        rows = [item["input_ids"].astype(np.int64) for item in items]
        inputs = {"input_ids": pad(rows, self.pad_token_id)}
        if "states" in items[0]:
            inputs["encoder_outputs"] = pad_states([item["states"] for item in items], inputs["input_ids"].shape[1])
        return inputs | {
            "attention_mask": pad([np.ones(len(row), dtype=np.int64) for row in rows]),
            "labels": torch.from_numpy(np.stack([item["labels"] for item in items])),
            "counts": torch.tensor([item["weight"] for item in items]),
        }

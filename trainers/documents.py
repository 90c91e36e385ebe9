"""The corpus as the trainer sees it: token ids, codes so far, and hints that depend on the document alone."""

import hashlib
import zlib
from dataclasses import dataclass

import datasets
import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from modeling_lmindexer.text_codes import tokenize

from .corpus_check import UnusableCorpusError
from .encoder_cache import EncoderStates
from .neighbourhoods import group_texts
from .prefix_sampler import SampleKey

# Epoch of the fixed hints that the figures of a stage are computed with.
EVALUATION_EPOCH = 2**31 - 1


@dataclass
class TargetWeights:
    """How much each token id counts when it is reconstructed, `(vocabulary,)` float32; 0: never predicted.

    Attributes:
        weights: per token id.
        by_count: whether a token that a document repeats counts by the logarithm of its repetitions.
    """

    weights: np.ndarray
    by_count: bool

    @property
    def vocabulary(self) -> torch.Tensor:
        """Sorted token ids that are ever predicted."""
        return torch.from_numpy(np.flatnonzero(self.weights))


class IndexingDataset(torch.utils.data.Dataset):
    """Tokenised documents, looked up by [`SampleKey`] (or by a plain number, in the evaluation epoch).

    Attributes:
        ids: document ids.
        tokens: token ids of all documents, one after the other.
        offsets: `(N + 1,)`, where each document starts in `tokens`.
        codes: `(N, positions)`, learned codes assigned so far.
        hint_ratio: share of tokens that stays visible in the current stage.
        views: `crops` or `neighbours`, where items carry another view of their document.
        encoder_states: states of a frozen encoder, computed once.
        anchors: what the states of the current position are pulled to `(N, dimensions)`.
        neighbours: the nearest documents of each `(N, number)`.
        excluded_groups: `(N,)`, equal for documents with the same excluded text, such as one brand.

    Args:
        ids, texts: of the documents.
        tokenizer: of the model.
        max_length: tokens read of a text.
        seed: of hints and views.
        excluded_texts: one text per document, such as its brand, whose tokens are not reconstructed in it.
    """

    def __init__(
        self,
        ids: list,
        texts: list[str],
        tokenizer: PreTrainedTokenizerBase,
        max_length: int,
        seed: int,
        excluded_texts: list[str] | None = None,
    ):
        self.ids = ids
        # Special tokens carry nothing to reconstruct, and are no hint.
        self.special_ids = np.array(sorted(set(tokenizer.all_special_ids)), dtype=np.int64)
        encoded = tokenize(tokenizer, texts, max_length)["input_ids"]
        empty = [document for document, row in zip(ids, encoded, strict=True) if not row]
        if empty:
            raise UnusableCorpusError(
                f"The tokenizer finds nothing in {len(empty)} documents: {empty[:5]}. Leave them out, or use a "
                "tokenizer that ends every text with a token."
            )
        self.offsets = np.concatenate([[0], np.cumsum([len(row) for row in encoded])])
        self.tokens = np.concatenate([np.asarray(row, dtype=np.int32) for row in encoded])
        self.is_special = np.isin(self.tokens, self.special_ids)
        self.is_excluded = self.is_special | self.occurrences(excluded_texts, tokenizer)
        self.excluded_groups = group_texts(excluded_texts, len(ids))
        self.digests = [zlib.crc32(str(document).encode()) for document in ids]
        self.seed = seed
        self.codes = np.empty((len(ids), 0), dtype=np.int64)
        self.hint_ratio = 0.0
        self.target_weights: TargetWeights | None = None
        self.views: str | None = None
        self.encoder_states: EncoderStates | None = None
        self.anchors: np.ndarray | None = None
        self.neighbours: np.ndarray | None = None

    @classmethod
    def of(
        cls, corpus: datasets.Dataset, tokenizer: PreTrainedTokenizerBase, max_length: int, seed: int
    ) -> "IndexingDataset":
        """The documents of a corpus with the columns `id`, `text` and, if some words are not targets, `excluded`."""
        excluded = list(corpus["excluded"]) if "excluded" in corpus.column_names else None
        return cls(list(corpus["id"]), list(corpus["text"]), tokenizer, max_length, seed, excluded)

    def occurrences(self, texts: list[str] | None, tokenizer: PreTrainedTokenizerBase) -> np.ndarray:
        """Which tokens of all documents occur in the text that goes with their document, `(all tokens,)` bool."""
        found = np.zeros(len(self.tokens), dtype=bool)
        if texts is not None:
            encoded = tokenizer([text or "" for text in texts], add_special_tokens=False)["input_ids"]
            for row, own in enumerate(encoded):
                span = slice(self.offsets[row], self.offsets[row + 1])
                found[span] = np.isin(self.tokens[span], np.asarray(own, dtype=np.int64))
        return found

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def lengths(self) -> np.ndarray:
        """Tokens per document `(N,)`."""
        return np.diff(self.offsets)

    def digest(self) -> str:
        """Hash of ids, tokens and what of them is left out: two runs over the same corpus have the same."""
        sha = hashlib.sha256(repr(self.ids).encode())
        for values in (self.tokens, self.offsets, self.is_excluded):
            sha.update(values.tobytes())
        if len(np.unique(self.excluded_groups)) < len(self):  # else there is nothing excluded that documents share
            sha.update(self.excluded_groups.tobytes())
        return sha.hexdigest()

    def prefix_groups(self) -> np.ndarray:
        """Number of the group that shares all codes so far, for every document `(N,)`."""
        if self.codes.shape[1] == 0:
            return np.zeros(len(self), dtype=np.int64)
        return np.unique(self.codes, axis=0, return_inverse=True)[1].reshape(-1)

    def count_weights(
        self, vocab_size: int, *, idf: bool, min_frequency: int, max_frequency: float, by_count: bool
    ) -> TargetWeights:
        """Weights of token ids from the documents they occur in.

        Args:
            vocab_size: token ids there are.
            idf: weigh by `log(N / document frequency)` instead of 1.
            min_frequency: tokens in fewer documents get 0.
            max_frequency: tokens in a larger share of the documents get 0.
            by_count: whether repetitions within a document count by their logarithm.

        Raises:
            UnusableCorpusError: no token is left to predict.
        """
        rows = np.repeat(np.arange(len(self)), self.lengths)
        pairs = np.unique(rows * vocab_size + self.tokens)
        frequency = np.bincount(pairs % vocab_size, minlength=vocab_size).astype(np.float64)
        keep = (frequency >= max(1, min_frequency)) & (frequency <= max_frequency * len(self))
        keep[self.special_ids] = False
        if not keep.any():
            raise UnusableCorpusError(
                f"No token occurs in at least {min_frequency} and at most {max_frequency:.0%} of the documents: "
                "lower min_document_frequency or raise max_document_frequency."
            )
        weights = np.where(keep, np.log(len(self) / np.maximum(frequency, 1)) if idf else 1.0, 0.0)
        # A token that every document has keeps a little weight when it is not excluded.
        weights[keep] = np.maximum(weights[keep], 1e-3)
        return TargetWeights(weights.astype(np.float32), by_count)

    def __getitem__(self, key: SampleKey | int) -> dict:
        index, epoch, weight = key if isinstance(key, tuple) else (int(key), EVALUATION_EPOCH, 1)
        span = slice(self.offsets[index], self.offsets[index + 1])
        tokens, special = self.tokens[span], self.is_special[span]
        random = np.random.default_rng([self.seed, epoch, self.digests[index]])
        item = {"index": index, "weight": weight, "input_ids": tokens}
        item["hint_mask"] = self.draw_hints(special, random)
        item["target_weights"] = self.weigh_targets(tokens, self.is_excluded[span] | item["hint_mask"])
        if self.views == "crops":
            item["crops"] = [crop(tokens, random) for _ in range(2)]
        elif self.views == "neighbours":
            item["neighbour"] = int(random.choice(self.neighbours[index]))
        return item

    def tokens_of(self, row: int) -> np.ndarray:
        """Token ids of a document `(tokens,)`."""
        return self.tokens[self.offsets[row] : self.offsets[row + 1]]

    def draw_hints(self, special: np.ndarray, random: np.random.Generator) -> np.ndarray:
        """Which tokens stay visible, `(tokens,)` bool: a random part; at least one token stays hidden."""
        candidates = np.flatnonzero(~special)
        visible = min(round(self.hint_ratio * len(candidates)), max(0, len(candidates) - 1))
        mask = np.zeros(len(special), dtype=bool)
        mask[random.permutation(candidates)[:visible]] = True
        return mask

    def weigh_targets(self, tokens: np.ndarray, excluded: np.ndarray) -> np.ndarray:
        """Weights of the hidden tokens `(tokens,)`, 0 for the excluded ones."""
        if self.target_weights is None:
            return np.where(excluded, 0, 1).astype(np.float32)
        weights = np.where(excluded, 0, self.target_weights.weights[tokens])
        if self.target_weights.by_count:
            _, place, count = np.unique(np.where(excluded, -1, tokens), return_inverse=True, return_counts=True)
            count = count[place.reshape(-1)]
            weights = weights * np.log1p(count) / count
        return weights.astype(np.float32)


def crop(tokens: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """A random run of 30 to 80 % of a document's tokens."""
    length = max(1, round(len(tokens) * random.uniform(0.3, 0.8)))
    start = random.integers(0, len(tokens) - length + 1)
    return tokens[start : start + length]


def pad(rows: list[np.ndarray], value: float = 0) -> torch.Tensor:
    """Rows of different length as one tensor `(rows, longest)`, padded on the right."""
    padded = np.full((len(rows), max(map(len, rows))), value, dtype=rows[0].dtype)
    for row, values in zip(padded, rows, strict=True):
        row[: len(values)] = values
    return torch.from_numpy(padded)


@dataclass
class IndexingCollator:
    """Makes the model's inputs of documents, and what the trainer needs beside them; see [`trainers.objective.Batch`].

    Attributes:
        dataset: where codes and encoder states come from.
        pad_token_id: of the tokenizer.
        offsets: first flat id of every position.
        with_prefix: whether the decoder runs at all; it does not while the reconstructor warms up.
    """

    dataset: IndexingDataset
    pad_token_id: int
    offsets: list[int]
    with_prefix: bool
    groups: np.ndarray

    def __call__(self, items: list[dict]) -> dict:
        rows = np.array([item["index"] for item in items])
        lengths = [len(item["input_ids"]) for item in items]
        batch = {
            "input_ids": pad([item["input_ids"].astype(np.int64) for item in items], self.pad_token_id),
            "attention_mask": pad([np.ones(length, dtype=np.int64) for length in lengths]),
            "hint_mask": pad([item["hint_mask"] for item in items], False),
            "target_weights": pad([item["target_weights"] for item in items]),
            "documents": torch.from_numpy(rows),
            "groups": torch.from_numpy(self.groups[rows]),
            "counts": torch.tensor([item["weight"] for item in items]),
        }
        if self.with_prefix:
            batch["decoder_input_ids"] = self.prefixes(rows)
            if "crops" in items[0]:
                views = self.view([part for item in items for part in item["crops"]])
                batch |= {name: value.unflatten(0, (-1, 2)) for name, value in views.items()}
            if self.dataset.encoder_states is not None:
                batch["encoder_outputs"] = self.dataset.encoder_states.batch(rows, max(lengths))
            if "neighbour" in items[0]:
                batch |= self.neighbours(np.array([item["neighbour"] for item in items]))
            if self.dataset.anchors is not None:
                batch["anchors"] = torch.from_numpy(self.dataset.anchors[rows])
        return batch

    def view(self, parts: list[np.ndarray]) -> dict[str, torch.Tensor]:
        """Other texts for the contrastive loss, as the model takes them."""
        views = {"view_input_ids": pad([part.astype(np.int64) for part in parts], self.pad_token_id)}
        return views | {"view_attention_mask": pad([np.ones(len(part), dtype=np.int64) for part in parts])}

    def neighbours(self, rows: np.ndarray) -> dict[str, torch.Tensor]:
        """Whole documents `(batch,)` as views, with their encoder states where these are kept, and their numbers."""
        views = self.view([self.dataset.tokens_of(row) for row in rows])
        if self.dataset.encoder_states is not None:
            length = views["view_input_ids"].shape[1]
            views["view_encoder_outputs"] = self.dataset.encoder_states.batch(rows, length)
        return views | {"viewed": torch.from_numpy(rows)}

    def prefixes(self, rows: np.ndarray) -> torch.Tensor:
        """Decoder inputs `(batch, positions)`: the start id and the flat ids of the codes so far."""
        codes = self.dataset.codes[rows]
        flat = codes + np.array(self.offsets[: codes.shape[1]], dtype=np.int64)
        return torch.from_numpy(np.column_stack([np.zeros(len(rows), dtype=np.int64), flat]))

"""Queries that a document may be asked for by, drawn from a model that turns documents into queries (doc2query)."""

import hashlib
import re
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.modeling_outputs import BaseModelOutput

from .documents import pad
from .progress import progress_bar
from .retrieval_data import TokenizedTexts
from .run_state import RunState
from .stop_signals import leave_on_signal

PARTS = "parts"
# Of a checkpoint's generation settings; the others, such as beams and penalties, are not those of a draw.
_KEPT = ("decoder_start_token_id", "bos_token_id", "eos_token_id", "pad_token_id", "forced_bos_token_id")


@dataclass
class QuerySampling:
    """How queries are drawn; the defaults of `top_k` and `max_new_tokens` are those of docTTTTTquery."""

    num_queries: int = field(default=15, metadata={"help": "Queries per document, before duplicates are dropped."})
    temperature: float = field(default=1.0, metadata={"help": "Divides the logits."})
    top_k: int = field(default=10, metadata={"help": "The likeliest tokens that the next one is drawn from."})
    top_p: float = field(
        default=1.0, metadata={"help": "Of these, the fewest whose probabilities sum up to it, above 0 to 1."}
    )
    max_new_tokens: int = field(default=64, metadata={"help": "Tokens of a query."})
    seed: int = field(default=42, metadata={"help": "Of all draws."})

    def __post_init__(self):
        for name in ("num_queries", "top_k", "max_new_tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; give at least 1.")
        if not self.temperature > 0 or not 0 < self.top_p <= 1:
            raise ValueError(
                f"temperature is {self.temperature} and top_p {self.top_p}; give a temperature above 0, and top_p "
                "above 0, at most 1."
            )


class SeededDraws(LogitsProcessor):
    """Leaves every row the one token that its own random number falls on: greedy search then draws a sample.

    `generate` draws the rows of a batch from one generator, so that a row's sample depends on the others. Here the
    candidates of a row are laid side by side in the order of their ids, each as long as its probability, and the
    number tells the place: rounding that moves a probability a little changes the token almost never, whatever the
    order of the probabilities.

    Args:
        numbers: `(rows, steps)`, from 0 to below 1, float32, on the CPU.
        sampling: temperature, `top_k` and `top_p`.
    """

    def __init__(self, numbers: torch.Tensor, sampling: QuerySampling):
        self.numbers, self.sampling, self.step = numbers, sampling, 0

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        values, tokens = scores.float().topk(min(self.sampling.top_k, scores.shape[1]))  # (rows, k), best first
        weights = (values.cpu().double() / self.sampling.temperature).softmax(-1)
        if weights.isnan().any():
            raise ValueError("The model's logits are no numbers: compute in float32 or bfloat16.")
        weights[weights.cumsum(-1) - weights >= self.sampling.top_p] = 0
        tokens, order = tokens.cpu().sort(-1)
        ends = weights.gather(1, order).cumsum(-1)
        place = self.numbers[:, self.step, None].double() * ends[:, -1:]
        chosen = tokens.gather(1, torch.searchsorted(ends, place, right=True)).to(scores.device)
        self.step += 1
        return torch.full_like(scores, -torch.inf).scatter(1, chosen, 0.0)


class QueryGenerator:
    """Draws queries of documents.

    A query depends on its document's id and text, its number and the sampling, and on nothing else: not on the
    documents beside it, their order or the batch size. (The logits' last bits do depend on the batch. In float32 that
    changes a token about as often as a random number is that near to a border; in bfloat16, more often.)

    Args:
        model: any encoder-decoder, in evaluation mode.
        tokenizer: of the model.
        sampling: see [`QuerySampling`].
        batch_size: documents at a time, each with all of its queries.
    """

    def __init__(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, sampling: QuerySampling, batch_size: int = 16
    ):
        self.model, self.tokenizer, self.sampling, self.batch_size = model, tokenizer, sampling, batch_size
        kept = {name: getattr(model.generation_config, name) for name in _KEPT}
        model.generation_config = GenerationConfig(**kept, max_new_tokens=sampling.max_new_tokens)

    def __call__(self, ids: Sequence, tokens: Sequence[np.ndarray]) -> list[list[str]]:
        """The queries of each document, as drawn: some may be equal, or empty.

        Args:
            ids: of the documents.
            tokens: their token ids, in an order that brings like lengths together.
        """
        found = []
        for start in range(0, len(ids), self.batch_size):
            span = slice(start, start + self.batch_size)
            found += self.draw(ids[span], tokens[span])
        return found

    @torch.inference_mode()
    def draw(self, ids: Sequence, tokens: Sequence[np.ndarray]) -> list[list[str]]:
        """One batch."""
        device, number = self.model.device, self.sampling.num_queries
        input_ids = pad([row.astype(np.int64) for row in tokens], self.tokenizer.pad_token_id or 0).to(device)
        mask = pad([np.ones(len(row), dtype=np.int64) for row in tokens]).to(device)
        states = self.model.get_encoder()(input_ids=input_ids, attention_mask=mask).last_hidden_state
        numbers = torch.from_numpy(np.concatenate([self.numbers_of(document) for document in ids]))
        output = self.model.generate(
            encoder_outputs=BaseModelOutput(states.repeat_interleave(number, 0)),
            attention_mask=mask.repeat_interleave(number, 0),
            logits_processor=LogitsProcessorList([SeededDraws(numbers, self.sampling)]),
        )
        texts = self.tokenizer.batch_decode(output, skip_special_tokens=True)
        return [[" ".join(text.split()) for text in texts[i : i + number]] for i in range(0, len(texts), number)]

    def numbers_of(self, document: int | str) -> np.ndarray:
        """A document's random numbers `(queries, steps)`; `7` and `"7"` are the same document."""
        random = np.random.default_rng([self.sampling.seed, zlib.crc32(str(document).encode())])
        return random.random((self.sampling.num_queries, self.sampling.max_new_tokens), dtype=np.float32)


@dataclass
class Share:
    """Which process this is, of how many."""

    rank: int = 0
    world_size: int = 1
    wait: Callable[[], None] = lambda: None


def generate_in_parts(
    generator: QueryGenerator, ids: Sequence, texts: TokenizedTexts, state: RunState, share: Share,
    documents_per_part: int = 256,
) -> list[list[str]] | None:  # fmt: skip
    """The queries of a corpus, computed in parts, each written when it is done and found again after a stop.

    A part's batches do not depend on what was done before or on the number of processes.

    Args:
        generator: of the queries.
        ids, texts: of the documents.
        state: of the run; its settings are claimed already.
        share: of this process: every so many parts are its own.
        documents_per_part: what a stop may cost.

    Returns:
        the queries of each document; None on other processes than the first.
    """
    order = np.argsort(-texts.lengths, kind="stable")  # a batch that does not fit into memory fails first
    parts = [order[start : start + documents_per_part] for start in range(0, len(order), documents_per_part)]

    def part(number: int) -> list[list[str]]:
        rows = parts[number]
        own, tokens = [ids[row] for row in rows], [texts[row] for row in rows]
        # Named by its documents too: what other documents left under this number is not taken for theirs.
        name = f"{number:06d}-{digest_of_documents(own, tokens)[:12]}"
        return state.remember(PARTS, name, lambda: {"queries": generator(own, tokens)})["queries"]

    mine = range(share.rank, len(parts), share.world_size)
    for number in progress_bar(mine, description="parts of the documents", disable=share.rank > 0):
        part(number)
        leave_on_signal("between two parts of the documents", quiet=share.rank > 0)
    share.wait()
    if share.rank:
        return None
    queries: list[list[str]] = [[] for _ in ids]
    for number, rows in enumerate(parts):
        for row, found in zip(rows, part(number), strict=True):
            queries[row] = found
    return queries


def digest_of_documents(ids: Sequence, tokens: Sequence[np.ndarray]) -> str:
    """Hash of ids and token ids."""
    sha = hashlib.sha256(repr(list(ids)).encode())
    for row in tokens:
        sha.update(row.tobytes() + b"\n")
    return sha.hexdigest()


def distinct(queries: Sequence[str]) -> list[str]:
    """Queries in their order without those that hold no letter or digit, or are equal to another but for case and
    white space.

    ```python
    >>> distinct(["Red shoes", "...", "red  shoes", "blue shoes"])
    ['Red shoes', 'blue shoes']

    ```
    """
    kept: dict[str, str] = {}
    for query in filter(has_words, queries):
        kept.setdefault(" ".join(query.casefold().split()), query)
    return list(kept.values())


def has_words(query: str) -> bool:
    """Whether there is a letter or a digit."""
    return re.search(r"[^\W_]", query) is not None

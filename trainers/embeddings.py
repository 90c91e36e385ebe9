"""Embeddings of texts: of any encoder, pooled as it was trained to be, or an LMIndexer's own `h^1`."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from transformers import AutoConfig, AutoModel, AutoTokenizer
from transformers.utils import logging

from modeling_lmindexer import LMIndexerConfig, LMIndexerForSemanticID
from modeling_lmindexer.backbones import encode_text
from modeling_lmindexer.folder import resolve_file

from .documents import pad
from .progress import progress_bar

logger = logging.get_logger(__name__)

POOLING_NAME = "1_Pooling/config.json"
_POOLING_MODES = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls"}


@torch.no_grad()
def embed_texts(
    name_or_path: str | Path,
    texts: list[str],
    *,
    pooling: str | None = None,
    max_length: int = 64,
    batch_size: int = 128,
    device: str = "cpu",
    quiet: bool = False,
) -> np.ndarray:
    """One vector per text, the same up to rounding for any batch size; texts that are read as equal get equal ones.

    Args:
        name_or_path: folder or Hub repository of an encoder, of an encoder-decoder (of which the encoder is used), or
            of an LMIndexer, whose hidden state at the first position is taken.
        texts: `N` texts.
        pooling: `mean` or `cls` of the encoder's states; default: what a sentence-transformers folder says, else mean.
        max_length: tokens read of a text.
        batch_size: texts at a time, sorted by length.
        device: to compute on.
        quiet: without a progress bar.

    Returns:
        `(N, D)` float32, not normalised.

    Raises:
        ValueError: another pooling; a text that the tokenizer finds nothing in.
    """
    tokenizer = AutoTokenizer.from_pretrained(name_or_path)
    tokens = tokenizer(texts, truncation=True, max_length=min(max_length, tokenizer.model_max_length))["input_ids"]
    empty = [i for i, row in enumerate(tokens) if not row]
    if empty:
        raise ValueError(f"the tokenizer finds nothing in {len(empty)} texts, the first is number {empty[0]}")
    embed = _embedder(name_or_path, pooling, device)
    number: dict[tuple[int, ...], int] = {}
    copies = np.array([number.setdefault(tuple(row), len(number)) for row in tokens])
    distinct = sorted(number, key=len, reverse=True)  # a batch that does not fit into memory fails at once
    vectors = []
    for start in progress_bar(range(0, len(distinct), batch_size), description="embeddings", disable=quiet):
        rows = [np.array(row) for row in distinct[start : start + batch_size]]
        input_ids = pad(rows, tokenizer.pad_token_id or 0).to(device)
        mask = pad([np.ones(len(row), dtype=np.int64) for row in rows]).to(device)
        vectors.append(embed(input_ids, mask).float().cpu())
    place = np.empty(len(distinct), dtype=np.int64)
    place[[number[row] for row in distinct]] = np.arange(len(distinct))
    return torch.cat(vectors).numpy()[place[copies]]


def _embedder(
    name_or_path: str | Path, pooling: str | None, device: str
) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """From token ids and mask `(batch, tokens)` to vectors `(batch, D)`."""
    if AutoConfig.from_pretrained(name_or_path).model_type == LMIndexerConfig.model_type:
        indexer = LMIndexerForSemanticID.from_pretrained(name_or_path).float().eval().to(device)
        return lambda input_ids, mask: first_hidden_state(indexer, input_ids, mask)
    pooling = pooling or stated_pooling(name_or_path)
    if pooling not in ("mean", "cls"):
        raise ValueError(f"pooling is mean or cls, not {pooling!r}")
    model = AutoModel.from_pretrained(name_or_path, dtype=torch.float32).eval().to(device)
    encoder = model.get_encoder() if model.config.is_encoder_decoder else model
    return lambda input_ids, mask: pooled(encode_text(encoder, input_ids, mask, None), mask, pooling)


def first_hidden_state(
    model: LMIndexerForSemanticID, input_ids: torch.Tensor, attention_mask: torch.Tensor
) -> torch.Tensor:
    """`h^1` `(batch, hidden)` of texts: what the first code is read off."""
    states, mask = model.encode(input_ids, attention_mask)
    start = torch.full((len(states), 1), model.config.decoder_start_token_id, device=states.device)
    return model.decode(start, states, mask)[0][:, 0]


def pooled(states: torch.Tensor, mask: torch.Tensor, pooling: str) -> torch.Tensor:
    """States `(batch, tokens, hidden)`, padded on the right, as one vector per text: their mean, or the first."""
    if pooling == "cls":
        return states[:, 0]
    weights = mask.to(states.dtype)[..., None]
    return (states * weights).sum(1) / weights.sum(1)


def stated_pooling(name_or_path: str | Path) -> str:
    """The pooling of a sentence-transformers folder or repository; `mean` where there is nothing about it.

    Raises:
        ValueError: it pools otherwise than by mean or the first token.
    """
    path = resolve_file(name_or_path, POOLING_NAME, optional=True)
    if path is None:
        return "mean"
    settings = json.loads(path.read_text(encoding="utf-8"))
    modes = [name for name, value in settings.items() if name.startswith("pooling_mode") and value is True]
    if len(modes) != 1 or modes[0] not in _POOLING_MODES:
        raise ValueError(
            f"{path} pools by {modes}, expected one of {sorted(_POOLING_MODES)}: set pooling, mean or cls"
        )
    return _POOLING_MODES[modes[0]]

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
from modeling_lmindexer.document_vectors import batches_by_length, first_states, pad_tokens
from modeling_lmindexer.folder import resolve_file

from .progress import progress_bar

logger = logging.get_logger(__name__)

POOLING_NAME = "1_Pooling/config.json"
_POOLING_MODE = "pooling_mode"
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
    batches, place = batches_by_length(tokens, batch_size)
    vectors = []
    for rows in progress_bar(batches, description="embeddings", disable=quiet):
        input_ids, mask = pad_tokens(rows, tokenizer.pad_token_id or 0)
        vectors.append(embed(input_ids.to(device), mask.to(device)).float().cpu())
    return torch.cat(vectors).numpy()[place]


def _embedder(
    name_or_path: str | Path, pooling: str | None, device: str
) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """From token ids and mask `(batch, tokens)` to vectors `(batch, D)`."""
    if AutoConfig.from_pretrained(name_or_path).model_type == LMIndexerConfig.model_type:
        indexer = LMIndexerForSemanticID.from_pretrained(name_or_path).float().eval().to(device)
        return lambda input_ids, mask: first_states(indexer, *indexer.encode(input_ids, mask))
    pooling = pooling or stated_pooling(name_or_path)
    if pooling not in ("mean", "cls"):
        raise ValueError(f"pooling is mean or cls, not {pooling!r}")
    model = AutoModel.from_pretrained(name_or_path, dtype=torch.float32).eval().to(device)
    encoder = model.get_encoder() if model.config.is_encoder_decoder else model
    return lambda input_ids, mask: pooled(encode_text(encoder, input_ids, mask, None), mask, pooling)


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
    modes = settings.get(_POOLING_MODE)  # sentence-transformers 6 names them, before there was a flag for each
    if modes is None:
        modes = [name for name, value in settings.items() if name.startswith(_POOLING_MODE) and value is True]
    modes = [modes] if isinstance(modes, str) else modes
    known = _POOLING_MODES | {value: value for value in _POOLING_MODES.values()}
    if len(modes) != 1 or modes[0] not in known:
        raise ValueError(f"{path} pools by {modes}, expected one of {sorted(known)}: set pooling, mean or cls")
    return known[modes[0]]

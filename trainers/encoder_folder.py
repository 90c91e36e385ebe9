"""An encoder as a plain transformers folder, written whole or not at all."""

import shutil
from pathlib import Path

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from modeling_lmindexer.folder import naming_write_errors, write_json

from .embeddings import POOLING_NAME


def save_encoder(folder: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, pooling: str) -> None:
    """Writes model, tokenizer and, as sentence-transformers does, the pooling: all of them or, after a stop, none."""
    temporary, old = (folder.with_name(f".{state}-{folder.name}") for state in ("new", "old"))
    for rest in (temporary, old):
        shutil.rmtree(rest, ignore_errors=True)
    name = {"mean": "pooling_mode_mean_tokens", "cls": "pooling_mode_cls_token"}[pooling]
    with naming_write_errors(folder):
        model.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
        write_json(temporary / POOLING_NAME, {"word_embedding_dimension": model.config.hidden_size, name: True})
    if folder.exists():
        folder.rename(old)
    temporary.rename(folder)
    shutil.rmtree(old, ignore_errors=True)

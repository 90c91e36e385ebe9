"""What a stage that is done leaves in its folder: the model's weights, and the codes that are assigned so far."""

from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, load_model, save_file, save_model

from modeling_lmindexer import LMIndexerForSemanticID
from modeling_lmindexer.folder import atomic_path, reading_content

from .run_state import START_OVER

_WEIGHTS, _CODES = "model.safetensors", "codes.safetensors"


def write_stage(folder: Path, model: LMIndexerForSemanticID, codes: np.ndarray) -> None:
    """Writes weights and codes `(N, positions)`, each file whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_path(folder / _WEIGHTS) as temporary:
        save_model(model, str(temporary))
    with atomic_path(folder / _CODES) as temporary:
        save_file({"codes": torch.from_numpy(np.ascontiguousarray(codes))}, temporary)


def read_stage(folder: Path, model: LMIndexerForSemanticID, num_documents: int) -> np.ndarray:
    """Gives the model the weights of a stage; returns its codes `(num_documents, positions)`.

    Raises:
        CorruptedFolderError: files that cannot be read, or hold something else.
    """
    with reading_content(folder / _WEIGHTS, START_OVER):
        load_model(model, folder / _WEIGHTS, strict=False)
    sizes = model.config.codebook_sizes
    with reading_content(folder / _CODES, START_OVER):
        codes = load_file(folder / _CODES)["codes"]
        if (
            codes.dtype != torch.int64
            or codes.shape != (num_documents, codes.shape[-1])
            or codes.shape[1] > len(sizes)
        ):
            raise ValueError(f"codes of shape {tuple(codes.shape)} and {codes.dtype}, of {num_documents} documents")
        if ((codes < 0) | (codes >= torch.tensor(sizes[: codes.shape[1]]))).any():
            raise ValueError(f"codes beyond the codebooks, which have {sizes}")
    return codes.numpy()

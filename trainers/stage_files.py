"""What a stage that is done leaves in its folder: the model's weights, and the codes that are assigned so far."""

from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, load_model, save_file, save_model

from modeling_lmindexer import LMIndexerForSemanticID
from modeling_lmindexer.folder import atomic_path

_WEIGHTS, _CODES = "model.safetensors", "codes.safetensors"


def write_stage(folder: Path, model: LMIndexerForSemanticID, codes: np.ndarray) -> None:
    """Writes weights and codes `(N, positions)`, each file whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_path(folder / _WEIGHTS) as temporary:
        save_model(model, str(temporary))
    with atomic_path(folder / _CODES) as temporary:
        save_file({"codes": torch.from_numpy(np.ascontiguousarray(codes))}, temporary)


def read_stage(folder: Path, model: LMIndexerForSemanticID) -> np.ndarray:
    """Gives the model the weights of a stage; returns its codes `(N, positions)`."""
    load_model(model, folder / _WEIGHTS, strict=False)
    return load_file(folder / _CODES)["codes"].numpy()

"""States of a frozen encoder, computed once and kept on disk."""

import json
from pathlib import Path

import numpy as np
import torch

from modeling_lmindexer.folder import atomic_path, write_json


class EncoderStates:
    """Encoder states of all documents in one memory-mapped file, read a batch at a time.

    Attributes:
        states: `(all tokens, hidden)` float32.
        offsets: `(N + 1,)`, where each document's rows start.
    """

    def __init__(self, path: Path, offsets: np.ndarray, hidden_size: int):
        self.offsets = offsets
        self.states = np.memmap(path, dtype=np.float32, mode="r", shape=(int(offsets[-1]), hidden_size))

    @classmethod
    def open_or_compute(cls, folder: Path, fingerprint: str, offsets: np.ndarray, hidden_size: int, batches):
        """The cache in `folder`, computed when it is not there or belongs to other documents or weights.

        Args:
            fingerprint: of documents and encoder.
            batches: called only when needed; yields `(rows (batch,), states (batch, tokens, hidden))`.
        """
        path, description = folder / "encoder_states.float32", folder / "encoder_states.json"
        if not (path.exists() and description.exists() and json.loads(description.read_text()) == fingerprint):
            description.unlink(missing_ok=True)
            with atomic_path(path) as temporary:
                shape = (int(offsets[-1]), hidden_size)
                states = np.memmap(temporary, dtype=np.float32, mode="w+", shape=shape)
                for rows, batch in batches():
                    for row, values in zip(rows, batch.float().cpu().numpy(), strict=True):
                        states[offsets[row] : offsets[row + 1]] = values[: offsets[row + 1] - offsets[row]]
                states.flush()
                del states
            write_json(description, fingerprint)
        return cls(path, offsets, hidden_size)

    def batch(self, rows: np.ndarray, length: int) -> torch.Tensor:
        """States of some documents `(rows, length, hidden)`, padded with zeros on the right."""
        padded = np.zeros((len(rows), length, self.states.shape[1]), dtype=np.float32)
        for values, row in zip(padded, rows, strict=True):
            own = self.states[self.offsets[row] : self.offsets[row + 1]]
            values[: len(own)] = own
        return torch.from_numpy(padded)

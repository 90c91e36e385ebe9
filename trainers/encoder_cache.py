"""States of a frozen encoder, computed once and kept on disk."""

import hashlib
import json
import shutil
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch

from modeling_lmindexer.folder import atomic_path, remove_partial, write_json

from .folder_lock import FolderLock
from .progress import progress_bar
from .stop_signals import leave_on_signal
from .weights_digest import digest_of_weights

OWN_CACHE = "cache"  # inside the folder of a run
_STATES, _DESCRIPTION = "encoder_states.float32", "encoder_states.json"
_ITEM = 4  # bytes of a float32
_LOOK_AGAIN = 1.0  # seconds
_UNFINISHED = "before the frozen encoder's states were all there"


class EncoderStates:
    """Encoder states of all documents in one memory-mapped file, read a batch at a time.

    Attributes:
        states: `(all tokens, hidden)` float32.
        offsets: `(N + 1,)`, where each document's rows start.
        places: `(M,)`, which of the documents each of `M` texts is, where some are equal.
    """

    def __init__(self, path: Path, offsets: np.ndarray, hidden_size: int):
        self.offsets, self.places = offsets, np.arange(len(offsets) - 1)
        self.states = np.memmap(path, dtype=np.float32, mode="r", shape=(int(offsets[-1]), hidden_size))

    @classmethod
    def open_or_compute(cls, folder: Path, fingerprint: str, offsets: np.ndarray, hidden_size: int, batches):
        """The cache in `folder`, computed when it is not there or belongs to other documents or weights.

        Args:
            fingerprint: of documents and encoder.
            batches: called only when needed; yields `(rows (batch,), states (batch, tokens, hidden))`.
        """
        size = _ITEM * int(offsets[-1]) * hidden_size
        if not cls.is_there(folder, fingerprint, size):
            # Of runs that need the same states, one computes them and the others wait.
            with FolderLock(folder, "encoder_states", wait=lambda: leave_on_signal(_UNFINISHED)):
                if not cls.is_there(folder, fingerprint, size):
                    cls.compute(folder, fingerprint, offsets, hidden_size, batches)
        return cls(folder / _STATES, offsets, hidden_size)

    @staticmethod
    def compute(folder: Path, fingerprint: str, offsets: np.ndarray, hidden_size: int, batches) -> None:
        """Writes the cache; its description, which makes it one, last."""
        remove_partial(folder, deep=True)
        description = folder / _DESCRIPTION
        description.unlink(missing_ok=True)
        needed, free = _ITEM * int(offsets[-1]) * hidden_size, shutil.disk_usage(folder).free
        if needed > free:
            raise OSError(
                f"The states of the frozen encoder take {needed / 1e9:.1f} GB, and {folder} has "
                f"{free / 1e9:.1f} GB left: set encoder_cache_dir to a folder with more, or read fewer tokens."
            )
        # Not through a memory map: a disk that fills up would end the process without an error.
        with atomic_path(folder / _STATES) as temporary, open(temporary, "r+b") as file:
            file.truncate(needed)
            for rows, batch in batches():
                for row, values in zip(rows, batch.float().cpu().numpy(), strict=True):
                    file.seek(_ITEM * int(offsets[row]) * hidden_size)
                    file.write(np.ascontiguousarray(values[: offsets[row + 1] - offsets[row]]))
                leave_on_signal(_UNFINISHED)
        write_json(description, fingerprint)

    @staticmethod
    def is_there(folder: Path, fingerprint: str, size: int) -> bool:
        """Whether the states of these documents and weights, so many bytes, are in a folder."""
        try:
            description = json.loads((folder / _DESCRIPTION).read_text(encoding="utf-8"))
            return description == fingerprint and (folder / _STATES).stat().st_size == size
        except (FileNotFoundError, ValueError):  # not there, or no description
            return False

    def __getitem__(self, row: int) -> np.ndarray:
        """States of a text `(tokens, hidden)`."""
        place = self.places[row]
        return self.states[self.offsets[place] : self.offsets[place + 1]]

    def batch(self, rows: np.ndarray, length: int) -> torch.Tensor:
        """States of some documents `(rows, length, hidden)`, padded with zeros on the right."""
        return pad_states([self[row] for row in rows], length)


def pad_states(states: list[np.ndarray], length: int) -> torch.Tensor:
    """States of several texts `(texts, length, hidden)`, each `(tokens, hidden)`, padded with zeros on the right."""
    padded = np.zeros((len(states), length, states[0].shape[1]), dtype=np.float32)
    for values, own in zip(padded, states, strict=True):
        values[: len(own)] = own
    return torch.from_numpy(padded)


def cached_states(model, texts, args, run_dir: Path, what: str) -> EncoderStates:
    """States of a frozen encoder, computed on the main process unless they are there; of equal texts once.

    Args:
        model: an indexer.
        texts: with `tokens` `(all tokens,)` and `offsets` `(texts + 1,)`.
        args: of a trainer, with `encoder_cache_dir`.
        run_dir: where they are kept otherwise.
        what: the texts are, for the progress bar.
    """
    tokens, offsets, places = distinct_texts(texts.tokens, texts.offsets)
    digest = hashlib.sha256(tokens.tobytes() + offsets.tobytes()).hexdigest()
    fingerprint = digest_of_weights(model.get_encoder(), beside=digest)
    folder = Path(args.encoder_cache_dir or run_dir / OWN_CACHE) / fingerprint[:16]
    batches = partial(
        encode_texts, model, tokens, offsets, args.per_device_eval_batch_size, f"encoding {what}",
        args.is_quiet,
    )  # fmt: skip
    if args.process_index > 0:  # not by a barrier, which ends with an error where this takes long
        size = _ITEM * int(offsets[-1]) * model.config.hidden_size
        while not EncoderStates.is_there(folder, fingerprint, size):
            leave_on_signal(_UNFINISHED, quiet=True)
            time.sleep(_LOOK_AGAIN)
    states = EncoderStates.open_or_compute(folder, fingerprint, offsets, model.config.hidden_size, batches)
    states.places = places
    return states


def distinct_texts(tokens: np.ndarray, offsets: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Tokens and offsets of the texts that are not equal to one before, and which of them each text is `(texts,)`."""
    found: dict[bytes, int] = {}
    rows = [tokens[start:end] for start, end in zip(offsets[:-1], offsets[1:], strict=True)]
    places = np.array([found.setdefault(row.tobytes(), len(found)) for row in rows])
    first = np.unique(places, return_index=True)[1]
    own = [rows[row] for row in first]
    return np.concatenate(own), np.concatenate([[0], np.cumsum([len(row) for row in own])]), places


@torch.no_grad()
def encode_texts(
    model, tokens: np.ndarray, offsets: np.ndarray, batch_size: int, title: str, quiet: bool
) -> Iterator[tuple[np.ndarray, torch.Tensor]]:
    """Rows `(batch,)` and encoder states `(batch, tokens, hidden)` of all texts, the longest first.

    Args:
        model: an indexer.
        tokens: of all texts, one after the other.
        offsets: `(texts + 1,)`, where each begins.
        batch_size: texts at once.
        title: of the progress bar.
        quiet: without one.
    """
    model.eval()
    lengths = np.diff(offsets)
    rows = np.argsort(-lengths, kind="stable")  # a batch that does not fit into memory fails at once
    starts = range(0, len(rows), batch_size)
    for start in progress_bar(starts, description=title, disable=quiet):
        own = rows[start : start + batch_size]
        width = np.arange(lengths[own].max())
        mask = width < lengths[own][:, None]
        ids = np.where(mask, tokens[np.minimum(offsets[own][:, None] + width, len(tokens) - 1)], 0)
        inputs = (torch.from_numpy(values.astype(np.int64)).to(model.device) for values in (ids, mask))
        yield own, model.encode(*inputs)[0]

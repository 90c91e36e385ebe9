"""Changes of a codebook between the optimizer's steps: codes that follow their documents, and that start again."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional as F
from transformers import TrainerCallback

from modeling_lmindexer.codebooks import Codebook
from modeling_lmindexer.folder import atomic_path, reading_content

from .sharding import store, whole

STATE_NAME = "codebook_updates.safetensors"
# Weight of the past in the counts that restarts go by, where no decay is set for the codes themselves.
_USAGE_DECAY = 0.98


class CodebookUpdates:
    """Moving averages of a codebook's documents (van den Oord et al., 2017, appendix A.1), and restarts of codes that
    hardly any document gets (as in Jukebox, Dhariwal et al., 2020).

    All processes see the states of all of them, and draw the same documents for restarts.

    Attributes:
        size: documents per code and step, a moving average `(K,)`.
        total: the sum of their states, likewise `(K, hidden)`.

    Args:
        codebook: that is being learned.
        ema_decay: weight of the past; 0 leaves the codes to the optimizer.
        restart_threshold: share of an equal part below which a code starts again; 0 never.
        seed: of the documents that codes start again at.
    """

    def __init__(self, codebook: Codebook, ema_decay: float, restart_threshold: float, seed: int):
        self.codebook, self.ema_decay, self.restart_threshold, self.seed = codebook, ema_decay, restart_threshold, seed
        self.size: torch.Tensor | None = None
        self.total: torch.Tensor | None = None
        self.observed: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []

    @torch.no_grad()
    def observe(self, hidden: torch.Tensor, codes: torch.Tensor, counts: torch.Tensor | None = None) -> None:
        """Notes the states `(documents, hidden)` and codes `(documents,)` of a micro-batch; of fillers, `counts`
        `(documents,)` is 0."""
        counts = torch.ones_like(codes) if counts is None else counts
        self.observed.append((self.as_codes(hidden.detach().float()), codes, counts))

    def as_codes(self, vectors: torch.Tensor) -> torch.Tensor:
        """Vectors `(n, hidden)` at the length of codes: all have one norm, as the clustering left them, unless the
        similarity is Euclidean. With products, codes of other lengths would win for their length."""
        if self.codebook.similarity == "euclidean":
            return vectors
        return F.normalize(vectors, dim=-1) * self.codebook.norm

    @torch.no_grad()
    def apply(self, step: int, gather: Callable | None = None) -> int:
        """Moves the codes after a step of the optimizer; returns how many started again.

        Args:
            step: number of the step.
            gather: gives a tuple of tensors the rows of all processes, where `observe` saw this process's alone.
        """
        seen = tuple(torch.cat(parts) for parts in zip(*self.observed, strict=True))
        self.observed.clear()
        hidden, codes, counts = gather(seen) if gather else seen
        hidden, codes = hidden[counts > 0], codes[counts > 0]
        weight, fair = whole(self.codebook.weight), len(codes) / len(self.codebook.weight)
        if self.size is None:  # every code begins as if it had an equal part of the documents, all of them at itself
            self.size = torch.full((len(weight),), fair, device=weight.device)
            self.total = weight.detach().float() * fair
        decay = self.ema_decay or _USAGE_DECAY
        counts = torch.bincount(codes, minlength=len(weight)).float()
        self.size.lerp_(counts, 1 - decay)
        self.total.lerp_(torch.zeros_like(self.total).index_add_(0, codes, hidden), 1 - decay)
        if self.ema_decay:
            # What is left of an average after a long time without documents is no place for a code: it stays.
            alive = self.size[:, None] > 1e-6
            weight.copy_(torch.where(alive, self.as_codes(self.total / self.size[:, None]), weight))
        dead = (self.size < self.restart_threshold * fair).nonzero()[:, 0][: len(hidden)]
        if len(dead):
            rows = np.random.default_rng([self.seed, step]).permutation(len(hidden))[: len(dead)]
            places = hidden[torch.from_numpy(rows).to(hidden.device)]
            weight[dead] = places.to(weight.dtype)
            self.size[dead], self.total[dead] = fair, places * fair
        store(weight, self.codebook.weight)
        return len(dead)

    def save(self, folder: Path) -> None:
        """Writes the averages into a checkpoint."""
        if self.size is not None:
            with atomic_path(folder / STATE_NAME) as temporary:
                save_file({"size": self.size.cpu(), "total": self.total.cpu()}, temporary)

    def load(self, folder: Path) -> None:
        """Reads the averages of a checkpoint, if it has any."""
        if (folder / STATE_NAME).exists():
            weight = self.codebook.weight
            with reading_content(folder / STATE_NAME, "Delete the checkpoint; the run goes on from the one before."):
                state = load_file(folder / STATE_NAME)
                if state["total"].shape != weight.shape or state["size"].shape != weight.shape[:1]:
                    raise ValueError(
                        f"averages of shape {tuple(state['total'].shape)}, of codes {tuple(weight.shape)}"
                    )
            device = weight.device
            self.size, self.total = state["size"].to(device), state["total"].to(device)


class UpdateCodebook(TrainerCallback):
    """Moves the codes after every step of the optimizer; the trainer sets `updates` before a stage.

    Args:
        gather: see [`CodebookUpdates.apply`].
    """

    def __init__(self, gather: Callable | None = None):
        self.updates: CodebookUpdates | None = None
        self.gather = gather

    def on_step_end(self, args, state, control, **kwargs):
        if self.updates is not None:
            self.updates.apply(state.global_step, self.gather)

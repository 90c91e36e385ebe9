"""Codebooks: the code distribution (Eq. 2), the straight-through code (Eq. 6) and the flat id space of positions."""

import hashlib

import torch
from torch import nn
from torch.nn import functional as F

from .configuration_lmindexer import LEAST_TEMPERATURE, LMIndexerConfig


def straight_through(
    logits: torch.Tensor, embeddings: torch.Tensor, codes: torch.Tensor | None = None
) -> torch.Tensor:
    """A code forward, the expected code backward (Eq. 6).

    Args:
        logits: `(batch, codes)`.
        embeddings: `(codes, hidden)`.
        codes: `(batch,)`, the codes to take; default: the most likely ones.

    Returns:
        `(batch, hidden)`.
    """
    soft = logits.softmax(-1) @ embeddings
    hard = embeddings[logits.argmax(-1) if codes is None else codes]
    return soft + (hard - soft).detach()


def codes_to_ids(codes: torch.Tensor, config: LMIndexerConfig) -> torch.Tensor:
    """Flat ids of codes `(..., positions)`, each in `[0, size of its position)`, from the first position on."""
    offsets = torch.tensor(config.position_offsets[: codes.shape[-1]], device=codes.device, dtype=codes.dtype)
    return codes + offsets


class Codebook(nn.Module):
    """The codes of one position, `E^t`.

    Attributes:
        weight: `(codes, hidden)`.
        initialized: whether the codes come from a clustering of hidden states (a buffer that is saved).
        norm: common norm of the codes under cosine similarity, where their own length means nothing.
        log_temperature: logarithm of what the temperature is above its least value, where it is learned.
    """

    def __init__(
        self, num_codes: int, hidden_size: int, similarity: str, temperature: float, learn_temperature: bool = False
    ):
        super().__init__()
        self.similarity, self.start_temperature = similarity, float(temperature)
        self.weight = nn.Parameter(torch.empty(num_codes, hidden_size))
        self.log_temperature = nn.Parameter(torch.empty(())) if learn_temperature else None
        self.register_buffer("initialized", torch.zeros((), dtype=torch.bool))
        self.register_buffer("norm", torch.ones(()))

    @property
    def temperature(self) -> float | torch.Tensor:
        """What divides the similarity. Learned, it stays above a least value that it comes nearer to but never stops
        at: where it is cut off there is no gradient to come back by."""
        if self.log_temperature is None:
            return self.start_temperature
        return LEAST_TEMPERATURE + self.log_temperature.exp()

    def embeddings(self) -> torch.Tensor:
        """The codes as vectors, `(codes, hidden)`."""
        return self.scaled(self.weight)

    def lookup(self, codes: torch.Tensor) -> torch.Tensor:
        """Vectors `(..., hidden)` of some codes `(...)`; the rest of the codebook is not touched."""
        return self.scaled(F.embedding(codes, self.weight))

    def scaled(self, vectors: torch.Tensor) -> torch.Tensor:
        """Rows of the weight at the length that they have as codes."""
        return F.normalize(vectors, dim=-1) * self.norm if self.similarity == "cosine" else vectors

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Similarity of states `(..., hidden)` with every code, over the temperature: `(..., codes)`."""
        if self.similarity == "cosine":
            # Divided by their lengths afterwards: a large codebook is not written a second time.
            lengths = self.weight.norm(dim=-1).clamp(min=1e-12)
            scores = F.normalize(hidden, dim=-1) @ self.weight.T / lengths
        elif self.similarity == "dot":
            scores = hidden @ self.weight.T
        else:
            squares = hidden.pow(2).sum(-1, keepdim=True) + self.weight.pow(2).sum(-1)
            scores = 2 * hidden @ self.weight.T - squares
        return scores / self.temperature

    @torch.no_grad()
    def initialize(self, centroids: torch.Tensor) -> None:
        """Takes the centroids `(codes, hidden)` of a clustering as codes.

        Raises:
            ValueError: another shape than the codebook's.
        """
        if centroids.shape != self.weight.shape:
            raise ValueError(f"Expected centroids of shape {tuple(self.weight.shape)}, got {tuple(centroids.shape)}.")
        self.weight.copy_(centroids)
        self.norm.copy_(self.weight.norm(dim=-1).mean())
        self.initialized.fill_(True)


class DisambiguationHead(nn.Module):
    """Logits of the last position. Zero until it is trained: all documents of a group then score the same."""

    def __init__(self, num_codes: int, hidden_size: int):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(num_codes, hidden_size))

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """`(..., hidden)` to `(..., codes)`, scaled like attention so that gradients do not grow with the width."""
        return hidden @ self.weight.T * hidden.shape[-1] ** -0.5


class Codebooks(nn.Module):
    """All positions of an ID: a codebook for each learned one, a plain head for the disambiguation one, if any."""

    def __init__(self, config: LMIndexerConfig):
        super().__init__()
        self.offsets = config.position_offsets
        self.learned = nn.ModuleList(
            Codebook(size, config.hidden_size, config.similarity, config.code_temperature, config.learn_temperature)
            for size in config.codebook_sizes
        )
        self.disambiguation = None
        if config.has_disambiguation:
            self.disambiguation = DisambiguationHead(config.num_disambiguation_codes, config.hidden_size)

    def logits(self, hidden: torch.Tensor, position: int) -> torch.Tensor:
        """Code logits `(..., codes of this position)` of states `(..., hidden)` at `position`, counted from 0."""
        head = self.learned[position] if position < len(self.learned) else self.disambiguation
        return head.logits(hidden)

    def fingerprint(self) -> str:
        """A hash of the learned codebooks as they are now: what tells the IDs of one training from those of another.

        Kept in the config when the IDs of documents are final, so that it outlives fine-tuning and other dtypes.
        """
        sha = hashlib.sha256()
        for codebook in self.learned:
            weight = codebook.weight.detach().float().cpu().contiguous()
            sha.update(repr(tuple(weight.shape)).encode() + weight.numpy().tobytes())
        return sha.hexdigest()[:32]

    def embed(self, ids: torch.Tensor, first: int = 0) -> torch.Tensor:
        """Code vectors of flat ids of consecutive positions: `(batch, positions)` to `(batch, positions, hidden)`.

        Args:
            first: position of the first column, counted from 0.

        Raises:
            ValueError: an id that does not belong to its position.
        """
        # Generation on an accelerator must not wait for this check; there, a wrong id fails in the lookup.
        if ids.device.type == "cpu":
            self.check_ids(ids, first)
        return self.lookup(ids, first)

    def lookup(self, ids: torch.Tensor, first: int = 0) -> torch.Tensor:
        """As [`~Codebooks.embed`], of ids that are known to belong to their positions."""
        if ids.shape[1] == 0:
            weight = self.learned[0].weight
            return weight.new_zeros(len(ids), 0, weight.shape[1])
        positions = range(first, first + ids.shape[1])
        vectors = [self.learned[t].lookup(ids[:, t - first] - self.offsets[t]) for t in positions]
        return torch.stack(vectors, dim=1)

    def check_ids(self, ids: torch.Tensor, first: int = 0) -> None:
        """Raises ValueError when flat ids `(batch, positions)` from position `first` on are of other positions."""
        for column, t in enumerate(range(first, first + ids.shape[1])):
            least, most = ids[:, column].aminmax()
            if least < self.offsets[t] or most >= self.offsets[t] + len(self.learned[t].weight):
                sizes = [len(book.weight) for book in self.learned[first : first + ids.shape[1]]]
                raise ValueError(
                    f"Decoder inputs {ids.tolist()[:3]}... hold ids of other positions: position t takes ids from "
                    f"{self.offsets} on, with {sizes} codes each, after the start id 0."
                )

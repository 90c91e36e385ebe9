"""The rq-VAE indexer: an autoencoder of the embeddings with residual codebooks between its halves.

Zeghidour et al. (2021) for the residual quantiser, Lee et al. (2022) for its averaged codebooks, Rajput et al. (2023)
for semantic IDs. The quantiser is that of `vector-quantize-pytorch`: k-means of the first batch to start from,
codebooks as moving averages of what is assigned to them, codes that hardly anything is assigned to moved to vectors
of the batch.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from .progress import progress_bar
from .prototypes import Prototypes
from .residual_kmeans import ResidualCodebooks
from .two_stage import TwoStageIndexer

# Rows that a pass without gradients, or the k-means that codebooks start from, takes at once.
_ROWS_AT_ONCE = 2**14


class RQVAE(nn.Module):
    """Encoder, residual quantiser, decoder.

    Args:
        width: `D` of the vectors.
        hidden_sizes: of the encoder's layers; the decoder's are the same the other way round.
        latent_size: of what is quantised.
        quantizer: a `ResidualVQ` of that size.
    """

    def __init__(self, width: int, hidden_sizes: list[int], latent_size: int, quantizer: nn.Module):
        super().__init__()
        sizes = [width, *hidden_sizes, latent_size]
        self.encoder, self.decoder = perceptron(sizes), perceptron(sizes[::-1])
        self.quantizer = quantizer

    def forward(self, vectors: torch.Tensor, quantize: bool) -> tuple[torch.Tensor, torch.Tensor]:
        """Losses of vectors `(batch, D)`: the reconstruction's, and the latent vectors' distance from their codes."""
        latents = self.encoder(vectors)
        if not quantize:
            return F.mse_loss(self.decoder(latents), vectors), latents.new_zeros(())
        quantized, _, distances = self.quantizer(latents)
        # Straight through: the decoder sees the codes, the encoder gets the gradient, once for all positions.
        quantized = latents + (quantized - latents).detach()
        return F.mse_loss(self.decoder(quantized), vectors), distances.sum()


class LatentCodebooks(ResidualCodebooks):
    """Residual codebooks of what an encoder makes of the vectors.

    Args:
        model: a trained [`RQVAE`].
        scale: factor that the vectors get before it.
    """

    def __init__(self, model: RQVAE, scale: float):
        layers = [layer.codebook.detach().cpu().numpy().copy() for layer in model.quantizer.layers]
        super().__init__([Prototypes(rows, np.arange(len(rows)), len(rows), "euclidean", rows) for rows in layers])
        self.model, self.scale = model.eval(), scale

    @torch.no_grad()
    def encode(self, vectors: np.ndarray) -> np.ndarray:
        """The latent vectors `(n, latent size)`."""
        device = next(self.model.parameters()).device
        parts = torch.from_numpy(vectors * np.float32(self.scale)).split(_ROWS_AT_ONCE)
        return torch.cat([self.model.encoder(part.to(device)).cpu() for part in parts]).numpy()


@dataclass
class RQVAEIndexer(TwoStageIndexer):
    """The rq-VAE indexer; needs `pip install vector-quantize-pytorch` (the extra `rivals`).

    Attributes:
        hidden_sizes: of the encoder's layers.
        latent_size: dimensions that are quantised.
        autoencoder_epochs: without the quantiser, so that codebooks start from latent vectors that mean something.
        epochs: with it.
        batch_size, learning_rate, weight_decay: of AdamW.
        commitment_weight: of the latent vectors' distance from their codes.
        decay: of the codebooks' moving averages.
        dead_share: a code that gets less than this share of the mean code's documents starts anew; 0: never.
        device: to train on.
        quiet: without a progress bar.
    """

    hidden_sizes: list[int] = field(default_factory=lambda: [512, 256])
    latent_size: int = 64
    autoencoder_epochs: int = 20
    epochs: int = 60
    batch_size: int = 256
    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    commitment_weight: float = 0.25
    decay: float = 0.95
    dead_share: float = 0.1
    device: str = "cpu"
    quiet: bool = False

    def fit_codebooks(self, vectors: np.ndarray, sizes: list[int], seed: int) -> LatentCodebooks:
        """See the base class."""
        if len(vectors) < max(sizes):
            raise ValueError(f"{len(vectors)} documents, {max(sizes)} codes: set a smaller codebook for this corpus")
        # Embeddings of unit length have tiny entries; weights are drawn for entries of about 1.
        scale = 1 / max(float(np.sqrt(np.square(vectors, dtype=np.float64).mean())), 1e-12)
        devices = [torch.device(self.device)] if torch.device(self.device).type == "cuda" else []
        with torch.random.fork_rng(devices):
            torch.manual_seed(seed)
            model = self.build(vectors.shape[1], sizes, len(vectors))
            self.train(model, torch.from_numpy(vectors * np.float32(scale)), seed)
        return LatentCodebooks(model, scale)

    def build(self, width: int, sizes: list[int], num_documents: int) -> RQVAE:
        """A new model for vectors `(num_documents, width)`, drawn from torch's generator."""
        try:
            from vector_quantize_pytorch import ResidualVQ
        except ImportError as error:
            raise ImportError(
                "The rq-VAE indexer needs vector-quantize-pytorch: pip install 'lmindexer[rivals]'"
            ) from error
        quantizer = ResidualVQ(
            dim=self.latent_size, codebook_size=tuple(sizes), kmeans_init=True, decay=self.decay,
            threshold_ema_dead_code=self.dead_share * min(self.batch_size, num_documents) / max(sizes),
            commitment_weight=self.commitment_weight, rotation_trick=False,
        )  # fmt: skip
        return RQVAE(width, self.hidden_sizes, self.latent_size, quantizer).to(self.device)

    def train(self, model: RQVAE, vectors: torch.Tensor, seed: int) -> None:
        """Trains the autoencoder, starts the codebooks, then trains both."""
        rng = np.random.default_rng(seed)
        optimizer = torch.optim.AdamW(model.parameters(), lr=self.learning_rate, weight_decay=self.weight_decay)
        model.train()
        epochs = self.autoencoder_epochs + self.epochs
        for epoch in progress_bar(range(epochs), description="rq-VAE", disable=self.quiet):
            quantize = epoch >= self.autoencoder_epochs
            if epoch == self.autoencoder_epochs:
                start_codebooks(model, vectors, rng)
            for rows in batches(len(vectors), self.batch_size, rng):
                reconstruction, commitment = model(vectors[rows].to(self.device), quantize)
                optimizer.zero_grad()
                (reconstruction + commitment).backward()
                optimizer.step()


@torch.no_grad()
def start_codebooks(model: RQVAE, vectors: torch.Tensor, rng: np.random.Generator) -> None:
    """k-means of the latent vectors, of a sample where there are many, by the quantiser's first batch."""
    device = next(model.parameters()).device
    rows = np.sort(rng.permutation(len(vectors))[:_ROWS_AT_ONCE])
    model.quantizer(model.encoder(vectors[rows].to(device)))


def batches(number: int, size: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Row numbers in random order, about `size` at a time: equal batches, for codebooks average over them."""
    parts = max(1, round(number / size))
    yield from np.array_split(rng.permutation(number), parts)


def perceptron(sizes: list[int]) -> nn.Sequential:
    """Linear layers from `sizes[0]` to `sizes[-1]` with ReLUs between them."""
    layers: list[nn.Module] = []
    for before, after in zip(sizes[:-1], sizes[1:], strict=True):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers[:-1])

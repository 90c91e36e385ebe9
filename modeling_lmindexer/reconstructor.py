"""The reconstructor: rebuilds a document's hidden tokens from its codes and the tokens left visible (Eq. 5 and 7)."""

from contextlib import nullcontext

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers.modeling_layers import GradientCheckpointingLayer

from .configuration_lmindexer import LMIndexerConfig
from .outputs import ReconstructionOutput
from .word_losses import losses_of_scores, word_losses

# Not cuDNN's, which plans 20 ms for every new shape: here nearly every batch has one.
_KERNELS = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]


def sinusoidal_positions(length: int, width: int, like: torch.Tensor) -> torch.Tensor:
    """Fixed position vectors `(length, width)` for inputs of any length (Vaswani et al., 2017)."""
    rates = torch.exp(torch.arange(0, width, 2, device=like.device) * (-9.210340371976184 / width))
    angles = torch.arange(length, device=like.device)[:, None] * rates  # 9.21... is ln(10000)
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)[:, :width].to(like.dtype)


def visible_places(hint_mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Where the visible tokens are, in order, and which of these are not there to fill up the rows:
    `(batch, most visible tokens in a document)` each, from a mask `(batch, tokens)`."""
    width = max(1, int(hint_mask.sum(-1).max()))
    places = hint_mask.to(torch.uint8).argsort(dim=-1, descending=True, stable=True)[:, :width]
    return places, hint_mask.gather(-1, places)


def query_slots(counts: torch.Tensor) -> torch.Tensor:
    """Which places of a grid with a row per document are a query's: `(batch, most queries of a document)`, from how
    many each document has `(batch,)`."""
    return torch.arange(max(1, int(counts.max())), device=counts.device) < counts[:, None]


class ReconstructorLayer(GradientCheckpointingLayer):
    """One bidirectional Transformer layer whose queries are codes and whose keys and values are the visible tokens.

    Queries do not attend to each other and hidden tokens are never keys, so no depth leaks what is to be predicted.
    """

    def __init__(self, width: int, num_heads: int, dropout: float):
        super().__init__()
        self.num_heads, self.dropout = num_heads, dropout
        self.attention_norm, self.feed_forward_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.key_value = nn.Linear(width, width), nn.Linear(width, 2 * width)
        self.output = nn.Linear(width, width)
        self.feed_forward = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(
        self, queries: torch.Tensor, slots: torch.Tensor, hints: torch.Tensor, hint_mask: torch.Tensor
    ) -> torch.Tensor:
        """
        Args:
            queries: those of all documents, one document after the other `(queries, codes, width)`.
            slots: where they stand for the attention, true for each query; see [`query_slots`].
            hints: `(batch, tokens, width)`.
            hint_mask: `(batch, tokens)`, true for visible tokens.

        Returns:
            as `queries`.
        """
        batch, codes, width = len(hints), *queries.shape[1:]
        query = self.query(self.attention_norm(queries))
        # Only attention needs a row for each document: all else is spared what fills up the shorter ones.
        own = slots.flatten().nonzero()[:, 0]
        query = query.new_zeros(slots.numel(), codes, width).index_copy(0, own, query)
        # One zero key that is always visible: a document without hints attends to nothing instead of failing.
        key_value = F.pad(self.key_value(hints), (0, 0, 0, 1)).view(
            batch, -1, self.num_heads, 2 * width // self.num_heads
        )
        key, value = key_value.chunk(2, dim=-1)
        mask = F.pad(hint_mask, (0, 1), value=True)[:, None, None, :]
        with sdpa_kernel(_KERNELS) if query.is_cuda else nullcontext():
            attended = F.scaled_dot_product_attention(
                query.view(batch, -1, self.num_heads, width // self.num_heads).transpose(1, 2),
                key.transpose(1, 2),
                value.transpose(1, 2),
                attn_mask=mask,
                dropout_p=self.dropout if self.training else 0.0,
            )
        attended = attended.transpose(1, 2).reshape(-1, codes, width).index_select(0, own)
        hidden = queries + F.dropout(self.output(attended), self.dropout, self.training)
        return hidden + F.dropout(self.feed_forward(self.feed_forward_norm(hidden)), self.dropout, self.training)


class Reconstructor(nn.Module):
    """Predicts hidden tokens: `z_w = sum_j Trans(q = c^j, k = hints, v = hints)`, `P(w) = softmax(W z_w)`.

    `W` is the backbone's token embedding matrix, divided by the mean norm of its rows because backbones differ in it
    by a factor of 50. With `reconstruction_target="words"` there is one query per document instead of one per place.
    """

    def __init__(self, config: LMIndexerConfig):
        super().__init__()
        width = config.hidden_size
        self.bag = config.reconstruction_target == "words"
        heads = max(1, width // 64)
        self.start = nn.Parameter(torch.zeros(width))
        self.query_norm, self.hint_norm, self.output_norm = (
            nn.LayerNorm(width),
            nn.LayerNorm(width),
            nn.LayerNorm(width),
        )
        self.layers = nn.ModuleList(
            ReconstructorLayer(width, heads if width % heads == 0 else 1, config.dropout)
            for _ in range(config.num_reconstructor_layers)
        )
        self.bias = nn.Parameter(torch.zeros(config.backbone_config.vocab_size))
        self.register_buffer("vocabulary", None, persistent=False)
        self.register_buffer("index_in_vocabulary", None, persistent=False)

    def set_vocabulary(self, token_ids: torch.Tensor) -> None:
        """Predict only among these token ids `(tokens,)`, sorted and unique: the ones that the corpus has."""
        index = torch.zeros(len(self.bias), dtype=torch.long)
        index[token_ids] = torch.arange(len(token_ids))
        self.vocabulary = token_ids.to(self.bias.device)
        self.index_in_vocabulary = index.to(self.bias.device)

    def forward(
        self,
        codes: torch.Tensor | None,
        token_embedding: torch.Tensor,
        input_ids: torch.Tensor,
        hint_mask: torch.Tensor,
        target_weights: torch.Tensor,
    ) -> ReconstructionOutput:
        """
        Args:
            codes: `(batch, positions, hidden)`, one vector per code; `None` while the reconstructor warms up.
            token_embedding: `W`, `(tokens of the backbone, hidden)`.
            input_ids: `(batch, tokens)`.
            hint_mask: `(batch, tokens)`, true for visible tokens.
            target_weights: `(batch, tokens)`, above 0 for the tokens to predict.
        """
        if codes is None:
            codes = self.start.expand(len(input_ids), 1, -1)
        queries = self.query_norm(codes)
        if self.bag:
            hidden = self.read(queries, torch.ones_like(input_ids[:, 0]), token_embedding, input_ids, hint_mask)
            return self.predict_bag(hidden, token_embedding, input_ids, target_weights)
        documents, places = target_weights.nonzero(as_tuple=True)
        counts = (target_weights > 0).sum(-1)
        queries = queries.index_select(0, documents)
        hidden = self.read(queries, counts, token_embedding, input_ids, hint_mask, places)
        return self.predict_tokens(hidden, token_embedding, input_ids, target_weights)

    def read(self, queries, counts, token_embedding, input_ids, hint_mask, asked=None) -> torch.Tensor:
        """What the codes say beside the visible tokens: `(queries, hidden)`.

        Args:
            queries: the codes after their norm `(queries, positions, hidden)`, one document after the other.
            counts: how many queries each document has, `(batch,)`.
            token_embedding, input_ids, hint_mask: as for `forward`.
            asked: places of the tokens to predict `(queries,)`; without, a query is not about any place.
        """
        positions = sinusoidal_positions(input_ids.shape[1], queries.shape[-1], queries)
        if asked is not None:
            queries = queries + positions[asked][:, None]
        places, is_visible = visible_places(hint_mask)
        hints = F.embedding(input_ids.gather(1, places), token_embedding)
        hints = self.hint_norm(hints) + positions[places]
        slots = query_slots(counts)
        for layer in self.layers:
            queries = layer(queries, slots, hints, is_visible)
        return queries.sum(dim=1)

    def log_likelihoods(self, codes, token_embedding, input_ids, hint_mask, target_weights) -> torch.Tensor:
        """How well alternative codes explain a document's words: the weighted mean of `log P(w)`.

        Args:
            codes: `(batch, positions, alternatives, hidden)`, the last position's codes being the alternatives.
            token_embedding, input_ids, hint_mask, target_weights: as for the reconstruction of a bag.

        Returns:
            `(batch, alternatives)`.
        """
        batch, _, alternatives, _ = codes.shape
        queries = self.query_norm(codes).transpose(1, 2).flatten(0, 1)
        counts = torch.full_like(input_ids[:, 0], alternatives)
        hidden = self.read(queries, counts, token_embedding, input_ids, hint_mask).view(batch, alternatives, -1)
        log_probabilities = self.token_logits(hidden, token_embedding).float().log_softmax(-1)
        bag = self.bag_of(input_ids, target_weights, log_probabilities.shape[-1]).to(log_probabilities.dtype)
        return (log_probabilities @ bag[:, :, None])[..., 0]

    def token_logits(self, hidden: torch.Tensor, token_embedding: torch.Tensor) -> torch.Tensor:
        """`(predictions, hidden)` to `(predictions, vocabulary)`."""
        weight, bias = self.projection(token_embedding)
        return self.output_norm(hidden) @ weight.T + bias

    def projection(self, token_embedding: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Weight `(vocabulary, hidden)` and bias `(vocabulary,)` of the words that are ever predicted."""
        weight, bias = token_embedding, self.bias
        if self.vocabulary is not None:
            weight, bias = weight[self.vocabulary], bias[self.vocabulary]
        scale = weight.detach().norm(dim=-1).mean().clamp(min=1e-6)
        return weight / scale, bias

    def judge(self, hidden: torch.Tensor, token_embedding: torch.Tensor, targets: torch.Tensor) -> dict:
        """Losses of predictions `(predictions, hidden)`; see [`ReconstructionOutput`]."""
        if self.training:
            return {"losses": word_losses(self.output_norm(hidden), *self.projection(token_embedding), targets)}
        logits = self.token_logits(hidden, token_embedding)
        return {"losses": losses_of_scores(logits, targets), "logits": logits}

    def target_indices(self, token_ids: torch.Tensor) -> torch.Tensor:
        """Places of token ids in the vocabulary."""
        return token_ids if self.index_in_vocabulary is None else self.index_in_vocabulary[token_ids]

    def predict_tokens(self, hidden, token_embedding, input_ids, target_weights) -> ReconstructionOutput:
        """One prediction per hidden token, at its place; `hidden` is `(predictions, hidden)`."""
        documents, places = target_weights.nonzero(as_tuple=True)
        targets = self.target_indices(input_ids[documents, places])
        return ReconstructionOutput(
            **self.judge(hidden, token_embedding, targets),
            targets=targets,
            weights=target_weights[documents, places],
            documents=documents,
        )

    def predict_bag(self, hidden, token_embedding, input_ids, target_weights) -> ReconstructionOutput:
        """One prediction per document, against the weights of its hidden tokens; `hidden` is `(batch, hidden)`."""
        words = len(self.bias) if self.vocabulary is None else len(self.vocabulary)
        targets = self.bag_of(input_ids, target_weights, words)
        return ReconstructionOutput(
            **self.judge(hidden, token_embedding, targets),
            targets=targets,
            weights=target_weights.sum(-1),
            documents=torch.arange(len(hidden), device=hidden.device),
        )

    def bag_of(self, input_ids, target_weights, vocabulary_size: int) -> torch.Tensor:
        """Share of every word in the weights of a document's hidden tokens, `(batch, vocabulary)`."""
        # Accumulated in the weights' own precision: a bag adds up to 1 also under autocast.
        bags = target_weights.new_zeros(len(input_ids), vocabulary_size)
        bags.scatter_add_(1, self.target_indices(input_ids), target_weights)
        total = target_weights.sum(-1, keepdim=True)
        return bags / total.clamp(min=torch.finfo(total.dtype).tiny)

"""The floor of a step: the passes that a stage needs, as bare modules on tensors that are ready."""

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from modeling_lmindexer import LMIndexerForSemanticID
from modeling_lmindexer.reconstructor import sinusoidal_positions, target_places
from trainers.stages import Stage


@dataclass
class Ready:
    """A batch without anything left to prepare.

    `tokens`, `mask` and `hints` `(batch, tokens)`; `targets` `(hidden tokens,)`, numbered among the corpus's words;
    `is_target` `(batch, most hidden tokens)`, which of the queries have one; `positions` `(batch, most hidden tokens,
    hidden)` of the queries; `codes` `(batch, positions)` of the prefix.
    """

    tokens: torch.Tensor
    mask: torch.Tensor
    hints: torch.Tensor
    targets: torch.Tensor
    is_target: torch.Tensor
    positions: torch.Tensor
    codes: torch.Tensor | None

    @classmethod
    def of(cls, batch: dict[str, torch.Tensor], model: LMIndexerForSemanticID) -> "Ready":
        """From what the trainer's collator makes."""
        tokens, codes = batch["input_ids"], batch.get("decoder_input_ids")
        targets = model.reconstructor.target_indices(tokens[batch["target_weights"] > 0])
        places, is_target = target_places(batch["target_weights"])
        positions = all_positions(tokens.shape[1], model)[places]
        codes = None if codes is None else codes[:, 1:] - 1
        return cls(tokens, batch["attention_mask"], batch["hint_mask"], targets, is_target, positions, codes)


def all_positions(length: int, model: LMIndexerForSemanticID) -> torch.Tensor:
    """Position vectors `(length, hidden)`."""
    return sinusoidal_positions(length, model.config.hidden_size, model.reconstructor.start.detach())


class Floor:
    """Encoder, decoder, reconstructor (layer and norms) and projection of a model, called one after the other.

    What is left out: the collator, the gather of the corpus's words from the embedding matrix (a matrix of its own
    here), the weights of the losses and the Trainer's bookkeeping.

    Args:
        model: of which the modules are taken; nobody else trains it.
        stage: whose passes are made.
        views: `contrastive_views`: `dropout` needs encoder and decoder twice.
    """

    def __init__(self, model: LMIndexerForSemanticID, stage: Stage, views: str):
        self.model, self.stage, self.views = model, stage, views
        self.encoder, self.layers = model.get_encoder(), model.reconstructor.layers
        self.embedding = model.get_input_embeddings()
        self.decoder = model.backbone.get_decoder() if model.decoder is None else model.decoder
        self.books = [codebook.weight for codebook in model.codebooks.learned]
        self.projection = nn.Linear(model.config.hidden_size, len(model.reconstructor.vocabulary))
        self.projection.weight.requires_grad_(self.embedding.weight.requires_grad)

    def parameters(self) -> list[nn.Parameter]:
        """What the stage trains."""
        return [p for p in [*self.model.parameters(), *self.projection.parameters()] if p.requires_grad]

    def hidden(self, ready: Ready) -> torch.Tensor:
        """One pass of encoder and decoder, `(batch, positions, hidden)`."""
        states = self.encoder(input_ids=ready.tokens, attention_mask=ready.mask).last_hidden_state
        prefix = F.embedding(ready.codes, self.books[0])  # (batch, 1, hidden)
        if self.model.decoder is not None:
            return self.decoder(states.mean(dim=1), prefix, states, ready.mask)[0]
        inputs = torch.cat([torch.zeros_like(prefix), prefix], dim=1)
        output = self.decoder(
            inputs_embeds=inputs, encoder_hidden_states=states, encoder_attention_mask=ready.mask, use_cache=False
        )
        return output.last_hidden_state

    def loss(self, ready: Ready) -> torch.Tensor:
        """Everything that has a gradient in the stage, added up."""
        if self.stage.kind == "reconstructor":
            return self.reconstruct(self.model.reconstructor.start.expand(len(ready.tokens), 1, -1), ready)
        hidden = self.hidden(ready)
        last = hidden[:, -1]
        second = self.hidden(ready)[:, -1] if self.views == "dropout" else last
        loss = (last @ second.T).logsumexp(-1).sum()
        loss = loss + F.cross_entropy(hidden[:, 0] @ self.books[0].T, ready.codes[:, 0])
        code = last
        if self.stage.kind == "discrete":
            code = (last @ self.books[1].T).softmax(-1) @ self.books[1]
        codes = torch.stack([F.embedding(ready.codes[:, 0], self.books[0]), code], dim=1)
        return loss + self.reconstruct(codes, ready)

    def reconstruct(self, codes: torch.Tensor, ready: Ready) -> torch.Tensor:
        """Cross-entropy of the hidden tokens, from `codes` `(batch, positions, hidden)`."""
        reconstructor = self.model.reconstructor
        queries = reconstructor.query_norm(codes)[:, :, None] + ready.positions[:, None]
        hints = reconstructor.hint_norm(self.embedding(ready.tokens))
        for layer in self.layers:
            queries = layer(queries, hints, ready.hints)
        found = reconstructor.output_norm(queries.sum(dim=1)[ready.is_target])
        return F.cross_entropy(self.projection(found), ready.targets)

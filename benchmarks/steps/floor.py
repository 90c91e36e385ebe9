"""The floor of a step: the passes that a stage needs, as bare modules on tensors that are ready."""

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from modeling_lmindexer import LMIndexerForSemanticID
from modeling_lmindexer.reconstructor import query_slots, sinusoidal_positions, visible_places
from trainers.stages import Stage


@dataclass
class Ready:
    """A batch without anything left to prepare.

    `tokens` and `mask` `(batch, tokens)`; `hints` and `hint_mask` `(batch, most visible tokens)`; `targets` `(hidden
    tokens,)`, numbered among the corpus's words; `documents` and `positions`, the row and the position vector of each
    target, `(hidden tokens,)` and `(hidden tokens, hidden)`; `slots` `(batch, most hidden tokens)`, which of them are
    a query's; `codes` `(batch, positions)` of the prefix.
    """

    tokens: torch.Tensor
    mask: torch.Tensor
    hints: torch.Tensor
    hint_mask: torch.Tensor
    targets: torch.Tensor
    documents: torch.Tensor
    positions: torch.Tensor
    slots: torch.Tensor
    codes: torch.Tensor | None

    @classmethod
    def of(cls, batch: dict[str, torch.Tensor], model: LMIndexerForSemanticID) -> "Ready":
        """From what the trainer's collator makes."""
        tokens, codes, is_target = batch["input_ids"], batch.get("decoder_input_ids"), batch["target_weights"] > 0
        places, hint_mask = visible_places(batch["hint_mask"])
        documents, asked = is_target.nonzero(as_tuple=True)
        return cls(
            tokens=tokens,
            mask=batch["attention_mask"],
            hints=tokens.gather(1, places),
            hint_mask=hint_mask,
            targets=model.reconstructor.target_indices(tokens[is_target]),
            documents=documents,
            positions=all_positions(tokens.shape[1], model)[asked],
            slots=query_slots(is_target.sum(-1)),
            codes=None if codes is None else codes[:, 1:] - 1,
        )


def all_positions(length: int, model: LMIndexerForSemanticID) -> torch.Tensor:
    """Position vectors `(length, hidden)`."""
    return sinusoidal_positions(length, model.config.hidden_size, model.reconstructor.start.detach())


class Floor:
    """Encoder, decoder, reconstructor (layer and norms) and projection of a model, called one after the other.

    The layer is the trainer's, which reads visible tokens only and computes no query for padding; the norms are of the
    reconstructor, and trained. What is left out: the collator, the positions of the visible tokens, the gather of the
    corpus's words from the embedding matrix (a matrix of its own here), the weights of the losses, the clipping of
    gradients and the Trainer's bookkeeping.

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

    def hidden(self, tokens: torch.Tensor, mask: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
        """One pass of encoder and decoder, `(batch, positions, hidden)`; arguments as in [`Ready`]."""
        states = self.encoder(input_ids=tokens, attention_mask=mask).last_hidden_state
        prefix = F.embedding(codes, self.books[0])  # (batch, 1, hidden)
        if self.model.decoder is not None:
            return self.decoder(states.mean(dim=1), prefix, states, mask)[0]
        inputs = torch.cat([torch.zeros_like(prefix), prefix], dim=1)
        output = self.decoder(
            inputs_embeds=inputs, encoder_hidden_states=states, encoder_attention_mask=mask, use_cache=False
        )
        return output.last_hidden_state

    def loss(self, ready: Ready) -> torch.Tensor:
        """Everything that has a gradient in the stage, added up."""
        if self.stage.kind == "reconstructor":
            return self.reconstruct(self.model.reconstructor.start.expand(len(ready.tokens), 1, -1), ready)
        text = ready.tokens, ready.mask, ready.codes
        hidden = self.hidden(*text)
        last = hidden[:, -1]
        second = self.hidden(*text)[:, -1] if self.views == "dropout" else last
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
        queries = reconstructor.query_norm(codes).index_select(0, ready.documents) + ready.positions[:, None]
        hints = reconstructor.hint_norm(self.embedding(ready.hints))
        for layer in self.layers:
            queries = layer(queries, ready.slots, hints, ready.hint_mask)
        found = reconstructor.output_norm(queries.sum(dim=1))
        return F.cross_entropy(self.projection(found), ready.targets)

"""The layout of a training step in the public code of the paper's authors, re-created as a baseline.

From LMIndexer (Jin et al., ICML 2024) and RetroMAE (Xiao et al., EMNLP 2022), whose collator it took over: every
document is read twice by encoder and decoder, as two dropout views; every token to predict has a random set of visible
tokens of its own, a row of an `L x L` mask that the collator builds in Python lists; the loss is over every token and
the whole vocabulary; texts are padded to the full length; the decoder makes keys and values of every state, where ours
on an encoder moves these maps to its few queries. It is a re-creation from that description, on the modules
and kernels of today's libraries and as fast as they make it, and not the authors' program.
"""

import random

import torch
from torch import nn
from torch.nn import functional as F

from modeling_lmindexer import LMIndexerForSemanticID
from trainers.documents import IndexingDataset
from trainers.stages import Stage

from .floor import Floor, all_positions


class AuthorsLayout:
    """A step on documents of the data set, the collator's work included.

    Args:
        model: nobody else trains it.
        stage: warm-up (the reconstructor alone), continuous or discrete.
        documents: their tokens.
        length: that texts are padded to.
        pad_token_id: of the tokenizer.
    """

    def __init__(
        self, model: LMIndexerForSemanticID, stage: Stage, documents: IndexingDataset, length: int, pad_token_id: int
    ):
        self.documents, self.length, self.pad_token_id = documents, length, pad_token_id
        self.passes, self.stage = Floor(model, stage, "dropout"), stage
        for name, module in model.named_modules():
            if name.endswith(("cross_attention.key", "cross_attention.value")):
                module.register_forward_hook(lambda *_: None)  # with a hook, our decoder calls them, too
        width, self.positions = model.config.hidden_size, all_positions(length, model)
        self.attention = nn.MultiheadAttention(width, max(1, width // 64), batch_first=True)
        self.feed_forward = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.norms = nn.ModuleList([nn.LayerNorm(width), nn.LayerNorm(width)])
        self.own = nn.ModuleList([self.attention, self.feed_forward, self.norms])

    def parameters(self) -> list[nn.Parameter]:
        """What the stage trains."""
        return [*(p for p in self.passes.model.parameters() if p.requires_grad), *self.own.parameters()]

    def collate(self, rows: list[int]) -> tuple[torch.Tensor, ...]:
        """Token ids and mask `(batch, length)` of documents, the codes of their prefixes `(batch, positions)`, and the
        visible tokens of every token's row `(batch, length, length)`."""
        ids, masks, matrices = [], [], []
        for row in rows:
            tokens = self.documents.tokens_of(row).tolist()
            visible = round(self.stage.hint_ratio * len(tokens))
            matrix = []
            for place in range(self.length):
                shown = [0] * self.length
                order = list(range(len(tokens)))
                random.shuffle(order)
                for other in order[:visible]:
                    if other != place:
                        shown[other] = 1
                matrix.append(shown)
            padding = self.length - len(tokens)
            ids.append(tokens + [self.pad_token_id] * padding)
            masks.append([1] * len(tokens) + [0] * padding)
            matrices.append(matrix)
        codes, matrix = torch.from_numpy(self.documents.codes[rows]), torch.tensor(matrices, dtype=torch.bool)
        return torch.tensor(ids), torch.tensor(masks), codes, matrix

    def loss(
        self, tokens: torch.Tensor, mask: torch.Tensor, codes: torch.Tensor, visible: torch.Tensor
    ) -> torch.Tensor:
        """The losses of the stage, of what `collate` makes."""
        passes = self.passes
        if self.stage.kind == "reconstructor":
            code = passes.model.reconstructor.start.expand(len(tokens), -1)
            return self.reconstruct(code, tokens, mask, visible)
        first, second = (passes.hidden(tokens, mask, codes) for _ in range(2))
        last = first[:, -1]
        loss = (last @ second[:, -1].T).logsumexp(-1).sum()
        loss = loss + F.cross_entropy(first[:, 0] @ passes.books[0].T, codes[:, 0])
        if self.stage.kind == "discrete":
            last = (last @ passes.books[1].T).softmax(-1) @ passes.books[1]
        return loss + self.reconstruct(last, tokens, mask, visible)

    def reconstruct(self, code, tokens, mask, visible) -> torch.Tensor:
        """Cross-entropy of every token over the whole vocabulary, from one code `(batch, hidden)` per document."""
        embedding = self.passes.embedding
        queries, hints = code[:, None] + self.positions, embedding(tokens)
        # A token that sees nothing would have no weights to add up: it sees itself, as a padding does.
        visible = visible | (~visible.any(-1, keepdim=True) & torch.eye(self.length, dtype=torch.bool))
        hidden = ~visible.repeat_interleave(self.attention.num_heads, dim=0)
        queries = queries + self.attention(
            self.norms[0](queries), hints, hints, attn_mask=hidden, need_weights=False
        )[0]  # fmt: skip
        queries = queries + self.feed_forward(self.norms[1](queries))
        logits = queries @ embedding.weight.T  # (batch, length, vocabulary)
        targets = tokens.masked_fill(mask == 0, -100)
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten())

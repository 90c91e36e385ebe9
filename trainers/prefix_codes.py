"""A code for every prefix of an ID, with the vector that its token is read with.

Where codes are few, the same code below two prefixes means two things, and its vector has to be a compromise; where a
set has thousands of documents, not millions, every prefix can have one of its own. (Wang et al., 2022, "A Neural
Corpus Indexer for Document Retrieval", adapt a code's weights to its prefix for the same reason.) A recommender that
reads IDs has such vectors already, in its encoder; shared, what is learned of an item as history is known of it as an
answer, as in SASRec.
"""

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrize
from transformers import PreTrainedTokenizerBase

from modeling_lmindexer import LMIndexerForSemanticID, SemanticIndex

from .id_tokens import PREFIXES, id_tokens


def code_per_prefix(index: SemanticIndex) -> SemanticIndex:
    """The same prefix tree with other numbers: the codes of a position are counted over all prefixes of that length.

    The last position has as many codes as there are documents. It leaves no room for documents that come later.
    """
    codes = index.codes
    columns = [np.unique(codes[:, : end + 1], axis=0, return_inverse=True)[1].ravel() for end in range(codes.shape[1])]
    sizes = [int(column.max()) + 1 for column in columns]
    return SemanticIndex.from_codes(index.document_ids, np.stack(columns, axis=1), sizes, has_disambiguation=False)


class _ReadAs(nn.Module):
    """A code's vector: a row of its own, and the embedding of the token that the code is read as."""

    def __init__(self, embeddings: nn.Embedding, tokens: torch.Tensor):
        super().__init__()
        self.embeddings = (embeddings,)  # hidden from `parameters()`, where they have a place already
        self.register_buffer("tokens", tokens, persistent=False)

    def forward(self, own: torch.Tensor) -> torch.Tensor:
        return own + F.embedding(self.tokens, self.embeddings[0].weight)


@torch.no_grad()
def tie_codes(model: LMIndexerForSemanticID, tokenizer: PreTrainedTokenizerBase, index: SemanticIndex) -> None:
    """Lets the codebooks of a new model begin as the embeddings of the tokens of prefixes, and learn with them.

    Args:
        model: with codebooks for the codes of `index`; nothing of theirs is kept.
        tokenizer: with the tokens of all prefixes, see [`~trainers.id_tokens.add_id_tokens`].
        index: of [`code_per_prefix`].

    Raises:
        ValueError: an index in which two prefixes share a code.
    """
    ends = [(flats[-1], name) for name, flats in id_tokens(index, PREFIXES).items()]
    if len({flat for flat, _ in ends}) < len(ends):
        raise ValueError("Some prefixes of the index share a code: take the index of code_per_prefix().")
    token_of = {flat: tokenizer.convert_tokens_to_ids(name) for flat, name in ends}
    embeddings = model.get_input_embeddings()
    # Hidden states have the length sqrt(D): so scaled, the logits of a new model are about as far apart as 1.
    temperature = max(1.0, embeddings.weight[list(token_of.values())].norm(dim=-1).median().item())
    model.config.code_temperature = temperature
    for offset, book in zip(model.config.position_offsets, model.codebooks.learned, strict=True):
        book.start_temperature = temperature
        book.weight.zero_()
        tokens = torch.tensor([token_of[offset + code] for code in range(len(book.weight))], device=book.weight.device)
        parametrize.register_parametrization(book, "weight", _ReadAs(embeddings, tokens))


def untie_codes(model: LMIndexerForSemanticID) -> None:
    """Makes what [`tie_codes`] tied weights of the codebooks again, as they are now: the model is as any other."""
    for book in model.codebooks.learned:
        if parametrize.is_parametrized(book, "weight"):
            parametrize.remove_parametrizations(book, "weight")

"""Semantic IDs that a model reads: every code becomes a token of the tokenizer, its embedding starts as the code's."""

import torch
from tokenizers import AddedToken
from transformers import PreTrainedTokenizerBase, set_seed

from modeling_lmindexer import LMIndexerForSemanticID, SemanticIndex


def id_tokens(position_sizes: list[int]) -> list[str]:
    """A name for every code of every position, in the order of the flat ids: `<c1_0>`, `<c1_1>`, .., `<c2_0>`, .."""
    return [f"<c{position}_{code}>" for position, size in enumerate(position_sizes, 1) for code in range(size)]


def id_texts(index: SemanticIndex) -> dict:
    """The ID of every document as text that the tokenizer takes apart code by code, by document id."""
    names = id_tokens(index.position_sizes)
    rows = index.sequences.tolist()
    return {
        document: "".join(names[flat - 1] for flat in row)
        for document, row in zip(index.document_ids, rows, strict=True)
    }


def add_id_tokens(
    model: LMIndexerForSemanticID, tokenizer: PreTrainedTokenizerBase, index: SemanticIndex, seed: int
) -> None:
    """Lets a model read IDs: the tokenizer gets their tokens, and the encoder embeddings for them, codebook vectors of
    the length that its embeddings have. Tokens that are there already stay as they are.

    Args:
        model: without a reconstructor; see [`~LMIndexerForSemanticID.resize_token_embeddings`].
        tokenizer: of the model; it changes.
        index: whose codes they are.
        seed: of the embeddings of codes that have no vector yet, such as those of an untrained last position.

    Raises:
        ValueError: the model has a reconstructor, or other codebooks.
    """
    index.check_model(model.config)
    names = id_tokens(index.position_sizes)
    known = tokenizer.get_vocab()
    new = [place for place, name in enumerate(names) if name not in known]
    if not new:
        return
    tokenizer.add_tokens([AddedToken(names[place], normalized=False) for place in new])
    set_seed(seed)
    model.resize_token_embeddings(len(tokenizer))
    ids = torch.tensor(tokenizer.convert_tokens_to_ids([names[place] for place in new]))
    set_embeddings(model, ids, torch.tensor(new))


@torch.no_grad()
def set_embeddings(model: LMIndexerForSemanticID, tokens: torch.Tensor, places: torch.Tensor) -> None:
    """Gives `tokens` the vectors of the codes at `places` of the flat ids; codes without one, such as those of an
    untrained last position, keep what they were drawn as."""
    weight, books = model.get_input_embeddings().weight, model.codebooks
    vectors = torch.cat([book.weight for book in (*books.learned, books.disambiguation) if book is not None])
    vectors = vectors[places.to(weight.device)]
    has_one = vectors.norm(dim=-1) > 0
    old = torch.ones(len(weight), dtype=torch.bool)
    old[tokens] = False
    length = weight[old.to(weight.device)].norm(dim=-1).median()
    rows = tokens.to(weight.device)[has_one]
    weight[rows] = (torch.nn.functional.normalize(vectors[has_one], dim=-1) * length).to(weight.dtype)

"""Semantic IDs that a model reads: tokens for codes, or for prefixes of IDs, whose embeddings start as the codes'."""

import torch
from tokenizers import AddedToken
from transformers import PreTrainedTokenizerBase, set_seed
from transformers.utils import logging

from modeling_lmindexer import LMIndexerForSemanticID, SemanticIndex

CODES, PREFIXES = "codes", "prefixes"
ID_TOKENS = (CODES, PREFIXES)


def id_tokens(index: SemanticIndex, kind: str = CODES) -> dict[str, list[int]]:
    """Names of tokens, and the flat ids that each one stands for.

    Args:
        index: whose IDs are read.
        kind: `codes`: one for every code of every position, `<c1_0>`, `<c1_1>`, .., `<c2_0>`, ..; TIGER's.
            `prefixes`: one for every prefix of an ID that the index has, `<p_0>`, `<p_0_7>`, `<p_0_7_3>`, .., so that
            a document has a token of its own, and shares the others with those that are like it (Singh et al., 2023,
            "Better Generalization with Semantic IDs").

    Raises:
        ValueError: another kind.
    """
    if kind == CODES:
        names = [f"<c{place}_{code}>" for place, size in enumerate(index.position_sizes, 1) for code in range(size)]
        return {name: [flat] for flat, name in enumerate(names, start=1)}
    if kind != PREFIXES:
        raise ValueError(f"Tokens of IDs are {' or '.join(ID_TOKENS)}, not {kind!r}.")
    found = {}
    for codes, flats in sorted(zip(index.codes.tolist(), index.sequences.tolist(), strict=True)):
        found |= {name: flats[:length] for length, name in enumerate(_prefixes(codes), start=1)}
    return found


def id_texts(
    index: SemanticIndex, kind: str = CODES, tokenizer: PreTrainedTokenizerBase | None = None
) -> dict[str | int, str]:
    """The ID of every document as text that the tokenizer takes apart token by token, by document id.

    Args:
        index, kind: see [`id_tokens`].
        tokenizer: leaves out tokens that it does not have, such as the last ones of documents that came later.
    """
    if kind == CODES:
        names = list(id_tokens(index, kind))
        parts = [[names[flat - 1] for flat in row] for row in index.sequences.tolist()]
    else:
        parts = [_prefixes(codes) for codes in index.codes.tolist()]
    if tokenizer is not None:
        known = tokenizer.get_vocab()
        parts = [[name for name in own if name in known] for own in parts]
    return dict(zip(index.document_ids, map("".join, parts), strict=True))


def _prefixes(codes: list[int]) -> list[str]:
    return ["<p_" + "_".join(map(str, codes[:length])) + ">" for length in range(1, len(codes) + 1)]


def add_id_tokens(
    model: LMIndexerForSemanticID, tokenizer: PreTrainedTokenizerBase, index: SemanticIndex, seed: int,
    kind: str = CODES,
) -> None:  # fmt: skip
    """Lets a model read IDs: the tokenizer gets their tokens, and the encoder embeddings for them, sums of codebook
    vectors of the length that its embeddings have. Tokens that are there already stay as they are.

    Args:
        model: without a reconstructor; see [`~LMIndexerForSemanticID.resize_token_embeddings`].
        tokenizer: of the model; it changes.
        index: whose codes they are.
        seed: of the embeddings of codes that have no vector yet, such as those of an untrained last position.
        kind: see [`id_tokens`].

    Raises:
        ValueError: the model has a reconstructor, or other codebooks.
    """
    index.check_model(model.config)
    known = tokenizer.get_vocab()
    new = {name: flats for name, flats in id_tokens(index, kind).items() if name not in known}
    if not new:
        return
    tokenizer.add_tokens([AddedToken(name, normalized=False) for name in new])
    set_seed(seed)
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # it says how it draws what is overwritten here
    model.resize_token_embeddings(len(tokenizer))
    logging.set_verbosity(verbosity)
    set_embeddings(model, torch.tensor(tokenizer.convert_tokens_to_ids(list(new))), list(new.values()))


@torch.no_grad()
def set_embeddings(model: LMIndexerForSemanticID, tokens: torch.Tensor, flats: list[list[int]]) -> None:
    """Gives every one of `tokens` the direction of the sum of its codes' vectors; those of codes without one keep what
    they were drawn as.

    Args:
        model: with embeddings for them.
        tokens: `(tokens,)` ids of the tokenizer.
        flats: of each one, the flat ids of its codes.
    """
    weight, books = model.get_input_embeddings().weight, model.codebooks
    vectors = torch.cat([book.weight for book in (*books.learned, books.disambiguation) if book is not None])
    owners = torch.tensor([place for place, own in enumerate(flats) for _ in own], device=weight.device)
    codes = torch.tensor([flat - 1 for own in flats for flat in own], device=weight.device)
    sums = vectors.new_zeros(len(flats), vectors.shape[1]).index_add_(0, owners, vectors[codes])
    has_one = sums.norm(dim=-1) > 0
    old = torch.ones(len(weight), dtype=torch.bool, device=weight.device)
    tokens = tokens.to(weight.device)
    old[tokens] = False
    length = weight[old].norm(dim=-1).median()
    weight[tokens[has_one]] = (torch.nn.functional.normalize(sums[has_one], dim=-1) * length).to(weight.dtype)

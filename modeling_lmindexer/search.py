"""Search: texts to documents by beam search over the semantic IDs that exist."""

import torch
from torch import LongTensor, Tensor
from transformers.cache_utils import DynamicCache, EncoderDecoderCache

from .backbones import backbone_kind
from .beam_search import beam_search
from .document_vectors import first_states
from .folded_attention import FoldedCache
from .outputs import SearchOutput
from .prefix_tree import PrefixTree
from .shared_attention import SharedStates


class IDSteps:
    """Log-probabilities of each position's codes, a step of [`beam_search`] at a time.

    Encoder states, their keys and values and the pooled embedding belong to a text; its beams share them.

    Args:
        model: an [`LMIndexerForSemanticID`].
        states: of the encoder, `(texts, tokens, hidden)`.
        mask: `(texts, tokens)`.
        greedy: texts have one beam each, as in [`LMIndexerForSemanticID.assign`].
    """

    def __init__(self, model, states: Tensor, mask: Tensor, greedy: bool = False):
        self.kind, self.model = backbone_kind(model.config), model
        self.offsets = model.config.position_offsets
        self.decoder, shares = self.kind.searcher(model)
        self.shared = SharedStates(states, mask, shares)
        self.pooled = self.kind.pooled(model.config, states, mask)
        self.cache = (FoldedCache if greedy else EncoderDecoderCache)(DynamicCache(), DynamicCache())

    def __call__(self, ids: LongTensor, parents: LongTensor | None) -> Tensor:
        """Log-probabilities `(rows, codes)` of what follows `ids` `(rows, 1 + level)`; see [`beam_search`]."""
        if parents is not None:
            self.cache.self_attention_cache.reorder_cache(parents)
        return self.logits(ids, parents is not None).float().log_softmax(-1)

    def logits(self, ids: LongTensor, is_known: bool) -> Tensor:
        """Logits `(rows, codes)` of what follows `ids` `(rows, 1 + level)`; all but the last may be in the cache."""
        level, pooled, codebooks = ids.shape[1] - 1, self.pooled, self.model.codebooks
        states, mask = self.shared.of_rows(len(ids), self.cache)
        first = level - 1 if is_known and pooled is None else 0
        codes = codebooks.lookup(ids[:, 1 + first :], first)
        if pooled is not None and len(pooled) != len(ids):
            pooled = pooled.repeat_interleave(len(ids) // len(pooled), dim=0, output_size=len(ids))
        hidden, _ = self.kind.decode(self.model, codes, states, mask, self.cache, True, pooled, self.decoder)
        return codebooks.logits(hidden[:, -1], level)

    def columns(self, codes: LongTensor, level: int) -> LongTensor:
        """Columns of the log-probabilities that belong to the flat ids `codes`."""
        return codes - self.offsets[level]


@torch.no_grad()
def search_documents(
    model,
    index,
    texts: dict,
    *,
    num_beams: int,
    top_k: int,
    allowed=None,
    rescoring=None,
    output_beams: bool = False,
) -> SearchOutput:
    """The `top_k` documents whose IDs are most likely given each text.

    With `renormalize_logits` in the model's generation config, as after training with `loss_over="existing"`,
    probabilities are those among all IDs of the index. What is not `allowed` is left out afterwards; `generate` with a
    filtered processor shares its probability out among its siblings instead.

    Args:
        model: an [`LMIndexerForSemanticID`].
        index: the [`SemanticIndex`] of its documents.
        texts: `input_ids`, `attention_mask`, `inputs_embeds`, `encoder_outputs` and `token_type_ids`, as in the
            model's `forward`, as many of them as there are.
        num_beams: width of the beam; 20 in the paper.
        top_k: documents per text, at most `num_beams`.
        allowed: only these documents: a boolean mask `(documents,)` in the order of `index.document_ids`, or a list
            of document ids; or, for each text its own, a mask `(texts, documents)` or a list of lists of ids.
        rescoring: [`DocumentVectors`] by which all documents of the beam are ordered again before the best are
            taken; default: by their IDs alone.
        output_beams: also return the prefixes that the beam held after each position.

    Returns:
        [`SearchOutput`]; equal scores in the order of the IDs.

    Raises:
        ValueError: `top_k` over `num_beams`, an index that does not fit the model, or filters for another number of
            texts.
    """
    if top_k > num_beams:
        raise ValueError(f"top_k={top_k} asks for more documents than num_beams={num_beams} finds: raise num_beams.")
    index.check_model(model.config)
    states, mask = model.read(**texts)
    tree = (index.tree if allowed is None else index.filtered(allowed)).to(states.device).snapshot()
    check_filters(tree, len(states))
    prompt = torch.full((len(states), 1), model.config.decoder_start_token_id, device=states.device)
    # Over all there are: a document must not get the probability of a sibling that is not allowed.
    among = index.tree.to(states.device).snapshot() if model.generation_config.renormalize_logits else None
    trace = [] if output_beams else None
    ids, scores = beam_search(IDSteps(model, states, mask), tree, prompt, num_beams, among=among, trace=trace)
    if output_beams:
        trace = tuple(tuple(array.cpu() for array in best_first(*held, num_beams)) for held in trace)
    if rescoring is not None:
        ids, scores = best_first(ids, scores, num_beams)
        scores = rescoring.rescored(index.documents_of(ids.flatten(0, 1)), scores, first_states(model, states, mask))
    ids, scores = best_first(ids, scores, top_k)
    ids, scores = ids.cpu(), scores.cpu()
    found = iter(index.documents_of(ids.flatten(0, 1)))
    documents = [[document for _ in row for document in next(found)] for row in ids]
    return SearchOutput(documents, scores, ids, trace)


def check_filters(tree: PrefixTree, num_texts: int) -> None:
    """Raises ValueError when a tree has filters for another number of texts."""
    if tree.num_filters not in (None, num_texts):
        raise ValueError(
            f"There are filters for {tree.num_filters} texts and {num_texts} texts: give one filter for all of them, "
            "or one for each."
        )


def best_first(ids: LongTensor, scores: Tensor, number: int) -> tuple[LongTensor, Tensor]:
    """The best `number` of `ids` `(texts, beams, positions)` by `scores` `(texts, beams)`, the first of equals first.

    What has no score becomes zeros; as many rows as the text with most IDs has are left.
    """
    order = scores.argsort(dim=1, descending=True, stable=True)[:, :number]
    scores = scores.gather(1, order)
    found = scores > -torch.inf
    ids = ids.gather(1, order[:, :, None].expand(-1, -1, ids.shape[2])).masked_fill(~found[:, :, None], 0)
    most = int(found.sum(1).max()) if found.numel() else 0
    return ids[:, :most], scores[:, :most]

"""Search: texts to documents by beam search over the semantic IDs that exist."""

import torch

from .outputs import SearchOutput
from .prefix_tree import PrefixTree


def search_documents(
    model,
    index,
    *,
    num_beams: int,
    top_k: int,
    allowed=None,
    input_ids=None,
    attention_mask=None,
    inputs_embeds=None,
    encoder_outputs=None,
    token_type_ids=None,
) -> SearchOutput:
    """The `top_k` documents whose IDs are most likely given each text.

    Args:
        model: an [`LMIndexerForSemanticID`].
        index: the [`SemanticIndex`] of its documents.
        num_beams: width of the beam; 20 in the paper.
        top_k: documents per text, at most `num_beams`.
        allowed: only these documents: a boolean mask `(documents,)` in the order of `index.document_ids`, or a list
            of document ids.
        input_ids, attention_mask, inputs_embeds, encoder_outputs, token_type_ids: the texts, as in the model's
            `forward`.

    Returns:
        [`SearchOutput`]; equal scores in the order of the IDs.

    Raises:
        ValueError: `top_k` over `num_beams`, or an index that does not fit the model.
    """
    if top_k > num_beams:
        raise ValueError(f"top_k={top_k} asks for more documents than num_beams={num_beams} finds: raise num_beams.")
    index.check_model(model.config)
    with torch.no_grad():
        if encoder_outputs is None:
            states, mask = model.encode(input_ids, attention_mask, inputs_embeds)
        else:
            states, mask = model.given_states(encoder_outputs, attention_mask)
        tree = index.tree
        if allowed is not None:
            rows = index.rows_of(allowed)
            if len(rows) == 0:
                none = torch.empty(len(states), 0, tree.depth, dtype=torch.long)
                return SearchOutput([[] for _ in none], torch.empty(none.shape[:2]), none)
            tree = PrefixTree.from_sequences(index.sequences[rows])
        ids, scores = beam_search(model, states, mask, tree, num_beams)
    # Beams are in the order of their IDs, and the sorting is stable.
    order = scores.argsort(dim=1, descending=True, stable=True)[:, :top_k]
    ids = ids.gather(1, order[:, :, None].expand(-1, -1, tree.depth)).cpu()
    documents = [[document for found in index.documents_of(row) for document in found] for row in ids]
    return SearchOutput(documents, scores.gather(1, order).cpu(), ids)


def beam_search(
    model, states: torch.Tensor, mask: torch.Tensor, tree: PrefixTree, num_beams: int
) -> tuple[torch.LongTensor, torch.Tensor]:
    """The most likely IDs of a tree, as `generate` with its logits processor finds them.

    `generate` takes whichever it meets of equally likely IDs, such as the documents of a group before the last
    position is trained; here the first ones win. And cross-attention is computed once per text, not once per beam.

    Args:
        model: an [`LMIndexerForSemanticID`].
        states: of the encoder, `(texts, tokens, hidden)`.
        mask: `(texts, tokens)`.

    Returns:
        flat ids `(texts, beams, positions)`, each text's in ascending order, and their log-probabilities
        `(texts, beams)`; `num_beams` of them, or as many as there are.
    """
    tree = tree.to(states.device)
    texts = torch.arange(len(states), device=states.device)  # of every row; the rows are all beams of all texts
    ids = torch.full((len(states), 1), model.config.decoder_start_token_id, device=states.device)
    nodes, scores, cache = torch.zeros_like(texts), torch.zeros(len(states), device=states.device), None
    for level, offset in enumerate(model.config.position_offsets):
        hidden, _, cache = model.decode(ids, states[texts], mask[texts], cache, use_cache=True)
        log_probabilities = model.codebooks.logits(hidden[:, -1], level).float().log_softmax(-1)
        rows, codes, children = tree.expand(nodes, level)
        candidates = scores[rows] + log_probabilities[rows, codes - offset]
        kept = best_of_each_text(candidates, texts[rows], len(states), num_beams)
        rows, nodes, scores = rows[kept], children[kept], candidates[kept]
        ids, texts = torch.cat([ids[rows], codes[kept, None]], dim=1), texts[rows]
        if cache is not None:
            cache.reorder_cache(rows)
    # All texts have equally many: as many as fit, out of one tree.
    return ids[:, 1:].unflatten(0, (len(states), -1)), scores.unflatten(0, (len(states), -1))


def best_of_each_text(scores: torch.Tensor, texts: torch.Tensor, num_texts: int, number: int) -> torch.LongTensor:
    """Places of the `number` highest `scores` `(candidates,)` of each text, in ascending order; the first of equals.

    Args:
        texts: `(candidates,)`, ascending.
    """
    counts = texts.bincount(minlength=num_texts)
    columns = torch.arange(len(texts), device=texts.device) - (counts.cumsum(0) - counts)[texts]
    table = scores.new_full((num_texts, int(counts.max())), -torch.inf)  # one row per text
    table[texts, columns] = scores
    least = table.topk(min(number, table.shape[1]), dim=1).values[:, -1:]
    above, equal = table > least, table == least
    chosen = above | (equal & (equal.cumsum(1) <= number - above.sum(1, keepdim=True)))
    return chosen[texts, columns].nonzero().squeeze(1)

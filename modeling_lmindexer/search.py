"""Search: texts to documents by beam search over the semantic IDs that exist."""

import torch

from .outputs import SearchOutput
from .prefix_tree import PrefixTree


def search_documents(model, index, *, num_beams: int, top_k: int, allowed=None, **inputs) -> SearchOutput:
    """The `top_k` documents whose IDs are most likely given each text.

    Args:
        model: an [`LMIndexerForSemanticID`].
        index: the [`SemanticIndex`] of its documents.
        num_beams: width of the beam; 20 in the paper.
        top_k: documents per text, at most `num_beams`.
        allowed: only these documents: a boolean mask `(documents,)` in the order of `index.document_ids`, or a list
            of document ids.
        inputs: the tokenizer's output, `(queries, tokens)`.

    Returns:
        [`SearchOutput`]; equal scores in the order of the IDs.

    Raises:
        ValueError: `top_k` over `num_beams`, or an index that does not fit the model.
    """
    if top_k > num_beams:
        raise ValueError(f"top_k={top_k} asks for more documents than num_beams={num_beams} finds: raise num_beams.")
    index.check_model(model.config)
    processor = index.logits_processor
    queries = len(next(value for value in inputs.values() if torch.is_tensor(value)))
    if allowed is not None:
        rows = index.rows_of(allowed)
        if len(rows) == 0:
            return SearchOutput([[] for _ in range(queries)], torch.empty(queries, 0), torch.empty(queries, 0, 0))
        processor = type(processor)(PrefixTree.from_sequences(index.sequences[rows]))
    beams = min(num_beams, len(processor.tree))
    output = model.generate(
        **inputs,
        num_beams=beams,
        num_return_sequences=beams,
        do_sample=False,
        length_penalty=0.0,
        logits_processor=processor,
        return_dict_in_generate=True,
        output_scores=True,
    )
    ids = output.sequences[:, 1:].view(queries, beams, -1)
    scores = output.sequences_scores if beams > 1 else log_probabilities(model, output.sequences, inputs)
    return rank(index, ids.cpu(), scores.view(queries, beams).float().cpu(), min(top_k, beams))


@torch.no_grad()
def log_probabilities(model, sequences: torch.Tensor, inputs: dict) -> torch.Tensor:
    """Log-probabilities of IDs `(batch, 1 + positions)` given texts: with one beam `generate` returns none."""
    logits = model(**inputs, decoder_input_ids=sequences[:, :-1]).logits.float()
    return logits.log_softmax(-1).gather(-1, sequences[:, 1:, None])[..., 0].sum(-1)


def rank(index, ids: torch.Tensor, scores: torch.Tensor, top_k: int) -> SearchOutput:
    """Sorts `(queries, beams, positions)` ids by score, equal ones by id, and looks up their documents."""
    sequences, sorted_scores, documents = [], [], []
    for row_ids, row_scores in zip(ids, scores, strict=True):
        order = sorted(range(len(row_ids)), key=lambda i: (-row_scores[i].item(), row_ids[i].tolist()))[:top_k]
        sequences.append(row_ids[order])
        sorted_scores.append(row_scores[order])
        documents.append([document for found in index.documents_of(row_ids[order]) for document in found])
    return SearchOutput(documents, torch.stack(sorted_scores), torch.stack(sequences))

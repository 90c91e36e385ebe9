"""What an adaptation learns from: texts as tokens, their content words, masked tokens, parts of a text."""

import numpy as np
import torch
from transformers import DataCollatorForLanguageModeling, PreTrainedModel, PreTrainedTokenizerBase

from .adaptation_args import AdaptationArguments
from .corpus_check import UnusableCorpusError
from .documents import IndexingDataset
from .reading_check import check_reading


def read_texts(
    texts: list[str], tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel, args: AdaptationArguments
) -> IndexingDataset:
    """The texts as token ids, with weights of the content words where bags are learned from.

    Raises:
        ValueError: a tokenizer larger than the model; no content words.
        UnusableCorpusError: texts without a token, or fewer texts than a batch.
    """
    room = model.get_input_embeddings().num_embeddings
    check_reading(model, tokenizer, args.max_length, model.config)
    batch = args.per_device_train_batch_size * args.world_size
    if len(texts) < batch:
        raise UnusableCorpusError(
            f"{len(texts)} texts do not fill a batch of {batch}: set a smaller per_device_train_batch_size."
        )
    documents = IndexingDataset(list(range(len(texts))), list(texts), tokenizer, args.max_length, args.seed)
    if "words" in args.objective:
        documents.target_weights = documents.count_weights(
            room, idf=True, min_frequency=args.min_document_frequency, max_frequency=args.max_document_frequency,
            by_count=True,
        )  # fmt: skip
    return documents


def word_shares(documents: IndexingDataset, model: PreTrainedModel) -> torch.Tensor:
    """The share of each token id `(tokens,)` in the documents' bags of words, each adding up to 1; float32."""
    shares = np.zeros(model.get_input_embeddings().num_embeddings)
    for row in range(len(documents)):
        weights = documents[row]["target_weights"].astype(np.float64)
        np.add.at(shares, documents[row]["input_ids"], weights / max(weights.sum(), np.finfo(np.float64).tiny))
    return torch.from_numpy(shares / shares.sum()).float()


def masking_of(tokenizer: PreTrainedTokenizerBase, probability: float) -> DataCollatorForLanguageModeling:
    """What draws the masked tokens; raises ValueError when the tokenizer has no mask token."""
    if tokenizer.mask_token is None:
        raise ValueError(
            "mlm needs a mask token, and the tokenizer has none: leave mlm out of objective, or call "
            "tokenizer.add_special_tokens({'mask_token': '<mask>'}) and model.resize_token_embeddings(len(tokenizer))."
        )
    return DataCollatorForLanguageModeling(tokenizer, mlm_probability=probability)


def crop_masks(attention_mask: torch.Tensor) -> torch.Tensor:
    """Two random runs of 30 to 80 % of each document's tokens, `(2, batch, tokens)`, from `(batch, tokens)`."""
    lengths = attention_mask.sum(1)  # (batch,)
    size, place = torch.rand(2, 2, len(lengths), device=lengths.device)
    runs = (lengths * (0.3 + 0.5 * size)).round().clamp(min=1)  # (2, batch)
    begins = (place * (lengths - runs + 1)).floor()
    numbers = attention_mask.cumsum(1) - 1  # (batch, tokens), counted from the first token
    inside = (numbers >= begins[..., None]) & (numbers < (begins + runs)[..., None])
    return inside * attention_mask

"""What a model says of texts, batch by batch: the codes of their IDs, and how sure it is of them."""

from collections.abc import Callable

import numpy as np
import torch
from torch import LongTensor, Tensor
from torch.nn.functional import pad


def tokenize(tokenizer, texts: str | list[str], max_length: int, **settings):
    """Texts as the tokenizer gives them, cut after `max_length` tokens: in training, in an index and in bulk.

    A text gets the same ID everywhere only if the same of it is read; cut by the tokenizer, it keeps its end token.

    Args:
        max_length: `max_source_length` of the model; what the tokenizer itself names does not count.
        settings: others of the tokenizer's call.
    """
    return tokenizer(texts, truncation=True, max_length=max_length, **settings)


@torch.no_grad()
def read_texts(model, tokenizer, texts: list[str], batch_size: int, function: Callable) -> list:
    """`function(inputs, part)` of every batch of texts, `part` of them, in evaluation mode.

    Args:
        function: gets `input_ids` and `attention_mask` `(batch, tokens)`, and the slice of the texts.
    """
    results, training, longest = [], model.training, model.config.max_source_length
    model.eval()
    for part in (slice(start, start + batch_size) for start in range(0, len(texts), batch_size)):
        inputs = tokenize(tokenizer, texts[part], longest, padding=True, return_tensors="pt").to(model.device)
        results.append(function({name: inputs[name] for name in ("input_ids", "attention_mask")}, part))
    model.train(training)
    return results


def assigned_ids(model, tokenizer, texts: list[str], batch_size: int) -> LongTensor:
    """Flat ids of texts at the learned positions, as `model.assign`: `(texts, learned positions)`."""
    if not texts:
        return torch.empty(0, model.config.num_learned_positions, dtype=torch.long)
    return torch.cat(read_texts(model, tokenizer, texts, batch_size, lambda inputs, _: model.assign(**inputs).cpu()))


@torch.no_grad()
def assign_with_scores(model, input_ids: LongTensor, attention_mask: LongTensor) -> tuple[LongTensor, Tensor]:
    """As `model.assign`, and the log-probability `(batch,)` of each ID's codes, of all learned positions."""
    offsets = model.config.position_offsets
    states, mask = model.encode(input_ids, attention_mask)
    ids = model.assign(encoder_outputs=states, attention_mask=mask)
    prefix = pad(ids[:, :-1], (1, 0), value=model.config.decoder_start_token_id)
    logits = model(encoder_outputs=states, attention_mask=mask, decoder_input_ids=prefix).code_logits
    score = torch.zeros(len(ids), device=ids.device)
    for t, scores in enumerate(logits):
        score += scores.float().log_softmax(-1).gather(1, ids[:, t : t + 1] - offsets[t])[:, 0]
    return ids, score


def assigned_with_scores(model, tokenizer, texts: list[str], batch_size: int) -> tuple[LongTensor, Tensor]:
    """As [`assigned_ids`], and the log-probability `(texts,)` of each one's codes, of all learned positions."""

    def scored(inputs: dict, _: slice) -> tuple[LongTensor, Tensor]:
        return tuple(values.cpu() for values in assign_with_scores(model, **inputs))

    if not texts:
        return assigned_ids(model, tokenizer, texts, batch_size), torch.empty(0)
    ids, scores = zip(*read_texts(model, tokenizer, texts, batch_size, scored), strict=True)
    return torch.cat(ids), torch.cat(scores)


def last_logits(model, tokenizer, texts: list[str], prefixes: LongTensor, batch_size: int) -> np.ndarray:
    """The model's logits `(texts, codes)` at the last position, after flat ids `(texts, positions - 1)`."""
    ids = pad(prefixes, (1, 0), value=model.config.decoder_start_token_id)

    def logits(inputs: dict, part: slice) -> Tensor:
        return model(**inputs, decoder_input_ids=ids[part].to(model.device)).code_logits[-1].float().cpu()

    return torch.cat(read_texts(model, tokenizer, texts, batch_size, logits)).numpy()

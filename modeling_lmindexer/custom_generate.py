"""The exact fast search behind `generate(custom_generate=constrained_beam_search)`, for any encoder-decoder."""

import torch
from torch import LongTensor, Tensor
from transformers import (
    EosTokenCriteria,
    LogitNormalization,
    MaxLengthCriteria,
    MT5ForConditionalGeneration,
    T5ForConditionalGeneration,
)
from transformers.cache_utils import DynamicCache, EncoderDecoderCache
from transformers.generation import GenerateBeamEncoderDecoderOutput
from transformers.modeling_outputs import BaseModelOutput

from .beam_search import at_prompt, beam_search, best_children
from .logits_process import PrefixTreeLogitsProcessor
from .packed_weights import linear_map
from .prefix_tree import PrefixTree
from .search import IDSteps, check_filters
from .shared_attention import SharedStates, can_share
from .t5_decoder import quick_decoder

HEADS = ("full", "codes")


def constrained_beam_search(
    model, input_ids, logits_processor, stopping_criteria, generation_config, head: str = "full", **model_kwargs
) -> LongTensor | GenerateBeamEncoderDecoderOutput:
    """Beam search in a prefix tree, faster than `generate`'s own and with its results.

    ```python
    >>> import torch
    >>> from transformers import T5Config, T5ForConditionalGeneration
    >>> from modeling_lmindexer import PrefixTree, PrefixTreeLogitsProcessor, constrained_beam_search
    >>> t5 = T5Config(vocab_size=50, d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2, decoder_start_token_id=0)
    >>> trie = PrefixTreeLogitsProcessor(PrefixTree.from_sequences([[3, 5], [3, 6], [4, 5]]))
    >>> ids = T5ForConditionalGeneration(t5).eval().generate(
    ...     torch.tensor([[7, 8, 9]]),
    ...     num_beams=3,
    ...     num_return_sequences=3,
    ...     max_new_tokens=2,
    ...     logits_processor=trie,
    ...     custom_generate=constrained_beam_search,
    ... )
    >>> sorted(ids.tolist())
    [[0, 3, 5], [0, 3, 6], [0, 4, 5]]

    ```

    Args:
        model, input_ids, logits_processor, stopping_criteria, generation_config, model_kwargs: from `generate`. Of the
            settings, `num_beams`, `num_return_sequences`, `length_penalty`, `early_stopping`, `max_new_tokens`,
            `pad_token_id`, `renormalize_logits`, `return_dict_in_generate` and `output_scores` count.
        head: `full` for the probabilities among all tokens, as in `generate`; `codes` for those among the tokens that
            the tree has at the position, which a large vocabulary makes much cheaper. Give it to `generate`, too.

    Returns:
        as beam search in transformers. Where a text has fewer sequences than asked for, the last rows are
        `pad_token_id` behind the start token, and their `sequences_scores` -inf.

    Raises:
        ValueError: no [`PrefixTreeLogitsProcessor`] among the processors, or others beside it; a decoder-only model;
            sampling; a stopping criterion of one's own.
    """
    check_call(model, generation_config, stopping_criteria, head, model_kwargs)
    trie = the_trie(logits_processor)
    # transformers has copied every text to its beams by now.
    beams = max(generation_config.num_beams or 1, generation_config.num_return_sequences or 1)
    prompt = input_ids[::beams]
    states = first_state(model_kwargs["encoder_outputs"])[::beams]
    mask = model_kwargs.get("attention_mask")
    mask = None if mask is None else mask[::beams]
    tree = trie.tree.to(input_ids.device).snapshot()
    check_filters(tree, len(prompt))
    if model.config.model_type == "lmindexer":
        steps = IDSteps(model, *model.read(attention_mask=mask, encoder_outputs=states))
    else:
        steps = TokenSteps(model, states, mask, head, tree, trie)
    num_tokens = generation_config.max_length - input_ids.shape[1]
    if trie.eos_token_id is None:
        found, scores = beam_search(
            steps, tree, prompt, beams, num_codes=num_tokens, prompt_length=trie.prompt_length,
            among=tree if generation_config.renormalize_logits else None,
        )  # fmt: skip
        scores = scores / max(found.shape[2], 1) ** generation_config.length_penalty
    else:
        if generation_config.renormalize_logits:
            raise ValueError(
                "Found renormalize_logits=True and sequences that end in a token: constrained_beam_search can "
                "renormalize only those of one length. Unset it, or call generate without custom_generate."
            )
        found, scores = beam_search_to_end(steps, tree, trie, prompt, beams, num_tokens, generation_config)
    return as_generated(prompt, found, scores, trie.prompt_length, generation_config)


def the_trie(processors) -> PrefixTreeLogitsProcessor:
    """The one processor of a call.

    Raises:
        ValueError: there is none, or another one.
    """
    others = [p for p in processors if not isinstance(p, LogitNormalization)]  # which is done here
    if len(others) == 1 and isinstance(others[0], PrefixTreeLogitsProcessor):
        return others[0]
    found = ", ".join(type(p).__name__ for p in others) or "none"
    raise ValueError(
        f"Found the logits processors {found}: constrained_beam_search takes one PrefixTreeLogitsProcessor and "
        "nothing else. Give it as logits_processor, and unset what makes others (in generation_config, such as "
        "forced_eos_token_id or no_repeat_ngram_size)."
    )


def check_call(model, generation_config, stopping_criteria, head: str, model_kwargs: dict) -> None:
    """Raises ValueError for what [`constrained_beam_search`] cannot honour."""
    if not model.config.is_encoder_decoder:
        raise ValueError(
            f"{type(model).__name__} is no encoder-decoder: constrained_beam_search shares what the encoder read. "
            "Call generate without custom_generate; its logits_processor alone constrains any model."
        )
    if head not in HEADS:
        raise ValueError(f"Found head={head!r}: expected one of {', '.join(HEADS)}.")
    if generation_config.do_sample:
        raise ValueError("Found do_sample=True: constrained_beam_search draws nothing. Set do_sample=False.")
    if model_kwargs.get("decoder_attention_mask") is not None:
        raise ValueError("Found decoder_attention_mask: prompts of constrained_beam_search have no padding. Unset it.")
    others = [c for c in stopping_criteria if not isinstance(c, (MaxLengthCriteria, EosTokenCriteria))]
    if others:
        raise ValueError(
            f"Found the stopping criterion {type(others[0]).__name__}: constrained_beam_search ends where the tree "
            "does, or at max_new_tokens. Unset it."
        )


def first_state(encoder_outputs) -> Tensor:
    """The encoder's last states `(rows, tokens, hidden)`, alone or first in a tuple."""
    return encoder_outputs if torch.is_tensor(encoder_outputs) else encoder_outputs[0]


class TokenSteps:
    """Log-probabilities of the next token of any encoder-decoder, a step of [`beam_search`] at a time.

    Args:
        states: of the encoder, `(texts, tokens, hidden)`.
        mask: `(texts, tokens)` or None.
        head: see [`constrained_beam_search`].
    """

    def __init__(self, model, states: Tensor, mask: Tensor | None, head: str, tree: PrefixTree, trie):
        self.model, self.tree, self.trie = model, tree, trie
        decoder = model.get_decoder()
        self.shared = SharedStates(states, mask, can_share(decoder))
        self.cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
        self.decoder, self.is_sliced = quick_decoder(decoder), head == "codes"
        # A model's own forward has the last word on its logits, unless it is known.
        is_known = self.decoder is not decoder and type(model) in (
            T5ForConditionalGeneration,
            MT5ForConditionalGeneration,
        )
        self.head = Head(model) if self.is_sliced or is_known else None
        self.tokens: Tensor | None = None  # of the sliced head's columns, at the current position

    def __call__(self, ids: LongTensor, parents: LongTensor | None) -> Tensor:
        """Log-probabilities `(rows, columns)` of what follows `ids` `(rows, length)`; see [`beam_search`]."""
        if parents is not None:
            self.cache.self_attention_cache.reorder_cache(parents)
        states, mask = self.shared.of_rows(len(ids), self.cache)
        new = ids if parents is None else ids[:, -1:]
        if self.head is None:
            logits = self.model(
                decoder_input_ids=new,
                encoder_outputs=BaseModelOutput(last_hidden_state=states),
                attention_mask=mask,
                past_key_values=self.cache,
                use_cache=True,
            ).logits[:, -1]
            return logits.float().log_softmax(-1)
        hidden = self.decoder(
            input_ids=new,
            encoder_hidden_states=states,
            encoder_attention_mask=mask,
            past_key_values=self.cache,
            use_cache=True,
        ).last_hidden_state[:, -1]
        if self.is_sliced:
            self.tokens = self.tokens_at(ids.shape[1] - self.trie.prompt_length, ids)
        return self.head(hidden, self.tokens).float().log_softmax(-1)

    def tokens_at(self, level: int, ids: LongTensor) -> LongTensor:
        """The tokens that the tree has at a position, ascending, and the one that ends sequences."""
        tokens = self.tree.codes_at(level, allowed_only=False) if level < self.tree.depth else ids.new_empty(0)
        if self.trie.eos_token_id is None:
            return tokens
        return torch.cat([tokens, ids.new_tensor([self.trie.eos_token_id])]).unique()

    def columns(self, tokens: LongTensor, level: int) -> LongTensor:
        """Columns of the log-probabilities that belong to `tokens`."""
        return torch.searchsorted(self.tokens, tokens) if self.is_sliced else tokens


class Head:
    """Logits of all tokens or of some, as the model's head computes them.

    Raises:
        ValueError: a model without output embeddings, or one that changes its logits afterwards.
    """

    def __init__(self, model):
        self.head, config = model.get_output_embeddings(), model.config.get_text_config(decoder=True)
        if self.head is None or getattr(config, "final_logit_softcapping", None):
            raise ValueError(
                f"The head of {type(model).__name__} is no linear map of the decoder's states: use head='full'."
            )
        self.project = linear_map(self.head)
        self.scale = config.hidden_size**-0.5 if getattr(config, "scale_decoder_outputs", False) else None
        self.bias = getattr(model, "final_logits_bias", None)  # BART and its kin: (1, vocabulary)

    def __call__(self, hidden: Tensor, tokens: LongTensor | None) -> Tensor:
        """Logits `(rows, tokens)` from states `(rows, hidden)` of ascending `tokens`, or of all."""
        hidden = hidden if self.scale is None else hidden * self.scale
        if tokens is None:
            logits = self.project(hidden)
            return logits if self.bias is None else logits + self.bias
        first, last = int(tokens[0]), int(tokens[-1])
        if last - first + 1 == len(tokens):
            tokens = slice(first, last + 1)  # no copy
        bias = None if getattr(self.head, "bias", None) is None else self.head.bias[tokens]
        logits = torch.nn.functional.linear(hidden, self.head.weight[tokens], bias)
        return logits if self.bias is None else logits + self.bias[:, tokens]


def beam_search_to_end(
    steps, tree: PrefixTree, trie, prompt: LongTensor, num_beams: int, num_tokens: int, generation_config
) -> tuple[LongTensor, Tensor]:
    """[`beam_search`] for sequences of different lengths, which end in `trie.eos_token_id`, as transformers ends them.

    Returns:
        tokens `(texts, beams, tokens of the longest)`, padded behind their end, and their scores `(texts, beams)` with
        the length penalty.
    """
    num_texts, level = len(prompt), prompt.shape[1] - trie.prompt_length
    finished = Finished(prompt, num_beams, num_tokens, generation_config)
    ids, parents = prompt, None
    nodes, scores = at_prompt(tree, prompt[:, trie.prompt_length :])
    for length in range(1, num_tokens + 1):
        log_probabilities = steps(ids, parents)
        eos = torch.full_like(nodes, trie.eos_token_id)
        ends = tree.is_terminal(nodes, level)
        ended = scores + log_probabilities.gather(1, steps.columns(eos, level)[:, None]).squeeze(1)
        ended = torch.where(ends, ended, -torch.inf)
        candidates = [(torch.cat([ids, eos[:, None]], dim=1), ended)]
        beams = None
        if level < tree.depth:
            beams = best_children(tree, nodes, level, scores, log_probabilities, steps.columns, num_texts, num_beams)
        if beams is not None:
            parents, nodes, scores = beams.parents.flatten(), beams.nodes.flatten(), beams.scores.flatten()
            ids = torch.cat([ids[parents], beams.codes.view(-1, 1)], dim=1)
            candidates.append((ids, scores))
        running = scores.unflatten(0, (num_texts, -1)) if beams is not None else None
        if finished.take(candidates, running, length) or beams is None:
            break
        level += 1
    found = finished.tokens[:, :, prompt.shape[1] :]
    longest = int((found != finished.pad).any(1).any(0).sum())
    return found[:, :, :longest], finished.scores


class Finished:
    """The best ended sequences of each text, kept as transformers' beam search keeps them.

    Attributes:
        tokens: `(texts, beams, prompt and num_tokens)`.
        scores: with the length penalty `(texts, beams)`, -inf where nothing has ended.
    """

    def __init__(self, prompt: LongTensor, num_beams: int, num_tokens: int, generation_config):
        self.settings, self.num_beams, self.num_tokens = generation_config, num_beams, num_tokens
        shape, self.pad = (len(prompt), num_beams), pad_token(generation_config)
        self.tokens = prompt.new_full((*shape, prompt.shape[1] + num_tokens), self.pad)
        self.scores = torch.full(shape, -torch.inf, device=prompt.device)
        self.open = torch.ones(len(prompt), dtype=torch.bool, device=prompt.device)

    def take(self, candidates: list, running: Tensor | None, length: int) -> bool:
        """Takes the ended ones among the best `num_beams` of a step; returns whether the search is over.

        Args:
            candidates: ended rows, then those that go on, if any: tokens and scores `(rows,)` of each.
            running: scores of those that go on `(texts, beams)`.
            length: tokens behind the prompt.
        """
        num_texts, is_last = len(self.open), length == self.num_tokens
        widths = [len(scores) // num_texts for _, scores in candidates]
        tokens = torch.cat([rows.unflatten(0, (num_texts, -1)) for rows, _ in candidates], dim=1)
        scores = torch.cat([scores.unflatten(0, (num_texts, -1)) for _, scores in candidates], dim=1)
        scores, order = scores.sort(dim=1, descending=True, stable=True)
        scores, order = scores[:, : self.num_beams], order[:, : self.num_beams]
        penalty = self.settings.length_penalty
        ends = self.open[:, None] & (is_last | (order < widths[0]))
        scores = torch.where(ends, scores / length**penalty, -torch.inf)
        tokens = tokens.gather(1, order[:, :, None].expand(-1, -1, tokens.shape[2]))
        tokens = torch.nn.functional.pad(tokens, (0, self.tokens.shape[2] - tokens.shape[2]), value=self.pad)
        merged = torch.cat([self.scores, scores], dim=1)
        self.scores, order = merged.sort(dim=1, descending=True, stable=True)
        self.scores, order = self.scores[:, : self.num_beams], order[:, : self.num_beams]
        tokens = torch.cat([self.tokens, tokens], dim=1)
        self.tokens = tokens.gather(1, order[:, :, None].expand(-1, -1, tokens.shape[2]))
        if is_last or running is None:
            return True
        full = (self.scores > -torch.inf).all(1)
        never = self.settings.early_stopping == "never" and penalty > 0
        best = running.amax(1) / (self.num_tokens if never else length) ** penalty
        self.open = self.open & (~full | (best > self.scores[:, -1])) & (best > -torch.inf)
        if self.settings.early_stopping is True:
            self.open = self.open & ~full
        return not bool(self.open.any())


def pad_token(generation_config) -> int:
    """The token of fillers and of what is behind the end."""
    pad = generation_config.pad_token_id
    return 0 if pad is None else int(pad)


def as_generated(prompt: LongTensor, found: LongTensor, scores: Tensor, prompt_length: int, generation_config):
    """What `generate` returns, from tokens `(texts, beams, tokens)` and scores `(texts, beams)`; best first."""
    number, pad = generation_config.num_return_sequences or 1, pad_token(generation_config)
    scores, order = scores.sort(dim=1, descending=True, stable=True)
    scores, order = scores[:, :number], order[:, :number]
    found = found.gather(1, order[:, :, None].expand(-1, -1, found.shape[2]))
    missing = number - scores.shape[1]
    scores = torch.nn.functional.pad(scores, (0, missing), value=-torch.inf)
    found = torch.nn.functional.pad(found, (0, 0, 0, missing), value=pad)
    sequences = torch.cat([prompt[:, None].expand(-1, number, -1), found], dim=2)
    sequences[:, :, prompt_length:].masked_fill_((scores == -torch.inf)[:, :, None], pad)
    sequences, scores = sequences.flatten(0, 1), scores.flatten()
    if not generation_config.return_dict_in_generate:
        return sequences
    return GenerateBeamEncoderDecoderOutput(
        sequences=sequences, sequences_scores=scores if generation_config.output_scores else None
    )

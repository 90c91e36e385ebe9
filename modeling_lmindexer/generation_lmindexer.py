"""`generate` of an indexer: settings that suit IDs, and fillers that are told from results."""

import copy

import torch
from torch import BoolTensor, LongTensor
from transformers import GenerationConfig, GenerationMixin, LogitsProcessor, LogitsProcessorList
from transformers.modeling_outputs import BaseModelOutput
from transformers.utils import ModelOutput, logging

from .custom_generate import constrained_beam_search
from .logits_process import PrefixTreeLogitsProcessor
from .packed_weights import pack_weights
from .prefix_tree import PrefixTree

logger = logging.get_logger(__name__)

# What samples, or takes valid codes away from sampling, and the value that does neither.
SAMPLING_SETTINGS = {
    "do_sample": False,
    "temperature": 1.0,
    "top_k": 50,  # transformers' default; all codes when sampling, see settle
    "top_p": 1.0,
    "top_h": None,
    "min_p": None,
    "typical_p": 1.0,
    "epsilon_cutoff": 0.0,
    "eta_cutoff": 0.0,
    "penalty_alpha": None,
}


class LMIndexerGenerationMixin(GenerationMixin):
    """Generation of [`LMIndexerForSemanticID`]."""

    # For users without this package: custom_generate=model.constrained_beam_search, model.pack_weights().
    constrained_beam_search = staticmethod(constrained_beam_search)
    pack_weights = pack_weights

    def prepare_inputs_for_generation(
        self, input_ids, past_key_values=None, attention_mask=None, encoder_outputs=None, use_cache=None, **kwargs
    ) -> dict:
        """The whole prefix at every step: what earlier codes explain of the text is part of each position's input.

        Args:
            input_ids: start and flat ids `(rows, 1 + positions)`.
            past_key_values, attention_mask, encoder_outputs, use_cache, kwargs: as `generate` passes them.
        """
        return {
            "decoder_input_ids": self.within_positions(input_ids),
            "past_key_values": past_key_values,
            "attention_mask": attention_mask,
            "encoder_outputs": encoder_outputs,
            "use_cache": use_cache,
        }

    def within_positions(self, input_ids: LongTensor) -> LongTensor:
        """`input_ids` `(rows, 1 + positions)` with ids of other positions replaced: rows that no ID continues."""
        columns = [input_ids[:, :1]]
        for t in range(input_ids.shape[1] - 1):
            first = self.config.position_offsets[t]
            columns.append(input_ids[:, t + 1 : t + 2].clamp(first, first + self.config.position_sizes[t] - 1))
        return torch.cat(columns, dim=1)

    @torch.no_grad()
    def generate(self, inputs=None, generation_config=None, logits_processor=None, **kwargs):
        """As in transformers; `logits_processor` may also be a single processor, such as a prefix tree's.

        Sampling settings are taken from the call only: what a model folder's `generation_config` has of them is left
        out, with a warning. With a [`PrefixTreeLogitsProcessor`] there are never more beams than IDs. Where a text has
        fewer IDs than another one, because of its filter or its prefix in `decoder_input_ids`, its last rows are zeros
        behind the start id, and their `sequences_scores` -inf.

        Returns:
            flat ids `(batch * num_return_sequences, 1 + positions)`, the start id first, or a `ModelOutput`.

        Raises:
            ValueError: the prefix tree is that of other codebooks, or `decoder_input_ids` are of other positions.
        """
        if isinstance(logits_processor, LogitsProcessor):
            logits_processor = LogitsProcessorList([logits_processor])
        if kwargs.get("encoder_outputs") is None:
            # Encoded here and not by transformers, so that long and left-padded inputs are treated as in forward.
            input_ids = kwargs.pop("input_ids", inputs)
            states, mask = self.encode(
                input_ids, kwargs.pop("attention_mask", None), kwargs.pop("inputs_embeds", None)
            )
            kwargs |= {"encoder_outputs": BaseModelOutput(last_hidden_state=states), "attention_mask": mask}
            inputs = None
        kwargs.pop("token_type_ids", None)
        call = CallSettings(self.generation_config, generation_config, kwargs)
        self.settle(call)
        tries = [p for p in logits_processor or [] if isinstance(p, PrefixTreeLogitsProcessor)]
        if not tries:
            if kwargs.get("decoder_input_ids") is not None:
                self.codebooks.check_ids(kwargs["decoder_input_ids"][:, 1:])
            return super().generate(inputs, call.config, logits_processor=logits_processor, **kwargs)
        for trie in tries:
            self.check_tree(trie.tree)
            limit_beams(trie.tree, call)
        if call.get("do_sample") or (call.get("num_beams") or 1) == 1:
            logits_processor = [survivor(p, self.config.pad_token_id) for p in logits_processor]
        output = super().generate(
            inputs, call.config, logits_processor=LogitsProcessorList(logits_processor), **kwargs
        )
        return without_fillers(output, tries, call, self.config.pad_token_id)

    def settle(self, call: "CallSettings") -> None:
        """Fills in what a call leaves open, as it suits IDs."""
        leftovers = call.leftovers(SAMPLING_SETTINGS)
        if leftovers:
            logger.warning_once(
                f"generation_config has settings for sampling, {leftovers}, which would leave out valid IDs: they are "
                "ignored. Give them to generate to use them."
            )
        # Sampling draws from all codes; transformers' default of 50 would drop most of a codebook.
        if call.given("do_sample"):
            call.set_default("top_k", 0)
        for name in leftovers:
            call.set_default(name, SAMPLING_SETTINGS[name])
        if call.given("max_new_tokens") is None and call.given("max_length") is None:
            prompt = call.kwargs.get("decoder_input_ids")
            call.set_default("max_new_tokens", self.config.id_length - (0 if prompt is None else prompt.shape[1] - 1))
        # An ID's score is its log-probability: every ID is equally long.
        if (call.get("num_beams") or 1) > 1:
            call.set_default("length_penalty", 0.0)

    def check_tree(self, tree: PrefixTree) -> None:
        """Raises ValueError when the codes of a tree are not those of their positions in this model."""
        config = self.config
        positions = list(zip(config.position_offsets, config.position_sizes, strict=True))
        if tree.depth > len(positions) or not all(
            first <= low and high < first + size
            for (low, high), (first, size) in zip(tree.code_ranges, positions, strict=False)
        ):
            raise ValueError(
                f"The prefix tree does not fit the model: its positions have flat ids within {tree.code_ranges}, the "
                f"model has {config.position_sizes} codes per position, with flat ids from "
                f"{config.position_offsets} on. Load both from one folder."
            )


class CallSettings:
    """The settings of one call of `generate`: its arguments, or its `generation_config`, before the model's own.

    Args:
        own: the model's `generation_config`.
        config: the call's, or None; copied.
        kwargs: the call's other arguments; what is set goes there when there is no `config`.
    """

    def __init__(self, own: GenerationConfig, config: GenerationConfig | None, kwargs: dict):
        self.own, self.config, self.kwargs = own, copy.deepcopy(config), kwargs

    def given(self, name: str):
        """What the call says, None where it says nothing."""
        if name in self.kwargs:
            return self.kwargs[name]
        return getattr(self.config, name, None)

    def get(self, name: str):
        """What counts: what the call says, or else the model."""
        value = self.given(name)
        return getattr(self.own, name, None) if value is None else value

    def leftovers(self, settings: dict) -> dict:
        """Those of the model's own values of `settings` that are not neutral, where the call says nothing."""
        own = {name: getattr(self.own, name, None) for name in settings if self.given(name) is None}
        return {name: value for name, value in own.items() if value not in (None, settings[name])}

    def set_default(self, name: str, value) -> None:
        """Sets what the call leaves open."""
        if self.given(name) is None:
            self.set(name, value)

    def set(self, name: str, value) -> None:
        if self.config is None or name in self.kwargs:
            self.kwargs[name] = value
        else:
            setattr(self.config, name, value)


def survivor(processor: LogitsProcessor, pad_token_id: int) -> LogitsProcessor:
    """The processor, with a token for rows that have none left; sampling would fail for them."""
    if not isinstance(processor, PrefixTreeLogitsProcessor) or processor.pad_token_id is not None:
        return processor
    processor = copy.copy(processor)
    processor.pad_token_id = pad_token_id
    return processor


def limit_beams(tree: PrefixTree, call: CallSettings) -> None:
    """Lowers `num_beams` and `num_return_sequences` to the number of IDs that any text can have."""
    asked = {name: call.get(name) or 1 for name in ("num_beams", "num_return_sequences")}
    if call.get("do_sample"):
        del asked["num_return_sequences"]  # the same ID may be drawn again
    if max(asked.values()) == 1:
        return
    prefixes = call.kwargs.get("decoder_input_ids")
    if prefixes is None or prefixes.shape[1] == 1:
        most = len(tree)
    else:
        most = most_continuations(tree, prefixes[:, 1:].to(tree.device), max(asked.values()))
    for name, number in asked.items():
        if number > max(most, 1):
            logger.warning_once(f"{name}={number} was lowered to {max(most, 1)}: there are no more documents.")
            call.set(name, max(most, 1))


def most_continuations(tree: PrefixTree, prefixes: LongTensor, enough: int) -> int:
    """The largest number of IDs that start with one of the prefixes `(texts, positions)`; counts up to `enough`."""
    tree, num_texts = tree.snapshot(), len(prefixes)
    nodes, most = tree.walk(prefixes)[:, None], 0  # (texts, most)
    for level in range(prefixes.shape[1], tree.depth):
        rows, _, children = tree.expand(nodes.flatten(), level)
        texts = rows // nodes.shape[1]
        counts = texts.bincount(minlength=num_texts)
        most = int(counts.max())
        # Every node has an ID below it, so that there are as many at the end.
        if most == 0 or most >= enough:
            return most
        nodes = children.new_full((num_texts, most), -1)
        nodes[texts, torch.arange(len(texts), device=texts.device) - (counts.cumsum(0) - counts)[texts]] = children
    return most


def without_fillers(output, tries: list[PrefixTreeLogitsProcessor], call: CallSettings, pad_token_id: int):
    """The output of `generate`, with what is no result flagged: zeros behind the start id, and a score of -inf.

    Beam search fills up with repetitions and impossible rows when a text has fewer IDs than there are beams.
    """
    sequences = output.sequences if isinstance(output, ModelOutput) else output
    # Sampled rows are independent of each other, and may be the same.
    unique = not call.get("do_sample") or (call.get("num_beams") or 1) > 1
    group = call.get("num_return_sequences") or 1
    fillers = ~torch.stack([are_results(trie, sequences, group if unique else 1) for trie in tries]).all(0)
    sequences[fillers, 1:] = pad_token_id
    if isinstance(output, ModelOutput) and output.get("sequences_scores") is not None:
        output.sequences_scores[fillers] = -torch.inf
    return output


def are_results(trie: PrefixTreeLogitsProcessor, sequences: LongTensor, group: int) -> BoolTensor:
    """Which of `sequences` `(rows, 1 + codes)`, `group` of each text, are allowed prefixes and no repetition."""
    tree, codes = trie.tree.to(sequences.device).snapshot(), sequences[:, trie.prompt_length :]
    nodes = tree.walk(codes)
    alive = tree.is_alive(nodes, codes.shape[1])
    nodes = nodes.view(-1, group)  # (texts, group); one node is one ID
    repeats = (nodes[:, :, None] == nodes[:, None]).tril(-1).any(-1)
    return alive & ~repeats.flatten()

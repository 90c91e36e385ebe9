"""The semantic indexer: a language model that reads a document and writes its semantic ID."""

import os

import torch
from torch import nn
from torch.nn import functional as F
from transformers import AutoConfig, AutoModel
from transformers.cache_utils import Cache
from transformers.modeling_outputs import BaseModelOutput
from transformers.utils import logging

from .backbones import backbone_kind, encode_text
from .code_choice import CodeChoice, balanced_codes
from .codebooks import Codebooks, straight_through
from .configuration_lmindexer import LMIndexerConfig
from .document_vectors import DocumentVectors
from .generation_lmindexer import LMIndexerGenerationMixin
from .index_rules import check_disambiguation
from .logits_process import PrefixTreeLogitsProcessor
from .outputs import LMIndexerOutput, ReconstructionOutput, SearchOutput
from .prefix_tree import PrefixTree
from .pretrained import LMIndexerPreTrainedModel, id_generation_config
from .reconstructor import Reconstructor
from .search import IDSteps, search_documents
from .semantic_index import SemanticIndex

logger = logging.get_logger(__name__)


class LMIndexerForSemanticID(LMIndexerPreTrainedModel, LMIndexerGenerationMixin):
    """Reads text, writes semantic IDs: `h^t = Decoder(Encoder(d), c^{<t})`, `P(c^t) = softmax(similarity(h^t, E^t))`.

    ```python
    >>> from transformers import T5Config
    >>> from modeling_lmindexer import LMIndexerConfig, LMIndexerForSemanticID
    >>> t5 = T5Config(vocab_size=100, d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2)
    >>> config = LMIndexerConfig(backbone_config=t5, codebook_sizes=[4, 4], num_disambiguation_codes=2)
    >>> model = LMIndexerForSemanticID(config).eval()
    >>> model.assign(input_ids=torch.tensor([[5, 6, 7]])).shape
    torch.Size([1, 2])

    ```
    """

    def __init__(self, config: LMIndexerConfig):
        super().__init__(config)
        self.backbone = AutoModel.from_config(config.backbone_config)
        self.decoder = backbone_kind(config).build_decoder(config)
        self.codebooks = Codebooks(config)
        self.reconstructor = Reconstructor(config) if config.num_reconstructor_layers else None
        self.generation_config = id_generation_config(config)
        self.post_init()

    @classmethod
    def from_backbone(cls, name_or_path: str, *, trust_remote_code: bool = False, **config_values):
        """A new indexer on a pretrained backbone: T5, BART, BERT, a sentence encoder, ...

        Args:
            name_or_path: folder or Hub repository of the backbone.
            trust_remote_code: for backbones whose code is in their repository.
            config_values: of [`LMIndexerConfig`], such as `codebook_sizes`.
        """
        backbone_config = AutoConfig.from_pretrained(name_or_path, trust_remote_code=trust_remote_code)
        model = cls(LMIndexerConfig(backbone_config=backbone_config, **config_values))
        backbone = AutoModel.from_pretrained(
            name_or_path, config=backbone_config, dtype=torch.float32, trust_remote_code=trust_remote_code
        )
        # In full precision, whatever the checkpoint's: an indexer is about to be trained.
        model.float().backbone.load_state_dict(backbone.state_dict())
        if os.path.exists(name_or_path):  # where it lies on this computer is nothing to publish
            model.config.backbone_config._name_or_path = model.backbone.config._name_or_path = ""
        return model

    def get_input_embeddings(self) -> nn.Module:
        """The backbone's token embeddings."""
        return self.backbone.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replaces the backbone's token embeddings."""
        self.backbone.set_input_embeddings(value)

    def resize_token_embeddings(
        self, new_num_tokens: int | None = None, pad_to_multiple_of: int | None = None, mean_resizing: bool = True
    ) -> nn.Module:
        """As in transformers, of the words that texts are made of; `config.vocab_size` counts the codes of IDs.

        Raises:
            ValueError: there is a reconstructor, whose output layer belongs to the words there are.
        """
        if new_num_tokens is None:
            return self.get_input_embeddings()
        if self.reconstructor is not None:
            raise ValueError(
                "The reconstructor predicts the words that there are: load the model with num_reconstructor_layers=0, "
                "or call model.drop_reconstructor(), before new ones are added."
            )
        embeddings = self.backbone.resize_token_embeddings(new_num_tokens, pad_to_multiple_of, mean_resizing)
        self.config.backbone_config.vocab_size = embeddings.num_embeddings
        return embeddings

    def get_encoder(self, modality=None) -> nn.Module:
        """The backbone's encoder."""
        return self.backbone.get_encoder() if self.config.backbone_config.is_encoder_decoder else self.backbone

    def encode(self, input_ids=None, attention_mask=None, inputs_embeds=None) -> tuple[torch.Tensor, torch.Tensor]:
        """Encoder states and the mask that goes with them: `(batch, tokens, hidden)`, `(batch, tokens)`.

        Args:
            input_ids: text `(batch, tokens)`; longer than `max_source_length` it is cut, with a warning.
            attention_mask: `(batch, tokens)`; default all ones.
            inputs_embeds: `(batch, tokens, hidden)` instead of `input_ids`.
        """
        if attention_mask is None:
            source = input_ids if inputs_embeds is None else inputs_embeds[..., 0]
            attention_mask = torch.ones(source.shape, dtype=torch.long, device=source.device)
        longest = self.config.max_source_length
        if attention_mask.shape[1] > longest and inputs_embeds is None:
            logger.warning_once(f"An input of {attention_mask.shape[1]} tokens was cut to the model's {longest}.")
            order = attention_mask.ne(1).to(torch.uint8).argsort(dim=1, stable=True)[:, :longest]
            input_ids, attention_mask = input_ids.gather(1, order), attention_mask.gather(1, order)
        return encode_text(self.get_encoder(), input_ids, attention_mask, inputs_embeds), attention_mask

    def read(
        self, input_ids=None, attention_mask=None, inputs_embeds=None, encoder_outputs=None, token_type_ids=None
    ) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
        """Encoder states and their mask: of texts, or computed before.

        Args:
            input_ids, attention_mask, inputs_embeds: as for [`~LMIndexerForSemanticID.encode`].
            encoder_outputs: states `(batch, tokens, hidden)` computed before, alone or first in a tuple.
            token_type_ids: have no effect.
        """
        if encoder_outputs is None:
            return self.encode(input_ids, attention_mask, inputs_embeds)
        states = encoder_outputs if torch.is_tensor(encoder_outputs) else encoder_outputs[0]
        states = states.to(self.dtype)  # a cache keeps them in single precision
        if attention_mask is None:
            attention_mask = torch.ones(states.shape[:2], dtype=torch.long, device=states.device)
        return states, attention_mask

    def decode(self, decoder_input_ids, encoder_states, encoder_mask, cache=None, use_cache=False):
        """`h` of the positions of `decoder_input_ids` that are not cached.

        Args:
            decoder_input_ids: start and flat ids `(batch, positions)`.
            encoder_states: `(batch, tokens, hidden)`.
            encoder_mask: `(batch, tokens)`.
            cache: of the first positions.
            use_cache: whether there is to be one of these.

        Returns:
            `h` `(batch, positions, hidden)`, the code vectors that went into it, and the cache.

        Raises:
            ValueError: more positions than an ID has.
        """
        if decoder_input_ids.shape[1] > self.config.id_length:
            raise ValueError(
                f"An ID has {self.config.id_length} positions, asked for {decoder_input_ids.shape[1]}: set "
                f"max_new_tokens to at most {self.config.id_length}."
            )
        kind = backbone_kind(self.config)
        pooled = kind.pooled(self.config, encoder_states, encoder_mask)
        # What a cache holds need not be embedded again, unless the input is what the whole prefix leaves unexplained.
        first = 1 if cache is None or pooled is not None else max(1, int(cache.get_seq_length()))
        prefix = self.codebooks.embed(decoder_input_ids[:, first:], first - 1)
        hidden, cache = kind.decode(self, prefix, encoder_states, encoder_mask, cache, use_cache, pooled)
        return hidden, prefix, cache

    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        decoder_input_ids: torch.LongTensor | None = None,
        decoder_attention_mask: torch.Tensor | None = None,
        encoder_outputs: BaseModelOutput | tuple | torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        decoder_inputs_embeds: torch.Tensor | None = None,
        labels: torch.LongTensor | None = None,
        token_type_ids: torch.LongTensor | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        hint_mask: torch.Tensor | None = None,
        target_weights: torch.Tensor | None = None,
        quantize: bool = False,
        code_choice: CodeChoice | None = None,
        view: str | None = None,
        view_input_ids: torch.LongTensor | None = None,
        view_attention_mask: torch.Tensor | None = None,
        view_encoder_outputs: torch.Tensor | None = None,
    ) -> LMIndexerOutput:
        """
        Args:
            input_ids: text `(batch, tokens)`.
            attention_mask: `(batch, tokens)`.
            decoder_input_ids: start and flat ids of a prefix `(batch, positions)`, whole also when it is cached.
            decoder_attention_mask, decoder_inputs_embeds, output_attentions, output_hidden_states: accepted because
                `generate` and PEFT pass them; an ID has no padding, and its inputs are always codes.
            token_type_ids: accepted because tokenizers make them; a text is one segment.
            encoder_outputs: encoder states computed before, `(batch, tokens, hidden)`, alone or first in a tuple.
            past_key_values: cache of the first positions.
            inputs_embeds: `(batch, tokens, hidden)` instead of `input_ids`.
            labels: flat ids `(batch, positions)`, -100 to ignore: gives the loss of Eq. 14.
            hint_mask: learning an ID: `(batch, tokens)`, true for tokens that the reconstructor sees. Without
                `decoder_input_ids` the reconstructor works alone (its warm-up), and the backbone does not run.
            target_weights: learning an ID: `(batch, tokens)`, above 0 for the hidden tokens to predict.
            quantize: learning an ID: the reconstructor gets the straight-through code of the last position instead
                of `h^t` itself.
            code_choice: learning an ID: which code that is; default the most likely one (Eq. 3).
            view: learning an ID: where the two views for the contrastive loss come from: `identical` (Eq. 9),
                `dropout` (two passes of the text), `decoder_dropout` (one pass of the encoder, two of the decoder),
                `crops`, or `neighbours` (the document and another text that is close to it).
            view_input_ids, view_attention_mask: two parts of every text for `crops`, `(batch, 2, tokens)`; the other
                text for `neighbours`, `(batch, tokens)`.
            view_encoder_outputs: encoder states of the other text computed before, `(batch, tokens, hidden)`.
            use_cache: whether to return a cache, as `generate` asks for.
            return_dict: accepted because `generate` passes it; the output always has names.

        Raises:
            ValueError: `decoder_inputs_embeds`, more positions than an ID has, or `hint_mask` without a reconstructor.
        """
        if decoder_inputs_embeds is not None:
            raise ValueError("decoder_inputs_embeds is not supported: the decoder's inputs are codes.")
        if hint_mask is not None and decoder_input_ids is None:
            return LMIndexerOutput(reconstruction=self.reconstruct(None, input_ids, hint_mask, target_weights))
        states, mask = self.read(input_ids, attention_mask, inputs_embeds, encoder_outputs)
        if decoder_input_ids is None:
            decoder_input_ids = self.shift_right(labels, len(states), states.device)
        hidden, prefix, cache = self.decode(decoder_input_ids, states, mask, past_key_values, bool(use_cache))
        if hint_mask is None:
            return self.predict(hidden, decoder_input_ids, labels, cache, states)

        views = None
        if view == "crops":
            views = self.crop_views(decoder_input_ids, view_input_ids, view_attention_mask)
        elif view is not None:
            other = states, mask
            if view == "neighbours":
                other = self.neighbour_states(view_input_ids, view_attention_mask, view_encoder_outputs)
            elif view == "dropout" and encoder_outputs is None:
                other = self.encode(input_ids, attention_mask)
            second = hidden if view == "identical" else self.decode(decoder_input_ids, *other)[0]
            views = (hidden[:, -1], second[:, -1])
        text = (input_ids, hint_mask, target_weights)
        return self.learn(hidden, prefix, views, text, code_choice or CodeChoice(), quantize)

    def learn(self, hidden, prefix, views, text, choice: CodeChoice, quantize: bool) -> LMIndexerOutput:
        """What the losses look at while the last position is learned.

        Args:
            hidden: `(batch, positions, hidden)`.
            prefix: vectors of the codes before, `(batch, positions - 1, hidden)`.
            views: for the contrastive loss, or None.
            text: `input_ids`, `hint_mask` and `target_weights`, as for `forward`.
            choice, quantize: as `code_choice` and `quantize` for `forward`.
        """
        positions = hidden.shape[1]
        scored = positions if quantize else positions - 1
        code_logits = tuple(self.codebooks.logits(hidden[:, t], t) for t in range(scored))
        code, chosen = hidden[:, -1], None
        if quantize:
            chosen = self.choose_codes(choice, code_logits[-1], prefix, *text)
            code = straight_through(code_logits[-1], self.codebooks.learned[positions - 1].embeddings(), chosen)
        codes = torch.cat([prefix.to(code.dtype), code[:, None]], dim=1)
        return LMIndexerOutput(
            code_logits=code_logits,
            chosen_codes=chosen,
            decoder_last_hidden_state=hidden,
            views=views,
            reconstruction=self.reconstruct(codes, *text),
        )

    @torch.no_grad()
    def choose_codes(self, choice: CodeChoice, logits, prefix, input_ids, hint_mask, target_weights) -> torch.Tensor:
        """The code `(batch,)` that each document stands for while the codebook is learned; see [`CodeChoice`].

        Args:
            choice: how it is chosen.
            logits: `(batch, codes)`.
            prefix: vectors of the codes before, `(batch, positions - 1, hidden)`.
            input_ids, hint_mask, target_weights: as for `forward`.

        Raises:
            ValueError: `expectation` with a reconstructor that predicts tokens one by one.
        """
        if choice.kind == "most_likely":
            return logits.argmax(-1)
        if choice.kind == "balanced":
            return balanced_codes(logits, choice.smoothness, across_processes=choice.across_processes)
        if not self.reconstructor.bag:
            raise ValueError("code_choice='expectation' weighs bags of words: set reconstruction_target='words'.")
        log_probabilities = logits.log_softmax(-1)
        scores, candidates = log_probabilities.topk(min(choice.candidates, logits.shape[-1]), dim=-1)
        last = self.codebooks.learned[prefix.shape[1]].embeddings()[candidates]  # (batch, candidates, hidden)
        before = prefix[:, :, None].expand(-1, -1, candidates.shape[1], -1).to(last.dtype)
        training = self.reconstructor.training
        self.reconstructor.eval()  # dropout would not leave out the same of every candidate
        likelihoods = self.reconstructor.log_likelihoods(
            torch.cat([before, last[:, None]], dim=1), self.get_input_embeddings().weight,
            input_ids, hint_mask, target_weights,
        )  # fmt: skip
        self.reconstructor.train(training)
        best = (scores + choice.likelihood_weight * likelihoods).argmax(-1, keepdim=True)
        return candidates.gather(1, best)[:, 0]

    def crop_views(self, decoder_input_ids, view_input_ids, view_attention_mask) -> tuple[torch.Tensor, torch.Tensor]:
        """`h^t` of two parts of every document: `(batch, hidden)` each.

        Args:
            decoder_input_ids: start and flat ids `(batch, positions)`.
            view_input_ids, view_attention_mask: `(batch, 2, tokens)`.
        """
        states, mask = self.encode(view_input_ids.flatten(0, 1), view_attention_mask.flatten(0, 1))
        hidden = self.decode(decoder_input_ids.repeat_interleave(2, dim=0), states, mask)[0][:, -1]
        return hidden[0::2], hidden[1::2]

    def neighbour_states(self, view_input_ids, view_attention_mask, given) -> tuple[torch.Tensor, torch.Tensor]:
        """Encoder states of the other text of every document, and their mask.

        Args:
            view_input_ids, view_attention_mask: `(batch, tokens)`.
            given: the states `(batch, tokens, hidden)`, where they were computed before.
        """
        return self.read(view_input_ids, view_attention_mask, encoder_outputs=given)

    def reconstruct(self, codes, input_ids, hint_mask, target_weights) -> ReconstructionOutput:
        """Predictions for the hidden tokens; see [`Reconstructor`].

        Args:
            codes: `(batch, positions, hidden)`; None while the reconstructor learns alone.
            input_ids, hint_mask, target_weights: as for `forward`.

        Raises:
            ValueError: the model has no reconstructor.
        """
        if self.reconstructor is None:
            raise ValueError(
                "This model was loaded without its reconstructor (num_reconstructor_layers=0): it searches and "
                "fine-tunes, but does not learn IDs. Load it with num_reconstructor_layers=1 to train on."
            )
        return self.reconstructor(codes, self.get_input_embeddings().weight, input_ids, hint_mask, target_weights)

    def predict(self, hidden, decoder_input_ids, labels, cache, states) -> LMIndexerOutput:
        """Logits in the flat id space, and the loss of Eq. 14 when there are labels.

        Args:
            hidden: `h` of the last positions `(batch, new positions, hidden)`.
            decoder_input_ids: start and flat ids `(batch, positions)`.
            labels: flat ids `(batch, positions)`, or None.
            cache, states: of the decoder and of the encoder, for the output.
        """
        first = decoder_input_ids.shape[1] - hidden.shape[1]
        positions = range(first, decoder_input_ids.shape[1])
        code_logits = tuple(self.codebooks.logits(hidden[:, t - first], t) for t in positions)
        logits = hidden.new_full((*hidden.shape[:2], self.config.vocab_size), torch.finfo(hidden.dtype).min)
        loss = None
        for row, (t, scores) in enumerate(zip(positions, code_logits, strict=True)):
            offset = self.config.position_offsets[t]
            logits[:, row, offset : offset + scores.shape[-1]] = scores.to(logits.dtype)
            if labels is not None:
                target = torch.where(labels[:, t] == -100, -100, labels[:, t] - offset)
                term = F.cross_entropy(scores.float(), target, ignore_index=-100, reduction="sum")
                loss = term if loss is None else loss + term
        return LMIndexerOutput(
            loss=None if loss is None else loss / len(labels),
            logits=logits,
            code_logits=code_logits,
            decoder_last_hidden_state=hidden,
            past_key_values=cache,
            encoder_last_hidden_state=states,
        )

    def shift_right(self, labels: torch.Tensor | None, batch_size: int, device) -> torch.Tensor:
        """Decoder inputs: the start id, then all but the last label.

        Args:
            labels: flat ids `(batch, positions)`, -100 to ignore; None for the start alone.
            batch_size: rows.
            device: of the result.

        Raises:
            ValueError: more labels than an ID has positions.
        """
        start = torch.full((batch_size, 1), self.config.decoder_start_token_id, dtype=torch.long, device=device)
        if labels is None:
            return start
        if labels.shape[1] > self.config.id_length:
            raise ValueError(f"labels have {labels.shape[1]} positions, an ID has {self.config.id_length}.")
        offsets = torch.tensor(self.config.position_offsets[: labels.shape[1] - 1], device=labels.device)
        return torch.cat([start, torch.where(labels[:, :-1] == -100, offsets, labels[:, :-1])], dim=1)

    def prepare_decoder_input_ids_from_labels(self, labels: torch.Tensor) -> torch.Tensor:
        """Decoder inputs of `labels`, for `DataCollatorForSeq2Seq`."""
        return self.shift_right(labels, len(labels), labels.device)

    @torch.no_grad()
    def assign(self, input_ids=None, attention_mask=None, encoder_outputs=None) -> torch.LongTensor:
        """The IDs of texts: at every learned position the most likely code after the codes before it (Eq. 3).

        Args:
            input_ids: `(batch, tokens)`.
            attention_mask: `(batch, tokens)`.
            encoder_outputs: encoder states computed before.

        Returns:
            flat ids `(batch, learned positions)`; the disambiguation position, or another code where an ID is taken,
            is the index's to give.
        """
        states, attention_mask = self.read(input_ids, attention_mask, encoder_outputs=encoder_outputs)
        ids = self.shift_right(None, len(states), states.device)
        steps = IDSteps(self, states, attention_mask, greedy=True)
        for t in range(self.config.num_learned_positions):
            codes = steps.logits(ids, is_known=t > 0).argmax(-1, keepdim=True)
            ids = torch.cat([ids, codes + self.config.position_offsets[t]], dim=1)
        return ids[:, 1:]

    def search(
        self, *, index: SemanticIndex, num_beams: int = 20, top_k: int = 10, allowed=None,
        rescoring: DocumentVectors | None = None, output_beams: bool = False, **inputs,
    ) -> SearchOutput:  # fmt: skip
        """The documents that texts point at: beam search over the IDs of `index`.

        Args:
            index: whose documents are searched.
            num_beams: width of the search; no more IDs than that are found.
            top_k: IDs per text, at most `num_beams`.
            allowed: the documents to search: their ids, or a mask `(documents,)`; or one of these per text.
            rescoring: vectors of the documents, whose weighted cosine is added to the scores.
            output_beams: also return the prefixes that the beam held after each position.
            inputs: `input_ids` and `attention_mask` `(texts, tokens)`, or `encoder_outputs`.

        Returns:
            documents per text, best first; their scores, log-probabilities; and flat ids `(texts, IDs, positions)`.

        Raises:
            ValueError: the index is that of other codebooks, or a filter does not fit it.
        """
        return search_documents(
            self, index, inputs, num_beams=num_beams, top_k=top_k, allowed=allowed, rescoring=rescoring,
            output_beams=output_beams,
        )  # fmt: skip

    def resize_disambiguation(self, num_codes: int) -> None:
        """Grows the last position to `num_codes`; the new codes score like an untrained one.

        Raises:
            ValueError: fewer codes than there are, or no such position.
        """
        head = self.codebooks.disambiguation
        check_disambiguation(self.config.has_disambiguation)
        if num_codes < len(head.weight):
            raise ValueError(
                f"The disambiguation position has {len(head.weight)} codes; it cannot shrink to {num_codes}."
            )
        head.weight = nn.Parameter(
            F.pad(head.weight.data, (0, 0, 0, num_codes - len(head.weight))), head.weight.requires_grad
        )
        self.config.num_disambiguation_codes = num_codes

    def drop_disambiguation(self) -> None:
        """Leaves the last position out: IDs are the learned codes alone, as after [`trainers.reassignment`]."""
        self.codebooks.disambiguation = None
        self.config.num_disambiguation_codes = 0
        self.generation_config.max_new_tokens = self.config.id_length

    def drop_reconstructor(self) -> None:
        """Leaves the reconstructor out: a model that searches and fine-tunes does not need it."""
        self.reconstructor = None
        self.config.num_reconstructor_layers = 0

    @staticmethod
    def load_prefix_tree(name_or_path: str | os.PathLike, **hub_kwargs) -> PrefixTreeLogitsProcessor:
        """The logits processor of a model folder, for users without this package.

        Args:
            name_or_path: folder or Hub repository.
            hub_kwargs: `revision`, `token`, `cache_dir`, `local_files_only`, `subfolder`.
        """
        return PrefixTreeLogitsProcessor(PrefixTree.from_pretrained(name_or_path, **hub_kwargs))

    @staticmethod
    def load_index(name_or_path: str | os.PathLike, **hub_kwargs) -> SemanticIndex:
        """The document index of a model folder, for users without this package.

        Args:
            name_or_path: folder or Hub repository.
            hub_kwargs: `revision`, `token`, `cache_dir`, `local_files_only`, `subfolder`.
        """
        return SemanticIndex.from_pretrained(name_or_path, **hub_kwargs)

    @staticmethod
    def load_document_vectors(name_or_path: str | os.PathLike, index: SemanticIndex, **hub_kwargs) -> DocumentVectors:
        """The vectors of an index's documents in a model folder, for users without this package.

        Args:
            name_or_path: folder or Hub repository.
            index: the folder's.
            hub_kwargs: `revision`, `token`, `cache_dir`, `local_files_only`, `subfolder`.
        """
        return DocumentVectors.from_pretrained(name_or_path, index, **hub_kwargs)


LMIndexerConfig.register_for_auto_class()
LMIndexerForSemanticID.register_for_auto_class("AutoModel")

"""Configuration of an LMIndexer: a text backbone, the codebooks of its semantic IDs and the heads around them."""

from itertools import accumulate

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

SIMILARITIES = ("cosine", "dot", "euclidean")
# Temperatures of the code distribution: the paper has none, which suits unnormalised products; cosines live in
# [-1, 1] and need a small one to tell codes apart.
DEFAULT_TEMPERATURES = {"cosine": 0.05, "dot": 1.0, "euclidean": 1.0}
# Of temperatures that are learned: logits of cosines end at 100.
LEAST_TEMPERATURE = 0.01


@strict
class LMIndexerConfig(PreTrainedConfig):
    """Configuration of [`LMIndexerForSemanticID`].

    Args:
        backbone_config: configuration of any Hugging Face encoder-decoder (T5, BART, ...) or encoder (BERT, MPNet,
            ...); a dictionary needs its `model_type`. Default: T5.
        codebook_sizes: one size per learned position, coarse to fine, at least 2 each. Their number is the paper's
            `T` without the disambiguation position; it may be any number from 1.
        num_disambiguation_codes: room of the last position, which tells apart the documents that share all learned
            codes: the largest such group and spare room for documents to come. 0 leaves the position out: an ID is the
            learned codes alone, and no two documents may share all of them.
        similarity: of hidden states and codes, for the clustering that initialises a codebook and for every
            assignment: `cosine`, `dot` (Eq. 2 of the paper) or `euclidean` (logits are minus squared distances).
        code_temperature: divides the similarity; default 0.05 for `cosine`, 1 for the others.
        learn_temperature: whether every codebook learns its temperature, from `code_temperature` on, which is then
            above 0.01.
        pooling: of the encoder's states into one embedding, `mean` or `cls`.
        pooled_input: whether the pooled embedding enters the decoder's input at every position, as far as earlier
            codes do not explain it. Always with an encoder-only backbone; with an encoder-decoder it departs from
            Eq. 1 and helps small models trained from scratch.
        num_decoder_layers: layers of the decoder that this package puts on an encoder-only backbone.
        num_decoder_heads: its attention heads; default the backbone's.
        num_reconstructor_layers: depth of the reconstructor; 0 leaves it out, as in a model that only searches.
        reconstruction_target: `tokens` predicts each hidden token at its place (Eq. 5), `words` the hidden tokens
            of the document as a bag, from one query per document.
        dropout: of the decoder and the reconstructor of this package; the backbone keeps its own.
        max_source_length: longest input in tokens; longer ones are cut with a warning.
        codebook_fingerprint: what the codebooks were when the IDs of the documents were given, see
            [`Codebooks.fingerprint`]; an index made by other codebooks is refused. Default: not known.
        initializer_range: standard deviation of the weights that start at random.
        is_encoder_decoder, pad_token_id, decoder_start_token_id: as `generate` needs them; ids start with 0 and are
            padded with it.
    """

    model_type = "lmindexer"
    sub_configs_defaults = {"backbone_config": SubConfigSpec(AutoConfig, model_type="t5")}

    backbone_config: dict | PreTrainedConfig | None = None
    codebook_sizes: list[int] | tuple[int, ...] = (512, 512)
    num_disambiguation_codes: int = 64
    similarity: str = "cosine"
    code_temperature: float | int | None = None
    learn_temperature: bool = False
    pooling: str = "mean"
    pooled_input: bool = False
    num_decoder_layers: int = 2
    num_decoder_heads: int | None = None
    num_reconstructor_layers: int = 1
    reconstruction_target: str = "tokens"
    dropout: float | int = 0.1
    max_source_length: int = 512
    initializer_range: float = 0.02
    codebook_fingerprint: str | None = None
    is_encoder_decoder: bool = True
    pad_token_id: int | None = 0
    decoder_start_token_id: int | None = 0

    def __post_init__(self, **kwargs):
        if self.backbone_config is None:
            self.backbone_config = AutoConfig.for_model("t5")
        elif isinstance(self.backbone_config, dict):
            values = dict(self.backbone_config)
            if "model_type" not in values:
                raise ValueError(f"backbone_config needs a model_type such as 't5'; it has {sorted(values)}.")
            self.backbone_config = AutoConfig.for_model(values.pop("model_type"), **values)
        self.codebook_sizes = list(self.codebook_sizes)
        if self.code_temperature is None:
            self.code_temperature = DEFAULT_TEMPERATURES.get(self.similarity)
        super().__post_init__(**kwargs)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, **kwargs):
        """As in transformers; a file that holds something else is a ValueError."""
        try:
            return super().from_pretrained(pretrained_model_name_or_path, **kwargs)
        except (TypeError, AttributeError, LookupError, RecursionError) as error:
            raise ValueError(
                f"{pretrained_model_name_or_path} has no readable configuration: {error}. Download it again."
            ) from error

    @classmethod
    def from_dict(cls, config_dict, **kwargs):
        """As in transformers, but a configuration of another model type is an error instead of a warning."""
        found = config_dict.get("model_type", cls.model_type)
        if found != cls.model_type:
            raise ValueError(
                f"This is a checkpoint of type {found!r}, not {cls.model_type!r}. To start an indexer from it, use "
                "LMIndexerForSemanticID.from_backbone(...)."
            )
        try:
            return super().from_dict(config_dict, **kwargs)
        except (TypeError, AttributeError, LookupError, RecursionError) as error:
            raise ValueError(f"This is no configuration of an LMIndexer: {error}. Download it again.") from error

    def validate_codebooks(self):
        """At least one learned position, at least two codes in each, and no negative room at the end."""
        if not self.codebook_sizes:
            raise ValueError("codebook_sizes is empty: give one size per learned position, such as [512, 512].")
        if min(self.codebook_sizes) < 2:
            raise ValueError(
                f"codebook_sizes is {self.codebook_sizes}: a codebook of size {min(self.codebook_sizes)} tells no "
                "documents apart; every size must be at least 2."
            )
        if self.num_disambiguation_codes < 0:
            raise ValueError(
                f"num_disambiguation_codes is {self.num_disambiguation_codes}; it must be at least 1, or 0 for IDs "
                "without a disambiguation position."
            )

    def validate_choices(self):
        """Known names for every option that is a name, and positive numbers."""
        for name, allowed in (
            ("similarity", SIMILARITIES),
            ("pooling", ("mean", "cls")),
            ("reconstruction_target", ("tokens", "words")),
        ):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} is {getattr(self, name)!r}; it must be one of {', '.join(allowed)}.")
        if not self.code_temperature > 0:
            raise ValueError(f"code_temperature is {self.code_temperature}; it must be positive.")
        if self.learn_temperature and not self.code_temperature > LEAST_TEMPERATURE:
            raise ValueError(
                f"code_temperature is {self.code_temperature}; one that is learned must be above {LEAST_TEMPERATURE}."
            )
        for name, least in (("max_source_length", 1), ("num_decoder_layers", 1), ("num_reconstructor_layers", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least {least}.")

    def validate_backbone(self):
        """An encoder-decoder, or an encoder with bidirectional attention."""
        backbone = self.backbone_config
        if not backbone.is_encoder_decoder and backbone.model_type not in MODEL_FOR_MASKED_LM_MAPPING_NAMES:
            raise ValueError(
                f"The backbone's model type is {backbone.model_type!r}; it must be an encoder-decoder (t5, bart, ...) "
                "or a bidirectional encoder (bert, mpnet, ...)."
            )
        for name in ("output_hidden_states", "output_attentions"):  # which transformers takes as they are
            value = getattr(backbone, name, False)
            if not isinstance(value, bool):
                raise ValueError(f"backbone_config has {name}={value!r}; it must be true or false.")
        heads = self.num_decoder_heads
        if heads is not None and not (heads > 0 and self.hidden_size % heads == 0):
            raise ValueError(
                f"num_decoder_heads is {heads}: hidden states of size {self.hidden_size} cannot be shared out to "
                f"{heads} heads."
            )

    @property
    def hidden_size(self) -> int:
        """Width `D` of the backbone's states and of every code."""
        return self.backbone_config.get_text_config(decoder=True).hidden_size

    @property
    def num_hidden_layers(self) -> int:
        """Layers of the decoder: what `generate` sizes its cache by."""
        if self.backbone_config.is_encoder_decoder:
            for name in ("num_decoder_layers", "decoder_layers"):
                if getattr(self.backbone_config, name, None) is not None:
                    return getattr(self.backbone_config, name)
            return self.backbone_config.get_text_config(decoder=True).num_hidden_layers
        return self.num_decoder_layers

    @property
    def num_learned_positions(self) -> int:
        """Positions whose codes are learned from text."""
        return len(self.codebook_sizes)

    @property
    def has_disambiguation(self) -> bool:
        """Whether a last position tells apart the documents that share all learned codes."""
        return self.num_disambiguation_codes > 0

    @property
    def id_length(self) -> int:
        """Positions of an ID: the learned ones and the disambiguation position, if there is one."""
        return self.num_learned_positions + self.has_disambiguation

    @property
    def position_sizes(self) -> list[int]:
        """Codes per position, the disambiguation position last, if there is one."""
        return [*self.codebook_sizes, *([self.num_disambiguation_codes] if self.has_disambiguation else [])]

    @property
    def position_offsets(self) -> list[int]:
        """First flat id of every position: code `j` of position `t` has the flat id `position_offsets[t] + j`."""
        return list(accumulate(self.position_sizes[:-1], initial=1))

    @property
    def vocab_size(self) -> int:
        """Number of flat ids: start (0), which is also the padding, and the codes of all positions."""
        return 1 + sum(self.position_sizes)

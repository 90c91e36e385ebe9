import json

import pytest
from huggingface_hub.errors import StrictDataclassError, StrictDataclassFieldValidationError
from tiny_models import KINDS, tiny_backbone_config
from transformers import AutoConfig, BertConfig, T5Config, logging

from modeling_lmindexer import LMIndexerConfig, LMIndexerForSemanticID


def test_defaults_are_those_of_the_guides():
    config = LMIndexerConfig()
    assert config.backbone_config.model_type == "t5"
    assert config.codebook_sizes == [512, 512]
    assert (config.num_disambiguation_codes, config.similarity, config.pooling) == (64, "cosine", "mean")
    assert config.is_encoder_decoder and config.pad_token_id == config.decoder_start_token_id == 0


@pytest.mark.parametrize(("similarity", "temperature"), [("cosine", 0.05), ("dot", 1.0), ("euclidean", 1.0)])
def test_temperature_depends_on_the_similarity_unless_given(similarity, temperature):
    assert LMIndexerConfig(similarity=similarity).code_temperature == temperature
    assert LMIndexerConfig(similarity=similarity, code_temperature=0.3).code_temperature == 0.3


def test_positions_share_one_flat_id_space():
    config = LMIndexerConfig(codebook_sizes=(4, 5, 2), num_disambiguation_codes=3)
    assert config.codebook_sizes == [4, 5, 2]
    assert (config.num_learned_positions, config.id_length) == (3, 4)
    assert config.position_sizes == [4, 5, 2, 3]
    assert config.position_offsets == [1, 5, 10, 12]
    assert config.vocab_size == 15


def test_ids_of_learned_codes_alone():
    config = LMIndexerConfig(codebook_sizes=[4, 5, 2], num_disambiguation_codes=0)
    assert (config.num_learned_positions, config.id_length, config.has_disambiguation) == (3, 3, False)
    assert (config.position_sizes, config.position_offsets, config.vocab_size) == ([4, 5, 2], [1, 5, 10], 12)
    assert LMIndexerConfig(num_disambiguation_codes=1).has_disambiguation


@pytest.mark.parametrize("kind", KINDS)
def test_sizes_are_those_of_the_backbone(kind):
    """16 wide; the backbones that have a decoder have 2 layers of it, the others get `num_decoder_layers`."""
    config = LMIndexerConfig(backbone_config=tiny_backbone_config(kind), num_decoder_layers=3)
    assert config.hidden_size == 16
    assert config.num_hidden_layers == (2 if config.backbone_config.is_encoder_decoder else 3)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("num_disambiguation_codes", "3"),
        ("num_disambiguation_codes", 3.0),
        ("codebook_sizes", [4, "5"]),
        ("similarity", None),
        ("pooled_input", "yes"),
        ("dropout", "0.1"),
        ("max_source_length", None),
        ("backbone_config", "t5"),
    ],
)
def test_types_are_strict(name, value):
    with pytest.raises(StrictDataclassFieldValidationError, match=name):
        LMIndexerConfig(**{name: value})
    config = LMIndexerConfig()
    with pytest.raises(StrictDataclassFieldValidationError, match=name):
        setattr(config, name, value)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"codebook_sizes": []}, "codebook_sizes is empty: give one size per learned position"),
        ({"codebook_sizes": [8, 1]}, r"codebook_sizes is \[8, 1\]: a codebook of size 1 tells no documents apart"),
        ({"codebook_sizes": [0]}, "every size must be at least 2"),
        ({"num_disambiguation_codes": -1}, "num_disambiguation_codes is -1; it must be at least 1, or 0 for IDs"),
        ({"similarity": "manhattan"}, "similarity is 'manhattan'; it must be one of cosine, dot, euclidean"),
        ({"pooling": "max"}, "pooling is 'max'; it must be one of mean, cls"),
        ({"reconstruction_target": "letters"}, "must be one of tokens, words"),
        ({"code_temperature": 0}, "code_temperature is 0; it must be positive"),
        ({"code_temperature": float("nan")}, "code_temperature is nan"),
        ({"code_temperature": 0.01, "learn_temperature": True}, "one that is learned must be above 0.01"),
        ({"max_source_length": 0}, "max_source_length is 0; it must be at least 1"),
        ({"num_reconstructor_layers": -1}, "num_reconstructor_layers is -1; it must be at least 0"),
        ({"num_decoder_layers": 0}, "num_decoder_layers is 0; it must be at least 1"),
        (
            {"backbone_config": BertConfig(hidden_size=16, num_attention_heads=2), "num_decoder_heads": 3},
            "num_decoder_heads is 3: hidden states of size 16 cannot be shared out",
        ),
        (
            {"backbone_config": {"model_type": "t5", "output_hidden_states": "yes"}},
            "backbone_config has output_hidden_states='yes'; it must be true or false",
        ),
    ],
)
def test_impossible_values_are_named(values, message):
    with pytest.raises(StrictDataclassError, match=message):
        LMIndexerConfig(**values)


@pytest.mark.parametrize("model_type", ["gpt2", "llama", "vit"])
def test_a_backbone_that_cannot_encode_text_is_named(model_type):
    with pytest.raises(StrictDataclassError, match=f"The backbone's model type is '{model_type}'; it must be an enc"):
        LMIndexerConfig(backbone_config=AutoConfig.for_model(model_type))


def test_a_decoder_only_dictionary_is_refused_too():
    with pytest.raises(StrictDataclassError, match="'gpt2'"):
        LMIndexerConfig(backbone_config={"model_type": "gpt2"})


def test_a_backbone_dictionary_needs_its_model_type():
    with pytest.raises(ValueError, match=r"needs a model_type such as 't5'; it has \['d_model'\]"):
        LMIndexerConfig(backbone_config={"d_model": 16})


def test_a_backbone_dictionary_is_left_as_it_was():
    values = {"model_type": "bert", "hidden_size": 32}
    config = LMIndexerConfig(backbone_config=values)
    assert isinstance(config.backbone_config, BertConfig) and config.hidden_size == 32
    assert values == {"model_type": "bert", "hidden_size": 32}


def test_a_change_that_makes_it_invalid_is_not_saved(tmp_path):
    config = LMIndexerConfig()
    config.codebook_sizes = [1]
    with pytest.raises(StrictDataclassError, match="a codebook of size 1"):
        config.save_pretrained(tmp_path)


def test_another_model_type_is_an_error(tmp_path):
    message = r"type 't5', not 'lmindexer'.*LMIndexerForSemanticID.from_backbone"
    with pytest.raises(ValueError, match=message):
        LMIndexerConfig.from_dict({"model_type": "t5"})
    T5Config().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=message):
        LMIndexerConfig.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match=message):
        LMIndexerForSemanticID.from_pretrained(tmp_path)


@pytest.mark.parametrize("kind", KINDS)
def test_round_trip(kind, tmp_path):
    config = LMIndexerConfig(
        backbone_config=tiny_backbone_config(kind),
        codebook_sizes=[3, 4, 5],
        num_disambiguation_codes=7,
        similarity="euclidean",
        code_temperature=2,
        pooling="cls",
        pooled_input=True,
        num_decoder_layers=3,
        num_decoder_heads=4,
        num_reconstructor_layers=0,
        reconstruction_target="words",
        dropout=0,
        max_source_length=9,
    )
    config.save_pretrained(tmp_path)
    loaded = LMIndexerConfig.from_pretrained(tmp_path)
    assert type(loaded.backbone_config) is type(config.backbone_config)
    saved = json.loads((tmp_path / "config.json").read_text())
    assert saved["model_type"] == "lmindexer" and saved["backbone_config"]["model_type"] == kind
    assert (
        loaded.to_dict() == LMIndexerConfig.from_pretrained(tmp_path).to_dict() == LMIndexerConfig(**saved).to_dict()
    )
    for name in saved.keys() - {"backbone_config", "model_type", "transformers_version"}:
        assert getattr(loaded, name) == getattr(config, name), name
    assert loaded.backbone_config.to_diff_dict() == config.backbone_config.to_diff_dict()


def test_building_one_warns_about_nothing(caplog):
    """A field with the name of a generation option, such as `temperature`, makes transformers warn at every model."""
    logging.enable_propagation()
    try:
        LMIndexerForSemanticID(LMIndexerConfig(backbone_config=tiny_backbone_config("t5"), codebook_sizes=[4]))
    finally:
        logging.disable_propagation()
    assert not caplog.records

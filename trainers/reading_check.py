"""Whether a model can read what a tokenizer makes of texts."""

from transformers import PreTrainedTokenizerBase


def check_reading(model, tokenizer: PreTrainedTokenizerBase, length: int, backbone_config=None) -> None:
    """Raises ValueError for a tokenizer with more tokens than the model has, or texts longer than it has places for.

    Args:
        model: with input embeddings.
        tokenizer: that is to be the model's own.
        length: tokens read of a text.
        backbone_config: which may have places; default: none are looked for.
    """
    room = model.get_input_embeddings().num_embeddings
    if len(tokenizer) > room:
        raise ValueError(
            f"The tokenizer has {len(tokenizer)} tokens and the model {room}: give the model's own tokenizer, or call "
            "model.resize_token_embeddings(len(tokenizer))."
        )
    places = getattr(backbone_config, "max_position_embeddings", None)
    if places is not None and length > places:
        raise ValueError(f"Texts of {length} tokens do not fit: the backbone has places for {places}; read fewer.")

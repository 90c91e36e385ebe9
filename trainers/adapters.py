"""Low-rank adapters through PEFT: a task learns in a few weights, beside an indexer that stays as it is."""

from modeling_lmindexer import LMIndexerForSemanticID

# The codes are few, and the task may want them elsewhere.
_WHOLE = "codebooks"


def with_adapter(model: LMIndexerForSemanticID, rank: int, seed: int):
    """PEFT's model around an indexer: adapters on every linear map of encoder and decoder, and codebooks of its own.

    Only these are trained and saved by its `save_pretrained`, so that one indexer serves many tasks;
    `merge_and_unload()` makes a plain indexer of the two. Embeddings stay as they are: tokens that were added for the
    task, as [`add_id_tokens`] does, would neither learn nor be saved.

    Args:
        model: without a reconstructor.
        rank: of the adapters.
        seed: of what is drawn.

    Raises:
        ImportError: peft is not installed.
    """
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError as error:
        raise ImportError("Adapters need peft: pip install lmindexer[adapters]") from error
    from transformers import set_seed

    set_seed(seed)
    config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear", modules_to_save=[_WHOLE])
    return get_peft_model(model, config)

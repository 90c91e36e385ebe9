"""What a downstream run starts from: a trained indexer, or a plain backbone that is to write somebody's IDs."""

import torch
from transformers import AutoConfig, T5Config, set_seed

from modeling_lmindexer import LMIndexerConfig, LMIndexerForSemanticID, SemanticIndex

# Codes that the last position of a new model has, beside those that the index uses, for documents that come later.
_ROOM = 64


def indexer_for(index: SemanticIndex, backbone: str | T5Config, seed: int, **config_values) -> LMIndexerForSemanticID:
    """A new model that writes the IDs of an index; its codebooks are drawn, so that IDs alone make the difference.

    Args:
        index: whatever made it.
        backbone: folder or Hub repository of a pretrained one, or the shape of one to train from scratch.
        seed: of what is drawn.
        config_values: of [`LMIndexerConfig`], such as `max_source_length`.
    """
    set_seed(seed)
    shape = AutoConfig.from_pretrained(backbone) if isinstance(backbone, str) else backbone
    room = index.position_sizes[-1] + _ROOM if index.has_disambiguation else 0
    values = {
        "codebook_sizes": index.codebook_sizes, "num_disambiguation_codes": room, "num_reconstructor_layers": 0,
        "similarity": "dot", "code_temperature": shape.hidden_size**0.5,  # the loss starts as that of even odds
    } | config_values  # fmt: skip
    if isinstance(backbone, str):
        return LMIndexerForSemanticID.from_backbone(backbone, **values)
    model = LMIndexerForSemanticID(LMIndexerConfig(backbone_config=backbone, **values))
    # T5 draws embeddings of norm sqrt(d_model), which Adam's steps would need many epochs to move.
    with torch.no_grad():
        model.get_input_embeddings().weight.mul_(0.05)
    return model

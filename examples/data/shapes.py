"""Shapes of the T5 that the scripts train from scratch where no checkpoint is given; `base` is T5-base's."""

MODEL_SIZES = {
    "tiny": {"d_model": 128, "d_kv": 32, "d_ff": 512, "num_heads": 4, "num_layers": 2, "num_decoder_layers": 2},
    "small": {"d_model": 256, "d_kv": 64, "d_ff": 1024, "num_heads": 4, "num_layers": 4, "num_decoder_layers": 2},
    "base": {"d_model": 768, "d_kv": 64, "d_ff": 3072, "num_heads": 12, "num_layers": 12, "num_decoder_layers": 12},
}

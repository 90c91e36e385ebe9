"""Random models of every kind of backbone, small enough that a forward pass takes a millisecond, and a tokenizer."""

import itertools

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoConfig, PreTrainedConfig, PreTrainedTokenizerFast

from modeling_lmindexer import LMIndexerConfig, LMIndexerForSemanticID

VOCABULARY = 100
_HEADS = {"num_attention_heads": 2, "intermediate_size": 32}
_ENCODER = {"hidden_size": 16, "num_hidden_layers": 1, **_HEADS}
_GEMMA = {"vocab_size": VOCABULARY, "num_key_value_heads": 1, "head_dim": 8, **_ENCODER}
_BACKBONES = {
    "t5": {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_decoder_layers": 2, "num_heads": 2},
    "bart": {
        "d_model": 16,
        "encoder_layers": 1,
        "decoder_layers": 2,
        "encoder_attention_heads": 2,
        "decoder_attention_heads": 2,
        "encoder_ffn_dim": 32,
        "decoder_ffn_dim": 32,
    },
    "t5gemma": {
        "encoder": _GEMMA,
        "decoder": {**_GEMMA, "num_hidden_layers": 2, "cross_attention_hidden_size": 16},
        "dropout_rate": 0.1,
    },
    "bert": _ENCODER,
    "mpnet": _ENCODER,
    "xlm-roberta": _ENCODER,
    "modernbert": {**_ENCODER, "num_hidden_layers": 2, "pad_token_id": 0},
    "distilbert": {"dim": 16, "n_layers": 1, "n_heads": 2, "hidden_dim": 32},
}
KINDS = tuple(_BACKBONES)
SIZES = {"codebook_sizes": [4, 5], "num_disambiguation_codes": 3}


def tiny_backbone_config(kind: str) -> PreTrainedConfig:
    """Configuration of a backbone with 100 tokens and 16 dimensions."""
    return AutoConfig.for_model(kind, vocab_size=VOCABULARY, **_BACKBONES[kind])


def tiny_model(kind: str = "t5", **config) -> LMIndexerForSemanticID:
    """A random model in evaluation mode whose codes matter: by default 4 x 5 learned codes, 3 to tell apart.

    What starts at zero is set to random numbers too; `zeros=True` leaves it.
    """
    zeros = config.pop("zeros", False)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = LMIndexerForSemanticID(LMIndexerConfig(backbone_config=tiny_backbone_config(kind), **(SIZES | config)))
        if not zeros:
            shake(model)
    return model.eval()


@torch.no_grad()
def shake(model: LMIndexerForSemanticID, size: float = 0.3) -> None:
    """Moves every weight a little at random, as training would: nothing is zero any more."""
    for parameter in model.parameters():
        parameter.add_(size * torch.randn_like(parameter))


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """Splits at spaces and knows the words `w2` to `w99`, whose ids are their numbers; 0 is the padding."""
    vocabulary = {"<pad>": 0, "<unk>": 1} | {f"w{i}": i for i in range(2, VOCABULARY)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>")


def tiny_inputs() -> dict[str, torch.Tensor]:
    """Three texts of 7, 5 and 2 tokens, padded on the right."""
    input_ids = torch.randint(5, VOCABULARY - 1, (3, 7), generator=torch.Generator().manual_seed(1))
    attention_mask = (torch.arange(7) < torch.tensor([[7], [5], [2]])).long()
    return {"input_ids": input_ids, "attention_mask": attention_mask}


def all_ids(config: LMIndexerConfig) -> torch.Tensor:
    """Flat ids `(every combination of codes, positions)`, in lexicographic order."""
    starts, sizes = config.position_offsets, config.position_sizes
    ranges = [range(start, start + size) for start, size in zip(starts, sizes, strict=True)]
    return torch.tensor(list(itertools.product(*ranges)))


@torch.no_grad()
def exhaustive_scores(model, sequences: torch.Tensor, input_ids, attention_mask=None) -> torch.Tensor:
    """Log-probabilities `(texts, IDs)` of flat ids `(IDs, positions)`, one ID and one text at a time if need be."""
    decoder_ids = torch.cat([torch.zeros(len(sequences), 1, dtype=torch.long), sequences[:, :-1]], dim=1)
    rows = []
    for i in range(len(input_ids)):
        mask = None if attention_mask is None else attention_mask[i : i + 1].expand(len(sequences), -1)
        logits = model(input_ids[i : i + 1].expand(len(sequences), -1), mask, decoder_ids).logits
        rows.append(logits.log_softmax(-1).gather(-1, sequences[:, :, None])[..., 0].sum(-1))
    return torch.stack(rows)


def beams(model, trie, number=20, **kwargs):
    """IDs `(texts, number, positions)` and scores `(texts, number)`."""
    output = model.generate(
        num_beams=number,
        num_return_sequences=number,
        logits_processor=trie,
        return_dict_in_generate=True,
        output_scores=True,
        **kwargs,
    )
    return output.sequences[:, 1:].unflatten(0, (-1, number)), output.sequences_scores.unflatten(0, (-1, number))


def assert_best(found, found_scores, ids, scores):
    """`found` `(texts, k, positions)` are the `k` best of `ids` by `scores` `(texts, IDs)`, in order."""
    best = scores.topk(found.shape[1])
    torch.testing.assert_close(found_scores, best.values, atol=1e-4, rtol=0)
    for row, places in zip(found, best.indices, strict=True):
        assert set(map(tuple, row.tolist())) == set(map(tuple, ids[places].tolist()))


def decoder_ids(rows=3):
    """Start and two learned codes for the texts of `tiny_inputs`."""
    return torch.tensor([[0, 1, 9], [0, 3, 5], [0, 4, 7]])[:rows]


def learning_inputs(**others):
    """The texts of `tiny_inputs` with about half of their tokens to predict."""
    inputs = tiny_inputs()
    hidden = torch.rand(3, 7) < 0.5
    mask = inputs["attention_mask"].bool()
    return inputs | {"hint_mask": mask & ~hidden, "target_weights": (mask & hidden).float()} | others


def enable_checkpointing(model) -> None:
    """Activation checkpointing: the older name goes with transformers 6, the newer one came after 5.20."""
    enable = "activation_checkpointing_enable"
    getattr(model, enable if hasattr(model, enable) else "gradient_checkpointing_enable")()

"""A small tokenizer trained on the corpus itself, for models that are trained from scratch."""

from collections.abc import Iterable

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

PAD, EOS, UNK = "<pad>", "</s>", "<unk>"  # ids 0, 1 and 2, as in T5
MIN_VOCAB_SIZE = 3 + 256  # the special tokens and one piece per byte
_WORD_BORDERS = r"(?<=[\p{Ll}\p{N}])(?=\p{Lu})|(?<=\p{Lu})(?=\p{Lu}\p{Ll}{2})|_"
_WORDS = r"[\p{L}\p{M}]+|\p{N}+|[^\s\p{L}\p{M}\p{N}]"


def train_tokenizer(
    texts: Iterable[str], vocab_size: int = 6000, model_max_length: int = 512
) -> PreTrainedTokenizerFast:
    """A lower-cased byte-level BPE tokenizer in which the corpus's frequent words are one piece each.

    Identifiers are taken apart (`JSONDecoder.raw_decode` becomes json, decoder, ., raw, decode), and words, numbers
    and signs never share a piece. A sequence ends with `</s>`. BPE over bytes, because its training has no ties that
    depend on the number of threads, as WordPiece's and Unigram's do, and no text is unknown to it.

    Args:
        texts: the documents; gone through once.
        vocab_size: at most so many pieces, at least 259; a small corpus yields fewer.
        model_max_length: tokens at which `truncation=True` cuts a text, `</s>` included.
    """
    if vocab_size < MIN_VOCAB_SIZE:
        raise ValueError(f"vocab_size={vocab_size}: expected at least {MIN_VOCAB_SIZE} (3 special tokens, 256 bytes).")
    tokenizer = Tokenizer(models.BPE(unk_token=UNK))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFKC(), normalizers.Replace(Regex(_WORD_BORDERS), " "), normalizers.Lowercase()]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.WhitespaceSplit(),
            pre_tokenizers.Split(Regex(_WORDS), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=True, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        special_tokens=[PAD, EOS, UNK],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {EOS}", pair=f"$A {EOS} $B {EOS}", special_tokens=[(EOS, tokenizer.token_to_id(EOS))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=EOS,
        unk_token=UNK,
        model_max_length=model_max_length,
        model_input_names=["input_ids", "attention_mask"],
        clean_up_tokenization_spaces=False,
    )

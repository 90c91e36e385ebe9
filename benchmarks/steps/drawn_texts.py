"""Texts of drawn words, for models of any vocabulary and texts of any length."""

import datasets
import numpy as np
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast


def drawn_corpus(number: int, length: int, words: int, *, shortest: float, seed: int) -> datasets.Dataset:
    """Documents with the columns `id` and `text`, their words drawn by Zipf's law.

    Args:
        number: of documents.
        length: words of the longest, which are as many tokens.
        words: that there are.
        shortest: share of `length` that the shortest have; lengths are drawn evenly in between.
        seed: of all draws.
    """
    random = np.random.default_rng(seed)
    shares = 1 / np.arange(1, words + 1)
    lengths = np.round(length * random.uniform(shortest, 1, number)).astype(int)
    drawn = random.choice(words, size=lengths.sum(), p=shares / shares.sum())
    texts = [" ".join(map(str, part)) for part in np.split(drawn, np.cumsum(lengths)[:-1])]
    return datasets.Dataset.from_dict({"id": [f"d{i}" for i in range(number)], "text": texts})


def tokenizer_of(words: int) -> PreTrainedTokenizerFast:
    """One token for each of the drawn words, and padding, which is token 0."""
    vocabulary = {"<pad>": 0} | {str(word): word + 1 for word in range(words)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>")

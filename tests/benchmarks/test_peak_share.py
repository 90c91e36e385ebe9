"""The parts of the benchmark of a GPU's peak: its texts, and the operations that it counts."""

import sys
from pathlib import Path
from unittest.mock import patch

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))
from steps.drawn_texts import drawn_corpus, tokenizer_of
from steps.peak import operations
from steps.setting import Setting

from modeling_lmindexer import word_losses

WORDS = 500


def test_drawn_texts_have_one_token_a_word_and_the_lengths_asked_for():
    corpus, tokenizer = drawn_corpus(64, 20, WORDS, shortest=0.5, seed=0), tokenizer_of(WORDS)
    lengths = np.array([len(ids) for ids in tokenizer(list(corpus["text"]))["input_ids"]])
    assert lengths.min() >= 10 and lengths.max() <= 20 and len(np.unique(lengths)) > 5
    assert not any(tokenizer.pad_token_id in ids for ids in tokenizer(list(corpus["text"]))["input_ids"])


def test_what_is_computed_twice_to_save_memory_counts_once(tmp_path):
    corpus = drawn_corpus(512, 12, WORDS, shortest=1, seed=0)
    found = []
    for at_once in (2**25, 1000):
        setting = Setting(corpus, "tiny", None, "identical", batch_size=4, length=12, output_dir=tmp_path)
        trainer = setting.trainer(tokenizer_of(WORDS), "continuous", 1)
        with patch.object(word_losses, "SCORES_AT_ONCE", at_once):
            found.append(operations(trainer))
    assert found[0] == found[1] > 0

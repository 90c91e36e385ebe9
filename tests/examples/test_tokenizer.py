"""The tokenizer of the corpus: its ids, its words, and that training it twice gives the same one."""

import json
import os
import subprocess
import sys
import time

import pytest
from data import train_tokenizer
from transformers import AutoTokenizer

TEXTS = ["The JSONDecoder decodes; raw_decode returns an index of 12.", "a decoder for the raw index, 12 times"] * 3


@pytest.fixture(scope="module")
def tokenizer(documentation):
    return train_tokenizer(documentation["text"], vocab_size=6000, model_max_length=16)


def pieces(tokenizer, text: str) -> list[str]:
    return [piece.lstrip("Ġ") for piece in tokenizer.tokenize(text)]


def test_special_tokens(tokenizer):
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id) == (0, 1, 2)
    assert tokenizer.convert_ids_to_tokens([0, 1, 2]) == ["<pad>", "</s>", "<unk>"]
    assert len(tokenizer) == 6000
    assert max(tokenizer.get_vocab().values()) == 5999


def test_a_sequence_ends_with_eos_and_is_padded_and_cut(tokenizer):
    batch = tokenizer(["returns the value", "file", "word " * 50], padding=True, truncation=True)
    assert set(batch) == {"input_ids", "attention_mask"}
    assert [len(ids) for ids in batch["input_ids"]] == [16, 16, 16]
    assert [sum(mask) for mask in batch["attention_mask"]] == [4, 2, 16]
    assert [ids[sum(mask) - 1] for ids, mask in zip(*batch.values(), strict=True)] == [1, 1, 1]
    assert batch["input_ids"][1][2:] == [0] * 14
    assert tokenizer("")["input_ids"] == [1]
    assert tokenizer("file", "value")["input_ids"].count(1) == 2


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("raw_decode", ["raw", "decode"]),
        ("__init__", ["init"]),
        ("JSONDecoder.raw_decode", ["json", "decoder", ".", "raw", "decode"]),
        ("HTTPServer2Go", ["http", "server", "2", "go"]),
        ("IPv6", ["ipv", "6"]),
        ("Don't", ["don", "'", "t"]),
    ],
)
def test_identifiers_become_words(tokenizer, text, expected):
    decoded = tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=True)
    assert decoded.split() == expected


def test_frequent_words_are_one_piece(tokenizer):
    words = "the returns function value module command exception connection message encoding decoder socket".split()
    assert pieces(tokenizer, " ".join(words)) == words
    assert pieces(tokenizer, "The RETURNS") == ["the", "returns"]


def test_no_text_is_unknown(tokenizer):
    text = "zyzzyva Ünïcode 漢字 🙂 \x07"
    ids = tokenizer(text)["input_ids"]
    assert tokenizer.unk_token_id not in ids
    assert tokenizer.decode(ids, skip_special_tokens=True).split() == text.lower().split()


def test_words_numbers_and_signs_never_share_a_piece(tokenizer):
    for piece in tokenizer.get_vocab():
        text = piece.lstrip("Ġ")
        if text.isascii() and len(text) > 1 and text not in tokenizer.all_special_tokens:
            assert text.isalpha() or text.isdigit(), piece


def test_saved_and_loaded(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert loaded.get_vocab() == tokenizer.get_vocab()
    texts = ["JSONDecoder.raw_decode", "a longer text " * 10]
    assert dict(loaded(texts, padding=True, truncation=True)) == dict(tokenizer(texts, padding=True, truncation=True))
    assert (loaded.model_max_length, loaded.pad_token_id, loaded.eos_token) == (16, 0, "</s>")


def test_training_again_gives_the_same_on_any_number_of_threads(tokenizer, documentation, examples_folder):
    program = (
        "import json, sys; from data import train_tokenizer;"
        "print(train_tokenizer(json.load(sys.stdin), 6000, 16).backend_tokenizer.to_str())"
    )
    environment = os.environ | {"RAYON_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "PYTHONHASHSEED": "1"}
    result = subprocess.run(
        [sys.executable, "-c", program],
        input=json.dumps(documentation["text"][:]),
        cwd=examples_folder,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    here, there = json.loads(tokenizer.backend_tokenizer.to_str()), json.loads(result.stdout)
    for part in ("normalizer", "pre_tokenizer", "model", "post_processor"):  # padding is what was last asked for
        assert here[part] == there[part], part


def test_small_corpora_and_small_vocabularies():
    start = time.perf_counter()
    tokenizer = train_tokenizer(TEXTS)
    assert time.perf_counter() - start < 5
    assert 259 < len(tokenizer) < 400
    assert pieces(tokenizer, "raw index decoder") == ["raw", "index", "decoder"]
    assert len(train_tokenizer(TEXTS, vocab_size=270)) == 270
    with pytest.raises(ValueError, match="vocab_size=100: expected at least 259"):
        train_tokenizer(TEXTS, vocab_size=100)

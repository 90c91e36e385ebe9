"""Codes of many texts are those of `model.assign`, whatever stands beside a text."""

import numpy as np
import pytest
import torch
from tiny_training import WORDS, tiny_corpus, tiny_indexer, tiny_tokenizer
from tokenizers import processors

from modeling_lmindexer import SemanticIndex
from modeling_lmindexer.document_vectors import DocumentVectors
from modeling_lmindexer.text_codes import assigned_with_scores
from trainers.bulk_assignment import BulkAssigner, UnusableTextError, ahead
from trainers.documents import IndexingDataset


@pytest.fixture(scope="module")
def texts() -> list[str]:
    return list(tiny_corpus(3)["text"])


@pytest.mark.parametrize("kind", ["t5", "bert"])
@pytest.mark.parametrize("tokens_per_batch", [1, 40, 8192])
def test_codes_are_those_of_assign(kind, tokens_per_batch, texts):
    model, tokenizer = tiny_indexer(kind).eval(), tiny_tokenizer()
    assigner = BulkAssigner(model, tokenizer, tokens_per_batch)
    codes = assigner.assign(assigner.tokenize(texts))
    for text, row in zip(texts, codes, strict=True):
        assert (model.assign(**tokenizer(text, return_tensors="pt"))[0].numpy() - [1, 7]).tolist() == row.tolist()
    mapped = assigner({"id": np.arange(len(texts)), "text": np.array(texts, dtype=object)})
    assert np.array_equal(np.column_stack([mapped["c0"], mapped["c1"]]), codes) and list(mapped) == ["id", "c0", "c1"]


def test_batches_keep_to_the_budget_and_hold_every_text(texts):
    assigner = BulkAssigner(tiny_indexer(), tiny_tokenizer(), 60)
    tokens, seen, longest = assigner.tokenize(texts), [], 99
    for rows, input_ids, mask in assigner.batches(tokens):
        assert input_ids.numel() <= 60 and input_ids.shape[1] <= longest
        longest = input_ids.shape[1]
        for row, ids, own in zip(rows, input_ids, mask, strict=True):
            assert ids[own.bool()].tolist() == tokens[row].tolist()
            seen.append(row)
    assert sorted(seen) == list(range(len(texts)))


def test_long_texts_are_cut_as_in_training():
    assigner = BulkAssigner(tiny_indexer(max_source_length=8), tiny_tokenizer())
    assert assigner.tokenize([" ".join(WORDS[:20])])[0].tolist() == [*range(3, 10), 2]


@pytest.mark.parametrize("kind", ["t5", "bert"])
def test_a_long_text_is_read_the_same_whichever_way(kind):
    """In training, by an index, where vectors are kept, and in bulk; whatever length the tokenizer names."""
    model, tokenizer, seen = tiny_indexer(kind, max_source_length=8).eval(), tiny_tokenizer(), []
    tokenizer.model_max_length = 6
    if kind == "bert":
        template = processors.TemplateProcessing(single="<unk> $A </s>", special_tokens=[("<unk>", 1), ("</s>", 2)])
        tokenizer.backend_tokenizer.post_processor = template
    texts = [" ".join(WORDS[:20]), WORDS[3], " ".join(WORDS[5:12])]
    trained = IndexingDataset([0, 1, 2], texts, tokenizer, model.config.max_source_length, seed=0)
    expected = [row.tolist() for row in np.split(trained.tokens, trained.offsets[1:-1])]
    assert expected[0][-1] == 2 and [len(row) for row in expected] == [8, 2 + (kind == "bert"), 8]
    assert [row.tolist() for row in BulkAssigner(model, tokenizer).tokenize(texts)] == expected

    encode = model.encode
    model.encode = lambda input_ids, attention_mask, *rest: (
        seen.extend(row[mask.bool()].tolist() for row, mask in zip(input_ids, attention_mask, strict=True))
        or encode(input_ids, attention_mask, *rest)
    )
    index = SemanticIndex.from_codes([0, 1, 2], [[0, 0]] * 3, [6, 4, 16]).attach(model, tokenizer)
    for read in (index.encode, lambda texts: assigned_with_scores(model, tokenizer, texts, 2)):
        seen.clear()
        read(texts)
        assert seen == expected
    seen.clear()
    DocumentVectors.of(index, [{"id": i, "text": text} for i, text in enumerate(texts)])
    assert sorted(seen) == sorted(expected)


def test_a_text_without_words():
    with pytest.raises(UnusableTextError) as error:
        BulkAssigner(tiny_indexer(), tiny_tokenizer()).tokenize([WORDS[0]] * 1500 + ["   ", WORDS[1]])
    assert error.value.row == 1500


def test_bfloat16(tmp_path, texts):
    tiny_indexer().save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    assigner = BulkAssigner.from_pretrained(tmp_path, bf16=True)
    assert assigner.model.dtype == torch.bfloat16
    codes = assigner.assign(assigner.tokenize(texts))
    assert codes.min() >= 0 and (codes.max(0) < [6, 4]).all()


def test_no_indexer(tmp_path):
    tiny_indexer("bert").config.backbone_config.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="is a bert, expected an indexer"):
        BulkAssigner.from_pretrained(tmp_path)


def test_ahead_passes_items_and_errors_on():
    def items():
        yield from range(3)
        raise KeyError("x")

    found = []
    with pytest.raises(KeyError):
        for item in ahead(items()):
            found.append(item)
    assert found == [0, 1, 2]
    endless = ahead(iter(int, 1))
    assert next(endless) == 0
    endless.close()  # and the thread ends, or this waits for ever

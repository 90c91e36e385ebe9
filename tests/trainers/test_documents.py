"""Hints, targets, crops and batches: what is drawn for a document is the document's own affair."""

import numpy as np
import pytest
import torch
from tiny_training import tiny_corpus, tiny_indexer, tiny_tokenizer

from trainers import UnusableCorpusError
from trainers.documents import EVALUATION_EPOCH, IndexingCollator, IndexingDataset, crop, pad
from trainers.encoder_cache import EncoderStates
from trainers.prefix_sampler import SampleKey

EOS = 2
# Nothing but a special token, one word, unknown words, a word four times, and a few words more.
SHORT = ["", "common0", "unheard of", "common1 common1 common2 common1 common1", "topic0word0 kind0word0 common3"]


def dataset_of(texts, ids=None, seed=0, max_length=32, **values):
    dataset = IndexingDataset(ids or [f"d{i}" for i in range(len(texts))], texts, tiny_tokenizer(), max_length, seed)
    dataset.hint_ratio = 0.5
    for name, value in values.items():
        setattr(dataset, name, value)
    return dataset


def tokens_of(*words):
    return [tiny_tokenizer().convert_tokens_to_ids(word) for word in words]


def weights_of(dataset, **values):
    defaults = {"idf": False, "min_frequency": 1, "max_frequency": 1.0, "by_count": False}
    return dataset.count_weights(len(tiny_tokenizer()), **(defaults | values))


@pytest.fixture
def corpus_dataset():
    corpus = tiny_corpus()
    return dataset_of(list(corpus["text"]), list(corpus["id"]), views="crops")


def drawn(dataset, row, epoch):
    item = dataset[SampleKey(row, epoch, 1)]
    return [item["hint_mask"].tolist(), item["target_weights"].tolist(), *[part.tolist() for part in item["crops"]]]


def test_hints_depend_on_seed_epoch_and_document_alone(corpus_dataset):
    """Neither on the order, nor on what was drawn before, nor on which other documents there are."""
    dataset = corpus_dataset
    rows = range(len(dataset))
    first = {dataset.ids[row]: drawn(dataset, row, 4) for row in rows}
    for row in reversed(rows):
        assert drawn(dataset, row, 4) == first[dataset.ids[row]]
    corpus = tiny_corpus().shuffle(seed=1).select(range(20))
    fewer = dataset_of(list(corpus["text"]), list(corpus["id"]), views="crops")
    for row, document in enumerate(corpus["id"]):
        assert drawn(fewer, row, 4) == first[document]


@pytest.mark.parametrize("change", ["seed", "epoch", "id"])
def test_hints_change_with_each_of_them(corpus_dataset, change):
    dataset = corpus_dataset
    before = [drawn(dataset, row, 0) for row in range(len(dataset))]
    epoch = 0
    if change == "seed":
        dataset.seed = 1
    elif change == "epoch":
        epoch = 1
    else:
        corpus = tiny_corpus()
        dataset = dataset_of(list(corpus["text"]), [f"other {i}" for i in corpus["id"]], views="crops")
    after = [drawn(dataset, row, epoch) for row in range(len(dataset))]
    # 6 tokens and more have 20 choices of three and more.
    assert sum(one[0] == other[0] for one, other in zip(before, after, strict=True)) < 15
    assert sum(one[2:] == other[2:] for one, other in zip(before, after, strict=True)) < 15


def test_a_plain_number_asks_for_the_fixed_hints(corpus_dataset):
    item, fixed = corpus_dataset[5], drawn(corpus_dataset, 5, EVALUATION_EPOCH)
    assert item["hint_mask"].tolist() == fixed[0] and item["weight"] == 1


@pytest.mark.parametrize("ratio", [0.0, 0.3, 0.5, 0.99])
def test_as_many_hints_as_the_ratio_says(corpus_dataset, ratio):
    corpus_dataset.hint_ratio = ratio
    for row in range(len(corpus_dataset)):
        item = corpus_dataset[row]
        tokens, hints, targets = item["input_ids"], item["hint_mask"], item["target_weights"]
        words = (tokens != EOS).sum()
        assert hints.sum() == min(round(ratio * words), words - 1)
        assert not hints[tokens == EOS].any() and not targets[tokens == EOS].any()
        assert ((targets > 0) == ~hints & (tokens != EOS)).all()


def test_every_token_is_equally_likely_to_be_a_hint():
    dataset = dataset_of(["common0 common1 common2 common3"])
    counts = sum(dataset[SampleKey(0, epoch, 1)]["hint_mask"].astype(int) for epoch in range(600))
    assert counts[-1] == 0 and counts.sum() == 1200
    # 600 draws of 1/2: the mean is 300, its deviation 12.
    assert all(240 < count < 360 for count in counts[:4])


def test_one_word_stays_hidden_and_special_tokens_are_neither_hint_nor_target():
    dataset = dataset_of(SHORT, hint_ratio=0.9)
    empty, one, unknown, repeated, _ = (dataset[row] for row in range(5))
    assert empty["input_ids"].tolist() == [EOS] and not empty["target_weights"].any()
    assert one["hint_mask"].tolist() == [False, False] and one["target_weights"].tolist() == [1, 0]
    assert not unknown["hint_mask"].any() and not unknown["target_weights"].any()
    assert repeated["hint_mask"].sum() == 4 and repeated["target_weights"].sum() == 1


def test_weights_by_hand():
    texts = ["common0 common1", "common0 common1 common1", "common0 topic0word0", "common0 kind0word0"]
    dataset = dataset_of(texts)
    everywhere, half, once, other = tokens_of("common0", "common1", "topic0word0", "kind0word0")

    weights = weights_of(dataset)
    assert weights.vocabulary.tolist() == sorted([everywhere, half, once, other])
    assert set(weights.weights[weights.vocabulary]) == {1}

    weights = weights_of(dataset, idf=True)
    expected = {half: np.log(4 / 2), once: np.log(4), other: np.log(4), everywhere: 1e-3}
    assert {token: weights.weights[token] for token in expected} == pytest.approx(expected)
    assert weights.weights.dtype == np.float32 and (weights.weights > 0).sum() == 4

    assert weights_of(dataset, max_frequency=0.5).vocabulary.tolist() == sorted([half, once, other])
    assert weights_of(dataset, max_frequency=0.49).vocabulary.tolist() == sorted([once, other])
    assert weights_of(dataset, min_frequency=2).vocabulary.tolist() == sorted([everywhere, half])
    with pytest.raises(ValueError, match="No token occurs in at least 3 and at most 50%"):
        weights_of(dataset, min_frequency=3, max_frequency=0.5)


def test_excluded_tokens_are_hints_but_no_targets():
    dataset = dataset_of(["common0 common1", "common0 kind0word0"])
    dataset.target_weights = weights_of(dataset, max_frequency=0.5)
    seen = [dataset[SampleKey(0, epoch, 1)] for epoch in range(20)]
    assert {tuple(item["hint_mask"]) for item in seen} == {(True, False, False), (False, True, False)}
    for item in seen:
        assert item["target_weights"].tolist() == [0, 0 if item["hint_mask"][1] else 1, 0]


def test_repetitions_count_by_their_logarithm():
    dataset = dataset_of(SHORT[3:], hint_ratio=0.0)
    dataset.target_weights = weights_of(dataset, by_count=True)
    repeated, once = np.log1p(4) / 4, np.log1p(1)
    assert dataset[0]["target_weights"].tolist() == pytest.approx([repeated, repeated, once, repeated, repeated, 0])
    dataset.target_weights = weights_of(dataset, by_count=True, idf=True)
    assert dataset[0]["target_weights"].sum() == pytest.approx((np.log1p(4) + np.log1p(1)) * np.log(2))
    # Only those that are hidden are counted.
    dataset.hint_ratio = 0.4
    for epoch in range(10):
        item = dataset[SampleKey(0, epoch, 1)]
        hidden = (item["input_ids"] == tokens_of("common1")) & ~item["hint_mask"]
        expected = np.log1p(hidden.sum()) * np.log(2) if hidden.any() else 0
        assert item["target_weights"][hidden].sum() == pytest.approx(expected)


def test_words_that_go_with_a_document_are_excluded_in_it_alone():
    """Its brand, for example: wherever it stands, but not in another document."""
    texts = ["common0 topic0word0 common0 kind0word0", "common0 topic0word0", "topic0word0 common1"]
    excluded = ["common0 unheard", None, "common1 topic0word0"]
    dataset = IndexingDataset(list("abc"), texts, tiny_tokenizer(), 32, 0, excluded)
    assert dataset.is_excluded.tolist() == [*[True, False] * 2, True, *[False, False, True], *[True, True, True]]
    for target_weights in (None, weights_of(dataset, by_count=True)):
        dataset.target_weights = target_weights
        found = [(dataset[row]["target_weights"] > 0).tolist() for row in range(3)]
        assert found == [[False, True, False, True, False], [True, True, False], [False] * 3]
    # They are hints like any other word.
    dataset.hint_ratio = 0.5
    hints = sum(dataset[SampleKey(0, epoch, 1)]["hint_mask"].astype(int) for epoch in range(50))
    assert all(hints[:4] > 10)
    plain = IndexingDataset(list("abc"), texts, tiny_tokenizer(), 32, 0)
    assert plain.digest() != dataset.digest()
    assert not plain.is_excluded[~plain.is_special].any()


def test_documents_with_one_excluded_text_are_a_group():
    excluded = ["Acme", None, " acme ", "", "Acme Inc", "ACME"]
    dataset = IndexingDataset(list("abcdef"), ["common0"] * 6, tiny_tokenizer(), 32, 0, excluded)
    assert dataset.excluded_groups.tolist() == [0, 1, 0, 2, 3, 0]
    assert dataset.digest() != IndexingDataset(list("abcdef"), ["common0"] * 6, tiny_tokenizer(), 32, 0).digest()
    plain = IndexingDataset(list("ab"), ["common0"] * 2, tiny_tokenizer(), 32, 0)
    assert plain.excluded_groups.tolist() == [0, 1]


def test_neighbours_are_drawn_from_the_list(corpus_dataset):
    """By seed, epoch and document, as everything else; hints are those without neighbours."""
    dataset = corpus_dataset
    plain = [dataset[SampleKey(row, 3, 1)]["hint_mask"].tolist() for row in range(60)]
    dataset.views, dataset.neighbours = "neighbours", np.stack([(np.arange(60) + i) % 60 for i in (1, 5, 9)], axis=1)
    drawn_at = {epoch: [dataset[SampleKey(row, epoch, 1)] for row in range(60)] for epoch in range(8)}
    assert [item["hint_mask"].tolist() for item in drawn_at[3]] == plain
    for items in drawn_at.values():
        assert all(item["neighbour"] in dataset.neighbours[row] for row, item in enumerate(items))
    again = [dataset[SampleKey(row, 3, 1)]["neighbour"] for row in reversed(range(60))]
    assert again[::-1] == [item["neighbour"] for item in drawn_at[3]]
    offsets = np.array(
        [[(item["neighbour"] - row) % 60 for row, item in enumerate(items)] for items in drawn_at.values()]
    )
    counts = [(offsets == i).sum() for i in (1, 5, 9)]
    assert sum(counts) == 480 and min(counts) > 120  # of a third each, 160


def test_a_batch_of_neighbours(tmp_path):
    """Their whole texts, their encoder states where these are kept, and who they are."""
    corpus, model = tiny_corpus(), tiny_indexer().eval()
    dataset = IndexingDataset.of(corpus, tiny_tokenizer(), 32, seed=0)
    dataset.views, dataset.neighbours = "neighbours", (np.arange(60)[:, None] + 1) % 60
    batch = collator_of(dataset)([dataset[row] for row in (3, 59, 7)])
    assert batch["viewed"].tolist() == [4, 0, 8] and batch["documents"].tolist() == [3, 59, 7]
    assert "view_encoder_outputs" not in batch
    for place, row in enumerate((4, 0, 8)):
        tokens = dataset.tokens_of(row)
        assert batch["view_input_ids"][place, : len(tokens)].tolist() == tokens.tolist()
        assert batch["view_attention_mask"][place].sum() == len(tokens)

    def every_document():
        for row in range(60):
            yield [row], model.encode(torch.from_numpy(dataset[row]["input_ids"][None].astype(np.int64)))[0].detach()

    dataset.encoder_states = EncoderStates.open_or_compute(tmp_path, "x", dataset.offsets, 16, every_document)
    batch = collator_of(dataset)([dataset[row] for row in (3, 59, 7)])
    expected, mask = model.encode(batch["view_input_ids"], batch["view_attention_mask"])
    torch.testing.assert_close(batch["view_encoder_outputs"], expected * mask[..., None], rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        names = ("input_ids", "hint_mask", "target_weights", "attention_mask", "decoder_input_ids", "view_input_ids")
        inputs = {name: batch[name] for name in (*names, "view_attention_mask")}
        views = [
            model(**inputs, view="neighbours", **states).views
            for states in ({}, {"view_encoder_outputs": batch["view_encoder_outputs"]})
        ]
    torch.testing.assert_close(views[0], views[1], rtol=1e-4, atol=1e-5)
    assert (views[0][0] - views[0][1]).abs().max() > 1e-3


def test_crops_are_runs_of_the_document(corpus_dataset):
    shares = []
    for row in range(len(corpus_dataset)):
        item = corpus_dataset[SampleKey(row, 0, 1)]
        text = item["input_ids"].tolist()
        for part in item["crops"]:
            starts = range(len(text) - len(part) + 1)
            assert any(text[start : start + len(part)] == part.tolist() for start in starts)
            shares.append(len(part) / len(text))
    assert 0.2 < min(shares) < 0.4 and 0.7 < max(shares) < 0.9
    assert crop(np.array([7]), np.random.default_rng(0)).tolist() == [7]


def test_long_texts_are_cut_and_the_digest_tells_corpora_apart():
    texts = ["common0 " * 50, "common1"]
    dataset = dataset_of(texts, max_length=8)
    assert dataset.lengths.tolist() == [8, 2]
    assert dataset.tokens[:8].tolist() == tokens_of("common0") * 7 + [EOS]
    digests = {
        dataset_of(texts, max_length=8).digest(),
        dataset_of(texts, max_length=9).digest(),
        dataset_of(texts, ["a", "b"], max_length=8).digest(),
        dataset_of([*texts[1:], *texts[:1]], max_length=8).digest(),
    }
    assert len(digests) == 4 and dataset.digest() in digests


def test_a_document_without_tokens_is_an_error():
    tokenizer = tiny_tokenizer()
    tokenizer._tokenizer.post_processor = None  # no token at the end of every text
    with pytest.raises(UnusableCorpusError, match=r"nothing in 1 documents: \['b'\]"):
        IndexingDataset(["a", "b"], ["common0", "   "], tokenizer, 32, 0)


def test_prefix_groups():
    dataset = dataset_of(SHORT)
    assert dataset.prefix_groups().tolist() == [0] * 5
    dataset.codes = np.array([[1, 0], [0, 3], [1, 0], [1, 1], [0, 3]])
    assert dataset.prefix_groups().tolist() == [1, 0, 1, 2, 0]


def collator_of(dataset, **values):
    config = tiny_indexer().config
    defaults = {"pad_token_id": 0, "offsets": config.position_offsets, "with_prefix": True}
    return IndexingCollator(dataset, groups=dataset.prefix_groups(), **(defaults | values))


def test_a_batch():
    dataset = dataset_of(SHORT, views="crops")
    dataset.codes = np.array([[1, 0], [0, 3], [5, 0], [1, 1], [0, 3]])
    batch = collator_of(dataset)([dataset[SampleKey(3, 0, 1)], dataset[SampleKey(0, 0, 0)]])
    assert batch["input_ids"].tolist() == [dataset[3]["input_ids"].tolist(), [EOS, 0, 0, 0, 0, 0]]
    assert batch["attention_mask"].tolist() == [[1] * 6, [1, 0, 0, 0, 0, 0]]
    assert batch["hint_mask"].dtype == torch.bool and batch["hint_mask"][0].sum() == 2
    assert not batch["hint_mask"][1].any() and not batch["target_weights"][1].any()
    # Codes 1 and 1 of books of 6 and 4 codes after the start id: 0, then 1 + 1, then 7 + 1.
    assert batch["decoder_input_ids"].tolist() == [[0, 2, 8], [0, 2, 7]]
    assert batch["documents"].tolist() == [3, 0] and batch["counts"].tolist() == [1, 0]
    assert batch["groups"].tolist() == [2, 1]
    assert batch["view_input_ids"].shape[:2] == (2, 2)
    lengths = batch["view_attention_mask"].sum(-1)
    for document, item in enumerate([dataset[SampleKey(3, 0, 1)], dataset[SampleKey(0, 0, 0)]]):
        for view, part in enumerate(item["crops"]):
            assert batch["view_input_ids"][document, view, : len(part)].tolist() == part.tolist()
            assert lengths[document, view] == len(part)


def test_without_a_prefix_the_batch_has_nothing_for_the_decoder():
    dataset = dataset_of(SHORT, views="crops")
    batch = collator_of(dataset, with_prefix=False)([dataset[0], dataset[1]])
    assert not {"decoder_input_ids", "view_input_ids", "encoder_outputs"} & batch.keys()
    batch = collator_of(dataset)([dataset[0], dataset[1]])
    assert batch["decoder_input_ids"].tolist() == [[0], [0]]


def test_padding_has_the_value_asked_for():
    assert pad([np.array([1, 2]), np.array([3])], 9).tolist() == [[1, 2], [3, 9]]
    assert pad([np.array([True]), np.array([False, True])], False).tolist() == [[True, False], [False, True]]


def test_a_batch_from_the_cache_is_what_the_encoder_says(tmp_path):
    corpus, model = tiny_corpus(), tiny_indexer().eval()
    dataset = dataset_of(list(corpus["text"]), list(corpus["id"]))

    def every_document():
        for row in range(len(dataset)):
            yield [row], model.encode(torch.from_numpy(dataset[row]["input_ids"][None].astype(np.int64)))[0].detach()

    dataset.encoder_states = EncoderStates.open_or_compute(tmp_path, "x", dataset.offsets, 16, every_document)
    batch = collator_of(dataset)([dataset[row] for row in (3, 1, 4)])
    expected, mask = model.encode(batch["input_ids"], batch["attention_mask"])
    assert (mask == 0).any()
    torch.testing.assert_close(batch["encoder_outputs"], expected * mask[..., None], rtol=1e-4, atol=1e-5)

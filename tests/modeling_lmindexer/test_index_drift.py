"""Documents like those of the index do not alarm, whatever the draw; documents of another subject do."""

import numpy as np
import pytest
import torch
from tiny_models import tiny_model, tiny_tokenizer

from modeling_lmindexer import SemanticIndex
from modeling_lmindexer.index_drift import Certainty, Divergence, Share, compare, entropy, jensen_shannon

SUBJECTS = {"old": range(2, 50), "other": range(50, 98)}
KNOWN = 400


def texts(subject: str, number: int, seed: int) -> list[dict]:
    """Documents of four words of a subject; two of them of one of its four parts."""
    random, words = np.random.default_rng(seed), np.array(SUBJECTS[subject]).reshape(4, 12)
    rows = [
        [*words[random.integers(4)][random.integers(12, size=3)], words.ravel()[random.integers(48)]]
        for _ in range(number)
    ]
    return [{"id": f"{subject}{seed}-{i}", "text": " ".join(f"w{word}" for word in row)} for i, row in enumerate(rows)]


@pytest.fixture(scope="module")
def index():
    """Words of a subject lie together, and the codebooks are states of documents of the old one, as k-means leaves
    them."""
    model, tokenizer = (
        tiny_model("mpnet", zeros=True, codebook_sizes=[8, 8], num_disambiguation_codes=200),
        tiny_tokenizer(),
    )
    known = texts("old", KNOWN, 0)
    with torch.no_grad():
        embeddings = model.get_input_embeddings().weight
        embeddings[50:98] += 2 * embeddings[0].std() + embeddings[99]
        for part in range(8):
            embeddings[2 + 12 * part : 14 + 12 * part] += (
                2 * torch.randn(16, generator=torch.manual_seed(part)) * embeddings.std()
            )
    inputs = tokenizer([document["text"] for document in known], padding=True, return_tensors="pt")
    with torch.no_grad():
        states, mask = model.encode(inputs["input_ids"], inputs["attention_mask"])
        ids = torch.zeros(KNOWN, 1, dtype=torch.long)
        for t in range(2):
            hidden = model.decode(ids, states, mask)[0][:, -1]
            model.codebooks.learned[t].initialize(hidden[torch.randperm(KNOWN, generator=torch.manual_seed(t))[:8]])
            ids = torch.cat([ids, model.codebooks.logits(hidden, t).argmax(-1, keepdim=True) + 1 + 8 * t], 1)
    codes = ids[:, 1:] - torch.tensor([1, 9])
    index = SemanticIndex.from_codes([d["id"] for d in known], codes, [8, 8, 200])
    return index.attach(model, tokenizer)


def test_documents_like_the_known_ones_do_not_alarm(index):
    alarms = []
    for seed in range(1, 21):
        size = (5, 20, 60, 200)[seed % 4]
        report = index.drift(texts("old", size, seed), reference=texts("old", 50, 0), seed=seed)
        alarms += report.reasons
        assert (report.documents, report.known) == (size, KNOWN) and "Keep the model" in str(report)
    assert alarms == []


def test_documents_of_another_subject_alarm(index):
    for seed in range(1, 6):
        report = index.drift(texts("other", 60, seed), reference=texts("old", 50, 0), seed=seed)
        assert report.retrain and report.advice.startswith("Retrain: ") and report.advice in str(report)
        assert any(divergence.is_large for divergence in report.divergences)


def test_the_figures_are_those_of_the_codes(index):
    new = texts("old", 30, 7)
    codes = (index.encode([document["text"] for document in new]).numpy() - index.offsets[:2]).tolist()
    known = index.codes[:, :2].tolist()
    report = index.drift(new, batch_size=7)
    assert report.unseen.found == pytest.approx(np.mean([row not in known for row in codes]))
    assert report.colliding.found == pytest.approx(np.mean([(known + codes).count(row) > 1 for row in codes]))
    assert report.largest == max((known + codes).count(row) for row in codes + known) and report.room == 200
    scores = []
    for document, row in zip(new, codes, strict=True):
        inputs = index.tokenizer([document["text"]], return_tensors="pt")
        prefix = torch.tensor([[0, row[0] + 1]])
        first, second = index.model(inputs["input_ids"], inputs["attention_mask"], prefix).code_logits
        scores.append((first.log_softmax(-1)[0, row[0]] + second.log_softmax(-1)[0, row[1]]).item())
    assert report.log_probability == pytest.approx(np.mean(scores), abs=1e-4) and report.certainty is None
    assert str(report) == str(index.drift(new, batch_size=30))


def test_a_full_last_position_is_no_reason_to_train_again(index):
    codes = index.codes[:, :2]
    largest = int(np.unique(codes, axis=0, return_counts=True)[1].max())
    small = SemanticIndex.from_codes(index.document_ids, codes, [8, 8, largest])
    small.attach(index.model, index.tokenizer)
    report = small.drift(texts("old", 200, 3))
    assert report.largest > report.room == largest and not report.retrain
    assert (
        report.advice == f"Keep the model, with room for {report.largest} codes at its last position: "
        "resize_disambiguation."
    )


def test_nothing_to_compare_is_an_error(index):
    with pytest.raises(ValueError, match="There are 0 new documents and 400 known ones"):
        index.drift([])
    with pytest.raises(ValueError, match="reference has 1 documents"):
        index.drift(texts("old", 3, 1), reference=texts("old", 1, 0))


def test_the_rules_ask_for_an_effect_and_for_more_than_chance():
    assert Divergence(0.5, (0.15, 0.25)).is_large and not Divergence(0.5, (0.1, 0.6)).is_large
    assert not Divergence(0.25, (0.2, 0.2)).is_large  # sure, and small
    assert Share(0.5, 0.1, 1000).is_large and not Share(0.25, 0.1, 1000).is_large and not Share(0.5, 0.1, 4).is_large
    assert Certainty(-5.0, -1.0, 2.0, 0.1).is_low and not Certainty(-2.5, -1.0, 2.0, 0.1).is_low
    assert not Certainty(-5.0, -1.0, 2.0, 1.5).is_low
    found = compare(np.array([-3.0, -5.0]), np.array([-1.0, -3.0]))
    assert (found.found, found.reference, found.spread) == (-4.0, -2.0, pytest.approx(2**0.5))


def test_divergence_of_codes():
    random = np.random.default_rng(0)
    for _ in range(20):
        first, second = random.integers(0, 6, 30), random.integers(2, 9, 50)
        p, q = (np.bincount(codes, minlength=9) / len(codes) for codes in (first, second))
        m = (p + q) / 2
        expected = sum((x[x > 0] * np.log2(x[x > 0] / m[x > 0])).sum() / 2 for x in (p, q))
        assert jensen_shannon(first, second) == pytest.approx(expected) == pytest.approx(jensen_shannon(second, first))
    assert entropy(np.array([0.25] * 4 + [0.0])) == 2.0

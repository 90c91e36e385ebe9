"""The learning rate by whole runs."""

import json

import pytest
import torch
from tiny_training import make_trainer, tiny_corpus, tiny_indexer

from trainers import learning_rate_search
from trainers.learning_rate_search import held_out_loss, search_learning_rate, split_held_out


def test_the_split_is_seeded_and_loses_nothing():
    corpus = tiny_corpus()
    seen, unseen = split_held_out(corpus, 0.1, seed=0)
    assert len(unseen) == 6 and sorted([*seen["id"], *unseen["id"]]) == sorted(corpus["id"])
    assert split_held_out(corpus, 0.1, seed=0)[1]["id"][:] == unseen["id"][:]
    assert split_held_out(corpus, 0.1, seed=1)[1]["id"][:] != unseen["id"][:]
    assert len(split_held_out(corpus.select(range(7)), 0.05, seed=0)[1]) == 1


@pytest.mark.parametrize("target", ["tokens", "words"])
def test_the_loss_is_that_of_each_unseen_document_alone(tmp_path, target):
    seen, unseen = split_held_out(tiny_corpus(), 0.2, seed=0)
    trainer = make_trainer(
        tmp_path, model=tiny_indexer(reconstruction_target=target, dropout=0.1), corpus=seen, max_steps=1,
        per_device_eval_batch_size=5, idf_weights=True,
    )  # fmt: skip
    trainer.train()
    loss = held_out_loss(trainer, unseen)
    assert loss == pytest.approx(loss_one_by_one(trainer, trainer.like_documents(unseen), target), rel=1e-5)


@torch.no_grad()
def loss_one_by_one(trainer, documents, target):
    model, total = trainer.model.eval(), 0.0
    for row in range(len(documents)):
        item = documents[row]
        assert not set(item["input_ids"][item["target_weights"] > 0]) - set(trainer.documents.tokens)
        names = ("input_ids", "hint_mask", "target_weights")
        input_ids, hints, weights = (torch.from_numpy(item[name])[None] for name in names)
        ids = model.assign(input_ids.long())
        prefix = torch.cat([torch.zeros(1, 1, dtype=torch.long), ids[:, :-1]], dim=1)
        output = model(
            input_ids.long(), decoder_input_ids=prefix, hint_mask=hints, target_weights=weights, quantize=True
        ).reconstruction
        logs = output.logits.log_softmax(-1)
        if target == "words":
            total -= (logs * output.targets).sum().item()
        else:
            terms = -logs[torch.arange(len(logs)), output.targets]
            total += (terms * output.weights).sum().item() / output.weights.sum().item()
    return total / len(documents)


def test_the_best_of_whole_runs(tmp_path, monkeypatch):
    """A run that diverged is not the best one; a search that was stopped reads the runs that are done."""
    made = []

    def make(documents, rate, folder):
        made.append((len(documents), rate, folder))
        return make_trainer(folder, corpus=documents, learning_rate=rate, max_steps=3)

    rates = [1e-2, 1e-4, 3e-3]
    best = search_learning_rate(make, tiny_corpus(), rates, tmp_path, seed=0)
    losses = json.loads((tmp_path / "losses.json").read_text())
    assert list(losses) == ["0.01", "0.0001", "0.003"] and len(set(losses.values())) == 3
    assert losses[f"{best:g}"] == min(losses.values()) and best in rates
    assert made == [(57, rate, tmp_path / f"{rate:g}") for rate in rates]

    trained = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("done.json")}
    assert search_learning_rate(make, tiny_corpus(), rates, tmp_path, seed=0) == best
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("done.json")} == trained
    assert json.loads((tmp_path / "losses.json").read_text()) == losses

    found = iter([float("nan"), 3.0, 2.0])
    monkeypatch.setattr(learning_rate_search, "held_out_loss", lambda *_: next(found))
    assert search_learning_rate(make, tiny_corpus(), rates, tmp_path, seed=0) == 3e-3

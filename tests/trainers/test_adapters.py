"""A task learned in adapters: what moves, that it goes on after a stop, and what it is merged into."""

import pytest
import torch
from tiny_retrieval import retrieval_trainer
from tiny_training import tiny_indexer

from modeling_lmindexer import LMIndexerForSemanticID
from trainers.adapters import with_adapter


def trainer_of(folder, kind="t5"):
    model = with_adapter(tiny_indexer(kind, num_reconstructor_layers=0), rank=4, seed=5)
    return retrieval_trainer(folder, model=model, num_train_epochs=6, document_epochs=1, learning_rate=0.02)


@pytest.mark.parametrize("kind", ["t5", "bert"])
def test_adapters_learn_beside_the_indexer(tmp_path, kind):
    trainer = trainer_of(tmp_path, kind)
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    losses = [loss for _, loss in trainer.train()["task"]["loss_curve"]]
    assert losses[-1] < losses[0]
    after = trainer.model.state_dict()
    moved = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert moved and all("lora_" in name or "modules_to_save" in name for name in moved)
    assert {"lora_A", "lora_B", "modules_to_save"} <= {part for name in moved for part in name.split(".")}

    rankings = trainer.rank(trainer.queries)
    again = trainer_of(tmp_path, kind)
    again.train()
    for name, value in after.items():
        assert torch.equal(again.model.state_dict()[name], value), name

    trainer.model = trainer.model.merge_and_unload()
    assert isinstance(trainer.model, LMIndexerForSemanticID)
    assert trainer.rank(trainer.queries).documents == rankings.documents
    trainer.model.save_pretrained(tmp_path / "merged")
    loaded = LMIndexerForSemanticID.from_pretrained(tmp_path / "merged")
    assert all(torch.equal(value, trainer.model.state_dict()[name]) for name, value in loaded.state_dict().items())


def test_adapters_are_drawn_from_the_seed():
    first, second, other = (
        with_adapter(tiny_indexer(num_reconstructor_layers=0), rank=2, seed=seed).state_dict() for seed in (1, 1, 2)
    )
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    assert any(not torch.equal(value, other[name]) for name, value in first.items())

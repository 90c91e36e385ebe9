"""The parts of the benchmark of a training step: what its floor trains, and what the authors' layout is given."""

import copy
import sys
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from tiny_training import WORDS, tiny_tokenizer

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))
from steps.authors_layout import AuthorsLayout
from steps.floor import Floor, Ready
from steps.rounds import batches_of, measure
from steps.setting import Setting


def setting(folder, views="identical"):
    """As many documents as a codebook has codes, of so few words that no word is too frequent to be predicted."""
    random = np.random.default_rng(0)
    texts = [" ".join(random.choice(WORDS, size=random.integers(2, 5))) for _ in range(512)]
    corpus = datasets.Dataset.from_dict({"id": [f"d{i}" for i in range(512)], "text": texts})
    return Setting(corpus, "tiny", None, views, batch_size=4, length=16, output_dir=folder)


def trained(module):
    return {name for name, value in module.named_parameters() if value.grad is not None}


@pytest.mark.parametrize("stage", ["warm-up", "continuous", "discrete"])
def test_the_floor_trains_what_the_trainer_does(stage, tmp_path):
    """All but the bias of the words: nothing that the stage needs is missing, and nothing else is in it."""
    trainer = setting(tmp_path).trainer(tiny_tokenizer(), stage, 1)
    batch = batches_of(trainer, 1)[0]
    floor = Floor(copy.deepcopy(trainer.model), trainer.stage, "identical")
    floor.loss(Ready.of(batch, floor.model)).backward()
    trainer.compute_loss(trainer.model, dict(batch)).backward()
    assert trained(trainer.model) - trained(floor.model) == {"reconstructor.bias"}
    assert trained(floor.model) <= trained(trainer.model)
    assert (floor.projection.weight.grad is None) == (stage == "warm-up")


def test_every_token_of_the_authors_layout_has_visible_tokens_of_its_own(tmp_path):
    trainer = setting(tmp_path).trainer(tiny_tokenizer(), "discrete", 1)
    layout = AuthorsLayout(trainer.model, trainer.stage, trainer.documents, 16, 0)
    rows = [0, 5, 9]
    tokens, mask, codes, visible = layout.collate(rows)
    assert tokens.shape == mask.shape == (3, 16) and visible.shape == (3, 16, 16) and codes.shape == (3, 1)
    for row, document in enumerate(rows):
        own = torch.from_numpy(trainer.documents.tokens_of(document)).long()
        assert torch.equal(tokens[row, : len(own)], own) and mask[row].sum() == len(own)
        shown = round(trainer.stage.hint_ratio * len(own))
        counts = visible[row].sum(-1)
        assert counts.min() >= shown - 1 and counts.max() == shown
        assert not visible[row, :, len(own) :].any() and not visible[row].diagonal().any()
        assert len(visible[row].unique(dim=0)) > 1
    loss = layout.loss(tokens, mask, codes, visible)
    loss.backward()
    assert loss.isfinite() and all(p.grad is not None for p in layout.own.parameters())


def test_one_round_times_all_three(tmp_path):
    found = measure(setting(tmp_path, "dropout"), tiny_tokenizer(), "continuous", 1, authors=True)
    assert found.keys() == {"trainer", "floor", "authors' layout"} and min(found.values()) > 0

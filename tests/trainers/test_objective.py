"""Which losses a stage has, with which factors, and who is whose negative."""

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from tiny_training import at_second_position, tiny_arguments, tiny_indexer

from trainers.losses import anchor_loss, choice_loss, contrastive_loss
from trainers.objective import Batch, Objective
from trainers.stages import Stage


def objective(folder, **settings):
    return Objective(Accelerator(cpu=True), tiny_arguments(folder, **settings))


def test_a_batch_takes_what_the_model_does_not_want():
    documents = torch.tensor([4, 7])
    inputs = {"documents": documents, "groups": documents + 1, "counts": documents > 4, "input_ids": documents + 2}
    batch = Batch.take(dict(inputs) | {"decoder_input_ids": documents + 3})
    assert torch.equal(batch.viewed, documents) and batch.anchors is None
    assert torch.equal(batch.decoder_input_ids, documents + 3)
    more = inputs | {"viewed": documents + 5, "anchors": documents + 6}
    batch = Batch.take(more)
    assert torch.equal(batch.viewed, documents + 5) and torch.equal(batch.anchors, documents + 6)
    assert set(more) == {"input_ids"}  # nothing else is left for the model


def test_factors_are_those_of_stage_and_settings(tmp_path):
    stage = Stage("discrete", 1, 1, 0.1, 0.5, contrastive_weight=2.0, anchor_weight=3.0)
    factors = objective(tmp_path, reconstruction_weight=5.0, commitment_weight=7.0, choice_weight=9.0).factors(stage)
    expected = {"reconstruction": 5.0, "contrastive": 2.0, "commitment": 7.0, "anchor": 3.0, "choice": 9.0}
    assert factors == expected


@pytest.mark.parametrize("kind", ["continuous", "discrete"])
def test_additions_by_hand(tmp_path, kind):
    """The pull compares with the anchors of the batch, the choice is that of the model; fillers pull nobody."""
    model = tiny_indexer(reconstruction_target="words").double()
    settings = {"anchor_weights": [0.0, 2.0], "choice_weight": 0.5, "code_choice": ["expectation"]}
    trainer = at_second_position(tmp_path, kind, model=model, anchor_temperature=0.3, **settings)
    trainer.documents.anchors = np.random.default_rng(0).normal(size=(60, 5)).astype(np.float32)
    items = [trainer.documents[row] for row in (3, 8, 40, 55)] + [trainer.documents[3] | {"weight": 0}]
    inputs = trainer.collator()(items)
    batch = Batch.take(inputs)
    outputs = model(**inputs, quantize=kind == "discrete", code_choice=trainer.args.choice_at(0), view="identical")
    terms = trainer.objective.terms(trainer.stage, outputs, batch, trainer.offsets)
    names = ["reconstruction", "contrastive", "commitment", "anchor"] + ["choice"] * (kind == "discrete")
    assert list(terms) == names
    hidden, anchors = outputs.decoder_last_hidden_state[:, -1], torch.from_numpy(trainer.documents.anchors).double()
    others = ~torch.eye(4, dtype=torch.bool)
    expected = anchor_loss(hidden[:4], anchors[[3, 8, 40, 55]], hidden[:4], anchors[[3, 8, 40, 55]], others, 0.3)
    torch.testing.assert_close(terms["anchor"][:4], expected)
    assert expected.min() > 1e-4
    if kind == "discrete":
        torch.testing.assert_close(terms["choice"], choice_loss(outputs.code_logits[1], outputs.chosen_codes))
    without = at_second_position(tmp_path / "without", kind, contrastive_weights=[0.0])
    terms = without.objective.terms(without.stage, outputs, batch, without.offsets)
    assert list(terms) == ["reconstruction", "commitment"]
    warm_up = trainer.objective.terms(trainer.stages[0], outputs, batch, trainer.offsets)
    assert list(warm_up) == ["reconstruction"]


def test_no_document_is_pushed_away_from_a_view_of_itself(tmp_path):
    """Neighbours of each other are in one batch, and the one's second view may show the other."""
    documents, viewed = torch.tensor([0, 1, 2, 3, 4]), torch.tensor([1, 0, 7, 7, 6])
    groups, counts = torch.tensor([0, 0, 0, 0, 1]), torch.tensor([1, 1, 1, 1, 1])
    anchors, views = torch.randn(2, 5, 6, dtype=torch.float64)
    batch = Batch(documents, groups, counts, viewed)
    found = objective(tmp_path, contrastive_temperature=0.7).contrast((anchors, views), batch)
    # Whose second views push whom: 0 and 1 show each other, 2 and 3 the same neighbour, 4 has another prefix.
    negatives = {0: [2, 3], 1: [2, 3], 2: [0, 1], 3: [0, 1], 4: []}
    is_negative = torch.tensor([[j in negatives[i] for j in range(5)] for i in range(5)])
    expected = contrastive_loss(anchors, views, views, is_negative, 0.7, False)
    torch.testing.assert_close(found, expected)
    # Where second views are of the document itself, the prefix alone decides, and fillers push nobody.
    batch = Batch(documents, groups, torch.tensor([1, 1, 1, 0, 1]), documents)
    found = objective(tmp_path, contrastive_temperature=0.7).contrast((anchors, views), batch)
    is_negative = (groups[:, None] == groups) & ~torch.eye(5, dtype=torch.bool) & (documents != 3)
    torch.testing.assert_close(found, contrastive_loss(anchors, views, views, is_negative, 0.7, False))


def test_views_of_neighbours(tmp_path):
    """The second view is the state of one of the document's neighbours after the document's own prefix."""
    trainer = at_second_position(tmp_path, contrastive_views="neighbours", num_neighbours=2)
    neighbours = np.stack([(np.arange(60) + 1) % 60, (np.arange(60) + 7) % 60], axis=1)
    trainer.documents.neighbours, rows = neighbours, [10, 11, 40, 41]
    found = []
    trainer.objective.contrast = lambda views, batch: found.append((views, batch)) or torch.zeros(len(batch.documents))
    inputs = trainer.collator()([trainer.documents[row] for row in rows])
    trainer.compute_loss(trainer.model.eval(), dict(inputs))
    (((first, second), batch),) = found
    for place, row in enumerate(rows):
        neighbour = batch.viewed[place].item()
        assert neighbour in neighbours[row]
        for state, text in ((first[place], row), (second[place], neighbour)):
            tokens = torch.from_numpy(trainer.documents.tokens_of(text).astype(np.int64))[None]
            alone = trainer.model(tokens, decoder_input_ids=inputs["decoder_input_ids"][place : place + 1])
            torch.testing.assert_close(alone.decoder_last_hidden_state[0, -1], state, rtol=1e-4, atol=1e-6)


def test_a_document_without_an_anchor_neither_is_pulled_nor_pulls(tmp_path):
    """The others are pulled as if it were not there."""
    pull = objective(tmp_path).pull
    rows, random = torch.arange(6), torch.Generator().manual_seed(0)
    hidden, anchors = (torch.randn(6, 5, generator=random, dtype=torch.float64) for _ in range(2))
    anchors[2] = 0
    batch = Batch(rows, rows, torch.ones(6), rows, None, anchors)
    found = pull(hidden, batch)
    left = rows != 2
    rest = Batch(rows[left], rows[left], torch.ones(5), rows[left], None, anchors[left])
    torch.testing.assert_close(found[left], pull(hidden[left], rest))
    assert found[2] == 0 and (found[left] > 0).all()

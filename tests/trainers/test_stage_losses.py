"""Steps of one stage: gradients of its losses, accumulated, of views, with fillers; and its codebook."""

import math

import numpy as np
import pytest
import torch
from tiny_training import at_second_position, tiny_indexer


@pytest.mark.parametrize("name", ["reconstruction_weight", "contrastive_weights", "commitment_weight"])
def test_weights_of_losses(tmp_path, name):
    """The gradient is the weighted sum of the gradients of the losses."""
    gradients = {}
    for value in (0.0, 1.0, 3.0):
        # Per position for one of them: here the second counts.
        trainer = at_second_position(tmp_path, **{name: [7.0, value] if name.endswith("s") else value})
        gradients[value] = accumulated_gradients(trainer, 1)[0]
    change = {n: gradients[1.0][n] - gradients[0.0][n] for n in gradients[0.0]}
    assert any(value.abs().max() > 1e-4 for value in change.values())
    for parameter, value in change.items():
        torch.testing.assert_close(gradients[3.0][parameter], gradients[0.0][parameter] + 3 * value, msg=parameter)


# Rows of two prefix groups, four of each; dealt out to two micro-batches, each gets two of each.
TWO_GROUPS = [10, 11, 12, 13, 40, 41, 42, 43]


def accumulated_gradients(trainer, steps):
    """Gradients of 8 documents as `steps` micro-batches, and their losses by name."""
    rows = [row for start in range(steps) for row in TWO_GROUPS[start::steps]]
    collator, size = trainer.collator(), len(rows) // steps
    batches = [collator([trainer.documents[row] for row in rows[i : i + size]]) for i in range(0, len(rows), size)]
    count = trainer._get_num_items_in_batch(batches, torch.device("cpu"))
    trainer.model.zero_grad()
    trainer.loss_sums.clear()
    for batch in batches:
        trainer.training_step(trainer.model, dict(batch), num_items_in_batch=count)
    gradients = {n: p.grad.clone() for n, p in trainer.model.named_parameters() if p.grad is not None}
    return gradients, {name: sum(values).item() for name, values in trainer.loss_sums.items()}


def assert_equal_gradients(found, expected):
    assert found.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-5, atol=1e-7, msg=name)


@pytest.mark.parametrize("kind", ["continuous", "discrete"])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_accumulated_gradients_are_those_of_one_batch(tmp_path, kind, reduction):
    trainer = at_second_position(tmp_path, kind, contrastive_weights=[0.0], reduction=reduction)
    whole, losses = accumulated_gradients(trainer, 1)
    parts, losses_of_parts = accumulated_gradients(trainer, 2)
    assert set(losses) == {"reconstruction", "commitment"}
    assert losses_of_parts == pytest.approx(losses, rel=1e-5)
    assert any(gradient.abs().max() > 1e-3 for gradient in whole.values())
    assert_equal_gradients(parts, whole)


@pytest.mark.parametrize(("temperature", "normalize"), [(1.0, False), (0.5, True)])
def test_contrastive_negatives_come_from_the_micro_batch_alone(tmp_path, temperature, normalize):
    """Accumulated, the term is the mean over micro-batches with their own negatives: fewer than in one batch."""
    settings = {"reconstruction_weight": 0.0, "commitment_weight": 0.0, "contrastive_views": "identical"}
    settings |= {"contrastive_temperature": temperature, "contrastive_normalize": normalize}
    trainer = at_second_position(tmp_path, **settings)
    whole, losses = accumulated_gradients(trainer, 1)
    parts, losses_of_parts = accumulated_gradients(trainer, 2)
    assert losses_of_parts["contrastive"] < 0.9 * losses["contrastive"]
    name = max(whole, key=lambda n: whole[n].abs().max())
    assert (whole[name] - parts[name]).abs().max() > 0.01 * whole[name].abs().max()

    collator, means = trainer.collator(), []
    for start in range(2):
        batch = collator([trainer.documents[row] for row in TWO_GROUPS[start::2]])
        inputs = {name: batch[name] for name in ("input_ids", "attention_mask", "decoder_input_ids")}
        states = trainer.model(**inputs).decoder_last_hidden_state[:, -1]
        if normalize:
            states = states / states.norm(dim=-1, keepdim=True)
        products = (states @ states.T / temperature).exp()
        peers = batch["groups"][:, None] == batch["groups"]  # a document among its peers, as in the denominator
        means.append(-(products.diagonal() / (products * peers).sum(dim=1)).log().mean())
    expected = (means[0] + means[1]) / 2
    assert losses_of_parts["contrastive"] == pytest.approx(expected.item(), rel=1e-5)
    trainer.model.zero_grad()
    expected.backward()
    gradients = {n: p.grad for n, p in trainer.model.named_parameters() if p.grad is not None}
    for name, gradient in parts.items():
        expected = gradients.get(name, torch.zeros_like(gradient))
        torch.testing.assert_close(gradient, expected, rtol=1e-5, atol=1e-7, msg=name)


@pytest.mark.parametrize(("views", "passes"), [("identical", 1), ("dropout", 2), ("decoder_dropout", 1), ("crops", 2)])
def test_views(tmp_path, views, passes):
    """A state twice; the states of two passes, the encoder's too or not; or those of two parts, each encoded alone."""
    trainer = at_second_position(tmp_path, model=tiny_indexer(dropout=0.3).double(), contrastive_views=views)
    batch = trainer.collator()([trainer.documents[row] for row in TWO_GROUPS])
    found = []
    trainer.objective.contrast = lambda views, batch: found.append(views) or torch.zeros(len(batch.documents))
    encoded = []
    hook = trainer.model.get_encoder().register_forward_hook(lambda *_: encoded.append(1))
    for mode in (False, True):
        trainer.compute_loss(trainer.model.train(mode), dict(batch))
    hook.remove()
    assert len(encoded) == 2 * passes
    (calm, calm_other), (noisy, noisy_other) = found
    assert torch.equal(noisy, noisy_other) == (views == "identical")
    if views != "crops":
        assert torch.equal(calm, calm_other)
        return
    for row, document in enumerate(TWO_GROUPS):
        for part, state in zip(trainer.documents[document]["crops"], (calm[row], calm_other[row]), strict=True):
            input_ids = torch.from_numpy(part.astype(np.int64))[None]
            alone = trainer.model.eval()(input_ids, decoder_input_ids=batch["decoder_input_ids"][row : row + 1])
            torch.testing.assert_close(alone.decoder_last_hidden_state[0, -1], state, rtol=1e-4, atol=1e-6)


def test_a_continuous_stage_does_not_look_at_its_codebook(tmp_path):
    """It gets one afterwards; a discrete stage is made of it."""
    for kind in ("continuous", "discrete"):
        trainer = at_second_position(tmp_path / kind, kind)
        torch.nn.init.constant_(trainer.model.codebooks.learned[1].weight, float("nan"))
        losses = accumulated_gradients(trainer, 1)[1]
        assert math.isfinite(losses["reconstruction"]) == (kind == "continuous")
        assert math.isfinite(losses["commitment"])


def test_fillers_count_nothing(tmp_path):
    """Batches are filled up with documents at weight 0: neither gradient nor negatives come from them."""
    trainer = at_second_position(tmp_path)
    collator = trainer.collator()
    documents = [trainer.documents[row] for row in range(40, 46)]
    fillers = [trainer.documents[row] | {"weight": 0} for row in (46, 47, 40)]
    gradients = []
    for items in (documents, documents + fillers):
        batch = collator(items)
        trainer.model.zero_grad()
        count = trainer._get_num_items_in_batch([batch], torch.device("cpu"))
        assert count == 6
        trainer.training_step(trainer.model, batch, num_items_in_batch=count)
        gradients.append({n: p.grad.clone() for n, p in trainer.model.named_parameters() if p.grad is not None})
    assert_equal_gradients(gradients[1], gradients[0])


def test_codes_are_chosen_as_the_position_says(tmp_path):
    trainer, seen = at_second_position(tmp_path, code_choice=["most_likely", "balanced"]), []
    trainer.model.register_forward_pre_hook(lambda _, __, inputs: seen.append(inputs["code_choice"]), with_kwargs=True)
    accumulated_gradients(trainer, 1)
    assert [choice.kind for choice in seen] == ["balanced"]

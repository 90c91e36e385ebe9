"""An adaptation on two processes: negatives, gradients and losses of one process, and one result for both."""

import pytest
import torch
from launching import launch
from tiny_adaptation import first_step

pytestmark = pytest.mark.dist


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """What two processes found."""
    parts = launch(tmp_path_factory.mktemp("two"), 2, "adaptation_step", "adaptation_run", timeout=120)
    return [{"step": part["adaptation_step"], "run": part["adaptation_run"]} for part in parts]


def test_losses_and_gradients_are_those_of_one_process(two, tmp_path):
    """Half a batch each: without the other half's negatives, or their gradients, both would differ."""
    expected, losses = first_step(tmp_path, per_device_train_batch_size=16)
    assert losses["simcse"] > 0.1
    for part in two:
        gradients, found = part["step"]
        assert found == pytest.approx(losses, rel=1e-5)
        assert expected.keys() <= gradients.keys()
        for name, gradient in gradients.items():
            reference = expected.get(name, torch.zeros_like(gradient))
            torch.testing.assert_close(gradient, reference, rtol=1e-4, atol=1e-5, msg=name)
    assert max(gradient.abs().max() for gradient in expected.values()) > 1e-2


def test_both_processes_end_with_the_same(two):
    (figures, weights), (other_figures, other_weights) = (part["run"] for part in two)
    assert figures == other_figures and figures["loss_end"] < figures["loss_start"]
    assert all(torch.equal(weights[name], other_weights[name]) for name in weights)

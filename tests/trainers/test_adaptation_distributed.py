"""An adaptation on two processes: negatives, gradients and losses of one process, and one result for both."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny_adaptation import first_step

pytestmark = pytest.mark.dist
WORKER = Path(__file__).with_name("adaptation_worker.py")


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """What two processes found."""
    folder = tmp_path_factory.mktemp("two")
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    environment = os.environ | {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
    workers = [
        subprocess.Popen(
            [sys.executable, str(WORKER), str(folder)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            env=environment | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in range(2)
    ]  # fmt: skip
    try:
        outputs = [worker.communicate(timeout=120)[0] for worker in workers]
    finally:  # the other one too, where it waits for the first
        for worker in workers:
            worker.kill()
    assert [worker.returncode for worker in workers] == [0, 0], outputs
    found = [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in range(2)]
    assert [part["world_size"] for part in found] == [2, 2]
    return found


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

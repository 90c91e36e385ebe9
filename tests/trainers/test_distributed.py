"""Several processes: the same losses, gradients and codes as one, every document once an epoch, and resuming."""

import shutil

import pytest
import torch
from launching import launch
from tiny_equality import farthest, farthest_gradient, first_steps, numbers, whole_runs
from tiny_retrieval import run_of_retrieval
from tiny_training import at_second_position, epoch_documents, first_step, make_trainer, steps_with_additions

from trainers import ExistingRunError

pytestmark = pytest.mark.dist


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """What two processes found."""
    tasks = (
        "gradients", "additions", "epochs", "whole_run", "stopped_run", "frozen_run", "retrieval", "other_number",
        "other_number_in_parts", "whole_runs", "parts_runs", "sharded_run",
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("two")
    found = launch(folder, 2, *tasks)
    found[0]["folder"] = folder
    return found


@pytest.mark.parametrize("kind", ["continuous", "discrete"])
def test_losses_and_gradients_are_those_of_one_process(two, tmp_path, kind):
    trainer = at_second_position(tmp_path, kind, per_device_train_batch_size=8, max_steps=1)
    expected, losses = first_step(trainer)
    # The batch is of one prefix or two: contrastive terms of one half need documents of the other.
    assert losses["contrastive"] > 0.1 and losses["commitment"] > 0.1
    for part in two:
        gradients, found = part["gradients"][kind]
        assert found == pytest.approx(losses, rel=1e-5)
        # Unused parameters have a gradient of zero there, and none here.
        assert expected.keys() <= gradients.keys()
        for name, gradient in gradients.items():
            reference = expected.get(name, torch.zeros_like(gradient))
            torch.testing.assert_close(gradient, reference, rtol=1e-5, atol=1e-6, msg=name)
    assert max(gradient.abs().max() for gradient in expected.values()) > 1e-2


def test_additions_are_those_of_one_process(two, tmp_path):
    """Balanced codes, pulls, averages and restarts look at the documents of all processes; 12 batches of 5 are 6 of
    10."""
    alone = steps_with_additions(tmp_path, batch_size=10)
    assert alone["codes"].shape == (6, 10) and alone["codes"].unique().numel() > 4
    assert sum(alone["restarts"]) > 0 and alone["losses"]["anchor"] > 0.01 < alone["losses"]["choice"]
    for part in two:
        found = part["additions"]
        torch.testing.assert_close(found["anchors"], alone["anchors"], rtol=1e-4, atol=1e-5)
        assert torch.equal(found["codes"], alone["codes"]) and found["restarts"] == alone["restarts"]
        assert found["losses"] == pytest.approx(alone["losses"], rel=1e-4)
        for name in ("codebook", "sizes"):
            torch.testing.assert_close(found[name], alone[name], rtol=1e-4, atol=1e-5)
            assert torch.equal(found[name], two[0]["additions"][name])
        for name, gradient in alone["gradients"].items():
            torch.testing.assert_close(found["gradients"][name], gradient, rtol=1e-3, atol=1e-5, msg=name)


def check_epochs(parts):
    """`parts`: per process and epoch, `(document, weight)` pairs."""
    orders = []
    for epoch in zip(*parts, strict=True):
        assert len({len(pairs) for pairs in epoch}) == 1
        pairs = [pair for part in epoch for pair in part]
        assert sorted(document for document, weight in pairs if weight) == list(range(60))
        assert {weight for _, weight in pairs} <= {0, 1}
        orders.append(pairs)
    assert orders[0] != orders[1]


def test_every_document_is_seen_once_an_epoch_by_one_or_two(two, tmp_path):
    check_epochs([part["epochs"] for part in two])
    trainer = at_second_position(tmp_path, per_device_train_batch_size=8)
    alone = [epoch_documents(trainer, epoch) for epoch in (0, 1)]
    check_epochs([alone])
    # Global batches are the same ones: process 0 has the first half of each.
    for epoch, pairs in enumerate(alone):
        first, second = (part["epochs"][epoch] for part in two)
        batches = [first[i : i + 4] + second[i : i + 4] for i in range(0, len(first), 4)]
        assert [pair for batch in batches for pair in batch] == pairs


@pytest.fixture(scope="module")
def four(tmp_path_factory):
    """What four processes found; the corpus is three batches and 12 documents of a fourth."""
    return launch(tmp_path_factory.mktemp("four"), 4, "epochs", "first_steps")


@pytest.mark.slow
def test_every_document_is_seen_once_an_epoch_by_four(four):
    check_epochs([part["epochs"] for part in four])


@pytest.mark.slow
def test_four_processes_take_the_steps_that_one_does(four, tmp_path):
    """20 steps of a stage of every kind, as in `tests/long/process_equality.py`."""
    for name, expected in first_steps(tmp_path, 60).items():
        for found in (part["first_steps"][name] for part in four):
            assert len(expected["losses"]) == 20
            assert max(map(farthest, found["losses"], expected["losses"])) < 1e-5, name
            assert farthest_gradient(found["gradients"], expected["gradients"]) < 1e-5, name


def test_two_processes_write_the_files_that_one_does(two, tmp_path):
    for name, expected in whole_runs(tmp_path, 60).items():
        for found in (part["whole_runs"][name] for part in two):
            assert torch.equal(found["codes"], expected["codes"]) and torch.equal(found["ids"], expected["ids"]), name
            assert found["files"] == expected["files"] and len(found["files"]) == 2
            assert farthest(found["figures"], expected["figures"]) < 1e-5


@pytest.fixture(scope="module")
def one(two, tmp_path_factory):
    """What a process of its own found, for the number of its threads counts as well."""
    folder = tmp_path_factory.mktemp("one")
    shutil.copytree(two[0]["folder"] / "other_number_in_parts", folder / "rest_in_parts/stopped")
    assert (folder / "rest_in_parts/stopped/stages/2-continuous/checkpoint-6/complete").exists()
    return launch(folder, 1, "parts_runs", "rest_in_parts")[0]


def test_batches_in_parts_make_the_same_weights_to_the_bit(two, one):
    """With dropout, by AdamW in float32."""
    for name, expected in one["parts_runs"].items():
        for found in (part["parts_runs"][name] for part in two):
            assert found["weights"] == expected["weights"] and found["files"] == expected["files"], name
            assert torch.equal(found["codes"], expected["codes"])
            assert farthest(found["figures"], expected["figures"]) < 1e-5


def test_a_model_in_shards_learns_what_a_whole_one_does(two):
    """All stages, codes that follow their documents included; the checkpoints inside a stage are one file."""
    for part in two:
        whole, sharded = part["sharded_run"]["whole"], part["sharded_run"]["sharded"]
        assert sharded["sharded"] and not whole["sharded"]
        assert torch.equal(sharded["codes"], whole["codes"])
        for name, value in whole["weights"].items():
            torch.testing.assert_close(sharded["weights"][name], value, rtol=1e-4, atol=1e-5, msg=name)
        assert farthest(numbers(sharded["figures"]), numbers(whole["figures"])) < 1e-5
        task, expected = part["sharded_run"]["task"], part["retrieval"]
        assert task["documents"] == expected["documents"] and len(numbers(task["figures"])) > 10
        assert farthest(numbers(task["figures"]), numbers(expected["figures"])) < 1e-5


def test_one_process_goes_on_where_two_stopped(two, tmp_path):
    """With the same global batch, inside the stage as well; else it is refused."""
    shutil.copytree(two[0]["folder"] / "other_number", tmp_path / "stopped")
    assert (tmp_path / "stopped/stages/2-continuous/checkpoint-6/complete").exists()
    settings = {"save_strategy": "steps", "save_steps": 3}
    with pytest.raises(ExistingRunError, match="global_batch_size: 16 there, 8 now"):
        make_trainer(tmp_path / "stopped", global_batch_size=8, **settings).train()
    stopped = make_trainer(tmp_path / "stopped", global_batch_size=16, **settings)
    stopped.train()
    whole = make_trainer(tmp_path / "whole", global_batch_size=16, **settings)
    whole.train()
    assert (stopped.index.codes == whole.index.codes).all()
    assert farthest(numbers(stopped.figures), numbers(whole.figures)) < 1e-3


def test_one_process_ends_to_the_bit_what_two_began_in_parts(one):
    stopped, whole = (one["rest_in_parts"][name] for name in ("stopped", "whole"))
    assert stopped["weights"] == whole["weights"] and stopped["files"] == whole["files"]


def test_a_whole_run_on_two_processes(two):
    """All processes end with the same weights and codes; figures are of the whole corpus."""
    for task in ("whole_run", "frozen_run"):
        results = [part[task] if task == "frozen_run" else part[task][0] for part in two]
        assert torch.equal(results[0]["codes"], results[1]["codes"])
        assert len(torch.unique(results[0]["codes"], dim=0)) == 60
        weights = [result["weights"] for result in results]
        assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
        for stage, figures in results[0]["figures"].items():
            if stage.endswith("continuous"):
                assert figures["kmeans_agreement"] == 1
            others = results[1]["figures"][stage]
            assert figures == others


def test_a_run_on_two_processes_goes_on_where_it_stopped(two):
    """The rest of the epoch brings the documents that are left, with that epoch's hints, in its order."""
    for part in two:
        whole, stopped = part["whole_run"]
        begin = ("2-continuous", 6)  # the checkpoint; epochs have 4 steps
        assert stopped["seen"] == {key: whole["seen"][key] for key in stopped["seen"]}
        assert stopped["seen"].keys() == {key for key in whole["seen"] if key >= begin}
        assert whole["seen"]["2-continuous", 2] != whole["seen"]["2-continuous", 6]
        assert torch.equal(whole["codes"], stopped["codes"])
        assert all(torch.equal(whole["weights"][name], stopped["weights"][name]) for name in whole["weights"])


def test_a_signal_to_one_process_stops_both(two):
    """After the same step, with status 143; they go on there, and end as if there had been none."""
    for part in two:
        whole, stopped = part["whole_run"][0], part["stopped_run"]
        assert stopped["status"] == 143
        assert min(stopped["seen"]) == ("1-discrete", 3) and stopped["seen"].keys() < whole["seen"].keys()
        assert torch.equal(whole["codes"], stopped["codes"])
        assert all(torch.equal(whole["weights"][name], stopped["weights"][name]) for name in whole["weights"])


def test_all_processes_refuse_another_runs_state_and_start_over_together(two):
    for part in two:
        assert "learning_rate: 0.01 there, 0.5 now" in part["frozen_run"]["refusal"]
        assert torch.equal(part["frozen_run"]["started over"], part["frozen_run"]["codes"])


def test_the_task_is_learned_as_by_one_process(two, tmp_path):
    """Uneven batches: 66 pairs and documents are three batches of 22, and 60 documents are two and a part."""
    alone = run_of_retrieval(tmp_path, batch_size=22)
    for part in two:
        found = part["retrieval"]
        for name, value in alone["weights"].items():
            torch.testing.assert_close(found["weights"][name], value, rtol=1e-6, atol=1e-8, msg=name)
        assert found["documents"] == alone["documents"] and found["queries"] == alone["queries"]
        for (share, figures), (expected_share, expected) in zip(
            found["figures"]["task"]["evaluations"], alone["figures"]["task"]["evaluations"], strict=True
        ):
            assert share == expected_share and figures == pytest.approx(expected)

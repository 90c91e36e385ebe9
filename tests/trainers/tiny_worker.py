"""One of several processes, started by `launching.py`; writes what it found to `folder/rank<r>.pt`.

torchrun --nproc_per_node 2 tiny_worker.py folder documents task [task ..]
"""

import contextlib
import os
import signal
import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2])]

import tiny_adaptation  # noqa: E402
import tiny_equality  # noqa: E402
import torch  # noqa: E402
import torch.distributed as dist  # noqa: E402
import yaml  # noqa: E402
from accelerate.state import AcceleratorState, PartialState  # noqa: E402
from accelerate.utils import DistributedType  # noqa: E402
from tiny_retrieval import run_of_retrieval  # noqa: E402
from tiny_training import (  # noqa: E402
    at_second_position,
    epoch_documents,
    first_step,
    make_trainer,
    steps_with_additions,
    tiny_indexer,
)
from transformers import TrainerCallback  # noqa: E402

from trainers import ExistingRunError, SemanticIDTrainer  # noqa: E402


class Stopped(Exception):
    """Stands for a kill of all processes."""


class WatchedTrainer(SemanticIDTrainer):
    """Notes which documents it gets at which step, with which hints."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.seen = {}

    def compute_loss(self, model, inputs, *args, **kwargs):
        if self.is_in_train:
            documents, hints = inputs["documents"].tolist(), inputs["hint_mask"].sum(dim=1).tolist()
            self.seen[self.stage.name, self.state.global_step] = documents, hints
        return super().compute_loss(model, inputs, *args, **kwargs)


class StopAt(TrainerCallback):
    def __init__(self, trainer, stage, step):
        self.trainer, self.stage, self.step = trainer, stage, step

    def on_step_end(self, args, state, control, **kwargs):
        if (self.trainer.stage.name, state.global_step) == (self.stage, self.step):
            raise Stopped


class SignalAt(StopAt):
    """Sends its process SIGTERM before a step's end, if it is the second one."""

    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        # The step that is about to be counted.
        if (self.trainer.stage.name, state.global_step + 1) == (self.stage, self.step) and dist.get_rank() == 1:
            signal.raise_signal(signal.SIGTERM)

    def on_step_end(self, args, state, control, **kwargs):
        pass


def gradients(folder: Path) -> dict:
    """Of the first step of a stage, with 4 documents on each of two processes."""
    return {
        kind: first_step(at_second_position(folder / kind, kind, per_device_train_batch_size=4, max_steps=1))
        for kind in ("continuous", "discrete")
    }


def additions(folder: Path) -> dict:
    """What looks at the documents of all processes, with 5 of them on each."""
    return steps_with_additions(folder, batch_size=5)


def epochs(folder: Path) -> list:
    """Documents of two epochs with prefix groups, as this process gets them."""
    trainer = at_second_position(folder, per_device_train_batch_size=4)
    return [epoch_documents(trainer, epoch) for epoch in (0, 1)]


def whole_run(folder: Path) -> list[dict]:
    """Two runs, the second one stopped inside a second epoch and started again."""
    results = []
    for name, stop in (("whole", None), ("stopped", ("2-continuous", 7))):

        def trainer_of(name=name):
            return make_trainer(
                folder / name, model=tiny_indexer(dropout=0.1), trainer_class=WatchedTrainer,
                per_device_train_batch_size=8, save_strategy="steps", save_steps=3,
            )  # fmt: skip

        trainer = trainer_of()
        if stop:
            trainer.add_callback(StopAt(trainer, *stop))
            try:
                trainer.train()
            except Stopped:
                trainer = trainer_of()
        trainer.train()
        results.append(result_of(trainer) | {"seen": trainer.seen})
    return results


def stopped_run(folder: Path) -> dict:
    """The run of `whole_run`, asked to stop by a signal to the second process alone, and started again."""
    found = {}

    def trainer_of():
        return make_trainer(
            folder, model=tiny_indexer(dropout=0.1), trainer_class=WatchedTrainer, per_device_train_batch_size=8,
            save_strategy="no",
        )  # fmt: skip

    trainer = trainer_of()
    trainer.add_callback(SignalAt(trainer, "1-discrete", 3))
    try:
        trainer.train()
    except SystemExit as stopped:
        found["status"] = stopped.code
    trainer = trainer_of()
    trainer.train()
    return found | result_of(trainer) | {"seen": trainer.seen}


def tracked_run(folder: Path) -> dict:
    """A run of one step a stage, with trackers and progress, and what it imports."""
    trainer = make_trainer(folder, max_steps=1, report_to=["tensorboard", "trackio"], disable_tqdm=False)
    trainer.train()
    imported = sorted({"tensorboard", "trackio"} & set(sys.modules))
    return {"imported": imported, "trackers": [type(tracker).__name__ for tracker in trainer.tracking.trackers]}


def frozen_run(folder: Path) -> dict:
    """A run whose encoder runs once, on the main process, and whose IDs have no last position; then the refusal of
    other settings."""

    def trainer_of(**settings):
        model = tiny_indexer("bert", similarity="euclidean", codebook_sizes=[8, 10])
        return make_trainer(
            folder, model=model, freeze_encoder=True, max_steps=2, collisions="reassign", anchor_weights=[1.0],
            contrastive_views="neighbours", **settings,
        )  # fmt: skip

    trainer = trainer_of()
    trainer.train()
    try:
        trainer_of(learning_rate=0.5).train()
    except ExistingRunError as error:
        refusal = str(error)
    again = trainer_of(start_over=True)
    again.train()
    return result_of(trainer) | {"refusal": refusal, "started over": result_of(again)["codes"]}


def retrieval(folder: Path) -> dict:
    """A warm start and a task, with 11 pairs on each process: the last batch has fillers."""
    return run_of_retrieval(folder, batch_size=11)


def sharded_run(folder: Path) -> dict:
    """The same run in whole models and in shards, as `examples/accelerate/fsdp2.yaml` has them. accelerate shards on
    accelerators alone; here it is made to believe that the CPUs are some."""

    def run(name: str) -> dict:
        trainer = make_trainer(
            folder / name, per_device_train_batch_size=8, optim="sgd", learning_rate=0.05, ema_decay=0.6,
            restart_threshold=0.3, save_strategy="steps", save_steps=5,
        )  # fmt: skip
        trainer.train()
        return result_of(trainer) | {"sharded": trainer.is_fsdp_enabled}

    whole = run("whole")
    config = yaml.safe_load((Path(__file__).parents[2] / "examples/accelerate/fsdp2.yaml").read_text())["fsdp_config"]
    os.environ["ACCELERATE_USE_FSDP"] = "true"
    os.environ |= {name.upper(): str(v).lower() if isinstance(v, bool) else str(v) for name, v in config.items()}
    begin = PartialState.__init__

    def pretend(self, *args, **kwargs):
        begin(self, *args, **kwargs)
        if self.distributed_type == DistributedType.MULTI_CPU:  # not where it is known by now that it is FSDP
            self.distributed_type = DistributedType.MULTI_GPU

    PartialState.__init__ = pretend
    AcceleratorState._reset_state(reset_partial_state=True)
    return {"whole": whole, "sharded": run("sharded"), "task": retrieval(folder / "task")}


def adaptation_run(folder: Path) -> tuple[dict, dict]:
    """Figures and weights of an encoder adapted by all objectives."""
    encoder = tiny_adaptation.tiny_encoder("bert", dropout=0.1)
    trainer = tiny_adaptation.adaptation_trainer(folder, encoder, **tiny_adaptation.OBJECTIVES["all"])
    figures = trainer.train()
    return figures, {name: value.clone() for name, value in trainer.adapted.state_dict().items()}


def adaptation_step(folder: Path) -> tuple[dict, dict]:
    """Gradients and losses of a step whose result one process can check."""
    return tiny_adaptation.first_step(folder, per_device_train_batch_size=8)


def other_number(folder: Path, **settings) -> None:
    """Stops inside the second epoch of a stage, for another number of processes to go on."""
    trainer = make_trainer(folder, global_batch_size=16, save_strategy="steps", save_steps=3, **settings)
    trainer.add_callback(StopAt(trainer, "2-continuous", 7))
    with contextlib.suppress(Stopped):
        trainer.train()


def other_number_in_parts(folder: Path) -> None:
    """The same in parts."""
    other_number(folder, batch_parts=4)


def rest_in_parts(folder: Path) -> dict:
    """What `other_number_in_parts` left to do, where a copy of its folder is; and all of it."""
    found = {}
    for name in ("stopped", "whole"):
        trainer = make_trainer(folder / name, global_batch_size=16, save_strategy="steps", save_steps=3, batch_parts=4)
        trainer.train()
        found[name] = tiny_equality.result_of(trainer, folder / name / "index")
    return found


def result_of(trainer) -> dict:
    weights = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    return {"codes": torch.from_numpy(trainer.index.codes), "weights": weights, "figures": trainer.figures}


def main() -> None:
    """Does the tasks in turn."""
    folder, documents = Path(sys.argv[1]), int(sys.argv[2])
    torch.set_num_threads(1)
    rank, found = int(os.environ.get("RANK", 0)), {}
    for task in sys.argv[3:]:
        if task in globals():
            found[task] = globals()[task](folder / task)
        else:
            found[task] = getattr(tiny_equality, task)(folder / task, documents)
    found["world_size"] = dist.get_world_size() if dist.is_initialized() else 1
    torch.save(found, folder / f"rank{rank}.pt")
    if dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()


if __name__ == "__main__":
    main()

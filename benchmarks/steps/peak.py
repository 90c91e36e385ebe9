"""How near a training step comes to the rate that a device multiplies matrices with."""

import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import Trainer, TrainerCallback

from modeling_lmindexer import word_losses
from trainers import SemanticIDTrainer

from .rounds import batches_of

NOMINAL = {"H100": 989e12, "H200": 989e12, "A100": 312e12, "B200": 2250e12}  # dense bf16, of the vendor's data sheets


def nominal_rate(device: torch.device) -> float | None:
    """Operations a second that the vendor states for bf16 without sparsity; None where it is not known."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    return next((rate for card, rate in NOMINAL.items() if card in name), None)


def wait(device: torch.device) -> None:
    """Until the device has done what it was told."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def measured_rate(device: torch.device, size: int, repeats: int = 20) -> float:
    """Operations a second of a bf16 product of two matrices of random numbers, both `(size, size)`."""
    one, other = torch.randn(2, size, size, device=device, dtype=torch.bfloat16)
    times = []
    for _ in range(repeats):
        wait(device)
        started = time.perf_counter()
        one @ other
        wait(device)
        times.append(time.perf_counter() - started)
    return 2 * size**3 / statistics.median(times)


def operations(trainer: SemanticIDTrainer) -> float:
    """Of the first step's forward and backward pass, none counted that is made twice to save memory.

    The counter sees nothing inside of compiled layers, and the compiler leaves alone for ever what it first meets
    under a counter: for this step they are as if they were not compiled.
    """
    batch = trainer._prepare_inputs(batches_of(trainer, 1)[0])
    model = trainer.model.train()
    at_once = {"SCORES_AT_ONCE": 2**62, "SCORES_AT_ONCE_ON_CUDA": 2**62}
    with patch.multiple(word_losses, **at_once), torch.compiler.set_stance("force_eager"):
        with FlopCounterMode(display=False) as counter:
            with trainer.accelerator.autocast():
                loss = trainer.compute_loss(model, batch)
            loss.backward()
    model.zero_grad()
    return counter.get_total_flops()


class StepTimes(TrainerCallback):
    """Seconds of every step of a trainer's own loop, until the device has done it.

    Args:
        device: of the trainer.
        profiler: that is told when a step is done, or None.
    """

    def __init__(self, device: torch.device, profiler: torch.profiler.profile | None):
        self.device, self.profiler, self.seconds, self.started = device, profiler, [], 0.0

    def on_epoch_begin(self, args, state, control, **kwargs):
        wait(self.device)
        self.started = time.perf_counter()

    def on_step_end(self, args, state, control, **kwargs):
        wait(self.device)
        ended = time.perf_counter()
        self.seconds.append(ended - self.started)
        if self.profiler:
            self.profiler.step()
        self.started = time.perf_counter()


def step_seconds(trainer: SemanticIDTrainer, warm_up: int, profiler=None) -> float:
    """Median seconds of the trainer's steps after the first ones."""
    times = StepTimes(trainer.args.device, profiler)
    trainer.add_callback(times)
    Trainer.train(trainer)
    return statistics.median(times.seconds[warm_up:])


@contextmanager
def profiled(path: Path | None, rounds: int) -> Iterator[torch.profiler.profile | None]:
    """A profiler of the last three of some steps; what took most time goes into a file, by device and by CPU."""
    if path is None:
        yield None
        return
    activities = [torch.profiler.ProfilerActivity.CPU]
    if torch.cuda.is_available():
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    schedule = torch.profiler.schedule(wait=rounds - 4, warmup=1, active=3, repeat=1)
    with torch.profiler.profile(activities=activities, schedule=schedule, record_shapes=True) as profiler:
        yield profiler
    tables = [
        profiler.key_averages().table(sort_by=order, row_limit=50, max_name_column_width=90)
        for order in ("self_device_time_total", "self_cpu_time_total")
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n\n".join(tables), encoding="utf-8")

"""Batches in a fixed number of parts, so that a training is the same to the bit on any number of processes."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torch.utils.data import Sampler

from .prefix_sampler import PrefixBatchSampler, SampleKey

# Elements of gradients that processes exchange at once: 64 MB in float32, from each of them.
_EXCHANGED = 2**24


class PartOrder(Sampler[list[SampleKey]]):
    """The parts of every global batch in the order in which accelerate's `BatchSamplerShard`, which gives list `i` to
    process `i mod processes`, hands each process parts in a row: process `r` gets parts `r n` to `(r + 1) n - 1`.

    Args:
        sampler: whose lists are parts, `sampler.num_processes` of them being a global batch.
        processes: that share them; their number divides that of the parts.
    """

    drop_last = False  # read by accelerate, as is batch_size

    def __init__(self, sampler: PrefixBatchSampler, processes: int):
        self.sampler, self.processes, self.batch_size = sampler, processes, sampler.batch_size

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of the next iteration."""
        self.sampler.set_epoch(epoch)

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[list[SampleKey]]:
        parts, each = iter(self.sampler), self.sampler.num_processes // self.processes
        while batch := list(islice(parts, self.sampler.num_processes)):
            yield from (batch[rank * each + turn] for turn in range(each) for rank in range(self.processes))


class BatchParts:
    """What a process does with its parts of a global batch.

    Sums of floating-point numbers depend on their order. Here the gradients of parts are added pairwise, neighbours
    first. What a process adds on its own is then a branch of the same tree, whatever the number of processes.

    Attributes:
        own: parts of a batch that this process computes, one after the other.
        turn: which of them is next.
        waiting: branches that wait for their neighbour: how many parts each has, and their gradients' sum.

    Args:
        number: of parts, a power of two.
        rank, processes: of this process; `processes` is a power of two, and at most `number`.
    """

    def __init__(self, number: int, rank: int = 0, processes: int = 1):
        self.own, self.rank, self.processes = number // processes, rank, processes
        self.turn = 0
        self.waiting: list[tuple[int, list[torch.Tensor | None]]] = []

    def begin(self) -> None:
        """Forgets what a training left that ended inside a batch."""
        self.turn = 0
        self.waiting.clear()

    @contextmanager
    def part(self, parameters: Iterable[nn.Parameter], *seeds: int) -> Iterator[None]:
        """Around a part's forward and backward pass, without DDP's own reduction: draws of torch depend on the part
        alone, and after the batch's last part the parameters' gradients are the mean over processes, as DDP's.

        Args:
            parameters: that are trained.
            seeds: what draws depend on beside the part, such as the step.
        """
        devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
        with torch.random.fork_rng(devices):
            sequence = np.random.SeedSequence([*seeds, self.rank * self.own + self.turn])
            torch.manual_seed(int(sequence.generate_state(1)[0]))
            yield
        parameters = [parameter for parameter in parameters if parameter.requires_grad]
        self._add([parameter.grad for parameter in parameters])
        self.turn = (self.turn + 1) % self.own
        gradients = [None] * len(parameters)
        if self.turn == 0:
            gradients = self._of_all_processes(self.waiting.pop()[1], parameters)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient

    def _add(self, gradients: list[torch.Tensor | None]) -> None:
        """Takes the gradients of a part, and adds up branches of equal size."""
        size = 1
        while self.waiting and self.waiting[-1][0] == size:
            gradients = [*map(_sum, self.waiting.pop()[1], gradients)]
            size *= 2
        self.waiting.append((size, gradients))

    @torch.no_grad()
    def _of_all_processes(self, gradients: list, parameters: list[nn.Parameter]) -> list[torch.Tensor | None]:
        if self.processes == 1:
            return gradients
        known = torch.tensor([gradient is not None for gradient in gradients], device=parameters[0].device).int()
        dist.all_reduce(known)
        used = [place for place, count in enumerate(known.tolist()) if count]
        found: list[torch.Tensor | None] = [None] * len(gradients)
        for places in _groups(used, parameters):
            own = [gradients[i] if gradients[i] is not None else torch.zeros_like(parameters[i]) for i in places]
            flat = torch.cat([gradient.flatten() for gradient in own])
            for some in flat.split(_EXCHANGED):
                branches = [torch.empty_like(some) for _ in range(self.processes)]
                dist.all_gather(branches, some)
                while len(branches) > 1:
                    branches = [*map(torch.add, branches[::2], branches[1::2])]
                torch.div(branches[0], self.processes, out=some)
            pieces = flat.split([gradient.numel() for gradient in own])
            for place, piece in zip(places, pieces, strict=True):
                # Memory of its own: where a tensor begins changes how its norm is rounded.
                found[place] = piece.view_as(parameters[place]).clone()
        return found


def _sum(one: torch.Tensor | None, other: torch.Tensor | None) -> torch.Tensor | None:
    """The sum of two gradients, `None` where neither part used the parameter."""
    return one + other if one is not None and other is not None else one if other is None else other


def _groups(places: list[int], parameters: list[nn.Parameter]) -> Iterator[list[int]]:
    """Places in a row of parameters of one type that have few enough elements together, or one alone."""
    group: list[int] = []
    total = 0
    for place in places:
        size = parameters[place].numel()
        if group and (total + size > _EXCHANGED or parameters[group[0]].dtype != parameters[place].dtype):
            yield group
            group, total = [], 0
        group.append(place)
        total += size
    if group:
        yield group

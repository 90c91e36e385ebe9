"""Memory for constrained scores, lent out and taken back when nobody looks at it any more."""

import functools
import mmap
import sys
import threading
from collections.abc import Callable

import torch
from torch import Tensor

HUGE = 2**25  # bytes from which the C library asks the system for fresh memory every time


class ScoreBuffer(threading.local):
    """One tensor per thread, all -inf but for what was written last.

    Whether the tensor of the step before is still in use, by its receiver or by any view of it, is told by the number
    of references to its storage. `generate` drops it after every step of a beam search, and keeps all of them when
    sampling with `output_scores`: then every step gets fresh memory. What a receiver writes in place is noticed, too,
    unless it goes by `.data` or numpy.
    """

    def __init__(self):
        self._memory: Tensor | None = None
        self._version = 0  # of the memory, as it was lent out: torch counts what is written in place
        self._written: list = []

    def fill(self, scores: Tensor, write: Callable[[Tensor], list]) -> Tensor:
        """A tensor like `scores` after `write`, which gets it all -inf and returns the regions it wrote to."""
        if scores.requires_grad and torch.is_grad_enabled():
            memory = minus_infinity_like(scores)
            write(memory)
            return memory
        memory = self._cleared(scores)
        if memory is None:
            with torch.inference_mode(False):  # or the next step could not write to it outside of inference mode
                memory = minus_infinity_like(scores)
        written = write(memory)
        self._memory, self._version, self._written = memory, memory._version, written
        return memory.view(memory.shape)

    def _cleared(self, scores: Tensor) -> Tensor | None:
        """The memory of the step before, all -inf again, if it fits and nobody holds it."""
        memory, self._memory = self._memory, None  # should anything fail from here on, it is in no known state
        wanted = (scores.shape, scores.dtype, scores.device)
        if memory is None or (memory.shape, memory.dtype, memory.device) != wanted or is_held(memory):
            return None
        if memory._version != self._version:
            return memory.fill_(-torch.inf)  # its receiver has written to it
        for region in self._written:
            region.clear(memory)
        return memory

    def __reduce__(self):
        return ScoreBuffer, ()


def references(tensor: Tensor) -> tuple[int, int]:
    """References to a tensor's memory: by tensors, and by Python to the object that stands for it."""
    storage = tensor.untyped_storage()
    return torch._C._storage_Use_Count(storage._cdata), sys.getrefcount(storage)


@functools.cache
def references_of_one() -> tuple[int, int] | None:
    """What [`references`] tells of a tensor that nothing else refers to; `None` where torch does not tell."""
    return references(torch.empty(1)) if hasattr(torch._C, "_storage_Use_Count") else None


def is_held(tensor: Tensor) -> bool:
    """Whether anything but this one tensor refers to its memory; true where torch does not tell."""
    alone = references_of_one()
    return alone is None or references(tensor) != alone


def minus_infinity_like(scores: Tensor) -> Tensor:
    """A contiguous tensor of the shape, type and device of `scores`, all -inf.

    Fresh memory costs more than what is written to it, because the system hands it out in pages of 4 KB; on Linux it
    is asked for pages of 2 MB.
    """
    if scores.device.type != "cpu" or scores.nbytes < HUGE or not hasattr(mmap, "MADV_HUGEPAGE"):
        return torch.full_like(scores, -torch.inf, memory_format=torch.contiguous_format)
    memory = mmap.mmap(-1, scores.nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.madvise(mmap.MADV_HUGEPAGE)
    storage = torch.frombuffer(memory, dtype=scores.dtype).untyped_storage()
    # Not a view, which would count as one more holder of the memory.
    return torch.empty(0, dtype=scores.dtype).set_(storage, 0, scores.shape).fill_(-torch.inf)

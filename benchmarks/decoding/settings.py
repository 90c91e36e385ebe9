"""What `constrained_decoding.py` measures with: synthetic semantic IDs, the dictionary trie that others use, clocks.

Codes of a setting are skewed (Zipf, exponent 0.6: the most frequent of 512 first codes gets 3.5 % of the documents) or
uniform, all sequences differ, documents come in random order. The small vocabulary is id 0 and the codes of all
positions; the T5 vocabulary has them behind T5's own 32,128 tokens.
"""

import ctypes
import os
import random
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from multiprocessing import get_context
from pathlib import Path
from statistics import fmean, median

import numpy as np
import torch
from transformers import PrefixConstrainedLogitsProcessor

from modeling_lmindexer import PrefixTree

SKEW = 0.6
LAYOUTS = "fast", "compact"
CPU = torch.device("cpu")
DICT_TRIE_BYTES = 10_000  # to be free per document: the dictionary, the lists it is made from, room for the scores
FEWEST_ROUNDS, MOST_ROUNDS = 3, 100
A_MINUTE = 60.0  # seconds
STATUS = Path("/proc/self/status")


@dataclass(frozen=True)
class Setting:
    """A corpus: so many documents, codes per position, positions."""

    documents: int
    codes: int
    positions: int
    uniform: bool = False


SETTINGS = {
    "A": Setting(12_101, 512, 4),
    "B": Setting(109_739, 5_120, 4),
    "C": Setting(1_000_000, 51_200, 4),
    "D": Setting(10_000_000, 2_048, 8, uniform=True),
}
# `tiny` is what examples/run_indexing.py trains by default, the others are those of T5's checkpoints.
SHAPES = {
    "tiny": {"d_model": 128, "d_kv": 32, "d_ff": 512, "num_heads": 4, "num_layers": 2, "num_decoder_layers": 2},
    "small": {"d_model": 512, "d_kv": 64, "d_ff": 2048, "num_heads": 8, "num_layers": 6, "num_decoder_layers": 6},
    "base": {"d_model": 768, "d_kv": 64, "d_ff": 3072, "num_heads": 12, "num_layers": 12, "num_decoder_layers": 12},
}
TINY_SHAPE = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_heads": 2, "num_layers": 2, "num_decoder_layers": 2}


@dataclass(frozen=True, eq=False)
class Plan:
    """What a run measures, and how often.

    Attributes:
        settings: name and corpus of the sections `constraint` and `filters`.
        updates: the corpus that documents are added to.
        search_settings: the corpora of whole runs, one per number of positions.
        shapes: of the T5 of whole runs, by name.
        sources: lengths of their inputs.
        batches, beams: rows of a step are the product.
        t5_tokens: in the T5 vocabulary before the codes.
        shares: of the documents that a filter allows.
        seconds: per candidate, after three rounds.
    """

    settings: dict[str, Setting]
    updates: Setting
    search_settings: tuple[Setting, ...]
    shapes: dict[str, dict[str, int]]
    sources: tuple[int, ...]
    batches: tuple[int, ...]
    beams: int
    t5_tokens: int
    shares: tuple[float, ...]
    repeats: int
    seconds: float
    seed: int
    device: torch.device


def plan_of(options) -> Plan:
    """The plan for the command line's options; `--quick` makes everything small, to see that it runs."""
    full = Plan(
        settings={name: SETTINGS[name] for name in options.settings},
        updates=SETTINGS["C"],
        search_settings=(SETTINGS["A"], Setting(100_000, 2_048, 8, uniform=True)),
        shapes={name: SHAPES[name] for name in options.models},
        sources=(32, 512), batches=(1, 32), beams=20, t5_tokens=32_128, shares=(0.5, 0.1, 0.01),
        repeats=options.repeats, seconds=10.0, seed=options.seed, device=torch.device(options.device),
    )  # fmt: skip
    if not options.quick:
        return full

    def small(setting: Setting, documents: int = 400) -> Setting:
        return replace(setting, documents=documents, codes=16)

    return replace(
        full,
        settings={name: small(setting) for name, setting in full.settings.items()},
        updates=small(SETTINGS["C"], 2_000),
        search_settings=tuple(map(small, full.search_settings)),
        shapes={name: TINY_SHAPE for name in options.models},
        sources=(8, 12), batches=(1, 2), beams=4, t5_tokens=100, shares=(0.5, 0.01), repeats=2, seconds=0.1,
    )  # fmt: skip


@lru_cache(maxsize=1)
def make_codes(setting: Setting, seed: int) -> np.ndarray:
    """Different sequences `(documents, positions)` in random order, of the smallest integer type."""
    rng = np.random.default_rng(seed)
    dtype = np.min_scalar_type(-setting.codes)
    if setting.uniform:
        # Two of ten million sequences of 88 random bits are the same in one draw of a trillion.
        return rng.integers(setting.codes, size=(setting.documents, setting.positions), dtype=dtype)
    weights = 1 / np.arange(1, setting.codes + 1) ** SKEW
    codes = np.empty((0, setting.positions), dtype=dtype)
    while len(codes) < setting.documents:
        size = (setting.documents // 8 + setting.documents, setting.positions)
        drawn = rng.choice(setting.codes, size=size, p=weights / weights.sum()).astype(dtype)
        codes = np.unique(np.concatenate([codes, drawn]), axis=0)
    return codes[rng.permutation(len(codes))[: setting.documents]]


def flat_ids(codes: np.ndarray, setting: Setting, first: int = 1) -> torch.Tensor:
    """Tokens `(N, positions)`: every position has its own `setting.codes`, the first ones from `first` on."""
    end = first + setting.positions * setting.codes
    tokens = codes.astype(np.min_scalar_type(-end))
    tokens += (first + setting.codes * np.arange(setting.positions)).astype(tokens.dtype)
    return torch.from_numpy(tokens)


def in_order(sequences: torch.Tensor) -> torch.Tensor:
    """The rows in lexicographic order."""
    return sequences[torch.from_numpy(np.lexsort(sequences.numpy().T[::-1]))]


def dict_trie(sequences: torch.Tensor, num_beams: int) -> PrefixConstrainedLogitsProcessor:
    """transformers' own processor over a dictionary from every prefix to the list of its next tokens.

    Lists that are ready to be returned make this the fastest dictionary that we know of.
    """
    allowed: dict[tuple, list[int]] = {}
    for row in in_order(sequences).tolist():
        for level, token in enumerate(row):
            tokens = allowed.setdefault(tuple(row[:level]), [])
            if not tokens or tokens[-1] != token:
                tokens.append(token)
    return PrefixConstrainedLogitsProcessor(lambda _, tokens: allowed[tuple(tokens[1:].tolist())], num_beams)


def nested_dicts(sequences: torch.Tensor, num_beams: int) -> PrefixConstrainedLogitsProcessor:
    """transformers' own processor over dictionaries in dictionaries, whose keys are listed when asked for.

    As GENRE (De Cao et al., 2021) has it, and most that came after.
    """
    root: dict = {}
    for row in in_order(sequences).tolist():
        node = root
        for token in row:
            node = node.setdefault(token, {})

    def allowed(_, tokens: torch.Tensor) -> list[int]:
        node = root
        for token in tokens[1:].tolist():
            node = node[token]
        return list(node)

    return PrefixConstrainedLogitsProcessor(allowed, num_beams)


def dict_trie_fits(setting: Setting) -> bool:
    """Whether a dictionary trie leaves room for what it is compared with."""
    return setting.documents * DICT_TRIE_BYTES < available_bytes()


@lru_cache(maxsize=1)
def sequences_of(setting: Setting, seed: int, first: int) -> torch.Tensor:
    """Tokens `(N, positions)` of a setting."""
    return flat_ids(make_codes(setting, seed), setting, first)


@lru_cache(maxsize=2)
def tree_of(setting: Setting, first: int, layout: str, plan: Plan) -> PrefixTree:
    """The tree of a setting, on the plan's device."""
    return PrefixTree.from_sequences(sequences_of(setting, plan.seed, first), layout=layout).to(plan.device)


@lru_cache(maxsize=2)
def trie_of(build: Callable, setting: Setting, first: int, plan: Plan) -> PrefixConstrainedLogitsProcessor:
    """What `build`, [`dict_trie`] or [`nested_dicts`], makes of a setting."""
    return build(sequences_of(setting, plan.seed, first), plan.beams)


def forget() -> None:
    """Frees codes, trees and tries."""
    for cached in (make_codes, sequences_of, tree_of, trie_of):
        cached.cache_clear()


def beam_rows(sequences: torch.Tensor, rows: int, seed: int) -> torch.Tensor:
    """Beams `(rows, 1 + positions)`: the start token and the IDs of random documents."""
    chosen = torch.randint(len(sequences), (rows,), generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.pad(sequences[chosen].long(), (1, 0))


def clock(device: torch.device) -> float:
    """Seconds, when the device has done all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def seconds_of(function: Callable, device: torch.device, events: bool = False, head_start: int = 0) -> float:
    """Seconds of one call, its result freed within them.

    Args:
        events: on a GPU, between two events in the stream instead of on the host's clock.
        head_start: cycles that the GPU is kept busy before, so that the launches of the call do not count.
    """
    if not (events and device.type == "cuda"):
        started = clock(device)
        function()
        return clock(device) - started
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize(device)
    if head_start:
        torch.cuda._sleep(head_start)
    start.record()
    function()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1000


def measure(
    candidates: dict[str, Callable[[int], object]], device: torch.device, *, steps: int = 1, repeats: int = 15,
    seconds: float = 10.0, warm_up: bool = True, events: bool = False, head_start: int = 0,
) -> dict[str, float]:  # fmt: skip
    """Seconds of a step of each candidate: the mean over the steps of their medians.

    A round runs the steps of one candidate after the other, as a decode does, then those of the next candidate, so
    that a machine that slows down slows all of them; in another order every round, because one finds what the one
    before left in the caches. A candidate that has used up its `seconds` after three rounds is left out of the others,
    and after one when that took a minute. What is short is noise, and gets a hundred rounds when `seconds` allow it.
    """
    times = {name: [[] for _ in range(steps)] for name in candidates}
    run = partial(seconds_of, device=device, events=events, head_start=head_start)
    if warm_up:
        for function in candidates.values():
            for step in range(steps):
                run(partial(function, step))
    for number in range(MOST_ROUNDS):
        if number >= repeats and sum(sum(map(sum, of_steps)) for of_steps in times.values()) > seconds:
            break
        for name in random.Random(number).sample(list(candidates), len(candidates)):
            used = sum(map(sum, times[name]))
            if number >= FEWEST_ROUNDS and used > seconds or used > A_MINUTE:
                continue
            for step in range(steps):
                times[name][step].append(run(partial(candidates[name], step)))
    return {name: fmean(map(median, of_steps)) for name, of_steps in times.items()}


def available_bytes(device: torch.device | None = None) -> int:
    """Memory that is free: of the GPU, or of the machine including what its file cache can give back."""
    if device is not None and device.type == "cuda":
        torch.cuda.empty_cache()  # what torch keeps for itself is free too
        return torch.cuda.mem_get_info(device)[0]
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable")) * 1024
    except (OSError, StopIteration):
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def resident_bytes(field: str = "VmRSS") -> int | None:
    """Of this process: now (`VmRSS`), or at most so far (`VmHWM`); `None` where there is no `/proc`.

    Not `getrusage`: its maximum starts with that of the process that started this one.
    """
    if not STATUS.exists():
        return None
    lines = STATUS.read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) * 1024


def return_freed_memory() -> None:
    """Has the allocator hand back what is free, so that a difference of resident memory is what a structure takes."""
    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    except (OSError, AttributeError):  # another C library
        pass


def _peak_of_build(path: Path, layout: str) -> int:
    """See [`peak_of_build`]; runs in a process of its own."""
    sequences = torch.from_numpy(np.load(path))
    torch.set_num_threads(1)
    PrefixTree.from_sequences(sequences[:100], layout=layout)  # what torch loads when it is first used
    before = resident_bytes()
    tree = PrefixTree.from_sequences(sequences, layout=layout)  # kept, so that it counts
    del sequences, tree
    return resident_bytes("VmHWM") - before


def peak_of_build(sequences: torch.Tensor, layout: str, folder: Path) -> int | None:
    """Bytes that a build adds at most to a process that holds the sequences, the tree included, they themselves not.

    `None` where there is no `/proc`.
    """
    if not STATUS.exists():
        return None
    path = folder / "sequences.npy"
    np.save(path, sequences.numpy())
    try:
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            return pool.submit(_peak_of_build, path, layout).result()
    finally:
        path.unlink()

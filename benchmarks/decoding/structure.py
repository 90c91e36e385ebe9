"""What trees take: memory, builds, and what changing a live one costs."""

import itertools
import time
from functools import partial
from pathlib import Path
from statistics import median

import torch

from modeling_lmindexer import PrefixTree, PrefixTreeLogitsProcessor

from .report import Results
from .settings import (
    CPU,
    LAYOUTS,
    Plan,
    Setting,
    clock,
    dict_trie,
    dict_trie_fits,
    forget,
    in_order,
    measure,
    peak_of_build,
    resident_bytes,
    return_freed_memory,
    sequences_of,
)

LARGE = 2_000_000  # documents from which on only sorted sequences are built


def structure_rows(plan: Plan, results: Results) -> None:
    """Memory and builds of both layouts and of the dictionary trie, on the CPU."""
    largest = max(plan.settings.values(), key=lambda setting: setting.documents)
    for name, setting in plan.settings.items():
        fields = {"setting": name, "documents": setting.documents, "positions": setting.positions}
        for layout in LAYOUTS:
            results.row(
                "structure", f"{name} {layout}", fields | {"layout": layout},
                partial(tree_figures, setting, layout, plan, results.folder if setting is largest else None),
            )  # fmt: skip
        results.row(
            "structure", f"{name} dict trie", fields | {"layout": "dict trie"}, partial(dict_figures, setting, plan),
            None if dict_trie_fits(setting) else "not enough free memory",
        )  # fmt: skip
        forget()


def tree_figures(setting: Setting, layout: str, plan: Plan, folder: Path | None) -> dict:
    """Bytes a document, builds from unsorted and sorted sequences in units of a sort of as many keys, peak memory.

    Args:
        folder: where the sequences are laid down for the process whose peak is measured; not measured without.
    """
    sequences = sequences_of(setting, plan.seed, 1)
    ordered = in_order(sequences)
    keys = torch.randint(2**62, (len(sequences),))
    inputs = {"sorted": ordered} if setting.documents > LARGE else {"unsorted": sequences, "sorted": ordered}
    candidates = {"sort": lambda _: keys.sort()} | {
        name: lambda _, rows=rows: PrefixTree.from_sequences(rows, layout=layout) for name, rows in inputs.items()
    }
    times = measure(candidates, CPU, repeats=plan.repeats, seconds=plan.seconds)
    peak = peak_of_build(ordered, layout, folder) if folder else None
    return {
        "bytes / document": PrefixTree.from_sequences(ordered, layout=layout).nbytes / setting.documents,
        "sort ms": 1000 * times["sort"],
        "unsorted": times["unsorted"] / times["sort"] if "unsorted" in times else None,
        "sorted": times["sorted"] / times["sort"],
        "input GB": ordered.nbytes / 1e9,
        "peak GB": None if peak is None else (peak + ordered.nbytes) / 1e9,
    }


def dict_figures(setting: Setting, plan: Plan) -> dict:
    """What the process grows by, and the build in units of a sort of as many keys."""
    sequences, keys = sequences_of(setting, plan.seed, 1), torch.randint(2**62, (setting.documents,))
    sort = measure({"sort": lambda _: keys.sort()}, CPU, repeats=plan.repeats, seconds=plan.seconds)["sort"]
    return_freed_memory()
    before, started = resident_bytes(), time.perf_counter()
    trie = dict_trie(sequences, plan.beams)
    taken = time.perf_counter() - started
    return_freed_memory()
    grown = resident_bytes() - before if before else None
    del trie
    return {
        "bytes / document": None if grown is None else grown / setting.documents,
        "sort ms": 1000 * sort,
        "unsorted": taken / sort,
    }


def update_rows(plan: Plan, results: Results) -> None:
    """Adding a thousandth of the documents to the others, and decoding some of them, against building anew."""
    for layout, rows in itertools.product(LAYOUTS, (1, plan.beams)):
        fields = {
            "layout": layout, "rows": rows, "documents": plan.updates.documents,
            "added": plan.updates.documents // 1000,
        }  # fmt: skip
        results.row("updates", f"{layout}, {rows} rows", fields, partial(update_figures, plan, layout, rows))
    forget()


def update_figures(plan: Plan, layout: str, rows: int) -> dict:
    """Medians of whole rounds: a tree that is in use, `add`, a greedy decode of `rows`; then the build of a new tree.

    The build begins with the sequences of all documents in one array.
    """
    number = plan.updates.documents // 1000
    sequences = sequences_of(plan.updates, plan.seed, plan.t5_tokens).to(plan.device)
    old, new = sequences[number:], sequences[:number]
    targets = new[torch.arange(rows) % number].long()  # (rows, positions)
    columns = plan.t5_tokens + plan.updates.positions * plan.updates.codes
    scores = torch.randn(plan.updates.positions, rows, columns, device=plan.device)
    scores.scatter_(2, targets.T[:, :, None], 100.0)
    rounds = []
    for turn in range(min(plan.repeats, 7) + 1):
        tree = PrefixTree.from_sequences(old, layout=layout)
        trie = PrefixTreeLogitsProcessor(tree)
        greedy_decode(trie, scores, plan.device)
        started = clock(plan.device)
        tree.add(new)
        added = clock(plan.device)
        ids, constraint = greedy_decode(trie, scores, plan.device)
        decoded = clock(plan.device)
        if not ids.equal(targets):
            raise RuntimeError("The decode did not return the documents that were added.")
        del tree, trie
        built = clock(plan.device)
        PrefixTree.from_sequences(torch.cat([new, old]), layout=layout)
        rebuild = clock(plan.device) - built
        if turn:  # the first round warms up
            rounds.append((added - started, constraint, decoded - started, rebuild))
    add, constraint, total, rebuild = map(median, zip(*rounds, strict=True))
    return {
        "add ms": 1000 * add, "constraint of the decode ms": 1000 * constraint, "add and decode ms": 1000 * total,
        "rebuild ms": 1000 * rebuild, "rebuild / add": rebuild / add, "rebuild / add and decode": rebuild / total,
        "rebuild / add and constraint": rebuild / (add + constraint),
    }  # fmt: skip


def greedy_decode(trie, scores: torch.Tensor, device: torch.device) -> tuple[torch.Tensor, float]:
    """IDs `(rows, positions)` of the best code at every position, and the seconds that the constraint took.

    Args:
        scores: `(positions, rows, vocabulary)`.
    """
    ids, seconds = torch.zeros(scores.shape[1], 1, dtype=torch.long, device=device), 0.0
    for of_step in scores:
        started = clock(device)
        constrained = trie(ids, of_step)
        seconds += clock(device) - started
        ids = torch.cat([ids, constrained.argmax(-1, keepdim=True)], dim=1)
        del constrained  # the next call can write where it was
    return ids[:, 1:], seconds

"""Steps of a decode: what the processor takes of the beams of real prefixes, alone, filtered, with pending changes."""

import itertools
from functools import partial

import torch

from modeling_lmindexer import PrefixTree, PrefixTreeLogitsProcessor

from .report import Results
from .settings import (
    LAYOUTS,
    Plan,
    Setting,
    available_bytes,
    beam_rows,
    dict_trie,
    dict_trie_fits,
    forget,
    measure,
    nested_dicts,
    sequences_of,
    tree_of,
    trie_of,
)

BUFFERS = {"re-used": True, "fresh": False}
RIVALS = {"dict trie": dict_trie, "nested dicts": nested_dicts}
LARGE = 2_000_000  # documents from which on 32 filters and their cumsum do not fit
AHEAD = 4_000_000  # cycles, about 2 ms: longer than the launches of a step take


def vocabularies(plan: Plan) -> dict[str, int]:
    """The token of the first code, by vocabulary."""
    return {"small": 1, "T5": plan.t5_tokens}


def random_scores(setting: Setting, first: int, rows: int, plan: Plan) -> torch.Tensor:
    """Log-probabilities `(rows, vocabulary)`, the same at every step."""
    return torch.randn(rows, first + setting.positions * setting.codes, device=plan.device)


def decode(processor, beams: torch.Tensor, scores: torch.Tensor):
    """A function of the step that runs the processor on `beams` `(rows, 1 + positions)` up to there."""
    prefixes = [beams[:, : 1 + step].contiguous() for step in range(beams.shape[1] - 1)]
    return lambda step: processor(prefixes[step], scores)


def step_times(candidates: dict, setting: Setting, plan: Plan, **options) -> dict[str, float]:
    """Seconds a step of a whole decode."""
    return measure(
        candidates, plan.device, steps=setting.positions, repeats=plan.repeats, seconds=plan.seconds,
        events=True, **options,
    )  # fmt: skip


def constraint_rows(plan: Plan, results: Results) -> None:
    """Every setting, vocabulary and batch."""
    for name, setting in plan.settings.items():
        for (vocabulary, first), batch in itertools.product(vocabularies(plan).items(), plan.batches):
            rows = batch * plan.beams
            needed = 4 * rows * (first + setting.positions * setting.codes) * 8 + 600 * setting.documents
            free = available_bytes(plan.device)
            results.row(
                "constraint", f"{name} {vocabulary}, {batch} x {plan.beams}",
                {"setting": name, "vocabulary": vocabulary, "batch": batch},
                partial(constraint_figures, setting, first, batch, plan),
                f"takes about {needed / 1e9:.0f} GB, {free / 1e9:.0f} are free" if needed > free else None,
            )  # fmt: skip
        forget()


def constraint_figures(setting: Setting, first: int, batch: int, plan: Plan) -> dict:
    """Both layouts, the buffer re-used or fresh, and dictionaries, in units of the floor."""
    rows = batch * plan.beams
    scores = random_scores(setting, first, rows, plan)
    beam_scores = torch.randn(rows, 1, device=plan.device)
    beams = beam_rows(sequences_of(setting, plan.seed, first), rows, plan.seed).to(plan.device)
    candidates = {
        "floor": lambda _: (scores.log_softmax(-1) + beam_scores).view(batch, -1).topk(2 * plan.beams),
    }
    for layout, (name, reuse) in itertools.product(LAYOUTS, BUFFERS.items()):
        processor = PrefixTreeLogitsProcessor(tree_of(setting, first, layout, plan), reuse_buffer=reuse)
        candidates[f"{layout}, {name}"] = decode(processor, beams, scores)
    if dict_trie_fits(setting):
        for name, build in RIVALS.items():
            candidates[name] = decode(trie_of(build, setting, first, plan), beams, scores)
    times = step_times(candidates, setting, plan)
    floor = times.pop("floor")
    over = {
        f"{rival} / {name}": times[rival] / taken
        for rival in RIVALS if rival in times
        for name, taken in times.items() if name not in RIVALS
    }  # fmt: skip
    ratios = {name: taken / floor for name, taken in times.items()}
    return {"columns": scores.shape[1], "floor ms": 1000 * floor, **ratios, **over}


def device_rows(plan: Plan, results: Results) -> None:
    """Steps on a GPU by its own events, beside one write of the scores, and whether the host is waited for."""
    for (name, setting), batch in itertools.product(plan.settings.items(), plan.batches):
        for buffer, reuse in BUFFERS.items():
            fields = {"setting": name, "batch": batch, "buffer": buffer}
            figures = partial(device_figures, setting, batch, reuse, plan)
            results.row("device", f"{name} T5, {batch} x {plan.beams}, {buffer}", fields, figures)
    forget()


def device_figures(setting: Setting, batch: int, reuse: bool, plan: Plan) -> dict:
    """Milliseconds of a step: as called on an idle GPU, and of the GPU alone, launched ahead."""
    first, rows = plan.t5_tokens, batch * plan.beams
    scores = random_scores(setting, first, rows, plan)
    beams = beam_rows(sequences_of(setting, plan.seed, first), rows, plan.seed).to(plan.device)
    processor = PrefixTreeLogitsProcessor(tree_of(setting, first, "fast", plan), reuse_buffer=reuse)
    step = decode(processor, beams, scores)
    candidates = {"step": step, "write": lambda _: torch.full_like(scores, -torch.inf)}
    called = step_times(candidates, setting, plan)["step"]
    alone = step_times(candidates, setting, plan, head_start=AHEAD)
    return {
        "kernels ms": 1000 * alone["step"],
        "write ms": 1000 * alone["write"],
        "kernels / write": alone["step"] / alone["write"],
        "called ms": 1000 * called,
        "waits for the host": "yes" if waits_for_host(step, setting.positions) else "no",
    }


def waits_for_host(step, positions: int) -> bool:
    """Whether any step makes host and GPU wait for each other."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        for level in range(positions):
            step(level)
    except RuntimeError as error:
        if "synchroniz" not in str(error):
            raise
        return True
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return False


def filter_rows(plan: Plan, results: Results) -> None:
    """Setting global filters and filters per row, and steps under them, for several shares of allowed documents."""
    for name, setting in plan.settings.items():
        if setting.documents > LARGE:
            continue
        for share, kind in itertools.product(plan.shares, ("global", "per row")):
            fields = {"setting": name, "kind": kind, "allowed": share}
            results.row("filters", f"{name} {kind}, {share:.0%} allowed", fields,
                        partial(set_figures, setting, kind, share, plan))  # fmt: skip
            batches = plan.batches if kind == "global" else plan.batches[-1:]
            for (vocabulary, first), batch in itertools.product(vocabularies(plan).items(), batches):
                results.row(
                    "filtered_steps", f"{name} {vocabulary}, {kind}, {share:.0%} allowed, {batch} x {plan.beams}",
                    fields | {"vocabulary": vocabulary, "batch": batch},
                    partial(filtered_figures, setting, first, kind, share, batch, plan),
                )  # fmt: skip
        forget()


def random_masks(setting: Setting, kind: str, share: float, plan: Plan) -> torch.Tensor:
    """Allowed documents, `(N,)` or `(batch, N)`; one at least."""
    generator = torch.Generator().manual_seed(plan.seed)
    shape = (setting.documents,) if kind == "global" else (plan.batches[-1], setting.documents)
    masks = torch.rand(shape, generator=generator) < share
    masks[..., 0] = True
    return masks.to(plan.device)


def set_figures(setting: Setting, kind: str, share: float, plan: Plan) -> dict:
    """`filtered`, in units of a permutation and a cumsum of the mask."""
    masks = random_masks(setting, kind, share, plan)
    order = torch.randperm(setting.documents, device=plan.device)
    tree = tree_of(setting, 1, "fast", plan)
    times = measure(
        {"floor": lambda _: masks[..., order].cumsum(-1), "filtered": lambda _: tree.filtered(masks)},
        plan.device, repeats=plan.repeats, seconds=plan.seconds,
    )  # fmt: skip
    return {"floor ms": 1000 * times["floor"], "filtered / floor": times["filtered"] / times["floor"]}


def filtered_figures(setting: Setting, first: int, kind: str, share: float, batch: int, plan: Plan) -> dict:
    """A step of a decode of allowed documents under the filter, in units of the same step without."""
    masks = random_masks(setting, kind, share, plan)
    sequences = sequences_of(setting, plan.seed, first)
    of_queries = masks.cpu().expand(batch, -1)  # (batch, N)
    beams = [beam_rows(sequences[mask], plan.beams, plan.seed + row) for row, mask in enumerate(of_queries)]
    beams, scores = torch.cat(beams).to(plan.device), random_scores(setting, first, batch * plan.beams, plan)
    candidates = {}
    for name, reuse in BUFFERS.items():
        trie = PrefixTreeLogitsProcessor(tree_of(setting, first, "fast", plan), reuse_buffer=reuse)
        candidates[f"unfiltered, {name}"] = decode(trie, beams, scores)
        candidates[name] = decode(trie.filtered(masks), beams, scores)
    return ratios(step_times(candidates, setting, plan), "unfiltered")


def ratios(times: dict[str, float], base: str) -> dict:
    """Per buffer, in units of the candidate `base` with that buffer."""
    return {f"{base}, {name} ms": 1000 * times[f"{base}, {name}"] for name in BUFFERS} | {
        name: times[name] / times[f"{base}, {name}"] for name in BUFFERS
    }


def pending_rows(plan: Plan, results: Results) -> None:
    """A step on a tree of which 1 % is pending: only added documents, or as many removed."""
    for kind, batch in itertools.product(("added", "added and removed"), plan.batches):
        for vocabulary, first in vocabularies(plan).items():
            results.row(
                "pending_steps", f"{kind}, {vocabulary}, {batch} x {plan.beams}",
                {"kind": kind, "vocabulary": vocabulary, "batch": batch},
                partial(pending_figures, kind, first, batch, plan),
            )  # fmt: skip
    forget()


def pending_figures(kind: str, first: int, batch: int, plan: Plan) -> dict:
    """A step with the changes pending, in units of a step of the tree that was compacted."""
    setting = plan.updates
    sequences = sequences_of(setting, plan.seed, first).to(plan.device)
    changes = setting.documents // 100
    added, removed = (changes, 0) if kind == "added" else (changes // 2, changes - changes // 2)
    trees = []
    for _ in range(2):
        tree = PrefixTree.from_sequences(sequences[added:])
        tree.add(sequences[:added])
        if removed:
            tree.remove(torch.arange(removed, device=plan.device))
        trees.append(tree)
    pending = trees[0].pending
    trees[1].compact()
    left = torch.cat([sequences[:added], sequences[added + removed :]])
    beams = beam_rows(left, batch * plan.beams, plan.seed).to(plan.device)
    scores = random_scores(setting, first, batch * plan.beams, plan)
    candidates = {}
    for name, reuse in BUFFERS.items():
        for prefix, tree in zip(("", "compacted, "), trees, strict=True):
            candidates[prefix + name] = decode(PrefixTreeLogitsProcessor(tree, reuse_buffer=reuse), beams, scores)
    return {"pending": pending} | ratios(step_times(candidates, setting, plan), "compacted")

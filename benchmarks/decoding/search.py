"""Whole runs of models with random weights: unconstrained `generate`, with the processor, and the exact search.

`LMIndexerForSemanticID` has the small vocabulary and a head per position, `T5ForConditionalGeneration` T5's tokens
and those of the codes behind them. All beams run to the last code in all of them: an ID has no end token. `packed` is
the search after `pack_weights`, by a copy of the model.
"""

import copy
import itertools
from functools import lru_cache, partial

import torch
from transformers import T5Config, T5ForConditionalGeneration

from modeling_lmindexer import (
    LMIndexerConfig,
    LMIndexerForSemanticID,
    PrefixTree,
    PrefixTreeLogitsProcessor,
    SemanticIndex,
    constrained_beam_search,
    pack_weights,
)

from .report import Results
from .settings import Plan, Setting, available_bytes, flat_ids, make_codes, measure

KINDS = "LMIndexer", "T5"


def run_bytes(shape: dict, rows: int, batch: int, source: int, columns: int) -> int:
    """Memory that `generate` takes at most, about: it keeps the keys and values of the text for every beam."""
    inner = shape["num_heads"] * shape["d_kv"]
    cross_attention = 2 * shape["num_decoder_layers"] * rows * source * inner
    reordered = 2 * rows * source * inner
    states = 2 * rows * source * shape["d_model"]
    encoder = batch * source * (source * shape["num_heads"] + 3 * shape["d_ff"])
    return 4 * (cross_attention + reordered + states + encoder + 5 * rows * columns) + 2 * 10**9


@lru_cache(maxsize=1)
def build_model(kind: str, name: str, shape: tuple, setting: Setting, plan: Plan):
    """A model with random weights, made for the IDs of `setting`."""
    torch.manual_seed(plan.seed)
    own = setting.positions * setting.codes if kind == "T5" else 0
    # No token ends an ID: a model would stop some beams early, at random.
    backbone = T5Config(
        vocab_size=plan.t5_tokens + own, dropout_rate=0.0, decoder_start_token_id=0, eos_token_id=None, **dict(shape)
    )
    if kind == "T5":
        model = T5ForConditionalGeneration(backbone)
    else:
        config = LMIndexerConfig(
            backbone_config=backbone, codebook_sizes=[setting.codes] * (setting.positions - 1),
            num_disambiguation_codes=setting.codes, num_reconstructor_layers=0, pooled_input=name == "tiny",
        )  # fmt: skip
        model = LMIndexerForSemanticID(config)
        # It starts at zero, so that the documents of a group would all be equally likely.
        torch.nn.init.normal_(model.codebooks.disambiguation.weight)
    return model.eval().to(plan.device)


@lru_cache(maxsize=1)
def packed_model(*args):
    """A copy of the model with packed weights."""
    model = copy.deepcopy(build_model(*args))
    pack_weights(model)
    return model


def build_runs(kind: str, name: str, shape: dict, setting: Setting, plan: Plan, batch: int, source: int) -> dict:
    """Functions that run the whole generation and return IDs `(batch, beams, positions)`."""
    which = kind, name, tuple(shape.items()), setting, plan
    model, packed = build_model(*which), packed_model(*which) if plan.device.type == "cpu" else None
    codes, beams = make_codes(setting, plan.seed), plan.beams
    generator = torch.Generator().manual_seed(plan.seed)
    input_ids = torch.randint(5, plan.t5_tokens, (batch, source), generator=generator).to(plan.device)
    inputs = {"input_ids": input_ids, "attention_mask": torch.ones_like(input_ids)}
    beam_settings = {"num_beams": beams, "num_return_sequences": beams, "max_new_tokens": setting.positions}

    def generate(model=model, **options) -> torch.Tensor:
        ids = model.generate(**inputs, **beam_settings, length_penalty=0.0, do_sample=False, **options)
        return ids[:, 1:].unflatten(0, (batch, beams))

    if kind == "LMIndexer":
        index = SemanticIndex(range(len(codes)), codes, [setting.codes] * setting.positions)
        trie = index.logits_processor

        def search(model) -> torch.Tensor:
            return model.search(index=index, num_beams=beams, top_k=beams, **inputs).sequences
    else:
        tree = PrefixTree.from_sequences(flat_ids(codes, setting, plan.t5_tokens)).to(plan.device)
        trie = PrefixTreeLogitsProcessor(tree)

        def search(model, **options) -> torch.Tensor:
            strategy = partial(constrained_beam_search, **options)
            return generate(model, logits_processor=trie, custom_generate=strategy)

    runs = {"unconstrained": generate, "processor": lambda: generate(logits_processor=trie)}
    for which, searcher in (("search", model), ("packed", packed)):
        if searcher is not None:
            runs[which] = partial(search, searcher)
            if kind == "T5":
                runs[f"{which}, codes' head"] = partial(search, searcher, head="codes")
    return runs


def same_results(one: torch.Tensor, other: torch.Tensor) -> float:
    """Share of the queries with the same set of IDs, both `(batch, beams, positions)`."""
    pairs = zip(one.tolist(), other.tolist(), strict=True)
    return sum(set(map(tuple, a)) == set(map(tuple, b)) for a, b in pairs) / len(one)


@torch.no_grad()
def compare_runs(kind: str, name: str, shape: dict, setting: Setting, plan: Plan, batch: int, source: int) -> dict:
    """Ratios to the unconstrained run, and whether the search finds what `generate` with the processor does."""
    runs = build_runs(kind, name, shape, setting, plan, batch, source)
    found = {name: run().cpu() for name, run in runs.items()}
    same = min(same_results(found["processor"], ids) for name, ids in found.items() if name in ("search", "packed"))
    candidates = {name: lambda _, run=run: run() for name, run in runs.items()}
    # Its first runs were those above.
    times = measure(candidates, plan.device, repeats=plan.repeats, seconds=plan.seconds, warm_up=False)
    unconstrained = times.pop("unconstrained")
    columns = "processor", "search", "packed", "search, codes' head", "packed, codes' head"
    ratios = {name: times[name] / unconstrained if name in times else None for name in columns}
    return {"unconstrained ms": 1000 * unconstrained, **ratios, "same IDs": same}


def search_rows(plan: Plan, results: Results) -> None:
    """Both models, every shape, number of positions, source length and batch."""
    for (name, shape), kind, setting in itertools.product(plan.shapes.items(), KINDS, plan.search_settings):
        for source, batch in itertools.product(plan.sources, plan.batches):
            columns = plan.t5_tokens * (kind == "T5") + setting.positions * setting.codes
            needed = run_bytes(shape, batch * plan.beams, batch, source, columns)
            free = available_bytes(plan.device)
            results.row(
                "search", f"{name} {kind}, {setting.positions} positions, {source} tokens, {batch} x {plan.beams}",
                {"shape": name, "model": kind, "positions": setting.positions, "tokens": source, "batch": batch},
                partial(compare_runs, kind, name, shape, setting, plan, batch, source),
                f"takes about {needed / 1e9:.0f} GB, {free / 1e9:.0f} are free" if needed > free else None,
            )  # fmt: skip
    build_model.cache_clear()
    packed_model.cache_clear()

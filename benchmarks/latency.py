"""How long a search takes, by shape of the model and kind of IDs, beside the floor of its arithmetic (Table 13).

    export LMINDEXER_DATA=...
    python benchmarks/latency.py --threads 2
    python benchmarks/latency.py --threads 2 --indexes LMIndexer=outputs/downstream/indexes/beauty-lmindexer-0

338 titles of Beauty are searched among the 12,094 items that have one, constrained, with 20 beams, by models with
random weights: what they find has no meaning, what it costs has. Without `--indexes` the IDs are drawn, with and
without a position that tells documents apart. The floor is the number of floating-point operations of that search, as
torch counts them, at the rate that one large product of matrices reaches in the same run. Times are medians.
"""

import argparse
import copy
import os
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
import datasets
import numpy as np
import torch
from data import CorpusArguments, load_corpus, train_tokenizer
from data.shapes import MODEL_SIZES
from torch.utils.flop_counter import FlopCounterMode
from transformers import T5Config
from transformers.utils import logging

from modeling_lmindexer import SemanticIndex, pack_weights
from trainers.report import format_table
from trainers.retrieval import Queries, Searcher
from trainers.retrieval_start import indexer_for

ITEMS = Path("amazon_beauty_2014") / "items.jsonl.gz"
SHAPES = {
    **{name: MODEL_SIZES[name] for name in ("tiny", "small")},
    "T5-small": {"d_model": 512, "d_kv": 64, "d_ff": 2048, "num_heads": 8, "num_layers": 6, "num_decoder_layers": 6},
    "T5-base": MODEL_SIZES["base"],
}
_MATRIX, _MULTIPLICATIONS = 2048, 10


def drawn_indexes(documents: list, seed: int) -> dict[str, SemanticIndex]:
    """Random IDs of three codes, all different, and of three and a counter."""
    rng = np.random.default_rng(seed)
    flat = rng.permutation(128**3)[: len(documents)]
    unique = np.stack(np.unravel_index(flat, (128, 128, 128)), axis=1)
    shared = rng.integers(0, 32, size=(len(documents), 3))
    room = int(np.unique(shared, axis=0, return_counts=True)[1].max())
    return {
        "drawn": SemanticIndex.from_codes(documents, unique, [128] * 3, has_disambiguation=False),
        "drawn, with a counter": SemanticIndex.from_codes(documents, shared, [128] * 3 + [room]),
    }


def gflops_a_second() -> float:
    """What a product of large matrices reaches."""
    one, other = torch.randn(2, _MATRIX, _MATRIX)
    times = []
    for _ in range(_MULTIPLICATIONS):
        started = time.perf_counter()
        one @ other
        times.append(time.perf_counter() - started)
    return 2 * _MATRIX**3 / statistics.median(times) / 1e9


def measure(search: Searcher, queries: Queries, repeats: int) -> tuple[float, float]:
    """Seconds of a search, and its operations in thousands of millions."""
    with FlopCounterMode(display=False) as counter:
        search(queries)
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        search(queries)
        times.append(time.perf_counter() - started)
    return statistics.median(times), counter.get_total_flops() / 1e9


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line's options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=os.environ.get("LMINDEXER_DATA"), help="the data sets")
    parser.add_argument("--indexes", nargs="*", default=[], metavar="NAME=FOLDER", help="of these items")
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--num_queries", type=int, default=338)
    parser.add_argument("--num_beams", type=int, default=20)
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(argv)
    if options.data is None:
        parser.error("set LMINDEXER_DATA or give --data: the folder of the data sets")
    return options


def rows(options: argparse.Namespace):
    """A row per shape and kind of IDs."""
    file = str(Path(options.data) / ITEMS)
    items = load_corpus(CorpusArguments(train_file=file, text_columns=["title", "brand"], drop_empty_texts=True))
    indexes = {name: SemanticIndex.from_pretrained(path) for name, path in (i.split("=", 1) for i in options.indexes)}
    indexes = indexes or drawn_indexes(list(items["id"]), options.seed)
    tokenizer = train_tokenizer(list(items["text"]), 6000, model_max_length=64)
    chosen = np.random.default_rng(options.seed).permutation(len(items))[: options.num_queries]
    asked = items.select(chosen)
    table = datasets.Dataset.from_dict(
        {"id": list(map(str, asked["id"])), "text": list(asked["text"]), "relevant": [[one] for one in asked["id"]]}
    )
    for shape in options.shapes:
        config = T5Config(vocab_size=len(tokenizer), decoder_start_token_id=0, **SHAPES[shape])
        for name, index in indexes.items():
            model = indexer_for(index, config, options.seed).eval()
            packed = copy.deepcopy(model)
            pack_weights(packed)
            queries = Queries.of(table, index, tokenizer, 64)
            settings = {"num_beams": options.num_beams, "top_k": options.num_beams, "batch_size": options.batch_size}
            one, other = (Searcher(m, index, tokenizer.pad_token_id, quiet=True, **settings) for m in (model, packed))
            seconds, gflops = measure(one, queries, options.repeats)
            fast, _ = measure(other, queries, options.repeats)
            floor = gflops / gflops_a_second()
            yield [shape, name, len(index), index.codes.shape[1], seconds, fast, gflops, floor, fast / floor]


def main() -> None:
    """Measures and prints the table."""
    options = parse_arguments()
    logging.set_verbosity_error()
    datasets.disable_progress_bars()
    torch.set_num_threads(options.threads)
    names = [
        "shape",
        "IDs",
        "documents",
        "positions",
        "seconds",
        "seconds, packed",
        "GFLOP",
        "floor",
        "packed / floor",
    ]
    with torch.no_grad():
        print(format_table(names, rows(options), digits=2))


if __name__ == "__main__":
    main()

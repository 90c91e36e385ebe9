"""Indexing in bulk: its throughput beside the bare backbone's, and what it costs as the corpus grows.

    LMINDEXER_DATA=... python benchmarks/bulk_indexing.py throughput --encoder all-MiniLM-L6-v2/
    LMINDEXER_DATA=... python benchmarks/bulk_indexing.py scaling --sizes 1000 10000 100000 1000000

`throughput` reads files, tokenises, assigns codes and writes parts, and interleaves that with the backbone's encoder
alone on the same batches as ready tensors. `scaling` indexes corpora of each size with a tiny model, each in a process
of its own, and fits time, memory and bytes; texts are drawn from the data sets.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import torch
from transformers import AutoTokenizer, T5Config
from transformers.utils import logging

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
from data import CorpusArguments, load_corpus, train_tokenizer
from data.shapes import MODEL_SIZES
from data.shards import ShardFile

from modeling_lmindexer import LMIndexerConfig, LMIndexerForSemanticID
from modeling_lmindexer.backbones import encode_text
from modeling_lmindexer.document_ids import IDS_NAME
from modeling_lmindexer.prefix_file import PREFIX_TREE_NAME
from trainers.bulk_assignment import BulkAssigner
from trainers.bulk_indexing import Leftovers, ShardShare, assign_parts, index_corpus
from trainers.clustering import kmeans
from trainers.corpus_parts import PARTS_NAME, PartsFolder
from trainers.report import format_table

CORPORA = {  # files and columns of ids: items are short, abstracts fill what a model reads
    "items": [("amazon_beauty_2014/items.jsonl.gz", "id"), ("amazon_scientific_2018/items.jsonl.gz", "id")],
    "abstracts": [("nfcorpus/corpus.jsonl.gz", "_id")],
}
T5_SMALL = {"d_model": 512, "d_kv": 64, "d_ff": 2048, "num_heads": 8, "num_layers": 6, "num_decoder_layers": 6}
CODES = {"codebook_sizes": [128, 128, 128], "num_disambiguation_codes": 64}


def real_texts(data: Path, corpus: str) -> list[str]:
    """Texts of the data sets."""
    texts: list[str] = []
    for name, column in CORPORA[corpus]:
        arguments = CorpusArguments(train_file=str(data / name), id_column=column, drop_empty_texts=True)
        texts += load_corpus(arguments)["text"]
    return texts


def write_shards(folder: Path, texts: list[str], size: int, shard_size: int) -> list[ShardFile]:
    """So many documents, drawn from texts, in files of `shard_size`."""
    random = np.random.default_rng(size)
    for number, start in enumerate(range(0, size, shard_size)):
        rows = random.integers(len(texts), size=min(shard_size, size - start))
        with open(folder / f"{number:05d}.jsonl", "w") as file:
            for place, row in enumerate(rows.tolist(), start=start):
                # A word of its own, so that no text is there twice.
                file.write(json.dumps({"id": f"item-{place}", "text": f"{texts[row]} no{place}"}) + "\n")
    return [ShardFile(path, "id") for path in sorted(folder.glob("*.jsonl"))]


def indexer(name: str, encoder: str | None, texts: list[str], max_length: int):
    """A random indexer of a shape, or on a checkpoint, and a tokenizer."""
    torch.manual_seed(0)
    if encoder:
        model = LMIndexerForSemanticID.from_backbone(encoder, **CODES, max_source_length=max_length)
        tokenizer = AutoTokenizer.from_pretrained(encoder)
    else:
        tokenizer = train_tokenizer(texts[:5000], 6000)
        shape = T5_SMALL if name == "T5-small" else MODEL_SIZES["tiny"]
        backbone = T5Config(vocab_size=len(tokenizer), decoder_start_token_id=0, **shape)
        config = LMIndexerConfig(backbone_config=backbone, **CODES, max_source_length=max_length)
        model = LMIndexerForSemanticID(config)
    with torch.no_grad():  # what starts at zero would make a random model's decoder idle
        for parameter in model.parameters():
            if not parameter.any():
                parameter.normal_(std=0.02)
    model.drop_reconstructor()
    return model.eval(), tokenizer


@torch.inference_mode()
def start_codebooks(assigner: BulkAssigner, texts: list[str]) -> None:
    """Gives an untrained model codebooks of k-means on texts, as training starts them, position after position.

    With random ones a fifth of all documents share their codes, and the model's last position has a row for each.
    """
    model, tokens = assigner.model, assigner.tokenize(texts)
    ids = torch.full((len(tokens), 1), model.config.decoder_start_token_id)
    hidden = np.empty((len(tokens), model.config.hidden_size), dtype=np.float32)
    for codebook, offset in zip(model.codebooks.learned, model.config.position_offsets, strict=False):
        for rows, input_ids, mask in assigner.batches(tokens):
            found = model(input_ids=input_ids, attention_mask=mask, decoder_input_ids=ids[rows])
            hidden[rows] = found.decoder_last_hidden_state[:, -1].numpy()
        centroids, labels = kmeans(hidden, len(codebook.weight), similarity=codebook.similarity, seed=offset)
        codebook.initialize(torch.from_numpy(centroids))
        codebook.norm *= 0.003  # behind longer codes an untrained decoder would hardly look at the text
        ids = torch.cat([ids, torch.from_numpy(labels)[:, None] + offset], dim=1)


def ready_batches(assigner: BulkAssigner, texts: list[str], size: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Token ids and masks of the batches of parts of `size`."""
    parts = [assigner.tokenize(texts[start : start + size]) for start in range(0, len(texts), size)]
    return [(ids, mask) for tokens in parts for _, ids, mask in assigner.batches(tokens)]


def measure_throughput(name: str, model, tokenizer, texts: list[str], options) -> list:
    """A row of the table: seconds of both, and the ratio of their rates, round by round."""
    size = -(-options.documents // options.parts)
    assigner = BulkAssigner(model, tokenizer, options.tokens_per_batch)
    ratios, whole, bare = [], [], []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        shards = write_shards(folder, texts, options.documents, options.documents)
        written = [text for part in shards[0].parts(size, lambda _: True) for text in part.texts]
        batches = ready_batches(assigner, written, size)
        for number in range(options.rounds + 1):
            parts = PartsFolder(folder / f"out{number}" / PARTS_NAME, {}, size)
            parts.root.mkdir(parents=True)
            began = time.perf_counter()
            with torch.inference_mode():
                for ids, mask in batches:
                    encode_text(model.get_encoder(), ids, mask, None)
            middle = time.perf_counter()
            assign_parts(shards, assigner, parts, ShardShare(), parts.root)
            end = time.perf_counter()
            if number:  # the first round warms up
                bare.append(middle - began)
                whole.append(end - middle)
                ratios.append(bare[-1] / whole[-1])
    return [
        name, sum(int(mask.sum()) for _, mask in batches) / options.documents, statistics.median(bare),
        statistics.median(whole), options.documents / statistics.median(whole), statistics.median(ratios), min(ratios),
    ]  # fmt: skip


def throughput(options) -> None:
    """Prints the table of throughputs."""
    texts = real_texts(options.data, options.corpus)
    rows = []
    for name in [*(["encoder"] if options.encoder else []), *options.shapes]:
        encoder = options.encoder if name == "encoder" else None
        model, tokenizer = indexer(name, encoder, texts, options.max_length)
        rows.append(measure_throughput(name, model, tokenizer, texts, options))
    header = ["model", "tokens per text", "encoder alone s", "indexing s", "documents/s", "ratio", "least ratio"]
    print(format_table(header, rows))
    print(f"\n{options.documents:,} {options.corpus}, {torch.get_num_threads()} threads, {machine()}")


def index_once(options) -> None:
    """Indexes a folder of files in this process, and prints what that took, as JSON."""
    folder = options.folder
    assigner = BulkAssigner.from_pretrained(folder / "model", tokens_per_batch=options.tokens_per_batch)
    shards = [ShardFile(path, "id") for path in sorted(folder.glob("*.jsonl"))]
    parts = PartsFolder(folder / "out" / PARTS_NAME, {}, options.records_per_part)
    began = time.perf_counter()
    memory = int(options.memory_gb * 1e9)
    result = index_corpus(
        folder / "model", shards, parts, assigner, memory, ShardShare(), Leftovers(), say=lambda _: None
    )
    whole = time.perf_counter() - began
    sizes = {name: (folder / "out" / name).stat().st_size for name in (PREFIX_TREE_NAME, IDS_NAME)}
    found = {
        "documents": result.index.documents, "codes s": result.seconds, "index s": whole - result.seconds,
        "peak MB": peak_memory() / 1e6,
        "tree bytes": sizes[PREFIX_TREE_NAME], "table bytes": sizes[IDS_NAME],
        "largest group": result.index.largest_group,
    }  # fmt: skip
    print(json.dumps(found))


def peak_memory() -> int:
    """Most bytes that this process has had resident. (`getrusage` also counts what its parent had when it began.)"""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


def scaling(options) -> None:
    """Prints the table of sizes and the slopes, and draws them."""
    texts, rows = real_texts(options.data, "items"), []
    model, tokenizer = indexer("tiny T5", None, texts, options.max_length)
    drawn = np.random.default_rng(0).choice(texts, size=min(4000, len(texts)), replace=False).tolist()
    start_codebooks(BulkAssigner(model, tokenizer, options.tokens_per_batch), drawn)
    for size in options.sizes:
        with tempfile.TemporaryDirectory(dir=options.work_dir) as temporary:
            folder = Path(temporary)
            model.save_pretrained(folder / "model")
            tokenizer.save_pretrained(folder / "model")
            write_shards(folder, texts, size, 50_000)
            command = [sys.executable, __file__, "once", "--folder", temporary]
            for name in ("tokens_per_batch", "records_per_part", "memory_gb"):
                command += [f"--{name}", str(getattr(options, name))]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            rows.append(json.loads(done.stdout.splitlines()[-1]))
            print(rows[-1], file=sys.stderr, flush=True)
    names = list(rows[0])
    print(format_table(names, [[row[name] for name in names] for row in rows]))
    if len(rows) > 1:
        slopes = {name: slope(rows, name) for name in names[1:]}
        print("\nslopes, log against log: " + ", ".join(f"{name} {value:.2f}" for name, value in slopes.items()))
        draw(rows, slopes, options.figure)
    print(f"\n{torch.get_num_threads()} threads, {options.memory_gb} GB to sort in, {machine()}")


def slope(rows: list[dict], name: str) -> float:
    """Of the line through the logarithms of size and cost; 1 is linear, 0 flat, and n log n a little above 1."""
    sizes, values = (np.log([row[column] for row in rows]) for column in ("documents", name))
    return float(np.polyfit(sizes, values, 1)[0])


def draw(rows: list[dict], slopes: dict[str, float], path: Path) -> None:
    """Time, memory and bytes against size."""
    figure, axes = plt.subplots(1, 3, figsize=(11, 3.4), layout="constrained")
    panels = {
        "seconds": ["codes s", "index s"],
        "peak memory, MB": ["peak MB"],
        "bytes": ["tree bytes", "table bytes"],
    }
    sizes = [row["documents"] for row in rows]
    for axis, (title, names) in zip(axes, panels.items(), strict=True):
        for name in names:
            axis.plot(sizes, [row[name] for row in rows], "o-", label=f"{name.split()[0]}: slope {slopes[name]:.2f}")
        axis.set(xscale="log", yscale="log", xlabel="documents", title=title)
        axis.legend()
        axis.grid(alpha=0.3)
    axes[1].set_ylim(bottom=min(row["peak MB"] for row in rows) / 3, top=max(row["peak MB"] for row in rows) * 3)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def machine() -> str:
    """What the figures were measured on."""
    return f"{platform.machine()}, {os.cpu_count()} cores, {time.strftime('%Y-%m-%d')}, torch {torch.__version__}"


def main() -> None:
    """Parses the arguments and runs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kinds = parser.add_subparsers(required=True)
    named = {"throughput": throughput, "scaling": scaling, "once": index_once}
    own, grown, once = (kinds.add_parser(name) for name in named)
    for kind, function in zip((own, grown, once), named.values(), strict=True):
        kind.set_defaults(run=function)
        kind.add_argument("--max_length", type=int, default=128)
        kind.add_argument("--tokens_per_batch", type=int, default=8192)
    own.add_argument("--encoder", help="folder or Hub repository of a sentence encoder")
    own.add_argument("--shapes", nargs="*", choices=["T5-small", "tiny T5"], default=["T5-small", "tiny T5"])
    own.add_argument("--documents", type=int, default=2000)
    own.add_argument("--parts", type=int, default=8, help="so many, the first of which is tokenised before all else")
    own.add_argument("--corpus", choices=list(CORPORA), default="abstracts")
    own.add_argument("--rounds", type=int, default=5)
    grown.add_argument("--sizes", type=int, nargs="+", default=[1000, 10_000, 100_000, 1_000_000])
    grown.add_argument("--figure", type=Path, default=Path("outputs/scaling.png"))
    grown.add_argument("--work_dir", help="for the corpora and their folders")
    once.add_argument("--folder", type=Path, required=True)
    for kind in (grown, once):
        kind.add_argument("--records_per_part", type=int, default=5000)
        kind.add_argument("--memory_gb", type=float, default=0.02)
    options = parser.parse_args()
    options.data = Path(os.environ.get("LMINDEXER_DATA", "data"))
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    options.run(options)


if __name__ == "__main__":
    main()

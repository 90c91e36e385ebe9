"""Figures of the first code on several corpora, beside k-means of TF-IDF vectors and of the encoder's embeddings.

    LMINDEXER_DATA=... python benchmarks/indexing.py --encoder all-MiniLM-L6-v2/ --output_dir outputs/benchmarks

Runs `examples/run_indexing.py` for every row that is not there yet, then prints the table; started again after a stop
it goes on. Without `LMINDEXER_DATA` only Python's documentation is indexed, without `--encoder` only T5 from scratch.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
from data import CorpusArguments, load_corpus

from metrics.semantic_id_quality import category_ami
from modeling_lmindexer import LMIndexerForSemanticID
from modeling_lmindexer.backbones import pool
from trainers.clustering import kmeans
from trainers.progress import progress_bar
from trainers.report import format_table

CORPORA = {
    "Python's documentation": (None, []),
    "Scientific": ("amazon_scientific_2018/items.jsonl.gz", []),
    "Beauty": ("amazon_beauty_2014/items.jsonl.gz", ["--drop_empty_texts", "--max_source_length", "48"]),
}
# A frozen encoder starts from good states: smaller steps, fewer epochs.
FROZEN = [
    *("--freeze_encoder", "--learning_rate", "1e-4", "--per_device_train_batch_size", "64"),
    *("--continuous_epochs", "0.5", "1", "--num_train_epochs", "0.5"),
]


@torch.no_grad()
def encoder_ami(encoder: str, file: str, length: int, size: int, seeds: range) -> list[float]:
    """AMI of k-means on the encoder's mean-pooled embeddings, one value per seed."""
    corpus = load_corpus(CorpusArguments(train_file=file, drop_empty_texts=True))
    model, tokenizer = LMIndexerForSemanticID.from_backbone(encoder).eval(), AutoTokenizer.from_pretrained(encoder)
    texts, vectors = list(corpus["text"]), []
    for start in progress_bar(range(0, len(texts), 128), description="embeddings"):
        batch = tokenizer(
            texts[start : start + 128], padding=True, truncation=True, max_length=length, return_tensors="pt"
        )
        vectors.append(pool(*model.encode(batch["input_ids"], batch["attention_mask"]), "mean"))
    vectors = torch.cat(vectors).numpy()
    labels = [kmeans(vectors, size, similarity="cosine", seed=seed).labels for seed in seeds]
    return [category_ami(codes, list(corpus["category"])) for codes in labels]


def run(folder: Path, file: str | None, arguments: list[str]) -> None:
    """One run of the indexing script, unless its folder is whole."""
    if (folder / "manifest.json").exists():
        return
    script = Path(__file__).parents[1] / "examples" / "run_indexing.py"
    command = [sys.executable, str(script), "--output_dir", str(folder), "--use_cpu", *arguments]
    started = time.time()
    subprocess.run(command + (["--train_file", file] if file else []), check=True)
    (folder / "seconds.json").write_text(json.dumps(time.time() - started))


def describe(name: str, encoder: str | None, folder: Path, rival: list[float]) -> list:
    """A row of the table, from what the run left."""
    metrics = json.loads((folder / "metrics.json").read_text())
    codes, size = metrics["codes"], metrics["codebook_sizes"][0]
    first = codes["lmindexer"]["positions"][0]
    documents = len(load_file(folder / "stages" / "2-discrete" / "codes.safetensors")["codes"])
    return [
        name, "frozen " + Path(encoder).name if encoder else "none", documents, size, first["ami"],
        codes["tfidf_kmeans"]["positions"][0]["ami"],
        float(np.mean(rival)) if rival else None, float(np.std(rival)) if rival else None,
        first["perplexity"] / size, codes["lmindexer"]["positions"][-1]["distinct_prefixes"],
        metrics.get("queries", {}).get("recall_at_10"),
    ]  # fmt: skip


def main() -> None:
    """Runs what is missing and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", help="folder or Hub repository of a sentence encoder")
    parser.add_argument("--output_dir", type=Path, default=Path("outputs/benchmarks"))
    options = parser.parse_args()
    data, rows = os.environ.get("LMINDEXER_DATA"), []
    for name, (path, arguments) in CORPORA.items():
        if path and not data:
            continue
        file = str(Path(data) / path) if path else None
        for encoder in [None, *([options.encoder] if options.encoder and path else [])]:
            start = name.split()[0].lower().removesuffix("'s")
            folder = options.output_dir / f"{start}-{'frozen' if encoder else 'scratch'}"
            own = ["--model_name_or_path", encoder, *FROZEN] if encoder else []
            run(folder, file, [*arguments, *own])
            length = int(arguments[-1]) if arguments else 64
            size = json.loads((folder / "metrics.json").read_text())["codebook_sizes"][0]
            rival = encoder_ami(encoder, file, length, size, range(3)) if encoder else []
            rows.append(describe(name, encoder, folder, rival))
    header = [
        "corpus", "pretrained encoder", "documents", "K", "AMI", "TF-IDF + k-means", "encoder + k-means",
        "its spread over 3 seeds", "perplexity / K", "prefixes", "R@10 of queries",
    ]  # fmt: skip
    print(format_table(header, rows))
    print(f"\n{platform.machine()}, {os.cpu_count()} cores, {time.strftime('%Y-%m-%d')}, torch {torch.__version__}")


if __name__ == "__main__":
    main()

"""What users would search texts with otherwise: BM25, and a dual encoder.

    python benchmarks/text_rivals.py --beir_dir squad --method bm25 --output_dir outputs/squad/bm25
    python benchmarks/text_rivals.py --beir_dir squad --method dense \\
        --encoder sentence-transformers/all-MiniLM-L6-v2 --output_dir outputs/squad/dense
    python benchmarks/text_rivals.py --beir_dir squad --method dense --encoder ... --train_epochs 1 --output_dir ...

Ranks the documents of a BEIR folder for the queries of every split but `train`, and leaves a `run.<split>.trec` for
each and `metrics.json`. `--train_epochs` fine-tunes the encoder on the split `train` first. A folder that has its
`metrics.json` is done: its table is printed again. Needs `pip install lmindexer[benchmarks]`.
"""

import argparse
import json
import sys
from pathlib import Path

import datasets

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
from data.beir import BeirFolder
from data.rows import CorpusError
from tasks.dense import DualEncoder, FineTuning, fine_tune
from tasks.lexical import BM25, BM25Settings
from tasks.training import claim

from metrics.ranking_quality import confidence_interval, ranking_figures, write_run
from modeling_lmindexer.folder import write_json
from trainers.report import format_table

MEASURES = ("recall@1", "recall@10", "recall@50", "recall@100", "ndcg@10", "mrr@10")


def searcher(options: argparse.Namespace, folder: BeirFolder):
    """What ranks the documents of a folder."""
    ids, texts = list(folder.documents["id"]), list(folder.documents["text"])
    if options.method == "bm25":
        return BM25(ids, texts, BM25Settings(options.k1, options.b, options.stemmer))
    encoder = options.encoder
    if options.train_epochs:
        encoder, unfinished = options.output_dir / "encoder", options.output_dir / "encoder.part"
        if not encoder.exists():
            by_id = dict(zip(ids, texts, strict=True))
            pairs = folder.pairs(folder.qrels("train"))
            pairs = pairs.map(lambda row: {"query": row["text"], "document": by_id[row["target"]]})
            fine_tune(options.encoder, pairs, unfinished, FineTuning(options.train_epochs, seed=options.seed))
            unfinished.rename(encoder)
    return DualEncoder(ids, texts, encoder, options.max_length)


def measure(options: argparse.Namespace) -> dict:
    """Searches, writes the runs, and returns the figures of all splits."""
    folder = BeirFolder(options.beir_dir)
    qrels = {split: folder.qrels(split) for split in folder.splits() if split != "train"}
    if not qrels:
        raise CorpusError(f"{options.beir_dir}/qrels has {folder.splits()}; expected a split to measure.")
    search, metrics = searcher(options, folder), {}
    for split, judged in qrels.items():
        found = search({query: folder.queries[query] for query in judged}, options.depth)
        write_run(options.output_dir / f"run.{split}.trec", found.documents, found.scores, options.method)
        figures = ranking_figures(found.documents, judged, MEASURES)
        intervals = {name: confidence_interval(values) for name, values in figures.values.items()}
        metrics[split] = {"queries": len(judged), "figures": figures.means(), "intervals": intervals}
    return metrics


def main() -> None:
    """Searches what is not searched yet, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--beir_dir", required=True, help="corpus.jsonl (or items.jsonl), queries.jsonl, qrels/*.tsv")
    parser.add_argument("--method", choices=("bm25", "dense"), required=True)
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--depth", type=int, default=100, help="documents per query")
    parser.add_argument("--k1", type=float, default=BM25Settings.k1, help="of BM25")
    parser.add_argument("--b", type=float, default=BM25Settings.b, help="of BM25")
    parser.add_argument("--stemmer", help="BM25: language of PyStemmer, such as english; default: words as they are")
    parser.add_argument("--encoder", help="dense: folder or Hub repository of an encoder")
    parser.add_argument("--max_length", type=int, default=256, help="dense: tokens read of a text")
    parser.add_argument("--train_epochs", type=float, default=0.0, help="dense: over the pairs of the split train")
    parser.add_argument("--seed", type=int, default=0, help="of the fine-tuning")
    options = parser.parse_args()
    if options.method == "dense" and not options.encoder:
        parser.error("--method dense needs an --encoder")
    datasets.disable_progress_bars()
    done = options.output_dir / "metrics.json"
    try:
        settings = {name: str(value) for name, value in vars(options).items() if name != "output_dir"}
        options.output_dir.mkdir(parents=True, exist_ok=True)
        claim(options.output_dir / "settings.json", settings)  # before an encoder is trained that others would take
        if not done.exists():
            write_json(done, {"settings": settings, "splits": measure(options)})
        known = json.loads(done.read_text(encoding="utf-8"))
    except (ValueError, OSError, RuntimeError, ImportError) as error:
        sys.exit(f"error: {error}")
    rows = [[name, own["queries"], *own["figures"].values()] for name, own in known["splits"].items()]
    print(format_table(["split", "queries", *MEASURES], rows, digits=4))


if __name__ == "__main__":
    main()

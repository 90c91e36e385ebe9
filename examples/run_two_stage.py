"""Gives a corpus two-stage semantic IDs: embeddings, then a quantiser; what learned IDs are compared with.

    python examples/run_two_stage.py --method residual-kmeans
    python examples/run_two_stage.py --encoder all-MiniLM-L6-v2/ --method micro --tfidf_weight 0.5
    python examples/run_two_stage.py --encoder simcse --base_encoder bert-base-uncased --method rq-vae \
        --train_file items.jsonl.gz --codebook_sizes 256 256 --settings epochs=100 latent_size=32

Writes an index that `SemanticIndex.from_pretrained` loads. Without a corpus it takes the documentation of Python's
standard library, without an encoder the words of the documents.
"""

import sys
import time
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import datasets
import numpy as np
import yaml
from data import CorpusArguments, document_table, load_corpus
from transformers import HfArgumentParser
from transformers.utils import logging

from modeling_lmindexer import DocumentTable
from modeling_lmindexer.document_table import DOCUMENTS_NAME
from modeling_lmindexer.folder import MANIFEST_NAME, update_manifest, write_json
from trainers.adaptation import adapt_checkpoint
from trainers.adaptation_args import AdaptationArguments
from trainers.cluster_inputs import ClusterInputs
from trainers.embeddings import embed_texts
from trainers.folder_lock import FolderLock
from trainers.model_folder import finite
from trainers.reassignment import reassign
from trainers.report import describe_codes, format_table
from trainers.rivals import INDEXERS, make_indexer
from trainers.stop_signals import StopSignals
from trainers.tfidf import TfidfProjection
from trainers.two_stage import index_of

_STOPPED = (
    "before it was done: every file is whole, or as it was",
    "The same command begins again; an encoder that is adapted goes on from its last checkpoint.",
)


@dataclass
class EncoderArguments:
    """Where embeddings come from."""

    encoder: str = field(
        default="tfidf",
        metadata={
            "help": "Folder or Hub repository of an encoder, or of an LMIndexer; tfidf: no encoder, the documents' "
            "words; simcse: --base_encoder, adapted to the corpus."
        },
    )
    base_encoder: str | None = field(default=None, metadata={"help": "For simcse: what to adapt."})
    adaptation_epochs: float = field(default=1.0, metadata={"help": "For simcse: times every document is read."})
    pooling: str | None = field(
        default=None,
        metadata={
            "help": "Of the encoder's states. Default: what a sentence-transformers folder says, else mean.",
            "choices": ["mean", "cls"],
        },
    )
    max_source_length: int = field(default=64, metadata={"help": "Tokens read of a document."})
    batch_size: int = field(default=128, metadata={"help": "Documents embedded at a time."})


@dataclass
class IndexerArguments:
    """How embeddings become IDs."""

    method: str = field(default="residual-kmeans", metadata={"help": "Quantiser.", "choices": [*INDEXERS, "ward"]})
    settings: list[str] = field(
        default_factory=list, metadata={"help": "Of the quantiser, such as share=0.2 restarts=1."}
    )
    codebook_sizes: list[int] = field(
        default_factory=lambda: [128, 128], metadata={"help": "Codes per position, coarse to fine."}
    )
    normalization: str = field(
        default="unit", metadata={"help": "Of the embeddings.", "choices": ["unit", "centred", "raw"]}
    )
    removed_components: int = field(default=0, metadata={"help": "Leading principal components taken out of them."})
    tfidf_weight: float = field(default=0.0, metadata={"help": "Weight of the documents' words joined to them."})
    tfidf_size: int = field(default=256, metadata={"help": "Dimensions of the words."})
    excluded_column: str | None = field(
        default=None, metadata={"help": "A column, such as the brand, whose words do not count as a document's words."}
    )
    collisions: str = field(
        default="counter",
        metadata={
            "help": "Documents that share all codes: told apart by a last position, or given other codes.",
            "choices": ["counter", "reassign"],
        },
    )
    num_disambiguation_codes: int = field(default=64, metadata={"help": "Least room of the last position."})
    seed: int = field(default=0, metadata={"help": "Of everything random."})
    device: str = field(default="cpu", metadata={"help": "What embeds."})
    output_dir: str = field(default="outputs/two_stage", metadata={"help": "Folder for the index and its figures."})


def embed(encoder: EncoderArguments, arguments: IndexerArguments, texts: list[str], excluded) -> np.ndarray:
    """One vector per text."""
    if encoder.encoder == "tfidf":
        words = TfidfProjection(texts, arguments.seed, size=arguments.tfidf_size, excluded_texts=excluded)
        return words(texts, excluded)
    name_or_path = encoder.encoder
    if name_or_path == "simcse":
        name_or_path = adapt(encoder, arguments, texts)
    return embed_texts(
        name_or_path, texts, pooling=encoder.pooling, max_length=encoder.max_source_length,
        batch_size=encoder.batch_size, device=arguments.device,
    )  # fmt: skip


def adapt(encoder: EncoderArguments, arguments: IndexerArguments, texts: list[str]) -> Path:
    """Folder of the base encoder adapted to the texts by SimCSE; a stopped adaptation goes on."""
    if encoder.base_encoder is None:
        raise ValueError("--encoder simcse needs --base_encoder: the folder or Hub repository of what to adapt")
    folder = Path(arguments.output_dir) / "simcse"
    settings = AdaptationArguments(
        output_dir=str(folder), objective=["simcse"], num_train_epochs=encoder.adaptation_epochs,
        max_length=encoder.max_source_length, pooling=encoder.pooling or "mean", seed=arguments.seed,
        per_device_train_batch_size=min(64, len(texts)), use_cpu=arguments.device == "cpu", report_to="none",
    )  # fmt: skip
    return adapt_checkpoint(encoder.base_encoder, texts, settings)


def parse_settings(pairs: list[str]) -> dict:
    """`["share=0.2"]` as `{"share": 0.2}`; values are YAML."""
    wrong = [pair for pair in pairs if "=" not in pair]
    if wrong:
        raise ValueError(f"--settings {' '.join(wrong)}: expected name=value")
    return {name: yaml.safe_load(value) for name, _, value in (pair.partition("=") for pair in pairs)}


def codes_table(codes: dict[str, dict]) -> str:
    """One row per position, before and after a reassignment."""
    header = [
        "codes",
        "position",
        "AMI of the code",
        "AMI of the prefix",
        "perplexity",
        "difference ratio",
        "prefixes",
    ]
    rows = []
    for name, described in codes.items():
        for position, figures in enumerate(described["positions"], 1):
            ami = figures.get("ami")
            rows.append(
                [name, position, ami, figures.get("ami_prefix", ami), figures["perplexity"],
                 figures["difference_ratio_pairs"], figures["distinct_prefixes"]]
            )  # fmt: skip
    return format_table(header, rows)


def write(index, documents: DocumentTable | None, metrics: dict, folder: Path) -> None:
    """Index, texts and figures, each file under its name only when it is whole; a folder with a manifest is whole."""
    if (folder / "config.json").exists():
        raise ValueError(f"{folder} holds a model, whose IDs would be lost: choose another --output_dir")
    for name in (MANIFEST_NAME, DOCUMENTS_NAME):
        (folder / name).unlink(missing_ok=True)
    index.save_pretrained(folder)
    write_json(folder / "metrics.json", finite(metrics))
    if documents is not None:
        documents.save_pretrained(folder)
    names = ("semantic_ids.parquet", "prefix_tree.safetensors", "metrics.json", DOCUMENTS_NAME)
    update_manifest(folder, [name for name in names if (folder / name).exists()])


def run(corpus_arguments: CorpusArguments, encoder: EncoderArguments, arguments: IndexerArguments) -> None:
    """Embeds, quantises, tells collisions apart, prints and writes."""
    inputs = ClusterInputs(
        normalization=arguments.normalization, removed_components=arguments.removed_components,
        tfidf_weight=arguments.tfidf_weight, tfidf_size=arguments.tfidf_size,
    )  # fmt: skip
    indexer = make_indexer(arguments.method, {"inputs": inputs, **parse_settings(arguments.settings)})
    # A column beside the text comes as the query.
    if arguments.excluded_column:
        corpus_arguments = replace(corpus_arguments, query_column=arguments.excluded_column)
    corpus = load_corpus(corpus_arguments)
    ids, texts = list(corpus["id"]), list(corpus["text"])
    excluded = list(corpus["query"]) if arguments.excluded_column else None
    categories = list(corpus["category"]) if "category" in corpus.column_names else None
    print(f"{len(corpus):,} documents", flush=True)

    started = time.time()
    vectors = embed(encoder, arguments, texts, excluded)
    embedded = time.time()
    assignment = indexer.fit(vectors, arguments.codebook_sizes, arguments.seed, texts, excluded)
    codes, room = assignment.codes, arguments.num_disambiguation_codes
    described = {arguments.method: describe_codes(codes, categories)}
    metrics = {"encoder": asdict(encoder), "indexer": asdict(arguments), "settings": asdict(indexer)}
    if arguments.collisions == "reassign":
        result = reassign(codes, assignment.sizes, assignment.costs, ids)
        codes, room = result.codes, 1
        described["reassigned"] = describe_codes(codes, categories)
        metrics["reassignment"] = result.figures()
    metrics |= {"documents": len(ids), "codebook_sizes": assignment.sizes, "codes": described}
    metrics["seconds"] = {"embedding": embedded - started, "codes": time.time() - embedded}
    documents = document_table(corpus, corpus_arguments.kept_characters)
    write(index_of(ids, codes, assignment.sizes, room), documents, metrics, Path(arguments.output_dir))
    print(f"\n{codes_table(described)}\n")
    for name, figures in described.items():
        print(
            f"{name}: {figures['sharing']:.1%} of the documents share their codes, {figures['crowded']:.1%} with more "
            f"than five; the largest group has {figures['largest_group']}."
        )
    print(f"\nIndex: {arguments.output_dir}")


def main() -> None:
    """Parses the arguments and runs."""
    parser = HfArgumentParser((CorpusArguments, EncoderArguments, IndexerArguments))
    arguments = parser.parse_args_into_dataclasses()
    logging.set_verbosity_warning()
    logging.disable_progress_bar()
    datasets.disable_progress_bars()
    try:
        with FolderLock(arguments[-1].output_dir), StopSignals(at_once=_STOPPED):
            run(*arguments)
    except (ValueError, OSError, ImportError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()

"""Adapts a text encoder to a corpus without labels, or trains a small one on it from scratch.

    python examples/adapt_encoder.py --model_name_or_path bert-base-uncased --objective simcse
    python examples/adapt_encoder.py --objective simcse --crop_views --learning_rate 1e-4 --num_train_epochs 2 \
        --temperature 0.1 --per_device_train_batch_size 128 --train_file items.jsonl.gz --output_dir outputs/encoder

Without a corpus it takes the documentation of Python's standard library. The encoder is then in `output_dir/encoder`,
for `AutoModel`, `run_indexing.py --model_name_or_path` and `run_two_stage.py --encoder`. Started again with the same
settings after a stop, it goes on.
"""

import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import datasets
from data import CorpusArguments, CorpusError, load_corpus, train_tokenizer
from transformers import AutoModel, AutoTokenizer, BertConfig, BertModel, HfArgumentParser, set_seed
from transformers.utils import logging

from metrics.semantic_id_quality import category_ami
from trainers import ExistingRunError
from trainers.adaptation import ENCODER_FOLDER, AdaptationTrainer
from trainers.adaptation_args import AdaptationArguments
from trainers.clustering import kmeans
from trainers.documents import IndexingDataset
from trainers.embeddings import embed_texts
from trainers.encoder_folder import save_encoder
from trainers.leave_together import leave_together
from trainers.lexical_start import start_lexically
from trainers.report import format_table


@dataclass
class EncoderArguments:
    """The encoder to start from."""

    model_name_or_path: str | None = field(
        default=None, metadata={"help": "Checkpoint to adapt. Without one, a BERT from scratch."}
    )
    hidden_size: int = field(default=256, metadata={"help": "Width of the BERT from scratch."})
    num_hidden_layers: int = field(default=2, metadata={"help": "Its depth."})
    num_attention_heads: int = field(default=4, metadata={"help": "Its heads."})
    dropout: float = field(default=0.0, metadata={"help": "Its dropout; a lexical start needs 0."})
    vocab_size: int = field(default=20000, metadata={"help": "Tokens of the tokenizer trained on the corpus for it."})
    lexical_start: bool = field(
        default=True, metadata={"help": "Whether its token embeddings are computed from the corpus instead of drawn."}
    )
    num_clusters: int = field(
        default=128, metadata={"help": "Clusters that are compared with the categories, where the corpus has them."}
    )


def parse_arguments(argv: list[str]) -> tuple[CorpusArguments, EncoderArguments, AdaptationArguments]:
    """Settings from the command line."""
    if "--output_dir" not in argv:
        argv = [*argv, "--output_dir", "outputs/encoder"]
    parser = HfArgumentParser((CorpusArguments, EncoderArguments, AdaptationArguments))
    return parser.parse_args_into_dataclasses(args=argv)


def build_encoder(arguments: EncoderArguments, training: AdaptationArguments, texts: list[str]):
    """The checkpoint and its tokenizer, or a new BERT with a tokenizer trained on the texts."""
    if arguments.model_name_or_path:
        tokenizer = AutoTokenizer.from_pretrained(arguments.model_name_or_path)
        return AutoModel.from_pretrained(arguments.model_name_or_path), tokenizer
    tokenizer = train_tokenizer(texts, arguments.vocab_size, model_max_length=training.max_length)
    tokenizer.add_special_tokens({"mask_token": "<mask>"})
    set_seed(training.seed)
    model = BertModel(
        BertConfig(
            vocab_size=len(tokenizer),
            hidden_size=arguments.hidden_size,
            num_hidden_layers=arguments.num_hidden_layers,
            num_attention_heads=arguments.num_attention_heads,
            intermediate_size=4 * arguments.hidden_size,
            max_position_embeddings=max(training.max_length, 128),
            hidden_dropout_prob=arguments.dropout,
            attention_probs_dropout_prob=arguments.dropout,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    if arguments.lexical_start:
        documents = IndexingDataset(list(range(len(texts))), texts, tokenizer, training.max_length, training.seed)
        start_lexically(model, documents, training.seed)
    return model, tokenizer


def clusters_ami(folder: Path, corpus: datasets.Dataset, size: int, training: AdaptationArguments) -> float | None:
    """AMI of the categories and one k-means of the embeddings of the encoder in a folder; None without categories or
    with fewer documents than clusters."""
    if "category" not in corpus.column_names or len(corpus) < size:
        return None
    vectors = embed_texts(folder, list(corpus["text"]), max_length=training.max_length, device=training.device.type)
    labels = kmeans(vectors, size, similarity="cosine", seed=training.seed).labels
    return category_ami(labels, list(corpus["category"]))


def adapt(corpus: datasets.Dataset, arguments: EncoderArguments, training: AdaptationArguments, say) -> None:
    """Builds or loads, trains, compares and prints."""
    texts, folder = list(corpus["text"]), Path(training.output_dir) / ENCODER_FOLDER
    model, tokenizer = build_encoder(arguments, training, texts)
    name = arguments.model_name_or_path or "BERT from scratch"
    say(f"{name}: {model.num_parameters():,} parameters, {len(tokenizer):,} tokens", flush=True)
    trainer = AdaptationTrainer(model, training, texts, tokenizer)
    is_main, size, before = training.process_index == 0, arguments.num_clusters, None
    if is_main:
        with tempfile.TemporaryDirectory() as start:
            save_encoder(Path(start) / ENCODER_FOLDER, model, tokenizer, training.pooling)
            before = clusters_ami(Path(start) / ENCODER_FOLDER, corpus, size, training)
    figures = trainer.train()
    if is_main:
        names = ("loss", *training.objective) if len(training.objective) > 1 else ("loss",)
        rows = [[name, figures[f"{name}_start"], figures[f"{name}_end"]] for name in names]
        if before is not None:
            rows.append([f"AMI of {size} clusters", before, clusters_ami(folder, corpus, size, training)])
        say(f"\n{format_table([' + '.join(training.objective), 'start', 'end'], rows)}\n\nEncoder: {folder}")


def main() -> None:
    """Parses the arguments and runs."""
    try:
        corpus_arguments, arguments, training = parse_arguments(sys.argv[1:])
    except ValueError as error:  # of settings that exclude each other
        sys.exit(f"error: {error}")
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    datasets.disable_progress_bars()
    say = print if training.process_index == 0 else (lambda *values, **options: None)
    try:
        with training.main_process_first(desc="data"):
            corpus = load_corpus(corpus_arguments)
        say(f"{len(corpus):,} documents", flush=True)
        adapt(corpus, arguments, training, say)
        leave_together()
    except (CorpusError, ExistingRunError, ValueError, OSError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()

"""Learns semantic IDs for a corpus and writes a model folder that `AutoModel` loads and `generate` searches.

    python examples/run_indexing.py
    python examples/run_indexing.py --train_file items.jsonl.gz --output_dir outputs/items
    accelerate launch examples/run_indexing.py examples/paper/indexing_amazon_beauty.yaml --train_file items.jsonl.gz

Without arguments it indexes the documentation of Python's standard library. `--preset best` takes the settings that
won the comparison with two-stage indexers, `--preset paper` the paper's. A first argument that ends in `.yaml` is a
file of settings. Arguments win over the file, and the file over the preset. Started again with the same settings
after a stop, it goes on.
"""

import sys
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path

import datasets
import yaml
from data import CorpusArguments, CorpusError, document_table, load_corpus, train_tokenizer
from data.shapes import MODEL_SIZES
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, AutoTokenizer, HfArgumentParser, T5Config, set_seed
from transformers.utils import logging

from modeling_lmindexer import CorruptedFolderError, LMIndexerConfig, LMIndexerForSemanticID
from trainers import ExistingRunError, SemanticIDTrainer, SemanticIDTrainingArguments, UnusableCorpusError
from trainers.adaptation import adapt_checkpoint
from trainers.adaptation_args import AdaptationArguments
from trainers.evaluation_results import evaluation_results
from trainers.folder_lock import FolderLock
from trainers.learning_rate_search import search_learning_rate
from trainers.leave_together import leave_together
from trainers.model_card import CardContent
from trainers.model_folder import save_model_folder
from trainers.presets import preset
from trainers.publishing import publish, settings_of
from trainers.report import compare_codes, position_table, query_figures, sample_queries, stage_table


@dataclass
class ModelArguments:
    """The model to start from, and the shape of its IDs."""

    model_name_or_path: str | None = field(
        default=None, metadata={"help": "Checkpoint to start from: T5 or another encoder-decoder, or an encoder."}
    )
    adapt: list[str] = field(
        default_factory=list,
        metadata={"help": "Adapt the checkpoint's encoder to the corpus first, by simcse, mlm, words, or several."},
    )
    adaptation_epochs: float = field(default=1.0, metadata={"help": "Times that every document is read for that."})
    model_size: str = field(
        default="tiny",
        metadata={"help": "Shape of the T5 trained from scratch without a checkpoint.", "choices": list(MODEL_SIZES)},
    )
    vocab_size: int = field(default=6000, metadata={"help": "Tokens of the tokenizer trained without a checkpoint."})
    codebook_sizes: list[int] = field(
        default_factory=lambda: [128, 128], metadata={"help": "Codes per learned position, coarse to fine."}
    )
    num_disambiguation_codes: int = field(default=64, metadata={"help": "Room of the last position."})
    similarity: str = field(
        default="cosine", metadata={"help": "Of states and codes.", "choices": ["cosine", "dot", "euclidean"]}
    )
    code_temperature: float | None = field(
        default=None, metadata={"help": "Divides the similarity; default by similarity."}
    )
    learn_temperature: bool = field(default=False, metadata={"help": "Let every codebook learn its temperature."})
    reconstruction_target: str = field(
        default="words",
        metadata={
            "help": "Each hidden token at its place, or the hidden words as a bag.",
            "choices": ["tokens", "words"],
        },
    )
    num_reconstructor_layers: int = field(default=1, metadata={"help": "Depth of the reconstructor."})
    num_decoder_layers: int = field(
        default=2, metadata={"help": "Layers of the decoder that an encoder without one gets."}
    )
    pooling: str = field(default="mean", metadata={"help": "Of an encoder's states.", "choices": ["mean", "cls"]})
    pooled_input: bool | None = field(
        default=None,
        metadata={"help": "Pooled embedding into the decoder's input; default: yes for a T5 trained from scratch."},
    )
    dropout: float = field(default=0.0, metadata={"help": "Of everything that is trained from scratch."})
    max_source_length: int = field(default=64, metadata={"help": "Tokens read of a document."})
    learning_rates: list[float] = field(
        default_factory=list,
        metadata={"help": "Grid over whole runs; the best by the reconstruction of held-out documents."},
    )
    licence: str | None = field(default=None, metadata={"help": "Licence of the result, for the model card."})


def parse_arguments(argv: list[str]) -> tuple[CorpusArguments, ModelArguments, SemanticIDTrainingArguments]:
    """Settings from a preset, from a `.yaml` file, if one comes first, and from the command line; the later win."""
    if argv and argv[0].endswith((".yaml", ".yml")):
        argv = as_arguments(read_settings(Path(argv[0]))) + argv[1:]
    if "--preset" in argv:
        place = argv.index("--preset")
        name = argv[place + 1] if place + 1 < len(argv) else ""
        argv = as_arguments(preset(name)) + argv[:place] + argv[place + 2 :]
    if "--output_dir" not in argv:
        argv = [*argv, "--output_dir", "outputs/python_docs"]
    parser = HfArgumentParser((CorpusArguments, ModelArguments, SemanticIDTrainingArguments))
    return parser.parse_args_into_dataclasses(args=argv)


def read_settings(path: Path) -> dict:
    """The settings of a YAML file.

    Raises:
        ValueError: it cannot be read, or holds something else.
    """
    try:
        settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, OSError, UnicodeError, RecursionError) as error:
        raise ValueError(f"{path} cannot be read as YAML: {' '.join(str(error).split())}.") from error
    if not isinstance(settings, dict) or not all(isinstance(name, str) for name in settings):
        raise ValueError(f"{path} holds no settings; expected a line such as 'learning_rate: 0.001' for each.")
    return settings


def as_arguments(settings: dict) -> list[str]:
    """Settings as they would stand on a command line."""
    argv = []
    for name, value in settings.items():
        argv += [f"--{name}", *(map(str, value) if isinstance(value, list) else [str(value)])]
    return argv


def load_tokenizer(arguments: ModelArguments, corpus: datasets.Dataset):
    """The checkpoint's tokenizer, or one trained on the corpus."""
    if arguments.model_name_or_path:
        return AutoTokenizer.from_pretrained(arguments.model_name_or_path)
    return train_tokenizer(corpus["text"], arguments.vocab_size, model_max_length=arguments.max_source_length)


def build_model(arguments: ModelArguments, tokenizer, seed: int) -> LMIndexerForSemanticID:
    """A new indexer on the checkpoint, or on a T5 from scratch."""
    set_seed(seed)
    names = (
        "codebook_sizes", "num_disambiguation_codes", "similarity", "code_temperature", "learn_temperature",
        "reconstruction_target", "num_reconstructor_layers", "num_decoder_layers", "pooling", "pooled_input",
        "dropout", "max_source_length",
    )  # fmt: skip
    values = {name: getattr(arguments, name) for name in names}
    if arguments.pooled_input is None:
        values["pooled_input"] = arguments.model_name_or_path is None
    if arguments.model_name_or_path:
        if AutoConfig.from_pretrained(arguments.model_name_or_path).model_type == LMIndexerConfig.model_type:
            return LMIndexerForSemanticID.from_pretrained(arguments.model_name_or_path, num_reconstructor_layers=1)
        return LMIndexerForSemanticID.from_backbone(arguments.model_name_or_path, **values)
    shape = MODEL_SIZES[arguments.model_size]
    backbone = T5Config(vocab_size=len(tokenizer), dropout_rate=arguments.dropout, decoder_start_token_id=0, **shape)
    model = LMIndexerForSemanticID(LMIndexerConfig(backbone_config=backbone, **values))
    # T5 draws embeddings of norm sqrt(d_model), which Adam's steps would need many epochs to move.
    model.get_input_embeddings().weight.data.mul_(0.05)
    return model


def adapt_backbone(model_arguments: ModelArguments, training_arguments, texts: list[str]) -> ModelArguments:
    """The same with the checkpoint's encoder adapted to the corpus in the place of the checkpoint."""
    if not model_arguments.model_name_or_path:
        raise CorpusError("--adapt adapts a checkpoint: name one with --model_name_or_path.")
    processes = training_arguments.world_size
    if training_arguments.batch_parts and processes > 1:
        raise CorpusError(
            "--adapt does not make the same encoder to the bit on several processes: adapt on one, with "
            "examples/adapt_encoder.py, and begin from its folder without --adapt."
        )
    settings = AdaptationArguments(
        output_dir=str(Path(training_arguments.output_dir) / "adapted"), objective=model_arguments.adapt,
        num_train_epochs=model_arguments.adaptation_epochs, max_length=model_arguments.max_source_length,
        pooling=model_arguments.pooling, seed=training_arguments.seed, use_cpu=training_arguments.use_cpu,
        global_batch_size=max(1, min(64, len(texts)) // processes) * processes,
        disable_tqdm=training_arguments.disable_tqdm,
        report_to=training_arguments.report_to, logging_dir=training_arguments.logging_dir,
        project=training_arguments.project, run_name=f"{name_of_run(training_arguments)}-adapted",
        start_over=training_arguments.start_over, go_on=training_arguments.go_on,
    )  # fmt: skip
    folder = adapt_checkpoint(model_arguments.model_name_or_path, texts, settings)
    return replace(model_arguments, model_name_or_path=str(folder))


def name_of_run(training_arguments) -> str:
    """What trackers call it, and what those beside it are called after."""
    return training_arguments.run_name or Path(training_arguments.output_dir).name


def make_trainer(
    model_arguments: ModelArguments, training_arguments: SemanticIDTrainingArguments, tokenizer, corpus
) -> SemanticIDTrainer:
    """A trainer with a new model."""
    model = build_model(model_arguments, tokenizer, training_arguments.seed)
    return SemanticIDTrainer(model, training_arguments, train_dataset=corpus, processing_class=tokenizer)


def examples_table(index, texts: list[str], number: int = 10) -> str:
    """Documents with their IDs, neighbours by ID together."""
    order = sorted(range(len(index)), key=lambda row: index.codes[row].tolist())
    start = len(order) // 2
    rows = order[start : start + number]
    ids = index.semantic_ids
    width = max(len(ids[row]) for row in rows)
    return "\n".join(
        f"{ids[row]:{width}}  {index.document_ids[row]}: {' '.join(texts[row].split())[:70]}" for row in rows
    )


def main() -> None:
    """Trains, reports and writes."""
    try:
        corpus_arguments, model_arguments, training_arguments = parse_arguments(sys.argv[1:])
    except ValueError as error:  # of settings that exclude each other
        sys.exit(f"error: {error}")
    logging.set_verbosity_error() if training_arguments.process_index else logging.set_verbosity_warning()
    logging.disable_progress_bar()
    datasets.disable_progress_bars()
    is_main = training_arguments.process_index == 0
    say = print if is_main else (lambda *values, **options: None)
    try:
        with FolderLock(training_arguments.output_dir) if is_main else nullcontext():
            with training_arguments.main_process_first(desc="data"):
                corpus = load_corpus(corpus_arguments)
            tokenizer = load_tokenizer(model_arguments, corpus)
            train_and_report(corpus_arguments, model_arguments, training_arguments, tokenizer, corpus, say)
        leave_together()
    except (CorpusError, UnusableCorpusError, ExistingRunError, CorruptedFolderError, OSError) as error:
        sys.exit(f"error: {error}")
    except StrictDataclassError as error:
        sys.exit(f"error: {error.__cause__ or error}")


def train_and_report(corpus_arguments, model_arguments, training_arguments, tokenizer, corpus, say) -> None:
    """The grid of learning rates, if there is one, the run, and its report."""
    file = corpus_arguments.train_file and Path(corpus_arguments.train_file).name
    source = file or corpus_arguments.dataset_name or "documentation of Python's standard library"
    say(f"{len(corpus):,} documents from {source}", flush=True)

    start = model_arguments
    if model_arguments.adapt:
        start = adapt_backbone(model_arguments, training_arguments, list(corpus["text"]))
    if model_arguments.learning_rates:
        training_arguments.learning_rate = search_learning_rate(
            lambda documents, rate, folder: make_trainer(
                start,
                replace(
                    training_arguments,
                    learning_rate=rate,
                    output_dir=str(folder),
                    run_name=f"{name_of_run(training_arguments)}-{rate:g}",
                ),  # fmt: skip
                tokenizer,
                documents,
            ),
            corpus,
            model_arguments.learning_rates,
            Path(training_arguments.output_dir) / "learning_rates",
            training_arguments.seed,
        )
        say(f"best learning rate: {training_arguments.learning_rate:g}")
    trainer = make_trainer(start, training_arguments, tokenizer, corpus)
    figures = trainer.train()
    if training_arguments.process_index == 0:
        folder = report(trainer, corpus, figures, model_arguments, corpus_arguments, source)
        if training_arguments.push_to_hub:
            repo_id = training_arguments.hub_model_id or folder.name
            publish(folder, repo_id, settings_of(training_arguments), token=training_arguments.hub_token)


def report(trainer, corpus, figures: dict, model_arguments, corpus_arguments, source: str) -> Path:
    """Prints the figures, and writes the model folder."""
    sizes, seed = trainer.model.config.codebook_sizes, trainer.args.seed
    texts = list(corpus["text"])
    comparison = compare_codes(trainer.documents.codes, texts, trainer.categories, sizes, seed)
    metrics = {"documents": len(corpus), "codebook_sizes": sizes, "codes": comparison, "stages": figures}
    if trainer.reassignment is not None:
        moved = metrics["reassignment"] = trainer.reassignment.figures()
        print(f"\n{moved['documents_moved']:,} documents got other codes, so that every ID is unique.")
    queries = "No queries were given."
    if "query" in corpus.column_names:
        found = query_figures(
            trainer.model.eval(), trainer.tokenizer, trainer.index,
            sample_queries(list(corpus["id"]), list(corpus["query"]), 500, seed), seed,
        )  # fmt: skip
        metrics["queries"] = found
        random = found["recall_at_10_random_ids"]
        queries = (
            f"{found['queries']} queries find their document in the first 10: {found['recall_at_10']:.1%} "
            f"(random IDs: {'-' if random is None else f'{random:.1%}'}, "
            f"chance: {found['recall_at_10_by_chance']:.2%})."
        )
    samples = examples_table(trainer.index, texts)
    tables = position_table(comparison), stage_table(figures)
    card = CardContent(
        name=trainer.args.hub_model_id or str(trainer.run_dir), data=source, documents=len(corpus),
        codebook_sizes=sizes, positions_table=tables[0], stages_table=tables[1], queries=queries, examples=samples,
        counter=trainer.reassignment is None, base_model=model_arguments.model_name_or_path,
        licence=model_arguments.licence,
        datasets=[corpus_arguments.dataset_name] if corpus_arguments.dataset_name else [],
        results=evaluation_results(metrics, source),
    )  # fmt: skip
    folder = save_model_folder(trainer, metrics, card, document_table(corpus, corpus_arguments.kept_characters))
    print(f"\n{tables[1]}\n\n{tables[0]}\n\n{queries}\n\n{samples}\n\nModel folder: {folder}")
    print(f'Search it: python examples/search.py {folder} "what to look for"')
    print(f'Look at it: pip install -e ".[app]" && python app/app.py {folder}')
    return folder


if __name__ == "__main__":
    main()

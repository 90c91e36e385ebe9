"""What is fuzzed: each target's files, how they are loaded, and how an object that was accepted is judged."""

import gzip
import json
import random
import shutil
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "examples"), str(Path(__file__).parent)]

import pyarrow.parquet  # noqa: E402
import torch  # noqa: E402
from data import CorpusArguments, CorpusError, load_corpus  # noqa: E402
from huggingface_hub.errors import StrictDataclassError  # noqa: E402
from mutations import damage_bytes, damage_file, odd_lines  # noqa: E402
from run_indexing import parse_arguments  # noqa: E402
from tiny_training import tiny_corpus, tiny_indexer, tiny_tokenizer  # noqa: E402
from transformers import AutoModel  # noqa: E402

from modeling_lmindexer import (  # noqa: E402
    CorruptedFolderError,
    DocumentVectors,
    LMIndexerConfig,
    PrefixTree,
    PrefixTreeLogitsProcessor,
    SemanticIndex,
)
from modeling_lmindexer.folder import MANIFEST_NAME, read_manifest, update_manifest  # noqa: E402

IDS, TREE, VECTORS = "semantic_ids.parquet", "prefix_tree.safetensors", "document_vectors.safetensors"
WEIGHTS, CONFIG, GENERATION = "model.safetensors", "config.json", "generation_config.json"
SETTINGS = """output_dir: out
learning_rate: 0.001
codebook_sizes: [6, 4]
similarity: cosine
hint_ratios: [0.5, 0.3]
num_train_epochs: 2
contrastive_views: dropout
seed: 3
max_source_length: 32
per_device_train_batch_size: 8
"""


@dataclass(frozen=True)
class Target:
    """One loader.

    Args:
        files: that it reads; one is damaged at a time.
        load: reads them from a folder.
        judge: raises AssertionError for an object that is not consistent in itself; returns what it holds, to compare
            it with the undamaged one's.
        errors: that are documented; each comes with a message.
        listed: whether its files are in a manifest.
    """

    files: tuple[str, ...]
    load: Callable
    judge: Callable
    errors: tuple[type[BaseException], ...]
    listed: bool = True
    damage: Callable = damage_file
    state: dict = field(default_factory=dict, compare=False)


def write_base(folder: Path) -> None:
    """A tiny model folder, corpora and settings, all undamaged."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = tiny_corpus(1)
    codes = torch.randint(0, 4, (len(rows), 2), generator=torch.Generator().manual_seed(0)).numpy()
    index = SemanticIndex.from_codes(rows["id"], codes, [6, 4, 16])
    model = tiny_indexer()
    model.drop_reconstructor()
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    index.save_pretrained(folder)
    vectors = torch.randn(len(rows), 16, generator=torch.Generator().manual_seed(0))
    DocumentVectors(index.document_ids, vectors).save_pretrained(folder)
    for code in folder.glob("*.py"):  # not read here
        code.unlink()
    update_manifest(folder, [path.name for path in folder.iterdir() if path.name != MANIFEST_NAME])
    lines = "".join(json.dumps({"id": row["id"], "title": row["text"], "n": 1}) + "\n" for row in rows).encode()
    (folder / "corpus.jsonl").write_bytes(lines)
    (folder / "corpus.jsonl.gz").write_bytes(gzip.compress(lines, mtime=0))
    (folder / "corpus.csv").write_text("id,title\n" + "".join(f'{row["id"]},"{row["text"]}"\n' for row in rows))
    pyarrow.parquet.write_table(
        pyarrow.table({"id": rows["id"][:], "title": rows["text"][:]}), folder / "corpus.parquet"
    )
    (folder / "settings.yaml").write_text(SETTINGS)


def judge_index(index: SemanticIndex) -> tuple:
    """Every document has an ID of its own that leads back to it; the tree is that of the table."""
    codes, ids = index.codes, index.document_ids
    assert len(ids) == len(codes) == len(index.tree) > 0
    assert (codes >= 0).all() and (codes < index.position_sizes).all()
    assert index.documents_of(index.sequences) == [[document] for document in ids]
    return tuple(ids), codes.tobytes(), tuple(index.position_sizes), index.has_disambiguation


def judge_tree(tree: PrefixTree) -> tuple:
    """It can be walked to every leaf, and each document is at one."""
    sequences = tree.sequences if hasattr(tree, "sequences") else None
    found = tree.snapshot()
    assert len(tree) >= 1 and found.num_documents >= len(tree)
    values = [value for value in vars(found).values() if isinstance(value, torch.Tensor)]
    return len(tree), found.num_documents, repr(sequences), len(values)


def judge_processor(processor: PrefixTreeLogitsProcessor) -> tuple:
    """Its ids are as many as the tree numbers, all different; it filters scores of a first step, or says that the
    model has fewer of them (ValueError)."""
    ids = processor.document_ids
    assert ids.are_numbers or len(set(ids.present)) == len(ids.present) == processor.tree.num_documents
    scores = processor(torch.zeros(2, 1, dtype=torch.long), torch.zeros(2, 40))
    return None if ids.are_numbers else tuple(ids.present), scores.numpy().tobytes()


def judge_vectors(vectors: DocumentVectors) -> tuple:
    """A finite unit vector for each document."""
    assert len(vectors.vectors) == len(vectors.document_ids) and vectors.vectors.isfinite().all()
    return vectors.vectors.numpy().tobytes(), vectors.weight


def judge_model(model) -> tuple:
    """All weights are finite, and so is what it computes."""
    assert all(value.isfinite().all() for value in model.state_dict().values() if value.is_floating_point())
    with torch.inference_mode():
        output = model(input_ids=torch.tensor([[5, 6, 2]]), attention_mask=torch.ones(1, 3, dtype=torch.long))
    logits = output.code_logits[0]
    assert logits.isfinite().all()
    return logits.numpy().tobytes(), model.config.to_json_string(), model.generation_config.to_json_string()


def judge_config(config: LMIndexerConfig) -> tuple:
    """It passes its own checks, and its derived numbers are positive."""
    config.validate()
    assert all(type(size) is int and size >= 2 for size in config.codebook_sizes)
    assert config.vocab_size > 0 and config.hidden_size > 0 and config.num_hidden_layers > 0 < config.id_length
    return (config.to_json_string(),)


def judge_corpus(corpus) -> tuple:
    """Ids of one type, all different; texts that are not empty and can be written."""
    ids, texts = corpus["id"][:], corpus["text"][:]
    assert len(ids) == len(set(ids)) == len(texts) > 0 and len({type(value) for value in ids}) == 1
    assert all(type(text) is str and text.strip() and text.encode() for text in texts)
    return tuple(ids), tuple(texts)


def judge_settings(parsed) -> tuple:
    """Values of the types that they are declared with."""
    corpus, model, training = parsed
    assert all(type(size) is int for size in model.codebook_sizes)
    assert isinstance(training.learning_rate, float) and isinstance(training.seed, int)
    return repr(corpus), repr(model)


def damage_corpus(path: Path, draw: random.Random, others: list[Path]) -> None:
    """Bytes or lines, inside a gz file or outside."""
    content = path.read_bytes()
    if path.suffix == ".parquet" or draw.random() < 0.4:
        damage_file(path, draw, others)
    elif path.suffix == ".gz":
        path.write_bytes(gzip.compress(odd_lines(gzip.decompress(content), draw)))
    else:
        path.write_bytes(odd_lines(content, draw))


def damage_settings(path: Path, draw: random.Random, others: list[Path]) -> None:
    """A line's value, another YAML value, or bytes."""
    lines = path.read_text().splitlines()
    place, kind = draw.randrange(len(lines)), draw.randrange(3)
    if kind == 0:
        path.write_bytes(damage_bytes(path.read_bytes(), draw))
        return
    name = lines[place].split(":")[0]
    values = ["", "null", "[]", "[1, x]", "{a: 1}", "-1", "1e999", ".nan", "x", "!!python/object/apply:os.system [ls]"]
    values += ["&a [*a]", "2024-01-01", "yes", "99999999999999999999", "'", "[" * 3000, "--seed 5", "0x10"]
    lines[place] = f"{name}: {draw.choice(values)}" if kind == 1 else f"{draw.choice(['x', 'help', ''])}: 1"
    path.write_text("\n".join(lines))


def corpus_target(name: str) -> Target:
    def load(folder: Path):
        return load_corpus(CorpusArguments(train_file=str(folder / name)))

    return Target((name,), load, judge_corpus, (CorpusError, FileNotFoundError), listed=False, damage=damage_corpus)


FOLDER_ERRORS = (CorruptedFolderError, FileNotFoundError)
CONFIG_ERRORS = (ValueError, OSError, StrictDataclassError)
TARGETS = {
    "index": Target((IDS, MANIFEST_NAME), SemanticIndex.from_pretrained, judge_index, FOLDER_ERRORS),
    "tree": Target((TREE, MANIFEST_NAME), PrefixTree.from_pretrained, judge_tree, FOLDER_ERRORS),
    "processor": Target(
        (TREE, IDS, MANIFEST_NAME), PrefixTreeLogitsProcessor.from_pretrained, judge_processor,
        (*FOLDER_ERRORS, ValueError),
    ),
    "vectors": Target(
        (VECTORS, MANIFEST_NAME),
        lambda folder: DocumentVectors.from_pretrained(folder, SemanticIndex.from_pretrained(folder)),
        judge_vectors, (*FOLDER_ERRORS, ValueError),
    ),
    "model": Target(
        (CONFIG, GENERATION, WEIGHTS, MANIFEST_NAME), lambda folder: AutoModel.from_pretrained(folder).eval(),
        judge_model, (*FOLDER_ERRORS, *CONFIG_ERRORS),
    ),
    "config": Target((CONFIG,), LMIndexerConfig.from_pretrained, judge_config, CONFIG_ERRORS, listed=False),
    "settings": Target(
        ("settings.yaml",), lambda folder: parse_arguments([str(folder / "settings.yaml")]), judge_settings,
        (ValueError, SystemExit), listed=False, damage=damage_settings,
    ),
    **{f"corpus {name[6:]}": corpus_target(name) for name in
       ("corpus.jsonl", "corpus.jsonl.gz", "corpus.csv", "corpus.parquet")},
}  # fmt: skip


def reader_of_transformers(error: Exception) -> bool:
    """Whether transformers' AutoConfig stumbled over config.json, which it reads before any code of this package."""
    files = [Path(frame.filename).name for frame in traceback.extract_tb(error.__traceback__)]
    own = [file for file in files[files.index("configuration_auto.py") :] if file == "configuration_lmindexer.py"] \
        if "configuration_auto.py" in files else ["nothing"]  # fmt: skip
    return not own and bool(str(error))


def mutate_and_load(target: Target, base: Path, folder: Path, draw: random.Random) -> tuple[str, str]:
    """One mutation; returns its outcome and, where that is a fault, what happened.

    A file that differs from what its manifest lists must be refused: accepting it is silent damage. Every second
    time the manifest is made to list the damaged file, as a faulty writer would, so that what looks at the content is
    reached; then only an object that is consistent in itself may be accepted.
    """
    for name in {*target.files, MANIFEST_NAME}:
        shutil.copyfile(base / name, folder / name)
    name = draw.choice(target.files)
    target.damage(folder / name, draw, [base / other for other in target.files if other != name])
    is_listed = target.listed and name != MANIFEST_NAME
    if is_listed and draw.random() < 0.5:
        update_manifest(folder, [name])
        is_listed = False
    is_same = (folder / name).read_bytes() == (base / name).read_bytes()
    try:
        loaded = target.load(folder)
        found = target.judge(loaded)
    except AssertionError as error:
        return "FAULT inconsistent", f"{name}: {error!r} {error.__traceback__.tb_next.tb_lineno}"
    except target.errors as error:
        lines = str(error)
        return ("refused", "") if lines.strip() else ("FAULT no message", f"{name}: {error!r}")
    except Exception as error:
        if reader_of_transformers(error):
            return "refused by AutoConfig", ""
        return "FAULT exception", f"{name}: {type(error).__name__}: {str(error)[:300]}"
    if is_same or found == target.state["expected"]:
        return "accepted, the same", ""
    if is_listed:
        return "FAULT silent damage", name
    if name == MANIFEST_NAME:
        return "FAULT silent damage", "a manifest changed the object"
    return "accepted, consistent", ""


def prepare(base: Path, folder: Path) -> None:
    """The undamaged files, and what each target makes of them."""
    write_base(base)
    shutil.copytree(base, folder)
    for target in TARGETS.values():
        target.state["expected"] = target.judge(target.load(folder))
    assert read_manifest(base / MANIFEST_NAME)["files"].keys() >= {IDS, TREE, VECTORS, WEIGHTS, CONFIG}

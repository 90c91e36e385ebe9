"""Proves that the files of a model folder fit together: every check has a figure, and names what is wrong."""

import math
import os
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open

from .configuration_lmindexer import LMIndexerConfig
from .document_ids import IDS_NAME
from .document_vectors import VECTORS_NAME, DocumentVectors
from .folder import MANIFEST_NAME, UPDATE_NAME, file_digest, read_manifest
from .hub import files_of
from .index_changes import CHANGES_NAME, undo
from .index_table import IndexTable
from .modeling_lmindexer import LMIndexerForSemanticID
from .prefix_file import PREFIX_TREE_NAME
from .prefix_tree import PrefixTree
from .semantic_index import SemanticIndex

SHOWN = 5  # so many of what is wrong are named
LEAST_AGREEMENT = 0.5  # of learned codes: below, they are not this model's


@dataclass
class Check:
    """One thing that was looked at.

    Attributes:
        name: of it.
        figure: what was found, in words.
        problems: what is wrong with it and what to do, one sentence each.
    """

    name: str
    figure: str = ""
    problems: list[str] = field(default_factory=list)


@dataclass
class CheckReport:
    """All that was looked at in a folder; `print` shows it, one line per check and one per problem."""

    folder: str
    checks: list[Check]

    @property
    def problems(self) -> list[str]:
        """Everything that is wrong; nothing where the folder is whole."""
        return [f"{check.name}: {problem}" for check in self.checks for problem in check.problems]

    def __str__(self) -> str:
        lines = [f"{'ok  ' if not check.problems else 'BAD '}{check.name}: {check.figure}" for check in self.checks]
        return "\n".join([*lines, *(f"problem: {problem}" for problem in self.problems)])


def check_folder(
    folder: str | os.PathLike,
    documents: Iterable[dict] | None = None,
    sample: int = 256,
    seed: int = 0,
    batch_size: int = 64,
) -> CheckReport:
    """Walks a model folder: manifest, model, tokenizer, table, tree, changelog, vectors, and codes of known texts.

    What the folder does not have is said and is no problem, but for the table and the tree.

    Args:
        folder: a local one; of a Hub repository, the folder that `huggingface_hub.snapshot_download` returns.
        documents: `{"id": ..., "text": ...}`, among them documents of the index: a sample is read by the model again.
        sample: how many, at most.
        seed: of the sample.

    Raises:
        FileNotFoundError: there is no such folder.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is no folder: give a model folder that run_indexing.py wrote.")
    checks: list[Check] = []

    def run(name: str, function: Callable, *arguments):
        check, result = Check(name), None
        checks.append(check)
        try:
            result = function(check, folder, *arguments)
        except Exception as error:  # what breaks one check must not hide the others
            check.problems.append(" ".join(str(error).split()) or repr(error))
        check.figure = check.figure or "could not be checked"
        return result

    run("manifest", check_manifest)
    config = run("weights", check_weights)
    run("tokenizer", check_tokenizer, config)
    table = run("table", check_table)
    index = run("model and table", check_model_and_table, config, table)
    run("tree", check_tree, index)
    run("changelog", check_changes, index)
    run("document vectors", check_vectors, index)
    run("codes of known texts", check_codes, index, documents, (sample, seed, batch_size))
    return CheckReport(str(folder), checks)


def check_manifest(check: Check, folder: Path) -> None:
    """Every listed file is there with its size and hash, every file is listed, and nothing is half-written."""
    hidden = sorted(path.name for path in folder.iterdir() if path.name.startswith("."))
    left = [name for name in hidden if name.startswith((".writing-", f"{UPDATE_NAME}-")) or name.count(".") > 2]
    for name in left:
        check.problems.append(f"{name} is left of a write that was stopped: delete it, unless one is going on.")
    if (folder / UPDATE_NAME).exists():
        check.problems.append(f"{UPDATE_NAME} holds files on their way to their names: load the index once to finish.")
    if not (folder / MANIFEST_NAME).exists():
        check.figure = "none, so that no file can be compared with it"
        return
    listed = read_manifest(folder / MANIFEST_NAME)["files"]
    size = 0
    for name, entry in listed.items():
        path = folder / name
        if not path.is_file():
            check.problems.append(f"{name} is listed and missing: download or write the folder again.")
            continue
        size += path.stat().st_size
        if path.stat().st_size != entry["size"]:
            check.problems.append(f"{name} has {path.stat().st_size:,} bytes, {entry['size']:,} are listed.")
        elif file_digest(path) != entry["sha256"]:
            check.problems.append(f"{name} is not the file that is listed (SHA-256).")
    for name in sorted(set(files_of(folder)) - listed.keys() - {MANIFEST_NAME, *left}):
        check.problems.append(f"{name} is not listed: it belongs to something else, or its writer was stopped.")
    check.figure = f"{len(listed)} files, {size:,} bytes"


def check_weights(check: Check, folder: Path) -> LMIndexerConfig | None:
    """Names, shapes and types of all tensors are those of the configuration, and their numbers are finite."""
    if not (folder / "config.json").exists():
        check.figure = "no model in this folder"
        return None
    config = LMIndexerConfig.from_pretrained(folder)
    with torch.device("meta"):
        model = LMIndexerForSemanticID(config)
    names = defaultdict(set)  # tied tensors have several names, of which a file holds one
    for name, tensor in model.state_dict(keep_vars=True).items():
        names[id(tensor)].add(name)
    expected = model.state_dict()
    found, numbers = set(), 0
    files = sorted(folder.glob("model*.safetensors"))
    if not files:
        check.problems.append("there is no model.safetensors: download or write the folder again.")
    for path in files:
        try:
            with safe_open(path, framework="pt") as file:
                for name in file.keys():
                    tensor = file.get_tensor(name)
                    found.add(name)
                    numbers += tensor.numel()
                    check.problems += tensor_problems(name, tensor, expected.get(name))
        except SafetensorError as error:
            check.problems.append(f"{path.name} cannot be read ({error}): the file is truncated or no safetensors.")
    missing = sorted(min(group) for group in names.values() if not group & found)
    if missing:
        check.problems.append(f"{len(missing)} tensors are missing, such as {missing[:SHOWN]}.")
    check.figure = f"{len(found)} tensors, {numbers:,} numbers"
    return config


def tensor_problems(name: str, tensor: torch.Tensor, expected: torch.Tensor | None) -> list[str]:
    """What is wrong with a tensor of a file, of which the model has `expected`, if any."""
    if expected is None:
        return [] if name.startswith("reconstructor.") else [f"{name} is no tensor of this model."]
    if tensor.shape != expected.shape or tensor.is_floating_point() != expected.is_floating_point():
        return [
            f"{name} is {tuple(tensor.shape)} {tensor.dtype}, the model's {tuple(expected.shape)} {expected.dtype}."
        ]
    if tensor.is_floating_point() and not math.isfinite(tensor.float().sum()) and not tensor.isfinite().all():
        return [f"{name} holds {int((~tensor.isfinite()).sum())} numbers that are not finite."]
    return []


def check_tokenizer(check: Check, folder: Path, config: LMIndexerConfig | None) -> None:
    """Every token has an embedding."""
    if config is None:
        check.figure = "no model in this folder"
        return
    if not any((folder / name).exists() for name in ("tokenizer.json", "tokenizer_config.json")):
        check.figure = "none in this folder"
        check.problems.append("the model has no tokenizer: save the one it was trained with beside it.")
        return
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    embeddings = config.backbone_config.get_text_config().vocab_size
    check.figure = f"{len(tokenizer):,} tokens, {embeddings:,} embeddings"
    if len(tokenizer) > embeddings:
        check.problems.append("there are more tokens than embeddings: the tokenizer is of another model.")


def check_table(check: Check, folder: Path) -> IndexTable:
    """Columns, types and texts of the table."""
    if not (folder / IDS_NAME).exists() and not (folder / UPDATE_NAME / IDS_NAME).exists():
        raise FileNotFoundError(f"there is no {IDS_NAME}: download or write the folder again.")
    table = IndexTable.read(next(p for p in (folder / UPDATE_NAME / IDS_NAME, folder / IDS_NAME) if p.is_file()), True)
    check.figure = f"{len(table.document_ids):,} documents, version {table.version}, every text that of its codes"
    return table


def check_model_and_table(
    check: Check, folder: Path, config: LMIndexerConfig | None, table: IndexTable | None
) -> SemanticIndex | None:
    """Ids of one kind and unique, codes in range, unique IDs, and the sizes and codebooks of the model."""
    if table is None:
        return None
    index = SemanticIndex(table.document_ids, table.codes, table.position_sizes, table.has_disambiguation)
    index = index.belonging_to(folder, table)
    check.figure = f"{' x '.join(map(str, index.position_sizes))} codes, unique IDs"
    if config is not None:
        index.check_model(config)
        known = None not in (config.codebook_fingerprint, index.codebook_fingerprint)
        check.figure += f", the model's{'' if known else ' (sizes; no fingerprint to compare)'}"
    return index


def check_tree(check: Check, folder: Path, index: SemanticIndex | None) -> None:
    """The tree has the IDs of the table and no others, and its document numbers are the table's rows."""
    tree = PrefixTree.from_pretrained(folder)
    check.figure = f"{len(tree):,} IDs of {tree.num_documents:,} documents"
    if index is None:
        return
    expected = index.sequences
    if not tree.fixed_length or tree.depth != expected.shape[1]:
        check.problems.append(f"its IDs have up to {tree.depth} codes, those of the table {expected.shape[1]}.")
        return
    nodes = tree.walk(expected)
    lacking = (nodes < 0).nonzero()[:, 0].tolist()
    ids = tree.sequences()
    extra = ids[~index.tree.contains(ids)].tolist()
    if lacking:
        some = [index.document_ids[row] for row in lacking[:SHOWN]]
        check.problems.append(f"it lacks the IDs of {len(lacking)} documents of the table: {some}.")
    if extra:
        check.problems.append(f"it has {len(extra)} IDs that no document of the table has: {extra[:SHOWN]}.")
    rows, numbers = tree.documents(nodes, expected.shape[1])
    differ = int((rows != numbers).sum())
    if differ or tree.num_documents != len(index):
        check.problems.append(
            f"it numbers {tree.num_documents} documents, {differ} of them otherwise than the rows of the table do."
        )
    if check.problems:
        check.problems.append(f"Load the index and save it again: {PREFIX_TREE_NAME} is then made of the table.")


def check_changes(check: Check, folder: Path, index: SemanticIndex | None) -> None:
    """Taking all changes back, one after the other, never meets a document with another ID than it should have."""
    has_file = (folder / CHANGES_NAME).exists() or (folder / UPDATE_NAME / CHANGES_NAME).exists()
    if index is None:
        return
    if index.version == 0:
        check.figure = "none: version 0"
        if has_file:
            check.problems.append(f"{CHANGES_NAME} is of an earlier index: delete it.")
        return
    changes = list(index.changes())
    check.figure = f"{len(changes):,} changes up to version {index.version}"
    first = undo(dict(zip(index.document_ids, index.semantic_ids, strict=True)), changes)
    check.figure += f", {len(first):,} documents at version 0"


def check_vectors(check: Check, folder: Path, index: SemanticIndex | None) -> None:
    """Vectors, if there are any, are of the documents of the table, and finite."""
    if not (folder / VECTORS_NAME).exists():
        check.figure = "none"
    elif index is not None:
        vectors = DocumentVectors.from_pretrained(folder, index)
        check.figure = f"{len(vectors.vectors):,} of {vectors.vectors.shape[1]} dimensions"
        if not vectors.vectors.isfinite().all():
            check.problems.append("some are not finite: compute them again with DocumentVectors.of.")


def check_codes(check: Check, folder: Path, index, documents: Iterable[dict] | None, drawn: tuple) -> None:
    """The model gives known texts the codes that they have; after fine-tuning, or where IDs were told apart at the
    last learned position, fewer of them than right after indexing."""
    sample, seed, batch_size = drawn
    if index is None or documents is None:
        check.figure = "no texts given"
        return
    known = [document for document in documents if document["id"] in index.ids]
    rows = np.sort(np.random.default_rng(seed).permutation(len(known))[:sample])
    if not len(rows):
        check.figure = "none of the texts are of documents of the index"
        return
    chosen = [known[row] for row in rows]
    learned = index.encode([document["text"] for document in chosen], batch_size).numpy()
    stored = index.sequences_of([document["id"] for document in chosen]).numpy()[:, : learned.shape[1]]
    equal = (learned == stored).all(axis=1)
    by_position = ", ".join(f"{share:.3f}" for share in (learned == stored).mean(axis=0))
    check.figure = f"{equal.mean():.3f} of {len(rows):,} documents have the same (by position: {by_position})"
    if (learned == stored).mean() < LEAST_AGREEMENT:
        check.problems.append(
            f"{(learned == stored).mean():.3f} of the codes are the model's, expected {LEAST_AGREEMENT} at least: "
            "the model, or the texts, are not those that the IDs come from."
        )

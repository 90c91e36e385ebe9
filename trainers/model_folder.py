"""Writes the model folder: everything that a user of the model needs, under its final name only when it is whole."""

import contextlib
import math
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from modeling_lmindexer.document_table import DOCUMENTS_NAME, DocumentTable
from modeling_lmindexer.document_vectors import VECTORS_NAME
from modeling_lmindexer.folder import (
    MANIFEST_NAME,
    PARTIAL_PREFIX,
    finish_update,
    naming_write_errors,
    remove_partial,
    update_manifest,
    write_json,
)
from modeling_lmindexer.index_changes import CHANGES_NAME

from .folder_lock import FolderLock
from .model_card import CardContent, write_card
from .plots import save_plots
from .run_state import keep_changed_index
from .semantic_id_trainer import SemanticIDTrainer

METRICS_NAME = "metrics.json"


def save_model_folder(
    trainer: SemanticIDTrainer, metrics: dict, card: CardContent, documents: DocumentTable | None = None
) -> Path:
    """Writes model, tokenizer, index, tree, metrics, figures, card and manifest into the run's output folder.

    The reconstructor is left out of the model, which is for search and fine-tuning; the last stage's folder keeps it.
    Files are written beside and moved; the manifest goes last, so that a folder with a manifest is whole.

    Args:
        trainer: after `train()`.
        metrics: becomes `metrics.json`.
        card: becomes `README.md`.
        documents: become `documents.parquet`; default: the folder holds no texts.
    """
    target = trainer.run_dir
    trainer.model.drop_reconstructor()
    with whole_folder(target, trainer.model, trainer.tokenizer, trainer.index, metrics) as folder:
        figures = save_plots(folder, trainer.loss_curves(), trainer.documents.codes, trainer.categories)
        write_card(card, figures, folder / "README.md")
        if documents is not None:
            documents.save_pretrained(folder)
    shutil.rmtree(target / "cache", ignore_errors=True)
    return target


@contextlib.contextmanager
def whole_folder(target: Path, model, tokenizer, index, metrics: dict) -> Iterator[Path]:
    """A folder beside the final one, for files of its own; at the end they and model, tokenizer, index and
    `metrics.json` get their names in `target`, the manifest last.

    Raises:
        ExistingRunError: `target` holds an index that was changed since it was made.
    """
    keep_changed_index(target)
    with FolderLock(target), new_folder(target) as folder:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        index.save_pretrained(folder)
        write_json(folder / METRICS_NAME, finite(metrics))
        yield folder
        files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
        update_manifest(folder, files)
        finish_update(target)  # of an earlier index, or it would come over this one
        earlier = {CHANGES_NAME, VECTORS_NAME, DOCUMENTS_NAME} - set(files)  # what an earlier index may have had
        for name in {MANIFEST_NAME} | earlier:
            (target / name).unlink(missing_ok=True)
        for file in [file for file in files if file != MANIFEST_NAME] + [MANIFEST_NAME]:
            (target / file).parent.mkdir(parents=True, exist_ok=True)
            os.replace(folder / file, target / file)


@contextlib.contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """An empty folder in `target`, without those of runs that were killed; gone at the end."""
    remove_partial(target)
    with naming_write_errors(target), tempfile.TemporaryDirectory(dir=target, prefix=PARTIAL_PREFIX) as name:
        yield Path(name)


def finite(value):
    """The same with `None` in place of numbers that JSON has none for, such as the AMI of a single category."""
    if isinstance(value, dict):
        return {name: finite(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value

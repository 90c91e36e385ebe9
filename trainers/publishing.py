"""Publishes a model folder in one call: model and index, the IDs as a data set, metrics and a page as Spaces."""

import json
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import metrics
from huggingface_hub import HfApi

from modeling_lmindexer.document_ids import IDS_NAME
from modeling_lmindexer.document_table import DOCUMENTS_NAME
from modeling_lmindexer.folder import (
    MANIFEST_NAME,
    CorruptedFolderError,
    finish_update,
    manifest_entries,
    read_manifest,
    verify_files,
)
from modeling_lmindexer.hub import files_of
from modeling_lmindexer.hub_upload import RepositoryFiles, UploadError, naming_refusals
from modeling_lmindexer.index_table import IndexTable

from .model_folder import METRICS_NAME
from .published_cards import FolderCard, Links, read_card

MODEL, IDS, METRICS, PAGE = PARTS = ("model", "ids", "metrics", "page")
METRIC_MODULES = ("ranking_quality", "semantic_id_quality")
MODEL_MARKS = (IDS_NAME, "modeling_lmindexer.py", "prefix_tree.safetensors")

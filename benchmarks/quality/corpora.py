"""The documents of a data set, which of them choices may look at, and their embeddings."""

import hashlib
import json
import sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import datasets
import numpy as np

from quality.plan import DataSet

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))
from data import CorpusArguments, load_corpus

from modeling_lmindexer.folder import atomic_path, write_json
from trainers.adaptation import ENCODER_FOLDER
from trainers.embeddings import embed_texts
from trainers.tfidf import TfidfProjection


@dataclass
class Corpus:
    """A data set that IDs are learned for.

    Attributes:
        documents: columns `id`, `text`, `category`, and `excluded`, the brand.
        max_length: tokens that every method reads of a document.
        for_choices: `(N,)` booleans, the documents whose categories a choice may look at.
        reported: `(N,)` booleans, those whose categories the tables are about.
    """

    documents: datasets.Dataset
    max_length: int
    for_choices: np.ndarray
    reported: np.ndarray

    @cached_property
    def ids(self) -> list:
        """`N` ids."""
        return list(self.documents["id"])

    @cached_property
    def texts(self) -> list[str]:
        """`N` texts: title, description, brand."""
        return list(self.documents["text"])

    @cached_property
    def brands(self) -> list[str]:
        """`N` brands, some of them empty."""
        return list(self.documents["excluded"])

    @cached_property
    def categories(self) -> list[list[str]]:
        """`N` paths."""
        return list(self.documents["category"])

    @cached_property
    def words(self) -> np.ndarray:
        """`(N, 256)` vectors of the words alone, of which no encoder knows."""
        return TfidfProjection(self.texts, seed=0)(self.texts)


def read_corpus(data: Path, entry: DataSet, has_choices: bool) -> Corpus:
    """The documents of a data set; of one that has choices, half of the documents are theirs, else none."""
    # A column beside the text comes as the query.
    arguments = CorpusArguments(
        train_file=str(data / entry.file), drop_empty_texts=True, id_column=entry.id_column,
        query_column=entry.brand_column,
    )  # fmt: skip
    documents = load_corpus(arguments)
    if entry.brand_column:
        documents = documents.rename_column("query", "excluded")
    else:
        documents = documents.add_column("excluded", [""] * len(documents))
    half = np.random.default_rng(0).permutation(len(documents))[: len(documents) // 2 if has_choices else 0]
    for_choices = np.zeros(len(documents), dtype=bool)
    for_choices[half] = True
    return Corpus(documents, entry.max_length, for_choices, ~for_choices)


def find_encoder(folder: Path) -> Path:
    """The folder itself, or where `examples/adapt_encoder.py` puts an encoder inside its own.

    Raises:
        FileNotFoundError: there is no encoder.
    """
    for path in (folder, folder / ENCODER_FOLDER):
        if (path / "config.json").exists():
            return path
    raise FileNotFoundError(f"{folder} holds no encoder: expected config.json there or in {ENCODER_FOLDER}/")


def embed(corpus: Corpus, encoder: Path, path: Path) -> np.ndarray:
    """`(N, D)` embeddings, kept in `path`.

    Raises:
        ValueError: `path` holds those of another encoder, or of other documents.
    """
    content = hashlib.sha256(json.dumps([corpus.texts, corpus.max_length]).encode())
    for file in sorted(encoder.glob("*.safetensors")):
        content.update(file.read_bytes())
    described, description = {"sha256": content.hexdigest()}, path.with_suffix(".json")
    if description.exists():
        if json.loads(description.read_text()) != described:
            raise ValueError(f"{path} has the embeddings of another encoder or corpus: give another --output_dir")
        return np.load(path)
    vectors = embed_texts(encoder, corpus.texts, max_length=corpus.max_length, quiet=True)
    with atomic_path(path) as temporary:
        np.save(temporary, vectors)
    write_json(description, described)
    return vectors

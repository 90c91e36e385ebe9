"""Models that the page shows: a folder or Hub repository with everything that is known about its documents."""

import os
import re
import threading
from collections import OrderedDict
from dataclasses import dataclass, field
from functools import cached_property
from weakref import WeakValueDictionary

import numpy as np
import torch
from huggingface_hub import get_token
from huggingface_hub.constants import HF_HOME
from transformers import AutoConfig, AutoModel, AutoTokenizer

from modeling_lmindexer import DocumentTable, DocumentVectors, IDTreeOverview, SemanticIndex
from modeling_lmindexer.text_codes import tokenize

OTHERS_ARE_PUBLIC = "On a Space, models other than its own are loaded without its token: they must be public."


class CannotLoad(Exception):
    """A model that cannot be shown; its message is for the person who asked for it."""


@dataclass
class LoadedModel:
    """A model folder in memory.

    Attributes:
        name: folder or Hub repository.
        table: texts and categories; those of no document, where the folder has none.
        vectors: of the documents, by which what is found is ordered again, where the folder has them.
    """

    name: str
    model: object
    tokenizer: object
    index: SemanticIndex
    table: DocumentTable | None
    vectors: DocumentVectors | None
    # A fast tokenizer keeps padding and truncation as state: threads that set it break into each other's calls.
    _tokenizing: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False, compare=False)

    @classmethod
    def of(cls, name: str) -> "LoadedModel":
        """Loads a folder or repository; no code from it is run.

        Raises:
            CannotLoad: there is none, it is damaged, or it holds something else.
        """
        name = name.strip()
        check_name(name)
        hub = hub_arguments(name)
        is_foreign = hub.get("token") is False
        try:
            index = SemanticIndex.from_pretrained(name, **hub)
            kind = AutoConfig.from_pretrained(name, trust_remote_code=False, **hub).model_type
            if kind != "lmindexer":
                raise ValueError(f"Its model is of the type {kind}: one that gives semantic IDs is expected.")
            model = AutoModel.from_pretrained(name, trust_remote_code=False, **hub).eval()
            tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False, **hub)
            index.attach(model, tokenizer)
        except (OSError, ValueError, KeyError, ImportError) as error:
            needed = f" {OTHERS_ARE_PUBLIC}" if is_foreign and isinstance(error, OSError) else ""
            raise CannotLoad(f"{name} cannot be shown. {error}{needed}") from error
        table = optional(DocumentTable.from_pretrained, name, **hub)
        vectors = optional(DocumentVectors.from_pretrained, name, index, **hub)
        return cls(name, model, tokenizer, index, table, vectors)

    @cached_property
    def tree(self) -> IDTreeOverview:
        """The tree of IDs as people read it."""
        return IDTreeOverview(self.index, self.table)

    @cached_property
    def labels(self) -> dict[str, np.ndarray]:
        """Rows in the index of the documents with each label of the first two levels, by name."""
        rows: dict[str, list[int]] = {}
        for row, document in enumerate(self.index.document_ids if self.table else []):
            for label in {self.table.label_of(document, depth) for depth in (1, 2)} - {None}:
                rows.setdefault(label, []).append(row)
        return {label: np.array(rows[label]) for label in sorted(rows)}

    def tokens_of(self, passage: str) -> dict[str, torch.Tensor]:
        """`input_ids` and `attention_mask` `(1, tokens)` of a text, cut where the model's reading ends."""
        with self._tokenizing:
            inputs = tokenize(self.tokenizer, passage, self.model.config.max_source_length, return_tensors="pt")
        return {name: inputs[name] for name in ("input_ids", "attention_mask")}

    def text_of(self, document) -> str:
        """Text of a document; nothing where it is not known."""
        return (self.table and self.table.text_of(document)) or ""

    def category_of(self, document) -> str:
        """Its labels from the first that not all documents share; nothing where they are not known."""
        return (self.table and self.table.label_of(document, depth=99)) or ""

    def codes_of(self, document) -> tuple[int, ...]:
        """The codes of a document's ID."""
        return tuple(self.index.codes_of([document])[0].tolist())

    def document_named(self, name: str):
        """The document with an id that was typed, `None` when there is none."""
        name = name.strip()
        if name in self.index.ids:
            return name
        number = int(name) if re.fullmatch(r"-?\d{1,19}", name) else None  # of 64 bits
        return number if number is not None and number in self.index.ids else None


def check_name(name: str) -> None:
    """Raises CannotLoad for a name that says nothing, and on a Space for folders of the machine it runs on."""
    if not name:
        raise CannotLoad("Give a model folder, such as outputs/python_docs, or a Hub repository, such as org/name.")
    if "SPACE_ID" in os.environ and (name.count("/") != 1 or os.path.lexists(name)):
        raise CannotLoad(f"Found {name!r}: on a Space, give a Hub repository, such as org/name.")


def hub_arguments(name: str) -> dict:
    """What every loader is told of the Hub: on a Space, its secret opens its own model alone.

    Visitors name other models, which load as for anybody: without a token, and into a cache of their own, for in the
    usual one lies what the token has brought.
    """
    if "SPACE_ID" not in os.environ:
        return {}
    if name == os.environ.get("LMINDEXER_MODEL", "").strip():
        return {"token": get_token()}
    return {"token": False, "cache_dir": os.path.join(HF_HOME, "visitors")}


def optional(load, *arguments, **hub):
    """What `load` gives, `None` where the folder has no such file."""
    try:
        return load(*arguments, **hub)
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise CannotLoad(f"{arguments[0]} cannot be shown. {error}") from error


class Shelf:
    """The models of all visitors: the page's own one stays in memory, and beside it the last that were asked for.

    Args:
        room: for so many beside the page's own.
    """

    def __init__(self, room: int = 2):
        if room < 1:
            raise ValueError(f"Found room={room}: expected at least 1, for the model that is being shown.")
        self._models: OrderedDict[str, LoadedModel] = OrderedDict()
        self._own: set[str] = set()
        self._lock = threading.Lock()
        # By name, for as long as somebody loads it or waits for it: others do not wait.
        self._turns: WeakValueDictionary[str, threading.Lock] = WeakValueDictionary()
        self.room = room

    def keep(self, name: str) -> LoadedModel:
        """The page's own model, which stays from now on. Raises CannotLoad."""
        name = name.strip()
        loaded = self.model(name)
        with self._lock:
            self._own.add(name)
            return self._models.setdefault(name, loaded)

    def model(self, name: str) -> LoadedModel:
        """The model with a name, loaded unless it is there. Raises CannotLoad."""
        name = name.strip()
        loaded = self._kept(name)
        if loaded is None:
            with self._turn(name):
                loaded = self._kept(name) or self._load(name)
        return loaded

    def reload(self, name: str) -> LoadedModel:
        """The model as its folder is now. Raises CannotLoad; then the old one stays."""
        name = name.strip()
        with self._turn(name):
            return self._load(name)

    def _turn(self, name: str) -> threading.Lock:
        with self._lock:
            return self._turns.setdefault(name, threading.Lock())

    def _kept(self, name: str) -> LoadedModel | None:
        with self._lock:
            if name in self._models:
                self._models.move_to_end(name)
            return self._models.get(name)

    def _load(self, name: str) -> LoadedModel:
        loaded = LoadedModel.of(name)
        with self._lock:
            self._models[name] = loaded
            self._models.move_to_end(name)
            others = [name for name in self._models if name not in self._own]
            for oldest in others[: -self.room]:
                del self._models[oldest]
        return loaded

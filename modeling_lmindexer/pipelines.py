"""The pipelines of an indexer: `semantic-id` says what a text is about, `semantic-retrieval` finds documents.

`import modeling_lmindexer` registers them; a model folder carries this file for users without the package.
"""

import contextlib
import math
import os
from collections.abc import Sequence
from functools import cached_property

import numpy as np
import torch
from transformers import AutoModel
from transformers.pipelines import PIPELINE_REGISTRY, Pipeline
from transformers.utils import TRANSFORMERS_DYNAMIC_MODULE_NAME

from .document_table import DocumentTable
from .index_rules import id_texts
from .prefix_overview import IDTreeOverview, prefix_text
from .text_codes import assign_with_scores, tokenize

LEAST_BEAMS = 20  # as in the paper


class LMIndexerPipeline(Pipeline):
    """What both pipelines share: the model's tokenizer, index and table of documents, from one folder or repository.

    Args:
        model: an [`LMIndexerForSemanticID`]; `pipeline` loads it, with its `revision`, `token`, `dtype`, `device` or
            `device_map`, and with `model_kwargs={"subfolder": ...}` or `{"cache_dir": ...}`.
        index: a [`SemanticIndex`], or the folder or repository of one; default: the model's own.
        documents: a [`DocumentTable`] with what documents are about; default: the index's own, if it has one.
        others: as in [`transformers.Pipeline`], and what a call takes: these are then the pipeline's defaults.

    Raises:
        ValueError: a model of another kind, or one that was not loaded from a folder, without an index.
        FileNotFoundError: there is no index beside the model.
    """

    _load_tokenizer = True
    _load_processor = _load_feature_extractor = _load_image_processor = _load_video_processor = False

    def __init__(self, model, *, index=None, documents: DocumentTable | None = None, **others):
        if model.config.model_type != "lmindexer":
            raise ValueError(
                f"{model.name_or_path or 'The model'} is a {type(model).__name__}: this task needs a model with "
                "semantic IDs, such as a folder that run_indexing.py wrote."
            )
        others.pop("local_files_only", None)  # what the model was loaded with counts for the index, too
        self._index, self._documents = index, documents
        super().__init__(model, **others)
        self.model.eval()

    @cached_property
    def index(self):
        """The [`SemanticIndex`] of the model."""
        index, hub_kwargs = self._index, {}
        if index is None:
            index, hub_kwargs = self.model.name_or_path, self.model.hub_kwargs
            if not index:
                raise ValueError("This model was not loaded from a folder or repository: give its index=.")
        if isinstance(index, str | os.PathLike):
            index = self.model.load_index(index, **hub_kwargs)
        index.check_model(self.model.config)
        return index

    @cached_property
    def documents(self) -> DocumentTable | None:
        """Texts and categories of the documents, where there are any."""
        if self._documents is None and self.index.name_or_path:
            with contextlib.suppress(FileNotFoundError):
                return DocumentTable.from_pretrained(self.index.name_or_path, **self.index.hub_kwargs)
        return self._documents

    def load(self) -> None:
        """Loads index and table now: what is wrong with them is said before the first batch."""
        _ = self.index, self.documents

    def text_of(self, document) -> str | None:
        """Text of a document, where it is known."""
        return self.documents.text_of(document) if self.documents else None

    def __call__(self, inputs, **settings):
        """Results of texts.

        Args:
            inputs: a text, or a list of texts; or a dataset of texts, such as `KeyDataset(rows, "text")` of
                transformers, or a generator of them: their results come one after the other.
            settings: `batch_size` and `num_workers`, and what the task takes, see the class.

        Raises:
            ValueError: a text that is empty, or no text.
        """
        if isinstance(inputs, Sequence) and not isinstance(inputs, str):
            inputs = list(inputs)  # tuples and columns of a dataset, too
            if not inputs:
                return []
        return super().__call__(inputs, **settings)

    def preprocess(self, text: str) -> dict[str, torch.Tensor]:
        """Token ids and mask `(1, tokens)`."""
        if not isinstance(text, str) or not text.strip():
            raise ValueError(
                f"Found {text!r} as a text: expected one that is not empty. Leave it out, or name the column of a "
                "dataset: KeyDataset(rows, 'text')."
            )
        inputs = tokenize(self.tokenizer, text, self.model.config.max_source_length, return_tensors="pt")
        return {name: inputs[name] for name in ("input_ids", "attention_mask")}

    def save_pretrained(self, save_directory: str | os.PathLike, **kwargs) -> None:
        """As in transformers; index and table of documents go along, unless the pipeline needed none so far."""
        super().save_pretrained(save_directory, **kwargs)
        for part in (vars(self).get("index"), vars(self).get("documents")):
            if part is not None:
                part.save_pretrained(save_directory)


class SemanticIDPipeline(LMIndexerPipeline):
    """`pipeline("semantic-id", model=...)`: the semantic ID of a text, and what is under each of its prefixes.

    The ID is the one of `model.assign`: at every learned position the most likely code. Calls, and the constructor for
    all calls, take:

    - `top_k`: with more than 1, as many IDs are named: the text's own, and the most likely others that a beam search
      finds; default 1.
    - `return_path`: whether to say what is under the prefixes; default True. Without, no index is needed.
    - `num_samples`: documents that are named per prefix, at most; default 3.
    - `num_categories`: categories that are named per prefix, the most frequent first; default 5.

    Returns, for every text, a dictionary:

    - `semantic_id` such as `"<12><407>"`, `codes` such as `[12, 407]`, and `score`, the log-probability of the codes;
    - `path`: for every prefix of the ID, from its first code on, its `semantic_id` and `codes`, the number of
      `documents` under it, their `categories`, each a `category` with the `share` of the documents that have it, and
      `samples`, the `id` and `text` (or `None`) of some. Codes that no document has have none of these;
    - `alternatives` with `top_k` above 1: `semantic_id`, `codes` and `score` of each, best first.
    """

    _overview: tuple[int, IDTreeOverview] | None = None

    def __init__(self, model, **others):
        super().__init__(model, **others)
        if self._postprocess_params.get("return_path", True):
            self.load()

    def _sanitize_parameters(self, top_k=None, return_path=None, num_samples=None, num_categories=None):
        check_counts(1, top_k=top_k)
        check_counts(0, num_samples=num_samples, num_categories=num_categories)
        shown = {"return_path": return_path, "num_samples": num_samples, "num_categories": num_categories}
        return {}, given(top_k=top_k), given(**shown)

    @property
    def overview(self) -> IDTreeOverview:
        """The tree of IDs as the index is now."""
        version = self.index.version
        if self._overview is None or self._overview[0] != version:
            self._overview = version, IDTreeOverview(self.index, self.documents)
        return self._overview[1]

    def _forward(self, inputs: dict, top_k: int = 1) -> dict[str, torch.Tensor]:
        """`ids` `(texts, IDs, learned positions)` and `scores` `(texts, IDs)`, the texts' own first."""
        ids, scores = assign_with_scores(self.model, **inputs)
        ids, scores = ids[:, None], scores[:, None]
        if top_k > 1:
            most = math.prod(self.model.config.codebook_sizes)  # a wider beam would fill up with IDs that are none
            top_k, num_beams = min(top_k, most), min(max(LEAST_BEAMS, top_k), most)
            beams = self.model.generate(
                **inputs, num_beams=num_beams, num_return_sequences=top_k, max_new_tokens=ids.shape[2],
                return_dict_in_generate=True, output_scores=True,
            )  # fmt: skip
            ids = torch.cat([ids, beams.sequences[:, 1:].unflatten(0, (-1, top_k))], dim=1)
            scores = torch.cat([scores, beams.sequences_scores.view(-1, top_k)], dim=1)
        return {"ids": ids, "scores": scores}

    def postprocess(
        self, outputs: dict, return_path: bool = True, num_samples: int = 3, num_categories: int = 5
    ) -> dict:
        """The dictionary of a text, see the class."""
        ids, scores = outputs["ids"][0], outputs["scores"][0].tolist()
        codes = (ids - torch.tensor(self.model.config.position_offsets)[: ids.shape[1]]).tolist()
        own, *beam = [
            {"semantic_id": prefix_text(row), "codes": row, "score": score}
            for row, score in zip(codes, scores, strict=True)
        ]
        if len(ids) > 1:
            # The beam has as many as were asked for in all: the text's own is one of them, or the last is too much.
            own["alternatives"] = [found for found in beam if found["codes"] != own["codes"]][: len(ids) - 2]
        if return_path:
            prefixes = [own["codes"][: end + 1] for end in range(len(own["codes"]))]
            own["path"] = [self.describe(prefix, num_samples, num_categories) for prefix in prefixes]
        return own

    def describe(self, codes: list[int], num_samples: int, num_categories: int) -> dict:
        """What is under a prefix, see the class."""
        described = {"semantic_id": prefix_text(codes), "codes": codes}
        try:
            found = self.overview.overview(codes, num_samples)
        except KeyError:  # no document's ID begins with it
            return described | {"documents": 0, "categories": [], "samples": []}
        shares = [{"category": name, "share": count / found.documents} for name, count in found.categories]
        samples = [{"id": document, "text": self.text_of(document)} for document in found.samples]
        return described | {"documents": found.documents, "categories": shares[:num_categories], "samples": samples}


class SemanticRetrievalPipeline(LMIndexerPipeline):
    """`pipeline("semantic-retrieval", model=...)`: the documents that a text points at, as `model.search` finds them.

    Calls, and the constructor for all calls, take:

    - `top_k`: documents per text, at most; default 10.
    - `num_beams`: width of the beam; default 20, or `top_k` if that is more.
    - `allowed_ids`: only these documents, for all texts: a list of ids, or a boolean mask `(documents,)` in the order
      of `index.document_ids`. `model.search` takes others for each text.
    - `rescoring`: [`DocumentVectors`] by which what the beam finds is ordered again, or False for the order of the IDs
      alone; default: those in the model's folder, if it has any.

    Returns, for every text, a list of dictionaries, best first: `id` and `score` of a document (the log-probability of
    its ID, with rescoring the weighted cosine added), its whole `semantic_id`, such as `"<12><407><0>"`, its `text`
    (`None` where it is not known) and its `category`, a list of labels from general to specific.

    Raises:
        ValueError: `top_k` above a given `num_beams`, or `allowed_ids` that are no ids and no mask of all documents.
        KeyError: `allowed_ids` that are not in the index.
    """

    def __init__(self, model, **others):
        super().__init__(model, **others)
        self.load()

    def _sanitize_parameters(self, top_k=None, num_beams=None, allowed_ids=None, rescoring=None):
        check_counts(1, top_k=top_k, num_beams=num_beams)
        if allowed_ids is not None and not isinstance(allowed_ids, np.ndarray | torch.Tensor):
            if isinstance(allowed_ids, str):
                raise ValueError(f"allowed_ids is {allowed_ids!r}: expected a list of document ids, or a mask.")
            allowed_ids = list(allowed_ids)
        nested = (list, tuple, set, np.ndarray, torch.Tensor)
        many = any(isinstance(row, nested) for row in allowed_ids) if isinstance(allowed_ids, list) else False
        if many or getattr(allowed_ids, "ndim", 1) > 1:
            raise ValueError("allowed_ids are those of all texts: give one list, or model.search one for each text.")
        return {}, given(top_k=top_k, num_beams=num_beams, allowed=allowed_ids, rescoring=rescoring), {}

    @cached_property
    def vectors(self):
        """The [`DocumentVectors`] in the folder or repository of the index, if there are any."""
        if self.index.name_or_path:
            with contextlib.suppress(FileNotFoundError):
                source = self.index.name_or_path
                return self.model.load_document_vectors(source, self.index, **self.index.hub_kwargs)
        return None

    def _forward(
        self, inputs: dict, top_k: int = 10, num_beams: int | None = None, allowed=None, rescoring=None
    ) -> dict[str, torch.Tensor]:
        """`ids` `(texts, IDs, positions)` and `scores` `(texts, IDs)`, -inf where a text has fewer."""
        if rescoring is True and self.vectors is None:
            raise ValueError(
                "There are no vectors of documents beside the index: compute them with DocumentVectors.of."
            )
        if rescoring is None or rescoring is True:
            rescoring = self.vectors
        found = self.model.search(
            **inputs, index=self.index, num_beams=num_beams or max(LEAST_BEAMS, top_k), top_k=top_k, allowed=allowed,
            rescoring=rescoring or None,
        )  # fmt: skip
        return {"ids": found.sequences, "scores": found.scores}

    def postprocess(self, outputs: dict) -> list[dict]:
        """The documents of a text, see the class."""
        found = outputs["scores"][0] > -torch.inf
        ids, scores = outputs["ids"][0][found], outputs["scores"][0][found].tolist()
        semantic_ids = id_texts(ids.numpy() - self.index.offsets)
        return [
            {
                "id": document,
                "score": score,
                "semantic_id": semantic_id,
                "text": self.text_of(document),
                "category": list(self.documents.category_of(document)) if self.documents else [],
            }
            for documents, score, semantic_id in zip(self.index.documents_of(ids), scores, semantic_ids, strict=True)
            for document in documents
        ]

    def save_pretrained(self, save_directory: str | os.PathLike, **kwargs) -> None:
        """As in transformers; index, table and vectors of the documents go along."""
        super().save_pretrained(save_directory, **kwargs)
        if self.vectors is not None:
            self.vectors.save_pretrained(save_directory)


def given(**settings) -> dict:
    """The settings that are not `None`."""
    return {name: value for name, value in settings.items() if value is not None}


def check_counts(least: int, **counts) -> None:
    """Raises ValueError for a number that is no whole one from `least` on; `None` is none."""
    for name, count in given(**counts).items():
        if type(count) is not int or count < least:
            raise ValueError(f"{name} is {count!r}; it must be a whole number, at least {least}.")


PIPELINES = {"semantic-id": SemanticIDPipeline, "semantic-retrieval": SemanticRetrievalPipeline}


def custom_pipelines() -> dict[str, dict]:
    """What `config.json` says of them, for `pipeline(..., trust_remote_code=True)` without this package."""
    return {task: {"impl": f"pipelines.{kind.__name__}", "pt": ["AutoModel"]} for task, kind in PIPELINES.items()}


if not __name__.startswith(TRANSFORMERS_DYNAMIC_MODULE_NAME):  # a folder's copy is found by its config.json
    for _task, _kind in PIPELINES.items():
        PIPELINE_REGISTRY.register_pipeline(_task, _kind, pt_model=AutoModel, type="text")

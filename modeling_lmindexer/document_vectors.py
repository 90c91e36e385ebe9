"""Dense rescoring: what semantic IDs cannot tell apart, the hidden states of texts can."""

import hashlib
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import LongTensor, Tensor
from torch.nn import functional as F

from .folder import (
    MANIFEST_NAME,
    CorruptedFolderError,
    reading_again,
    resolve_file,
    update_manifest,
    verify_files,
    write_tensors,
)
from .text_codes import tokenize

VECTORS_NAME = "document_vectors.safetensors"


class DocumentVectors:
    """Unit vectors of documents; the cosine with a query's, times a weight, is added to an ID's log-probability.

    A text's vector is `h^1`, the state that the first code is read off. It needs no code before it, so that it is
    the same function of a query and of a document, computed once; the contrastive loss of the first position (Eq. 9)
    pushes it apart for any two documents, those with one ID included; and Eq. 14 pulls it to one code's vector for a
    query and its document.

    ```python
    >>> vectors = DocumentVectors(["a", "b"], torch.tensor([[1.0, 0.0], [0.6, 0.8]]), weight=2.0)
    >>> vectors.rescored([["b"], ["a"], []], torch.tensor([[-1.0, -1.5, -torch.inf]]), torch.tensor([[2.0, 0.0]]))
    tensor([[0.2000, 0.5000,   -inf]])

    ```

    Args:
        document_ids: all different.
        vectors: `(documents, hidden)`, of any length above 0.
        weight: of the cosine. Small, such as 0.001, it orders the documents that their IDs do not tell apart; large,
            it orders the whole beam.

    Raises:
        ValueError: another number of vectors than of documents, or a weight that is not above 0.
    """

    def __init__(self, document_ids: Sequence, vectors: Tensor, weight: float = 1.0):
        if vectors.ndim != 2 or len(vectors) != len(document_ids):
            raise ValueError(
                f"Expected a vector for each of {len(document_ids)} documents, got an array of shape "
                f"{tuple(vectors.shape)}."
            )
        if not 0 < weight < float("inf"):
            raise ValueError(f"The weight of the cosine is {weight}; expected a number above 0, or search without it.")
        self.document_ids, self.weight = list(document_ids), float(weight)
        self.vectors = F.normalize(vectors.float(), dim=-1)
        self._rows = {document: row for row, document in enumerate(self.document_ids)}

    @classmethod
    @torch.no_grad()
    def of(cls, index, documents: Iterable[dict], weight: float = 1.0, batch_size: int = 64) -> "DocumentVectors":
        """Those of the documents `{"id": ..., "text": ...}` of an index, by its model; see [`SemanticIndex.attach`].

        Texts are read as far as the model reads; the order of equal texts never depends on `batch_size`.

        Raises:
            ValueError: a document of the index is not among them.
        """
        texts = {document["id"]: document["text"] for document in documents}
        missing = [document for document in index.document_ids if document not in texts]
        if missing:
            raise ValueError(f"{len(missing)} documents of the index are not given: {missing[:5]}.")
        model, tokenizer = index.load_model()
        texts = [texts[document] for document in index.document_ids]
        tokens = tokenize(tokenizer, texts, model.config.max_source_length)
        batches, place = batches_by_length(tokens["input_ids"], batch_size)
        training, states = model.training, []
        model.eval()
        for rows in batches:
            input_ids, mask = (padded.to(model.device) for padded in pad_tokens(rows, tokenizer.pad_token_id or 0))
            states.append(first_states(model, *model.encode(input_ids, mask)).float().cpu())
        model.train(training)
        return cls(index.document_ids, torch.cat(states)[torch.from_numpy(place)], weight)

    def rescored(self, found: list[list], scores: Tensor, states: Tensor) -> Tensor:
        """Scores with the weighted cosine added.

        Args:
            found: the document of every ID, `texts * IDs` lists; an empty one where there is none.
            scores: `(texts, IDs)`; what is -inf stays so.
            states: vectors of the texts, `(texts, hidden)`.

        Raises:
            KeyError: a document without a vector; ValueError: vectors of another size than the states.
        """
        if states.shape[1] != self.vectors.shape[1]:
            raise ValueError(
                f"The vectors of the documents have {self.vectors.shape[1]} dimensions, those of the texts "
                f"{states.shape[1]}: they come from different models. Load both from one folder."
            )
        places = [place for place, documents in enumerate(found) if documents]
        unknown = [document for place in places for document in found[place] if document not in self._rows]
        if unknown:
            raise KeyError(
                f"{len(set(unknown))} documents have no vector, such as {unknown[0]!r}: they were added later. "
                "Compute them with DocumentVectors.of."
            )
        rows = torch.tensor([self._rows[found[place][0]] for place in places], dtype=torch.long)
        texts = torch.tensor(places, dtype=torch.long) // max(1, scores.shape[1])
        cosines = (self.vectors[rows] * F.normalize(states.float().cpu(), dim=-1)[texts]).sum(-1)
        added = torch.zeros(scores.numel())
        added[torch.tensor(places, dtype=torch.long)] = self.weight * cosines
        return scores + added.view(scores.shape).to(scores)

    def save_pretrained(self, folder: str | os.PathLike) -> None:
        """Writes `document_vectors.safetensors`, atomically; rows are the documents of `semantic_ids.parquet`.

        Args:
            folder: with the index's files, whose manifest then lists the vectors.
        """
        folder = Path(folder)
        metadata = {"documents": digest_of_ids(self.document_ids), "weight": repr(self.weight)}
        write_tensors(folder / VECTORS_NAME, {"vectors": self.vectors}, metadata)
        if (folder / MANIFEST_NAME).exists():
            update_manifest(folder, [VECTORS_NAME])

    @classmethod
    @reading_again
    def from_pretrained(cls, name_or_path: str | os.PathLike, index, **hub_kwargs) -> "DocumentVectors":
        """Loads the vectors of an index's documents, and the weight that they were saved with.

        Args:
            name_or_path: folder or Hub repository.
            index: the folder's.
            hub_kwargs: `revision`, `token`, `cache_dir`, `local_files_only`, `subfolder`.

        Raises:
            FileNotFoundError: no such folder, repository or file.
            CorruptedFolderError: a file that cannot be read or holds something else.
            ValueError: it is of other documents than the index has.
        """
        path = resolve_file(name_or_path, VECTORS_NAME, **hub_kwargs)
        verify_files([path], resolve_file(name_or_path, MANIFEST_NAME, optional=True, **hub_kwargs))
        try:
            with safe_open(path, framework="pt") as file:
                vectors, metadata = file.get_tensor("vectors"), file.metadata()
            documents, weight = metadata["documents"], float(metadata["weight"])
            if vectors.ndim != 2 or not vectors.is_floating_point() or not vectors.isfinite().all():
                raise ValueError(f"an array of shape {tuple(vectors.shape)} and {vectors.dtype}, or not of numbers")
        except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
            raise CorruptedFolderError(f"{path} does not hold vectors of documents: {error}") from error
        if len(vectors) != len(index) or documents != digest_of_ids(index.document_ids):
            raise ValueError(
                f"{path} has the vectors of {len(vectors):,} documents, which are not the {len(index):,} of the "
                "index: compute them again with DocumentVectors.of."
            )
        return cls(index.document_ids, vectors, weight)


def first_states(model, states: Tensor, mask: Tensor) -> Tensor:
    """`h^1` `(texts, hidden)`, from encoder states `(texts, tokens, hidden)` and their mask."""
    start = torch.full((len(states), 1), model.config.decoder_start_token_id, device=states.device)
    return model.decode(start, states, mask)[0][:, 0]


def batches_by_length(tokens: list[list[int]], batch_size: int) -> tuple[list[list[tuple[int, ...]]], np.ndarray]:
    """Batches of the different ones of texts' tokens, and where among all of these each text's are, `(texts,)`.

    The longest come first: a batch that does not fit into memory fails at once.
    """
    distinct = sorted(dict.fromkeys(map(tuple, tokens)), key=len, reverse=True)
    number = {row: place for place, row in enumerate(distinct)}
    batches = [distinct[start : start + batch_size] for start in range(0, len(distinct), batch_size)]
    return batches, np.array([number[tuple(row)] for row in tokens], dtype=np.int64)


def pad_tokens(rows: list[tuple[int, ...]], pad_token_id: int) -> tuple[LongTensor, LongTensor]:
    """Token ids and mask `(rows, longest)`, padded on the right."""
    tokens = [torch.tensor(row, dtype=torch.long) for row in rows]
    mask = [torch.ones_like(row) for row in tokens]
    pad = torch.nn.utils.rnn.pad_sequence
    return pad(tokens, batch_first=True, padding_value=pad_token_id), pad(mask, batch_first=True)


def digest_of_ids(document_ids: Sequence) -> str:
    """A hash of ids in their order."""
    return hashlib.sha256(repr(list(document_ids)).encode()).hexdigest()

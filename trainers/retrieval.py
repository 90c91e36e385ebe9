"""Searches queries batch by batch, shared by all processes, with the same result for any batch size."""

import hashlib
from collections import Counter
from dataclasses import dataclass

import datasets
import numpy as np
import torch
import torch.distributed as dist
from transformers import PreTrainedTokenizerBase

from metrics.ranking_quality import RankingFigures, ranking_figures
from modeling_lmindexer import DocumentVectors, SemanticIndex

from .documents import pad
from .progress import progress_bar
from .retrieval_data import TokenizedTexts, UnusablePairsError


@dataclass
class Queries:
    """Queries whose relevant documents are known.

    Attributes:
        ids: of the queries; of users in recommendation.
        texts: their token ids.
        relevant: per query, gains by document id.
        hidden: per query, documents that are no answer, such as what a user has had; may be empty lists.
    """

    ids: list
    texts: TokenizedTexts
    relevant: list[dict]
    hidden: list[list]

    @classmethod
    def of(
        cls, table: datasets.Dataset, index: SemanticIndex, tokenizer: PreTrainedTokenizerBase, max_length: int
    ) -> "Queries":
        """Rows of a table with the columns `id`, `text`, `relevant` (ids of documents; one that has no ID is never
        found), and where they are known `gains` (as many whole numbers, default 1) and `hidden` (ids of documents).

        Raises:
            UnusablePairsError: no queries, one twice, without words, without a relevant document, or with a hidden
                document that the index does not have.
        """
        if not len(table):
            raise UnusablePairsError("There are no queries; expected at least one.")
        ids = list(table["id"])
        if len(set(ids)) < len(ids):
            twice = next(value for value, number in Counter(ids).items() if number > 1)
            raise UnusablePairsError(f"Query {twice!r} has several rows; expected one per query.")
        relevant, columns = list(table["relevant"]), table.column_names
        gains = list(table["gains"]) if "gains" in columns else [[1] * len(row) for row in relevant]
        judged = [dict(zip(row, own, strict=True)) for row, own in zip(relevant, gains, strict=True)]
        without = [query for query, row in zip(ids, judged, strict=True) if not any(gain > 0 for gain in row.values())]
        if without:
            raise UnusablePairsError(
                f"{len(without)} queries have no relevant document: {without[:5]}. Leave them out."
            )
        hidden, known = list(table["hidden"]) if "hidden" in columns else [[] for _ in ids], set(index.document_ids)
        for query, row in zip(ids, hidden, strict=True):
            unknown = [document for document in row if document not in known]
            if unknown:
                raise UnusablePairsError(f"Query {query!r} hides {unknown[0]!r}, which is not in the index.")
        return cls(ids, TokenizedTexts.of(list(table["text"]), tokenizer, max_length, "queries", ids), judged, hidden)

    def __len__(self) -> int:
        return len(self.ids)

    def sample(self, number: int | None, seed: int) -> "Queries":
        """A seeded sample of so many queries in their order; all of them for None, or where there are fewer."""
        if number is None or number >= len(self):
            return self
        rows = np.sort(np.random.default_rng(seed).permutation(len(self))[:number])
        tokens = [self.texts[row] for row in rows]
        texts = TokenizedTexts(np.concatenate(tokens), np.concatenate([[0], np.cumsum([len(row) for row in tokens])]))
        pick = [[values[row] for row in rows] for values in (self.ids, self.relevant, self.hidden)]
        return Queries(pick[0], texts, pick[1], pick[2])

    def digest(self) -> str:
        """Hash of ids, tokens, relevant and hidden documents."""
        sha = hashlib.sha256(repr((self.ids, self.relevant, self.hidden)).encode())
        sha.update(self.texts.tokens.tobytes() + self.texts.offsets.tobytes())
        return sha.hexdigest()

    @property
    def qrels(self) -> dict:
        """Gains by query and document."""
        return dict(zip(self.ids, self.relevant, strict=True))


@dataclass
class Rankings:
    """Documents of every query, best first, and their scores, by query id."""

    documents: dict
    scores: dict

    def figures(self, queries: Queries, measures: list[str]) -> RankingFigures:
        """Their figures; see [`ranking_figures`]."""
        return ranking_figures(self.documents, queries.qrels, measures)


class Searcher:
    """Searches with a model and an index.

    Args:
        model: an [`LMIndexerForSemanticID`], or what wraps one, such as PEFT's model.
        index: of the documents.
        pad_token_id: of the tokenizer.
        num_beams: width of the beam.
        top_k: documents per query; at most `num_beams`.
        batch_size: queries at once.
        rescoring: [`DocumentVectors`] by which the beam's documents are ordered again.
        quiet: no progress.
    """

    def __init__(
        self, model, index: SemanticIndex, pad_token_id: int, *, num_beams: int, top_k: int, batch_size: int = 64,
        rescoring: DocumentVectors | None = None, quiet: bool = False,
    ):  # fmt: skip
        self.model, self.index, self.pad_token_id = model, index, pad_token_id
        self.num_beams, self.top_k, self.batch_size, self.quiet = num_beams, top_k, batch_size, quiet
        self.rescoring = rescoring

    def __call__(self, queries: Queries) -> Rankings:
        """Rankings of all queries, the same on every process; hidden documents are not among them."""
        rank, world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
        order = np.argsort(-queries.texts.lengths, kind="stable")  # a batch that does not fit into memory fails first
        batches = [order[start : start + self.batch_size] for start in range(0, len(order), self.batch_size)]
        training, found = self.model.training, []
        self.model.eval()
        for rows in progress_bar(batches[rank::world], description="searching", disable=self.quiet or rank > 0):
            found += self.search(queries, rows)
        self.model.train(training)
        if world > 1:
            parts: list = [None] * world
            dist.all_gather_object(parts, found)
            found = [entry for part in parts for entry in part]
        found.sort(key=lambda entry: entry[0])
        ids = [queries.ids[row] for row, _, _ in found]
        return Rankings(
            dict(zip(ids, (documents for _, documents, _ in found), strict=True)),
            dict(zip(ids, (scores for _, _, scores in found), strict=True)),
        )

    def search(self, queries: Queries, rows: np.ndarray) -> list[tuple[int, list, list[float]]]:
        """Row, documents and scores of some queries."""
        texts = [queries.texts[row].astype(np.int64) for row in rows]
        result = self.model.search(
            index=self.index, num_beams=self.num_beams, top_k=self.top_k, allowed=self.allowed(queries, rows),
            rescoring=self.rescoring,
            input_ids=pad(texts, self.pad_token_id).to(self.model.device),
            attention_mask=pad([np.ones(len(row), dtype=np.int64) for row in texts]).to(self.model.device),
        )  # fmt: skip
        scores = result.scores.tolist()
        return [
            (int(row), documents, own[: len(documents)])
            for row, documents, own in zip(rows, result.documents, scores, strict=True)
        ]

    def allowed(self, queries: Queries, rows: np.ndarray) -> torch.Tensor | None:
        """A mask `(queries, documents)` without the hidden ones; None where nothing is hidden."""
        hidden = [queries.hidden[row] for row in rows]
        if not any(hidden):
            return None
        mask = torch.ones(len(rows), len(self.index), dtype=torch.bool)
        for row, own in enumerate(hidden):
            mask[row, torch.from_numpy(self.index.rows_of(own))] = False
        return mask

"""Forward passes over the whole corpus without training: hidden states, codes, reconstructions, encoder states."""

from collections.abc import Iterator

import numpy as np
import torch
import torch.distributed as dist

from modeling_lmindexer import LMIndexerForSemanticID
from modeling_lmindexer.outputs import ReconstructionOutput

from .documents import EVALUATION_EPOCH, IndexingCollator, IndexingDataset
from .prefix_sampler import SampleKey
from .progress import progress_bar
from .training_args import SemanticIDTrainingArguments


class CorpusPass:
    """Runs a model in evaluation mode and float32 over documents sorted by length; processes share the batches."""

    def __init__(
        self,
        model: LMIndexerForSemanticID,
        documents: IndexingDataset,
        collator: IndexingCollator,
        args: SemanticIDTrainingArguments,
        title: str,
        quiet: bool = False,
    ):
        self.model, self.documents, self.collator, self.title = model, documents, collator, title
        self.batch_size = args.per_device_eval_batch_size
        self.rank, self.world_size = args.process_index, args.world_size
        self.quiet = quiet or args.is_quiet

    def batches(self, rows: np.ndarray, title: str, shared: bool = True) -> Iterator[tuple[np.ndarray, dict]]:
        """Rows and inputs of this process's share of `rows`, or of all of them."""
        chunks = [rows[start : start + self.batch_size] for start in range(0, len(rows), self.batch_size)]
        own = chunks[self.rank :: self.world_size] if shared else chunks
        for chunk in progress_bar(own, description=f"{self.title}: {title}", disable=self.quiet):
            items = [self.documents[SampleKey(int(row), EVALUATION_EPOCH, 1)] for row in chunk]
            batch = self.collator(items)
            yield chunk, {name: value.to(self.model.device) for name, value in batch.items()}

    def by_length(self, rows: np.ndarray | None = None) -> np.ndarray:
        """Row numbers, longest documents first: a batch that does not fit into memory fails at once."""
        rows = np.arange(len(self.documents)) if rows is None else rows
        return rows[np.argsort(-self.documents.lengths[rows], kind="stable")]

    @torch.no_grad()
    def hidden_states(self, rows: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """`h^t` `(N, hidden)` after each document's codes so far, and the model's own prediction of those codes.

        Args:
            rows: sorted row numbers `(N,)` of the documents; default: all.

        Returns:
            float32 `(N, hidden)` and int64 `(N, positions so far)`, the same on every process.
        """
        rows = np.arange(len(self.documents)) if rows is None else rows
        depth = self.documents.codes.shape[1]
        hidden = torch.zeros(len(rows), self.model.config.hidden_size)
        predicted = torch.zeros(len(rows), depth, dtype=torch.long)
        for chunk, batch in self.batches(self.by_length(rows), "codes"):
            states, mask = self.states(batch)
            decoded = self.model.decode(batch["decoder_input_ids"], states, mask)[0]
            places = np.searchsorted(rows, chunk)
            hidden[places] = decoded[:, -1].float().cpu()
            for t in range(depth):
                predicted[places, t] = self.model.codebooks.logits(decoded[:, t], t).argmax(-1).cpu()
        return self.combine(hidden).numpy(), self.combine(predicted).numpy()

    @torch.no_grad()
    def reconstructions(self, kind: str, num_documents: int) -> Iterator[ReconstructionOutput]:
        """Predictions for the hidden tokens of a fixed sample of documents with fixed hints, batch by batch."""
        rng = np.random.default_rng(self.documents.seed)
        rows = np.sort(rng.permutation(len(self.documents))[:num_documents])
        for _, batch in self.batches(rows, "reconstruction", shared=False):
            names = (
                "input_ids",
                "attention_mask",
                "hint_mask",
                "target_weights",
                "decoder_input_ids",
                "encoder_outputs",
            )
            inputs = {name: batch[name] for name in names if name in batch}
            yield self.model(**inputs, quantize=kind == "discrete").reconstruction

    def states(self, batch: dict) -> tuple[torch.Tensor, torch.Tensor]:
        """Encoder states and mask of a batch, cached or computed."""
        return self.model.read(
            batch["input_ids"], batch["attention_mask"], encoder_outputs=batch.get("encoder_outputs")
        )

    def combine(self, tensor: torch.Tensor) -> torch.Tensor:
        """Adds up what processes filled in of a tensor that starts at zero."""
        if self.world_size == 1:
            return tensor
        tensor = tensor.to(self.model.device)
        dist.all_reduce(tensor)
        return tensor.cpu()

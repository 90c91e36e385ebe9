"""The losses of a batch, over the documents of all processes, and the factors that they are added up with."""

from typing import NamedTuple

import torch
from accelerate import Accelerator

from modeling_lmindexer.outputs import LMIndexerOutput

from .gather import gather_with_grad
from .losses import anchor_loss, choice_loss, commitment_loss, contrastive_loss, reconstruction_loss
from .stages import Stage
from .training_args import SemanticIDTrainingArguments


class Batch(NamedTuple):
    """What of a batch the losses look at beside the model's output.

    `documents` `(batch,)` row numbers, `groups` `(batch,)` numbers of their prefixes, `counts` `(batch,)` 0 for
    fillers, `viewed` `(batch,)` row numbers of the documents that the second views show, `decoder_input_ids`
    `(batch, positions)`, `anchors` `(batch, dimensions)` embeddings that the documents started with.
    """

    documents: torch.Tensor
    groups: torch.Tensor
    counts: torch.Tensor
    viewed: torch.Tensor
    decoder_input_ids: torch.Tensor | None = None
    anchors: torch.Tensor | None = None

    @classmethod
    def take(cls, inputs: dict[str, torch.Tensor]) -> "Batch":
        """Takes out of what the collator makes what the model does not want."""
        documents, groups, counts = (inputs.pop(name) for name in ("documents", "groups", "counts"))
        viewed, anchors = inputs.pop("viewed", documents), inputs.pop("anchors", None)
        return cls(documents, groups, counts, viewed, inputs.get("decoder_input_ids"), anchors)


class Objective:
    """Eq. 11 with its additions, each `(batch,)`.

    Args:
        accelerator: of the trainer.
        args: weights, temperatures, reduction; with `batch_parts`, documents are compared inside their part.
    """

    def __init__(self, accelerator: Accelerator, args: SemanticIDTrainingArguments):
        self.accelerator, self.args = accelerator, args

    def compared(self, tensors):
        """A tensor, or a tuple of them, with the rows of all documents that are compared with each other."""
        return tensors if self.args.batch_parts else self.accelerator.gather(tensors)

    def compared_with_grad(self, tensor: torch.Tensor) -> torch.Tensor:
        """The same, with gradients."""
        return tensor if self.args.batch_parts else gather_with_grad(tensor)

    def factors(self, stage: Stage) -> dict[str, float]:
        """What every loss of a stage is multiplied by."""
        return {
            "reconstruction": self.args.reconstruction_weight,
            "contrastive": stage.contrastive_weight,
            "commitment": self.args.commitment_weight,
            "anchor": stage.anchor_weight,
            "choice": self.args.choice_weight,
        }

    def terms(
        self, stage: Stage, outputs: LMIndexerOutput, batch: Batch, offsets: list[int]
    ) -> dict[str, torch.Tensor]:
        """The losses of a stage by name.

        Args:
            stage: says which there are.
            outputs: of the model's forward.
            batch: see [`Batch`].
            offsets: first flat id of every position.
        """
        terms = {
            "reconstruction": reconstruction_loss(outputs.reconstruction, len(batch.documents), self.args.reduction)
        }
        if stage.kind == "reconstructor":
            return terms
        if stage.contrasts:
            terms["contrastive"] = self.contrast(outputs.views, batch)
        if stage.position > 0:
            prefix = batch.decoder_input_ids[:, 1:]
            starts = torch.tensor(offsets[: prefix.shape[1]], device=prefix.device)
            terms["commitment"] = commitment_loss(outputs.code_logits, prefix - starts)
        if stage.anchor_weight > 0:
            terms["anchor"] = self.pull(outputs.decoder_last_hidden_state[:, -1], batch)
        if stage.kind == "discrete" and self.args.choice_weight > 0:
            terms["choice"] = choice_loss(outputs.code_logits[-1], outputs.chosen_codes)
        return terms

    def contrast(self, views: tuple[torch.Tensor, torch.Tensor], batch: Batch) -> torch.Tensor:
        """Contrastive loss against the documents that are compared and share the prefix, `(batch,)`.

        No document is pushed away from a view of itself, or of the document that its own second view is of.
        """
        anchors, positives = views
        candidates = self.compared_with_grad(positives)
        groups, viewed = self.compared((batch.groups, batch.viewed))
        is_negative = (batch.groups[:, None] == groups) & self.is_other(batch)
        is_negative &= (batch.documents[:, None] != viewed) & (batch.viewed[:, None] != viewed)
        return contrastive_loss(
            anchors, positives, candidates, is_negative,
            self.args.contrastive_temperature, self.args.contrastive_normalize,
        )  # fmt: skip

    def pull(self, hidden: torch.Tensor, batch: Batch) -> torch.Tensor:
        """Pull of the states `(batch, hidden)` towards the similarities of their anchors, `(batch,)`.

        A document without an anchor, for nothing sets it apart from its peers, is not pulled and pulls no other.
        """
        anchors, all_anchors = batch.anchors.to(hidden.dtype), self.compared(batch.anchors).to(hidden.dtype)
        is_other = self.is_other(batch) & all_anchors.any(-1) & anchors.any(-1, keepdim=True)
        return anchor_loss(
            hidden, anchors, self.compared_with_grad(hidden), all_anchors, is_other, self.args.anchor_temperature
        )

    def is_other(self, batch: Batch) -> torch.Tensor:
        """Which of the documents that are compared are others than a row's, without fillers: `(batch, candidates)`."""
        documents, counts = self.compared((batch.documents, batch.counts))
        return (batch.documents[:, None] != documents) & (counts > 0)

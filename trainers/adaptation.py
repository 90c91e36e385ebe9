"""In-domain adaptation: an encoder learns from the texts of a corpus, without labels, before any ID is learned."""

import copy
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_model, save_model
from transformers import (
    AutoModel,
    AutoModelForMaskedLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    set_seed,
)

from modeling_lmindexer.folder import reading_content

from .adaptation_args import AdaptationArguments
from .adaptation_inputs import crop_masks, masking_of, read_texts, word_shares
from .adaptation_model import AdaptationModel, AdaptationOutput, masked_language_model
from .documents import IndexingCollator
from .encoder_folder import save_encoder
from .figures import loss_curve
from .gather import gather_with_grad
from .losses import contrastive_loss, reconstruction_loss
from .remaining_time import PlannedStage
from .run_state import START_OVER
from .staged_trainer import OLDER, StagedTrainer
from .weights_digest import digest_of_weights

ENCODER_FOLDER = "encoder"
_STAGE = "adaptation"
_MEASURED_DOCUMENTS = 512


def adapt_encoder(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, texts: list[str], args: AdaptationArguments
) -> PreTrainedModel:
    """Trains an encoder on texts by `args.objective`; `args.output_dir/encoder` is then a folder that `AutoModel`,
    [`embed_texts`] and `LMIndexerForSemanticID.from_backbone` load.

    Asked for again with the same settings, weights and texts, a run that is done is loaded, and one that was stopped
    goes on.

    Args:
        model: an encoder or an encoder-decoder, with or without a language-model head. It is trained in place.
        tokenizer: the model's; `mlm` needs a mask token.
        texts: the corpus.
        args: settings.

    Returns:
        the model without language-model head, in evaluation mode. Of an encoder-decoder the decoder is as it was, up
        to the token embeddings where the two share them.

    Raises:
        ValueError: `mlm` with a model or a tokenizer that has no masked tokens; a tokenizer larger than the model.
        UnusableCorpusError: texts without a token, or fewer texts than a batch.
        ExistingRunError: the output folder holds a run with other settings.
    """
    trainer = AdaptationTrainer(model, args, texts, tokenizer)
    trainer.train()
    return trainer.adapted


def adapt_checkpoint(name_or_path: str, texts: list[str], args: AdaptationArguments) -> Path:
    """The folder of a checkpoint's encoder adapted to texts; see [`adapt_encoder`].

    Args:
        name_or_path: folder or Hub repository of the encoder and its tokenizer.
        texts, args: as there.
    """
    auto_class = AutoModelForMaskedLM if "mlm" in args.objective else AutoModel
    adapt_encoder(auto_class.from_pretrained(name_or_path), AutoTokenizer.from_pretrained(name_or_path), texts, args)
    return Path(args.output_dir) / ENCODER_FOLDER


class AdaptationTrainer(StagedTrainer):
    """Trains an encoder on texts; see [`adapt_encoder`].

    Losses are means over documents, of a document's masked tokens, too, so that gradient accumulation gives the
    gradients of one large batch for `mlm` and `words`. The negatives of `simcse` come from the micro-batch of all
    processes alone: accumulating more of them does not add negatives. The last batch of an epoch is left out unless it
    is full, for negatives would be few in it; other documents are left out in every epoch.

    Args:
        model, args, texts, processing_class: as for [`adapt_encoder`].
    """

    # compute_loss is the mean over a micro-batch.
    loss_is_scaled_for_ga = False

    def __init__(
        self,
        model: PreTrainedModel,
        args: AdaptationArguments,
        texts: list[str],
        processing_class: PreTrainedTokenizerBase,
        **kwargs,
    ):
        self.settings, self.tokenizer, self.masking = args, processing_class, None
        if "mlm" in args.objective:
            self.masking = masking_of(processing_class, args.mlm_probability)
        self.documents = read_texts(texts, processing_class, model, args)
        self.adapted = model.base_model
        own = copy.copy(args)
        own.remove_unused_columns, own.dataloader_drop_last = False, True
        super().__init__(
            self.wrap(model.float()), own, train_dataset=self.documents, data_collator=self.collator(), **kwargs
        )
        self.loss_sums: dict[str, list] = defaultdict(list)

    def wrap(self, model: PreTrainedModel) -> AdaptationModel:
        """The encoder with what its objectives need on top; new heads are drawn from the seed."""
        set_seed(self.settings.seed)
        base = self.adapted
        return AdaptationModel(
            encoder=base.get_encoder() if base.config.is_encoder_decoder else base,
            pooling=self.settings.pooling,
            language_model=masked_language_model(model) if self.masking else None,
            word_shares=word_shares(self.documents, base) if "words" in self.settings.objective else None,
        )

    def collator(self) -> IndexingCollator:
        """Batches of documents; `groups` says which of them read the same."""
        rows = [tuple(self.documents[i]["input_ids"].tolist()) for i in range(len(self.documents))]
        number = {row: i for i, row in enumerate(rows)}
        pad_token_id = self.tokenizer.pad_token_id
        return IndexingCollator(
            dataset=self.documents,
            pad_token_id=0 if pad_token_id is None else pad_token_id,
            offsets=[],
            with_prefix=False,
            groups=np.array([number[row] for row in rows]),
        )

    def run(self) -> dict:
        """Trains, or goes on, or loads what is done.

        Returns:
            `loss_start` and `loss_end`, the same by objective (`simcse_start`, ..), and `loss_curve`.
        """
        self.claim_folder()
        figures, folder = self.state_of_run.result(_STAGE), self.run_dir / ENCODER_FOLDER
        if figures is not None and folder.is_dir():
            self.load(folder)
            return figures
        losses = self.state_of_run.remember(_STAGE, "start", lambda: self.measure_losses("start"))
        self.begin_stage(_STAGE, self.settings.num_train_epochs, self.settings.learning_rate, self.args.seed)
        self.train_stage()
        losses |= self.measure_losses("end")
        self.log({f"{_STAGE}/{name}": value for name, value in losses.items()})
        self.tracking.end_stage()
        figures = losses | {"loss_curve": loss_curve(self.state.log_history)}
        self.adapted.to(self.args.device).eval()
        if self.args.process_index == 0:
            save_encoder(folder, self.adapted, self.tokenizer, self.args.pooling)
            self.state_of_run.finish(_STAGE, figures)
        self.accelerator.wait_for_everyone()
        return figures

    def plan(self) -> list[PlannedStage]:
        """See the base class."""
        title = f"{_STAGE} by {' + '.join(self.settings.objective)}"
        return [PlannedStage(_STAGE, title, self.planned_steps(len(self.documents), self.settings.num_train_epochs))]

    def load(self, folder: Path) -> None:
        """Weights of a run that is done."""
        with reading_content(folder, START_OVER):
            weights = type(self.adapted).from_pretrained(folder, dtype=torch.float32).state_dict()
            # Without those that only the class has: a masked-language model's encoder comes without a pooler.
            self.adapted.load_state_dict({name: weights[name] for name in self.adapted.state_dict()})
        self.adapted.to(self.args.device).eval()

    def claim_folder(self) -> None:
        """Takes the output folder for this run, or raises ExistingRunError."""
        settings = self.settings.result_settings() | {
            "texts": self.documents.digest(),
            "initial_weights": digest_of_weights(self.model),
            "global_batch_size": self.args.per_device_train_batch_size * self.args.world_size,
        }
        self.claim(settings)

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """The weighted sum of the objectives, each a mean over the documents of the micro-batch."""
        outputs = model(**self.draw(inputs))
        terms = self.losses(outputs, inputs)
        for name, term in terms.items():
            self.loss_sums[name].append(term.detach())
        loss = sum(weight * terms[name] for name, weight in self.settings.weights.items())
        return (loss, outputs) if return_outputs else loss

    def draw(self, inputs: dict) -> dict:
        """The model's inputs of a batch: views and masked tokens are drawn.

        Here and not in the collator, which runs a few batches ahead: a resumed run has the random state of its step.
        """
        input_ids, mask = inputs["input_ids"], inputs["attention_mask"]
        drawn = {"input_ids": input_ids}
        if "simcse" in self.settings.objective:
            drawn["view_masks"] = crop_masks(mask) if self.settings.crop_views else torch.stack([mask, mask])
        elif "words" in self.settings.objective:
            drawn["view_masks"] = mask[None]
        if "words" in self.settings.objective:
            drawn["target_weights"] = inputs["target_weights"]
        if self.masking:
            special = torch.isin(input_ids.cpu(), torch.from_numpy(self.documents.special_ids))
            masked, labels = self.masking.torch_mask_tokens(input_ids.cpu().clone(), special)
            drawn |= {
                "attention_mask": mask,
                "masked_input_ids": masked.to(mask.device),
                "labels": labels.to(mask.device),
            }
        return drawn

    def losses(self, outputs: AdaptationOutput, inputs: dict) -> dict[str, torch.Tensor]:
        """Each objective's mean over the documents of a batch."""
        batch, terms = len(inputs["input_ids"]), {}
        if "simcse" in self.settings.objective:
            # A document that reads the same is no negative.
            is_negative = inputs["groups"][:, None] != self.accelerator.gather(inputs["groups"])
            anchors, positives = outputs.views
            terms["simcse"] = contrastive_loss(
                anchors, positives, gather_with_grad(positives), is_negative, self.settings.temperature, normalize=True
            )
        if outputs.tokens is not None:
            terms["mlm"] = reconstruction_loss(outputs.tokens, batch)
        if outputs.bag is not None:
            terms["words"] = reconstruction_loss(outputs.bag, batch)
        return {name: term.mean() for name, term in terms.items()}

    @torch.no_grad()
    def measure_losses(self, moment: str) -> dict[str, float]:
        """Losses of fixed documents with fixed views, masks and dropout: `loss_start`, `simcse_start`, ..

        Batches of training differ too much to compare the first with the last.

        Args:
            moment: `start` or `end`.
        """
        size = self.args.per_device_train_batch_size
        order = np.random.default_rng(self.args.seed).permutation(len(self.documents))[:_MEASURED_DOCUMENTS]
        totals = []
        self.loss_sums.clear()
        with torch.random.fork_rng():
            torch.manual_seed(self.args.seed)
            self.model.to(self.args.device).train()
            for start in range(0, max(1, len(order) // size) * size, size):
                batch = self.data_collator([self.documents[row] for row in order[start : start + size]])
                totals.append(self.compute_loss(self.model, self._prepare_inputs(batch)))
        means = {name: torch.stack(values).mean() for name, values in {"loss": totals, **self.loss_sums}.items()}
        self.loss_sums.clear()
        return {f"{name}_{moment}": self.accelerator.reduce(mean, "mean").item() for name, mean in means.items()}

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds the objectives by name, means over steps and processes, to what Trainer logs."""
        if "loss" in logs:
            for name, values in self.loss_sums.items():
                logs[name] = self.accelerator.reduce(torch.stack(values).mean(), "mean").item()
            self.loss_sums.clear()
        super().log(logs, start_time)

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        """Weights of a checkpoint; Trainer's own way refuses weights that two parts share."""
        Path(output_dir).mkdir(parents=True, exist_ok=True)
        save_model(self.accelerator.unwrap_model(self.model), str(Path(output_dir) / "model.safetensors"))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: torch.nn.Module | None = None) -> None:
        """What [`~AdaptationTrainer._save`] wrote."""
        with reading_content(resume_from_checkpoint, OLDER):
            load_model(self.accelerator.unwrap_model(self.model), Path(resume_from_checkpoint) / "model.safetensors")

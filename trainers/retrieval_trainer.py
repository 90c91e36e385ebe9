"""`SemanticRetrievalTrainer` teaches an indexer to write the ID of the document that a text asks for (Eq. 14)."""

import hashlib
import shutil
from pathlib import Path

import datasets
import numpy as np
import torch
from safetensors.torch import load_model
from torch.nn import functional as F
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerBase, TrainerState
from transformers.trainer import TRAINER_STATE_NAME
from transformers.utils import SAFE_WEIGHTS_NAME

from modeling_lmindexer import DocumentVectors, SemanticIndex
from modeling_lmindexer.folder import naming_write_errors, reading_content

from .encoder_cache import OWN_CACHE, cached_states
from .existing_codes import existing_codes
from .figures import loss_curve
from .length_sampler import LengthBatchSampler
from .prefix_sampler import PrefixBatchSampler
from .reading_check import check_reading
from .retrieval import Queries, Rankings, Searcher
from .retrieval_args import BY_LENGTH, EXISTING, SemanticRetrievalTrainingArguments
from .retrieval_data import PairCollator, PairDataset, Pairs, UnusablePairsError
from .run_settings import model_settings, named_settings
from .run_state import START_OVER
from .sharding import is_sharded
from .staged_trainer import StagedTrainer, StopWithoutGain
from .weights_digest import digest_of_weights

WARM_START, TASK = "warm-start", "task"
_RESULT_SETTINGS = (
    "adam_beta1", "adam_beta2", "adam_epsilon", "batch_parts", "bf16", "cut_share", "cutoffs", "document_epochs",
    "document_share", "early_stopping_patience", "eval_delay", "eval_steps", "eval_strategy", "fp16", "freeze_encoder",
    "gradient_accumulation_steps", "learning_rate", "load_best_model_at_end", "loss_over", "lr_scheduler_kwargs",
    "lr_scheduler_type", "max_eval_queries", "max_grad_norm", "max_query_length", "max_steps",
    "metric_for_best_model", "neftune_noise_alpha", "num_beams", "num_train_epochs", "optim", "optim_args",
    "save_steps", "save_strategy", "seed", "token_dropout", "train_sampling_strategy", "warmup_steps",
    "weight_decay",
)  # fmt: skip


class SemanticRetrievalTrainer(StagedTrainer):
    """Trains a model to find the documents of an index: text in, ID out.

    One `train()` call makes the warm start, `document_epochs` of document → ID, if there is one, and then learns the
    task. The validation queries are searched as users will, by constrained beam search over the whole index; the best
    checkpoint by `metric_for_best_model` is what training ends with. Stopped, it goes on from its last checkpoint.

    With `freeze_encoder` what the encoder makes of every text is computed once, before the first stage, into a cache;
    the decoder and the codebooks alone are trained, and the encoder has no dropout.

    `model.config.max_source_length` grows to `max_query_length`, where that is more; documents are read as far as
    before while this trains. `max_steps` counts for the task alone.

    Args:
        model: an [`LMIndexerForSemanticID`], trained or new, or PEFT's model around one.
        args: settings.
        train_dataset: columns `text` and `target`, the id of the document that the text asks for.
        index: the documents and their IDs, whatever made them.
        processing_class: the tokenizer.
        eval_dataset: validation queries; see [`Queries.of`].
        documents: columns `id` and `text`, for `document_epochs` and `document_share`.
        kwargs: as for Trainer, such as `callbacks`.

    Raises:
        UnusablePairsError: targets that are not in the index, texts without words, settings that need what is not
            given.
        ValueError: an index or a tokenizer that does not fit the model; texts longer than it has places for;
            `freeze_encoder` with adapters.
        ExistingRunError: (from `train`) the output folder holds a run with other settings.
    """

    def __init__(
        self,
        model,
        args: SemanticRetrievalTrainingArguments,
        train_dataset: datasets.Dataset,
        index: SemanticIndex,
        processing_class: PreTrainedTokenizerBase,
        eval_dataset: datasets.Dataset | None = None,
        documents: datasets.Dataset | None = None,
        **kwargs,
    ):
        index.check_model(model.config)  # before anything is read
        needs_documents = args.document_epochs > 0 or args.document_share > 0
        if needs_documents and documents is None:
            raise UnusablePairsError("document_epochs and document_share need documents: give their ids and texts.")
        if eval_dataset is None and args.eval_strategy != "no":
            raise UnusablePairsError(
                f"eval_strategy is {args.eval_strategy.value} and there are no validation queries."
            )
        self.index, self.tokenizer = index, processing_class
        document_length = model.config.max_source_length
        self.length = args.max_query_length or document_length
        check_reading(
            model, processing_class, max(self.length, document_length if needs_documents else 0),
            model.config.backbone_config,
        )  # fmt: skip
        self.pairs = self.read(train_dataset, "target", "pairs", self.length)
        self.titles = None
        if needs_documents:
            self.titles = self.read(documents, "id", "documents", document_length)
        self.queries = None
        if eval_dataset is not None:
            self.queries = self.read_queries(eval_dataset).sample(args.max_eval_queries, args.seed)
        # An attached model keeps `encode` and `add` in step with what is trained here.
        index.attach(model, processing_class)
        model.config.max_source_length = max(document_length, self.length)
        task = PairDataset(
            self.pairs, self.titles, args.document_share, args.seed, args.token_dropout, args.cut_share,
            tuple(sorted(set(processing_class.all_special_ids) - {processing_class.unk_token_id})),
        )  # fmt: skip
        if args.freeze_encoder:
            if hasattr(model, "peft_config"):
                raise ValueError("freeze_encoder and adapters exclude each other: there are adapters in the encoder.")
            model.get_encoder().requires_grad_(False)
        super().__init__(model, args, train_dataset=task, eval_dataset=self.queries, **kwargs)
        self.existing = index.tree.to(self.args.device).snapshot()
        # What is learned so is to be searched so, wherever the model is loaded, and nothing else is.
        self.unwrap().generation_config.renormalize_logits = args.loss_over == EXISTING or None
        self.task, self.initial_weights = task, digest_of_weights(self.model)

    def read(self, table: datasets.Dataset, target: str, what: str, length: int) -> Pairs:
        """Pairs of a `table` and its column `target`, texts cut at `length` tokens; `what` names it in errors."""
        return Pairs.of(table, target, self.index, self.tokenizer, length, what)

    def read_queries(self, table: datasets.Dataset) -> Queries:
        """Queries of a table, read as far as those of training."""
        return Queries.of(table, self.index, self.tokenizer, self.length)

    # -- the run ------------------------------------------------------------------------------------------------------

    def run(self) -> dict[str, dict]:
        """Warm start and task, as far as they are not done yet.

        Returns:
            by stage, its `loss_curve` and, of the task, `evaluations`: `[share of the stage, figures]`.
        """
        self.claim(self.run_settings())
        stages = [WARM_START, TASK] if self.settings.document_epochs > 0 else [TASK]
        is_done = all(self.state_of_run.result(name) is not None for name in stages)
        if self.settings.freeze_encoder and not is_done:
            for what, pairs in (("queries", self.pairs), ("documents", self.titles)):
                if pairs is not None:
                    pairs.states = cached_states(self.unwrap(), pairs.texts, self.settings, self.run_dir, what)
        figures = {}
        if self.settings.document_epochs > 0:
            documents = PairDataset(None, self.titles, 0.0, self.settings.seed)
            figures[WARM_START] = self.run_stage(WARM_START, documents, self.settings.document_epochs)
            self.leave_if_asked(f"before stage {TASK}")
        figures[TASK] = self.run_stage(TASK, self.task, self.settings.num_train_epochs)
        self.args.output_dir = str(self.run_dir)
        if self.args.process_index == 0:
            shutil.rmtree(self.run_dir / OWN_CACHE, ignore_errors=True)
        self.leave_if_asked("before the model folder was written")
        return figures

    def run_stage(self, name: str, dataset: PairDataset, epochs: float) -> dict:
        """The stage `name`, from where it stands: `epochs` of `dataset`; ends with its weights in model and folder."""
        folder, figures = self.state_of_run.folder(name), self.state_of_run.result(name)
        is_task = name == TASK
        self.train_dataset = dataset
        self.args.load_best_model_at_end = is_task and self.settings.load_best_model_at_end
        self.args.eval_strategy = self.settings.eval_strategy if is_task else "no"
        self.args.max_steps = self.settings.max_steps if is_task else -1
        self.begin_stage(name, "document to ID" if not is_task else "text to ID", epochs,
                         self.settings.learning_rate, self.settings.seed + is_task)  # fmt: skip
        if figures is not None:
            self.load_weights(folder)
            self.model.to(self.args.device).eval()
            return figures
        stops = StopWithoutGain(self.settings.early_stopping_patience, self.settings.metric_for_best_model)
        checkpoint = self.state_of_run.last_checkpoint(name)
        if is_task and self.settings.early_stopping_patience:
            self.add_callback(stops)
        if checkpoint and is_task and stops.is_over(state_at(checkpoint)):
            self.end_as(checkpoint)
        else:
            self.train_stage()
        figures = {"loss_curve": loss_curve(self.state.log_history), "evaluations": self.evaluations()}
        self.model = self.unwrap().eval()
        if self.args.process_index == 0:
            with naming_write_errors(folder):
                self.model.save_pretrained(folder)
            self.state_of_run.finish(name, figures)
        self.accelerator.wait_for_everyone()
        return figures

    def end_as(self, checkpoint: str) -> None:
        """Where a run was to stop after its last checkpoint, and was stopped by something else before it had ended."""
        self.state = state_at(checkpoint)
        self.load_weights(Path(self.state.best_model_checkpoint if self.args.load_best_model_at_end else checkpoint))

    def load_weights(self, folder: Path) -> None:
        """Weights of a checkpoint, or of a stage that is done."""
        self.model = self.unwrap() if is_sharded(self.model) else self.model  # a file holds a whole one
        with reading_content(folder, START_OVER):
            if (folder / SAFE_WEIGHTS_NAME).exists():
                model = self.unwrap_for_reading(self.model)
                missing, more = load_model(model, folder / SAFE_WEIGHTS_NAME, strict=False)
                more = set(more) - set(model.state_dict())  # FSDP writes shared embeddings under each of their names
                if missing or more:
                    raise ValueError(f"without {sorted(missing)[:3]}, with {sorted(more)[:3]}")
            else:
                self._load_from_checkpoint(str(folder), self.model)  # sharded weights, or PEFT's

    def _load_best_model(self) -> None:
        """As in Trainer, which warns of embeddings that are there once and used twice."""
        self.load_weights(Path(self.state.best_model_checkpoint))

    def run_settings(self) -> dict:
        """What the result of the run depends on, as JSON."""
        codes = hashlib.sha256(repr(self.index.document_ids).encode() + self.index.codes.tobytes()).hexdigest()
        return named_settings(self.settings, _RESULT_SETTINGS) | {
            **model_settings(self.model.config),
            "pairs": self.pairs.digest(),
            "documents": self.titles.digest() if self.titles else None,
            "queries": self.queries.digest() if self.queries else None,
            "index": codes,
            "initial_weights": self.initial_weights,
            "global_batch_size": self.args.per_device_train_batch_size * self.args.num_parts,
        }

    # -- inside a stage -----------------------------------------------------------------------------------------------

    def get_train_dataloader(self) -> DataLoader:
        """Batches of a global batch; each process takes its part."""
        shape = self.args.per_device_train_batch_size, self.args.num_parts, self.args.seed
        if self.args.train_sampling_strategy == BY_LENGTH:
            sampler = LengthBatchSampler(self.train_dataset.lengths, *shape)
        else:
            sampler = PrefixBatchSampler(np.arange(len(self.train_dataset)), *shape)
        self.hint_epoch.sampler = sampler = self.in_order(sampler)
        loader = DataLoader(
            self.train_dataset,
            batch_sampler=sampler,
            collate_fn=PairCollator(self.pad_token_id),
            num_workers=self.args.dataloader_num_workers,
            pin_memory=self.args.dataloader_pin_memory and self.accelerator.device.type != "cpu",
        )
        return self.accelerator.prepare(loader)

    @property
    def pad_token_id(self) -> int:
        """What texts are padded with; the attention mask tells."""
        return 0 if self.tokenizer.pad_token_id is None else self.tokenizer.pad_token_id

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """Eq. 14: the cross-entropy of every position's code, summed, in the mean over the global batch's pairs.

        With `loss_over="existing"` of codes that continue an ID of the index; see [`existing_codes`].
        """
        counts, labels = inputs.pop("counts"), inputs.pop("labels")
        plain = model if is_sharded(model) else self.accelerator.unwrap_model(model)  # its weights are not looked at
        # Without labels, for the model would compute a loss of its own, in which fillers count.
        outputs = model(**inputs, decoder_input_ids=plain.prepare_decoder_input_ids_from_labels(labels))
        offsets = plain.config.position_offsets
        terms = []
        for position, scores in enumerate(outputs.code_logits):
            offset, scores = offsets[position], scores.float()
            if self.settings.loss_over == EXISTING:
                known = existing_codes(self.existing, labels, position, offset, scores.shape[1])
                scores = scores.masked_fill(~known, -torch.inf)
            terms.append(F.cross_entropy(scores, labels[:, position] - offset, reduction="none"))
        if num_items_in_batch is None:
            num_items_in_batch = self.accelerator.reduce(counts.sum(), "sum")
        # DDP averages gradients over processes; the mean over all pairs is what is wanted.
        loss = (torch.stack(terms).sum(0) * counts).sum() * self.args.world_size / num_items_in_batch
        return (loss, outputs) if return_outputs else loss

    def unwrap_for_reading(self, model):
        """The model inside what accelerate put around it; whole, if it is in shards, and all processes ask for it."""
        return self.twins.gather(model) if is_sharded(model) else self.accelerator.unwrap_model(model)

    # -- evaluation ---------------------------------------------------------------------------------------------------

    def evaluate(self, eval_dataset=None, ignore_keys=None, metric_key_prefix: str = "eval") -> dict[str, float]:
        """Figures of the validation queries, or of others, by constrained search over the whole index.

        Args:
            eval_dataset: [`Queries`], or a table of them, see [`Queries.of`]; default: the validation queries.
            ignore_keys: without effect.
            metric_key_prefix: of the figures' names.
        """
        queries = self.queries if eval_dataset is None else eval_dataset
        if isinstance(queries, datasets.Dataset):
            queries = self.read_queries(queries)
        if queries is None:
            raise UnusablePairsError("There are no validation queries: give eval_dataset to the trainer, or here.")
        figures = self.rank(queries).figures(queries, self.settings.measures).means()
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in figures.items()}
        self.log(dict(metrics))  # which adds the epoch
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def rank(self, queries: Queries, rescoring: DocumentVectors | None = None) -> Rankings:
        """Documents of every query, best first; with `rescoring` vectors, the whole beam is ordered by them too."""
        searcher = Searcher(
            self.unwrap_for_reading(self.model), self.index, self.pad_token_id, num_beams=self.settings.num_beams,
            top_k=self.settings.num_beams, batch_size=self.args.per_device_eval_batch_size,
            rescoring=rescoring, quiet=self.args.disable_tqdm,
        )  # fmt: skip
        return searcher(queries)

    def evaluations(self) -> list:
        """`[share of the stage, figures]` of every evaluation so far."""
        entries = [entry for entry in self.state.log_history if f"eval_recall@{self.settings.cutoffs[0]}" in entry]
        return [
            [
                entry["step"] / max(1, self.state.max_steps),
                {name.removeprefix("eval_"): value for name, value in entry.items() if name.startswith("eval_")},
            ]
            for entry in entries
        ]


def state_at(checkpoint: str) -> TrainerState:
    """Trainer's state in a checkpoint."""
    return TrainerState.load_from_json(str(Path(checkpoint) / TRAINER_STATE_NAME))

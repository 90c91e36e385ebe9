"""`SemanticIDTrainer` learns the IDs of a corpus stage by stage (Algorithm 1), and can be stopped anywhere."""

from collections import defaultdict
from itertools import islice
from pathlib import Path

import datasets
import numpy as np
import torch
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerBase
from transformers.utils import logging

from modeling_lmindexer import LMIndexerForSemanticID, SemanticIndex

from .anchors import Anchors, find_anchors
from .assignment import check_agreement, most_likely_codes
from .batch_parts import PartOrder
from .codebook_start import initialize_codebook
from .codebook_updates import CodebookUpdates, UpdateCodebook
from .corpus_check import check_corpus
from .corpus_pass import CorpusPass
from .documents import EVALUATION_EPOCH, IndexingCollator, IndexingDataset
from .encoder_cache import cached_states
from .figures import code_figures, loss_curve, prediction_figures, reconstruction_f1
from .index_building import index_with_counter, index_without_counter
from .objective import Batch, Objective
from .prefix_sampler import PrefixBatchSampler
from .reassignment import Reassignment
from .run_settings import run_settings
from .stage_files import read_stage, write_stage
from .staged_trainer import StagedTrainer
from .stages import Stage, encoder_parameters, plan_stages, set_trainable, slow_down
from .training_args import SemanticIDTrainingArguments

logger = logging.get_logger(__name__)


class SemanticIDTrainer(StagedTrainer):
    """Trains an [`LMIndexerForSemanticID`] to write the IDs of `train_dataset`, without labels.

    One `train()` call walks all stages: the reconstructor's warm-up, then for every learned position a continuous
    stage, k-means, a discrete stage and the assignment of its codes. After a stop, a new trainer with the same
    settings goes on inside the stage that was interrupted.

    Gradient accumulation gives the gradients of one large batch, except that contrastive negatives come from the
    micro-batch alone: the term is the mean over micro-batches with their own negatives.

    Args:
        model: with its reconstructor.
        args: settings; `args.output_dir/stages` keeps the state of the run.
        train_dataset: columns `id`, `text`, and where they are known `category` (a list of labels, general to
            specific) for AMI, and `excluded` (a text whose words are not reconstructed, such as the brand).
        processing_class: the tokenizer.
        kwargs: as for Trainer, such as `callbacks`.

    Raises:
        UnusableCorpusError: empty texts, duplicate ids, fewer documents than codes, no reconstructor, settings that
            do not fit the corpus or the model.
        ExistingRunError: (from `train`) the output folder holds a run with other settings.
    """

    def __init__(
        self,
        model: LMIndexerForSemanticID,
        args: SemanticIDTrainingArguments,
        train_dataset: datasets.Dataset,
        processing_class: PreTrainedTokenizerBase,
        **kwargs,
    ):
        check_corpus(train_dataset, model, args)
        self.documents = IndexingDataset.of(train_dataset, processing_class, model.config.max_source_length, args.seed)
        self.categories = list(train_dataset["category"]) if "category" in train_dataset.column_names else None
        # Trainer would write the tokenizer's end-of-sequence id into the model's generation settings, where that
        # number is a code; so it does not get the tokenizer.
        self.tokenizer = processing_class
        super().__init__(model, args, train_dataset=self.documents, **kwargs)
        self.codebook_updates = UpdateCodebook(self.accelerator.gather if self.parts else None)
        self.add_callback(self.codebook_updates)
        self.stages = plan_stages(model.config.num_learned_positions, args)
        self.stage = self.stages[0]
        self.figures: dict[str, dict] = {}
        self.loss_sums: dict[str, list] = defaultdict(list)
        self.objective, self.offsets = Objective(self.accelerator, args), model.config.position_offsets
        self.updates: CodebookUpdates | None = None
        self.anchors: Anchors | None = None
        self.index: SemanticIndex | None = None
        self.reassignment: Reassignment | None = None
        self.set_target_weights()

    # -- the run ------------------------------------------------------------------------------------------------------

    def run(self) -> dict[str, dict]:
        """Walks the stages that are not done yet, then builds the index.

        Returns:
            the figures of every stage, by its name.
        """
        self.claim(run_settings(self.settings, self.model, self.documents, self.args.num_parts))
        if any(self.state_of_run.result(stage.name) is None for stage in self.stages):
            self.look_at_the_start()
        for stage in self.stages:
            self.leave_if_asked(f"before stage {stage.name}")
            self.figures[stage.name] = self.run_stage(stage)
        self.args.output_dir = str(self.run_dir)
        self.leave_if_asked("after the last stage")
        self.index = self.build_index()
        self.leave_if_asked("before the model folder was written")
        return self.figures

    def run_stage(self, stage: Stage) -> dict:
        """One stage, from where it stands: its training, then the clustering or the assignment that ends it."""
        self.stage = stage
        folder = self.state_of_run.folder(stage.name)
        figures = self.state_of_run.result(stage.name)
        if figures is None:
            self.prepare_stage(stage)
            losses = {}
            if stage.epochs > 0:
                losses = self.state_of_run.remember(stage.name, "start", lambda: self.measure_losses("start"))
                checkpoint = self.state_of_run.last_checkpoint(stage.name)
                if checkpoint and self.updates:
                    self.updates.load(Path(checkpoint))
                self.train_stage()
                losses |= self.measure_losses("end")
            figures = losses | self.finish_stage(stage)
            self.log({name: value for name, value in figures.items() if isinstance(value, int | float)})
            self.save_stage(folder, figures)
            return figures
        # Only the newest of the stages that are done matters, but reading each keeps this free of a special case.
        self.documents.codes = read_stage(folder, self.unwrap(), len(self.documents))
        return figures

    def prepare_stage(self, stage: Stage) -> None:
        """Sets what is trained and how; Trainer would keep optimizer, schedule and wrapping of the last stage."""
        position = stage.position + 1
        title = f"[{self.stages.index(stage) + 1}/{len(self.stages)}] {stage.title}"
        seed = self.args.seed + 1000 * position + (stage.kind == "discrete") + 2 * (stage.kind == "reconstructor")
        self.begin_stage(stage.name, title, stage.epochs, stage.learning_rate, seed)
        set_trainable(self.model, stage, self.args)
        self.documents.hint_ratio = stage.hint_ratio
        self.documents.views = self.args.contrastive_views if stage.contrasts else None
        if self.anchors and stage.kind != "reconstructor":
            self.documents.anchors = self.anchors.at(stage.position, self.documents.prefix_groups())
        moves = stage.kind == "discrete" and (self.args.ema_decay or self.args.restart_threshold)
        self.updates = self.codebook_updates.updates = None if not moves else CodebookUpdates(
            self.model.codebooks.learned[stage.position], self.args.ema_decay, self.args.restart_threshold,
            self.args.seed,
        )  # fmt: skip
        self.loss_sums.clear()

    def finish_stage(self, stage: Stage) -> dict:
        """Clusters after a continuous stage, assigns after a discrete one; returns the stage's figures."""
        self.model = self.unwrap()
        self.model.eval()
        self.documents.views = None  # of no use without a loss
        figures = {"loss_curve": loss_curve(self.state.log_history)} if stage.epochs > 0 else {}
        corpus = CorpusPass(self.model, self.documents, self.collator(), self.args, self.progress.title)
        figures["reconstruction_f1"] = reconstruction_f1(corpus.reconstructions(stage.kind, 500))
        if stage.kind == "reconstructor":
            return figures
        position = stage.position
        hidden, predicted = corpus.hidden_states()
        codebook = self.model.codebooks.learned[position]
        if stage.kind == "continuous":
            labels = self.initialize_codebook(codebook, hidden, position)
            codes = most_likely_codes(codebook, hidden)
            figures["kmeans_agreement"] = check_agreement(labels, codes, position)
        else:
            codes = most_likely_codes(codebook, hidden)
        figures |= code_figures(self.documents.codes, codes, self.categories)
        figures |= prediction_figures(predicted, self.documents.codes)
        if stage.kind == "discrete":
            self.documents.codes = np.column_stack([self.documents.codes, codes])
        return figures

    def initialize_codebook(self, codebook, hidden: np.ndarray, position: int) -> np.ndarray:
        """A clustering of `h^t` over the corpus gives the codes; returns its labels `(N,)`.

        Args:
            codebook: the position's, whose codes are replaced.
            hidden: `h^t` of all documents `(N, hidden)`.
            position: counted from 0.
        """
        return initialize_codebook(codebook, hidden, self.args, position)

    def save_stage(self, folder: Path, figures: dict) -> None:
        """Writes weights and codes into `folder` and, last, the mark that the stage is done, with its `figures`."""
        if self.args.process_index == 0:
            write_stage(folder, self.model, self.documents.codes)
            self.state_of_run.finish(self.stage.name, figures)
        self.accelerator.wait_for_everyone()

    def loss_curves(self) -> dict[str, list[list[float]]]:
        """Per trained stage, `[share of the stage, loss]` points."""
        return {name: figures["loss_curve"] for name, figures in self.figures.items() if "loss_curve" in figures}

    def build_index(self) -> SemanticIndex:
        """The documents with their IDs, as `collisions` says."""
        if self.args.collisions == "reassign":
            return self.build_index_of_unique_codes()
        return index_with_counter(self.model, self.documents, self.tokenizer)

    def build_index_of_unique_codes(self) -> SemanticIndex:
        """The documents with IDs that need no last position; see `reassignment` for who moved."""
        corpus = CorpusPass(self.model.eval(), self.documents, self.collator(), self.args, "collisions")
        index, self.reassignment = index_without_counter(corpus, self.tokenizer)
        return index

    # -- inside a stage -----------------------------------------------------------------------------------------------

    def set_target_weights(self) -> None:
        """Chooses the tokens that are reconstructed, and lets the reconstructor predict only among them."""
        reconstructor = self.model.reconstructor
        self.documents.target_weights = self.documents.count_weights(
            len(reconstructor.bias),
            idf=self.args.idf_weights,
            min_frequency=self.args.min_document_frequency,
            max_frequency=self.args.max_document_frequency,
            by_count=reconstructor.bag,
        )
        reconstructor.set_vocabulary(self.documents.target_weights.vocabulary)

    def like_documents(self, corpus: datasets.Dataset) -> IndexingDataset:
        """Other documents, treated like the training documents of the last stage."""
        length = self.model.config.max_source_length
        other = IndexingDataset.of(corpus, self.tokenizer, length, self.args.seed)
        other.target_weights, other.hint_ratio = self.documents.target_weights, self.stages[-1].hint_ratio
        return other

    def look_at_the_start(self) -> None:
        """What of the model as it starts is needed later: a frozen encoder's states, the documents' embeddings."""
        self.documents.hint_ratio, self.documents.views = 0.0, None
        if self.args.freeze_encoder:
            self.documents.encoder_states = cached_states(
                self.model, self.documents, self.args, self.run_dir, "documents"
            )
        if self.args.needs_anchors:
            self.compute_anchors()

    def compute_anchors(self) -> None:
        """The embeddings that documents start with, and who is near to whom by them."""
        collator = self.collator()
        collator.with_prefix = True  # for the encoder's states, where they are kept
        corpus = CorpusPass(self.model.eval(), self.documents, collator, self.args, "start")
        path = self.state_of_run.root / "anchors.safetensors"
        self.anchors = find_anchors(corpus, self.args, path)
        self.documents.neighbours = self.anchors.neighbours

    def collator(self) -> IndexingCollator:
        """Collator for the current stage."""
        pad_token_id = self.tokenizer.pad_token_id
        return IndexingCollator(
            dataset=self.documents,
            pad_token_id=0 if pad_token_id is None else pad_token_id,
            offsets=self.model.config.position_offsets,
            with_prefix=self.stage.kind != "reconstructor",
            groups=self.documents.prefix_groups(),
        )

    def batch_sampler(self) -> PrefixBatchSampler | PartOrder:
        """Order of the current stage, another one in every stage; by length with Trainer's `group_by_length`."""
        seed = self.args.seed + 1000 * self.stages.index(self.stage)
        groups = self.documents.prefix_groups()
        lengths = self.documents.lengths if self.args.train_sampling_strategy == "group_by_length" else None
        shape = self.args.per_device_train_batch_size, self.args.num_parts
        return self.in_order(PrefixBatchSampler(groups, *shape, seed, lengths))

    def get_train_dataloader(self) -> DataLoader:
        """Batches of whole prefix groups; each process takes its part of a global batch."""
        sampler = self.batch_sampler()
        self.hint_epoch.sampler = sampler
        loader = DataLoader(
            self.documents,
            batch_sampler=sampler,
            collate_fn=self.collator(),
            num_workers=self.args.dataloader_num_workers,
            pin_memory=self.args.dataloader_pin_memory and self.accelerator.device.type != "cpu",
        )
        return self.accelerator.prepare(loader)

    def get_decay_parameter_names(self, model) -> list[str]:
        """As in Trainer, without temperatures: a decay would draw them towards 1."""
        return [name for name in super().get_decay_parameter_names(model) if not name.endswith("log_temperature")]

    def create_optimizer(self, model=None) -> torch.optim.Optimizer:
        """As in Trainer, with the encoder's parameters in groups of their own where they have a rate of their own."""
        is_new = self.optimizer is None
        optimizer = super().create_optimizer(model)
        if is_new and self.args.encoder_rate_factor != 1:
            slow_down(optimizer, encoder_parameters(self.unwrap()), self.args.encoder_rate_factor)
        return optimizer

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """The weighted sum of the losses (Eq. 11), divided by the documents of the global batch."""
        batch = Batch.take(inputs)
        outputs = model(
            **inputs,
            quantize=self.stage.kind == "discrete",
            code_choice=self.args.choice_at(self.stage.position),
            view=self.args.contrastive_views if self.stage.contrasts else None,
        )
        counts = batch.counts
        terms = self.objective.terms(self.stage, outputs, batch, self.offsets)
        if self.updates and model.training:
            seen = outputs.decoder_last_hidden_state[:, -1].detach(), outputs.chosen_codes, counts
            self.updates.observe(*self.objective.compared(seen))
        if num_items_in_batch is None:
            num_items_in_batch = self.accelerator.reduce(counts.sum(), "sum")
        divisor = num_items_in_batch if self.args.reduction == "mean" else 1
        # DDP averages gradients over processes; the sum over all documents is what is wanted.
        scale = self.args.world_size / divisor
        sums = {name: (term * counts).sum() * scale for name, term in terms.items()}
        for name, value in sums.items():
            self.loss_sums[name].append(value.detach())
        factors = self.objective.factors(self.stage)
        loss = sum(factors[name] * value for name, value in sums.items())
        return (loss, outputs) if return_outputs else loss

    @torch.no_grad()
    def measure_losses(self, moment: str, num_documents: int = 512) -> dict[str, float]:
        """Losses on fixed batches with fixed hints, without dropout: `loss_start`, `reconstruction_start`, ...

        Batches of training differ too much to compare the first with the last.

        Args:
            moment: `start` or `end` of the stage.
            num_documents: about how many are looked at.
        """
        self.model = self.unwrap().eval()
        collator, sampler = self.collator(), self.batch_sampler()
        sampler.set_epoch(EVALUATION_EPOCH)
        parts, processes = self.args.num_parts, self.args.world_size
        wanted = num_documents // (self.args.per_device_train_batch_size * parts)
        batches = min(max(1, wanted), len(sampler) // parts)
        own = iter(list(islice(sampler, batches * parts))[self.args.process_index :: processes])
        self.loss_sums.clear()
        total = []
        while lists := list(islice(own, parts // processes)):  # this process's of a batch
            inputs = [self._prepare_inputs(collator([self.documents[key] for key in keys])) for keys in lists]
            documents = self._get_num_items_in_batch(inputs, self.args.device)
            total += [self.compute_loss(self.model, part, num_items_in_batch=documents) for part in inputs]
        values = {"loss": total, **self.loss_sums}
        means = {
            name: self.accelerator.reduce(torch.stack(rows).sum() / batches, "mean") for name, rows in values.items()
        }
        self.loss_sums.clear()
        return {f"{name}_{moment}": mean.item() for name, mean in means.items()}

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds the losses by name, over all processes, to what Trainer logs."""
        if "loss" in logs and self.loss_sums:
            # Micro-batches of one optimizer step add up; the mean is over steps and processes.
            steps = max(1, self.state.global_step - self.last_logged_step)
            for name, values in self.loss_sums.items():
                total = self.accelerator.reduce(torch.stack(values).sum(), "mean").item()
                logs[name] = total / steps
            self.loss_sums.clear()
            logs["stage"] = self.stage.name
        super().log(logs, start_time)

    @property
    def last_logged_step(self) -> int:
        """Step of the newest log entry with a loss, or of the checkpoint that the stage went on from."""
        logged = next((entry["step"] for entry in reversed(self.state.log_history) if "loss" in entry), 0)
        return max(logged, self._initial_global_step)

    def add_to_checkpoint(self, folder: Path) -> None:
        """State of codes that follow their documents."""
        if self.updates:
            self.updates.save(folder)

"""A Trainer that trains several times in one run, one stage after the other, and can be stopped anywhere."""

import contextlib
import copy
import math
from collections.abc import Iterator
from pathlib import Path

import torch
from accelerate.utils import broadcast_object_list
from transformers import ProgressCallback, Trainer, TrainerCallback, TrainerState, set_seed
from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled
from transformers.trainer import TRAINER_STATE_NAME, TRAINING_ARGS_NAME
from transformers.trainer_callback import PrinterCallback

from modeling_lmindexer.folder import naming_write_errors, reading_content, remove_partial

from .batch_parts import BatchParts, PartOrder
from .compiled_layers import compile_encoder_layers
from .folder_lock import FolderInUseError, FolderLock
from .prefix_sampler import PrefixBatchSampler
from .progress import HintEpoch, StageProgress, quiet, without_bars_of_others
from .remaining_time import PlannedStage
from .run_state import RunState, keep_changed_index
from .sharding import EmbeddingsInRoot, Twins, check_state_dict_type, is_sharded
from .staged_args import StagedTrainingArguments
from .stop_signals import StopSignals, leave
from .tracking import Tracking

TRACKING_NAME = "tracking.json"
OLDER = "Delete this checkpoint; the run then goes on from the one before, or begins the stage."


class StopWithoutGain(TrainerCallback):
    """Stops after so many evaluations in a row without a better one, also across a stop and a new start.

    transformers' own callback begins to count anew where a run goes on.

    Args:
        patience: evaluations; 0 for never.
        measure: by which they are compared, higher is better.
    """

    def __init__(self, patience: int, measure: str):
        self.patience, self.measure = patience, f"eval_{measure.removeprefix('eval_')}"

    def is_over(self, state: TrainerState) -> bool:
        """Whether the last evaluations so far were that many without a gain."""
        values = [entry[self.measure] for entry in state.log_history if self.measure in entry]
        return bool(self.patience and values) and len(values) - 1 - values.index(max(values)) >= self.patience

    def on_evaluate(self, args, state, control, **kwargs):
        if self.is_over(state):
            control.should_training_stop = True


class StopWhenAsked(TrainerCallback):
    """After the step in which a signal came, on any process, all save a checkpoint; the trainer then leaves.

    transformers' `enable_jit_checkpoint` saves on each process for itself, seconds later and also before a step's
    update, and gives its handler back after the first training of several.
    """

    def __init__(self, trainer: "StagedTrainer"):
        self.trainer = trainer

    def on_step_end(self, args, state, control, **kwargs):
        self.trainer.stopped_by = self.trainer.asked_to_stop()
        if self.trainer.stopped_by:
            control.should_save = True


class StagedTrainer(Trainer):
    """What trainers of several stages have in common: a folder per stage in `args.output_dir/stages`, checkpoints that
    are whole or ignored, and no optimizer, schedule or wrapping left over from the stage before.

    `train` refuses a folder that another run is writing into. At SIGTERM or SIGINT it leaves after the step, with a
    checkpoint, or at the next place where nothing is lost; with a line that says so, and exit status 143 or 130.

    Args:
        model, args, kwargs: as for Trainer; `args` are copied: stages set folder, epochs and rate for themselves.
    """

    # compute_loss divides by the documents of all accumulated batches itself.
    loss_is_scaled_for_ga = True

    def __init__(self, model, args: StagedTrainingArguments, **kwargs):
        self.run_dir, self.settings = Path(args.output_dir), args
        own = copy.copy(args)
        # Trainer would delete the old checkpoint before the new one is known to be whole, and upload stages.
        self.num_checkpoints, own.save_total_limit, own.push_to_hub = args.save_total_limit, None, False
        own.hub_token = None  # which would be in every checkpoint
        if own.batch_parts:
            own.gradient_accumulation_steps = own.batch_parts // own.world_size
        self.tracking = Tracking(self.run_dir / "stages" / TRACKING_NAME, own)
        own._n_gpu = min(own.n_gpu, 1)  # DataParallel would cut batches whose documents are looked at together
        super().__init__(model=model, args=own, **kwargs)
        if is_deepspeed_zero3_enabled():
            raise ValueError(
                "DeepSpeed's ZeRO-3 leaves no process a whole model, which clustering and assignment between the "
                "trainings need: take examples/accelerate/fsdp2.yaml, which shards as much, or ZeRO-2."
            )
        if own.torch_compile and not (self.is_fsdp_enabled or self.is_deepspeed_enabled):
            compile_encoder_layers(self.model, own, self.accelerator)
        self.parts = None
        if own.batch_parts:
            if self.is_fsdp_enabled or self.is_deepspeed_enabled:
                raise ValueError(
                    "batch_parts adds up whole gradients, and FSDP and DeepSpeed cut them into shards: leave it out, "
                    "or take examples/accelerate/ddp.yaml."
                )
            self.parts = BatchParts(own.batch_parts, own.process_index, own.world_size)
        self.progress, self.hint_epoch = StageProgress(), HintEpoch()
        self.remove_callback(ProgressCallback)
        self.remove_callback(PrinterCallback)
        for callback in (self.progress, self.tracking, *self.tracking.trackers):
            self.add_callback(callback)
        self.add_callback(self.hint_epoch)
        self.add_callback(EmbeddingsInRoot())
        self.twins = Twins(self.args.device)
        if self.is_fsdp_enabled:
            check_state_dict_type(self.accelerator.state.fsdp_plugin)
            self.model.to(self.args.device)  # for what comes before the first training; Trainer leaves that to FSDP
        self.state_of_run, self.stage_name = RunState(self.run_dir), ""
        self.signals, self.stopped_by = StopSignals(), 0
        self.add_callback(StopWhenAsked(self))

    def train(self, resume_from_checkpoint=None, **kwargs) -> dict:
        """The whole run, or what is left of it; Trainer's arguments, `kwargs` among them, have no effect here, for a
        run finds its own checkpoints.

        Returns:
            what [`~StagedTrainer.run`] does.

        Raises:
            ExistingRunError: the output folder holds a run with other settings.
            FolderInUseError: another process is writing into it.
            RunStopped: (a SystemExit) after a signal.
        """
        with contextlib.ExitStack() as stack:
            for entered in (self.alone_in_folder(), self.signals, quiet(self.args.is_quiet), without_bars_of_others()):
                stack.enter_context(entered)
            stack.callback(self.tracking.close)
            return self.run()

    def run(self) -> dict:
        """All stages that are not done yet; to be written by subclasses, which call `claim` first."""
        raise NotImplementedError

    def plan(self) -> list[PlannedStage]:
        """All stages of the run; to be written by subclasses."""
        raise NotImplementedError

    def planned_steps(self, items: int, epochs: float, max_steps: int = -1) -> int:
        """About how many steps a training on `items` takes, or `max_steps` above 0; 0 without epochs."""
        if epochs and max_steps > 0:
            return max_steps
        batch = self.args.per_device_train_batch_size * self.args.num_parts
        accumulated = 1 if self.parts else self.args.gradient_accumulation_steps
        return math.ceil(epochs * math.ceil(items / batch / accumulated))

    def train_stage(self) -> None:
        """Trains the stage that has begun, from its last checkpoint if there is one."""
        newest = self.state_of_run.last_checkpoint(self.stage_name)
        if newest:
            with reading_content(newest, OLDER):
                TrainerState.load_from_json(str(Path(newest) / TRAINER_STATE_NAME))
        super().train(resume_from_checkpoint=newest)
        checkpoint = self.state_of_run.folder(self.stage_name) / f"checkpoint-{self.state.global_step}"
        if checkpoint in self.state_of_run.complete_checkpoints(self.stage_name):
            self.leave_if_asked(f"at the end of stage {self.stage_name}'s steps")

    # -- who writes, and who asks it to stop --------------------------------------------------------------------------

    @contextlib.contextmanager
    def alone_in_folder(self) -> Iterator[None]:
        """Holds the lock of the output folder, or refuses on all processes."""
        with contextlib.ExitStack() as stack:
            refusal = [None]
            if self.args.process_index == 0:
                try:
                    stack.enter_context(FolderLock(self.run_dir))
                except FolderInUseError as error:
                    refusal = [str(error)]
            if broadcast_object_list(refusal)[0]:
                raise FolderInUseError(refusal[0])
            yield

    def asked_to_stop(self) -> int:
        """Number of the signal that came on any process, 0 for none; every process calls it at the same place."""
        received = torch.tensor([self.signals.received], device=self.args.device)
        return int(self.accelerator.gather(received).max()) if self.args.world_size > 1 else self.signals.received

    def leave_if_asked(self, where: str) -> None:
        """Ends the run here if a signal came; nothing may be lost by it. Every process calls it."""
        self.stopped_by = self.asked_to_stop()
        if self.stopped_by:
            leave(self.stopped_by, where, quiet=self.args.process_index > 0)

    # -- stages -------------------------------------------------------------------------------------------------------

    def claim(self, settings: dict) -> None:
        """Takes the output folder for a run with these settings, or raises ExistingRunError."""
        keep_changed_index(self.run_dir)
        with self.args.main_process_first(local=False, desc="claiming the output folder"):
            if self.args.process_index == 0 and self.state_of_run.root.exists():
                remove_partial(self.state_of_run.root, deep=True)
            # All processes look, so that all are refused; the main one has deleted what was there, if asked to.
            start_over = self.args.start_over and self.args.process_index == 0
            self.state_of_run.claim(settings, start_over=start_over, go_on=self.args.go_on)

    def begin_stage(self, name: str, epochs: float, learning_rate: float, seed: int) -> None:
        """Makes the trainer as good as new for a stage, whether the one before ran just now or before a stop.

        Args:
            name: its folder, one of [`~StagedTrainer.plan`].
            epochs, learning_rate: of its training.
            seed: of everything that it draws.
        """
        self.stage_name, plan = name, self.plan()
        self.progress.begin(plan, name)
        self.tracking.begin_stage(self, name, 1 + [stage.name for stage in plan].index(name))
        self.model = self.unwrap()
        if self.is_fsdp_enabled:
            self.model = self.twins.copy_of(self.model)
        self.optimizer = self.lr_scheduler = None
        self.model_wrapped = self.model
        self._created_lr_scheduler = False
        self.args.output_dir = str(self.state_of_run.folder(name))
        self.args.num_train_epochs, self.args.learning_rate = epochs, learning_rate
        self.stage_seed = seed
        if self.parts:
            self.parts.begin()
        set_seed(seed)

    def in_order(self, sampler: PrefixBatchSampler) -> PrefixBatchSampler | PartOrder:
        """A sampler of `num_parts` lists per global batch, as the processes share them."""
        return PartOrder(sampler, self.args.world_size) if self.parts else sampler

    def training_step(self, model, inputs, num_items_in_batch=None) -> torch.Tensor:
        """As in Trainer; with `batch_parts`, gradients are added up in an order of our own."""
        if not self.parts:
            return super().training_step(model, inputs, num_items_in_batch)
        # Without DDP, which would reduce gradients, and let them meet in another order inside the backward pass.
        model = self.accelerator.unwrap_model(model)
        with self.parts.part(model.parameters(), self.stage_seed, self.state.global_step):
            return super().training_step(model, inputs, num_items_in_batch)

    def _wrap_model(self, model, training: bool = True, **kwargs):
        """As in Trainer; this is the last that happens before FSDP looks at the model."""
        model = super()._wrap_model(model, training, **kwargs)
        return EmbeddingsInRoot.hide(model) if training and self.is_fsdp_enabled else model

    def unwrap(self):
        """The model without what accelerate put around it, the autocast of its forward included; whole, if it is in
        shards. All processes must ask for it."""
        if is_sharded(self.model):
            return self.twins.gather(self.model)
        model = self.accelerator.unwrap_model(self.model, keep_fp32_wrapper=False, keep_torch_compile=False)
        # With this mark, accelerate would leave the next stage without autocast.
        vars(model).pop("_is_accelerate_prepared", None)
        return model

    def _get_num_items_in_batch(self, batch_samples: list, device: torch.device) -> torch.Tensor:
        """Documents of all accumulated batches on all processes, fillers not counted."""
        counts = sum(batch["counts"].sum() for batch in batch_samples).to(device)
        return self.accelerator.reduce(counts, "sum")

    def _save_checkpoint(self, model, trial) -> None:
        """As in Trainer; a mark tells a complete checkpoint from one that a kill cut short."""
        with naming_write_errors(Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"):
            super()._save_checkpoint(model, trial)
        if self.args.should_save:  # a pickle that nobody reads
            (Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}" / TRAINING_ARGS_NAME).unlink(True)
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            self.add_to_checkpoint(Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}")
            self.tracking.flush()
            best = self.state.best_model_checkpoint if self.args.load_best_model_at_end else None
            self.state_of_run.complete_checkpoint(
                self.stage_name, self.state.global_step, self.num_checkpoints, best and Path(best)
            )
        if self.stopped_by:
            self.accelerator.wait_for_everyone()  # until the mark is there
            where = f"in stage {self.stage_name}, after step {self.state.global_step} of {self.state.max_steps}"
            leave(self.stopped_by, where, quiet=self.args.process_index > 0)

    def _load_optimizer_and_scheduler(self, checkpoint) -> None:
        """As in Trainer, for damaged files, too."""
        with contextlib.nullcontext() if checkpoint is None else reading_content(checkpoint, OLDER):
            super()._load_optimizer_and_scheduler(checkpoint)

    def _load_rng_state(self, checkpoint) -> None:
        """As in Trainer, for damaged files, too."""
        with contextlib.nullcontext() if checkpoint is None else reading_content(checkpoint, OLDER):
            super()._load_rng_state(checkpoint)

    def _load_from_checkpoint(self, resume_from_checkpoint, model=None) -> None:
        """As in Trainer, for damaged files, too."""
        with reading_content(resume_from_checkpoint, OLDER):
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def add_to_checkpoint(self, folder: Path) -> None:
        """Writes what a checkpoint needs beside Trainer's own files; nothing by default."""

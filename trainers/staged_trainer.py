"""A Trainer that trains several times in one run, one stage after the other, and can be stopped anywhere."""

import copy
from pathlib import Path

import torch
from transformers import ProgressCallback, Trainer, TrainerCallback, TrainerState, set_seed
from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled
from transformers.trainer_callback import PrinterCallback

from .progress import HintEpoch, StageProgress
from .run_state import RunState
from .sharding import EmbeddingsInRoot, Twins, is_sharded
from .staged_args import StagedTrainingArguments


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


class StagedTrainer(Trainer):
    """What trainers of several stages have in common: a folder per stage in `args.output_dir/stages`, checkpoints that
    are whole or ignored, and no optimizer, schedule or wrapping left over from the stage before.

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
        super().__init__(model=model, args=own, **kwargs)
        if is_deepspeed_zero3_enabled():
            raise ValueError(
                "DeepSpeed's ZeRO-3 leaves no process a whole model, which clustering and assignment between the "
                "trainings need: take examples/accelerate/fsdp2.yaml, which shards as much, or ZeRO-2."
            )
        self.progress, self.hint_epoch = StageProgress(), HintEpoch()
        self.remove_callback(ProgressCallback)
        self.remove_callback(PrinterCallback)
        self.add_callback(self.progress)
        self.add_callback(self.hint_epoch)
        self.add_callback(EmbeddingsInRoot())
        self.twins = Twins()
        self.state_of_run, self.stage_name = RunState(self.run_dir), ""

    def claim(self, settings: dict) -> None:
        """Takes the output folder for a run with these settings, or raises ExistingRunError."""
        with self.args.main_process_first(local=False, desc="claiming the output folder"):
            # All processes look, so that all are refused; the main one has deleted what was there, if asked to.
            start_over = self.args.start_over and self.args.process_index == 0
            self.state_of_run.claim(settings, start_over=start_over, go_on=self.args.go_on)

    def begin_stage(self, name: str, title: str, epochs: float, learning_rate: float, seed: int) -> None:
        """Makes the trainer as good as new for a stage, whether the one before ran just now or before a stop.

        Args:
            name: its folder.
            title: what progress bars call it.
            epochs, learning_rate: of its training.
            seed: of everything that it draws.
        """
        self.stage_name, self.progress.title = name, title
        self.model = self.unwrap()
        if self.is_fsdp_enabled:
            self.model = self.twins.copy_of(self.model)
        self.optimizer = self.lr_scheduler = None
        self.model_wrapped = self.model
        self._created_lr_scheduler = False
        self.args.output_dir = str(self.state_of_run.folder(name))
        self.args.num_train_epochs, self.args.learning_rate = epochs, learning_rate
        set_seed(seed)

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
        super()._save_checkpoint(model, trial)
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            self.add_to_checkpoint(Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}")
            best = self.state.best_model_checkpoint if self.args.load_best_model_at_end else None
            self.state_of_run.complete_checkpoint(
                self.stage_name, self.state.global_step, self.num_checkpoints, best and Path(best)
            )

    def add_to_checkpoint(self, folder: Path) -> None:
        """Writes what a checkpoint needs beside Trainer's own files; nothing by default."""

"""One run of a study: the trainer on the plan's corpus, and the row that is left of it."""

import json
import os
import shutil
import time
from pathlib import Path

import numpy as np
from quality.corpora import Corpus
from quality.methods import device_name
from quality.rows import Results
from transformers import AutoTokenizer, set_seed

from metrics.semantic_id_quality import collision_density, id_quality
from modeling_lmindexer import LMIndexerForSemanticID
from trainers import SemanticIDTrainer, SemanticIDTrainingArguments
from trainers.model_folder import finite
from trainers.study_curves import StageCurves

from .plan import Run

# A run of some minutes is repeated from its last whole stage after a stop.
_ALWAYS = {
    "per_device_eval_batch_size": 128, "save_strategy": "no", "report_to": "none", "disable_tqdm": True,
    "logging_steps": 0.25, "go_on": True,
}  # fmt: skip


class Training:
    """Trains runs, one after the other. Several processes may share a folder if they have no runs in common.

    Args:
        corpus: of all runs.
        encoder: folder or Hub repository of the encoder.
        curves: arguments of [`StageCurves`].
        results: rows, in whose folder the states of runs are kept as long as they are needed.
    """

    def __init__(self, corpus: Corpus, encoder: str, curves: dict, results: Results):
        self.corpus, self.encoder, self.curves, self.results = corpus, encoder, curves, results
        self.tokenizer = AutoTokenizer.from_pretrained(encoder)

    def do(self, runs: list[Run]) -> None:
        """Appends the rows that are missing; states that no run needs any more are deleted."""
        missing = [run for run in runs if self.results.find(run.key) is None]
        for number, run in enumerate(missing, start=1):
            row = self.results.row(run.key, lambda run=run: self.measure(run))
            if row is not None:
                took = f"{row['minutes']} minutes, {row['cpu_minutes']} of a processor"
                print(f"{number}/{len(missing)} {run.label}: {took}", flush=True)
            needed = {later.after.label for later in missing[number:] if later.after}
            for done in runs:
                if done.label not in needed and self.results.find(done.key):
                    shutil.rmtree(self.folder(done) / "stages", ignore_errors=True)

    def folder(self, run: Run) -> Path:
        """Where the state of a run is kept, and its codes stay."""
        return self.results.folder / "runs" / run.label

    def measure(self, run: Run) -> dict:
        """The columns of a run's row."""
        started, used = time.time(), time.process_time()
        columns = {"encoder": Path(self.encoder).name, "documents": len(self.corpus.ids)} | self.train(run)
        columns["minutes"] = round((time.time() - started) / 60, 2)
        columns["cpu_minutes"] = round((time.process_time() - used) / 60, 2)
        return columns

    def train(self, run: Run) -> dict:
        """Figures and curves of a run."""
        folder = self.folder(run)
        if run.after:
            self.take_over(run.after, folder)
        set_seed(run.seed)
        model = LMIndexerForSemanticID.from_backbone(self.encoder, **run.of_model)
        arguments = SemanticIDTrainingArguments(
            output_dir=str(folder), seed=run.seed, encoder_cache_dir=str(self.results.folder / "encoder_states"),
            **(_ALWAYS | run.of_trainer),
        )  # fmt: skip
        documents = self.corpus.documents if run.exclude else self.corpus.documents.remove_columns("excluded")
        trainer = SemanticIDTrainer(model, arguments, documents, self.tokenizer)
        curves = StageCurves(trainer, **self.curves)
        trainer.add_callback(curves)
        stages = trainer.train()
        np.save(folder / "codes.npy", trainer.documents.codes)
        points = {name: curves.points(name) for name in stages}
        done_on = device_name(arguments.device)
        return finite({"figures": run_figures(trainer, stages), "curves": points, "device": done_on})

    def take_over(self, before: Run, folder: Path) -> None:
        """Begins a run with the stages of another, which is trained once more where its state is gone."""
        source, target, part = self.folder(before) / "stages", folder / "stages", folder / "part"
        if target.exists():
            return
        if not source.exists():
            self.train(before)
        shutil.rmtree(part, ignore_errors=True)
        shutil.copytree(source, part, copy_function=os.link)
        part.rename(target)


def run_figures(trainer: SemanticIDTrainer, stages: dict[str, dict]) -> dict[str, float]:
    """Quality of the IDs, and what the stages say of reconstruction and of earlier codes.

    `below_5`: share of the IDs with fewer than five documents. `reconstruction_f1_t`: after the discrete stage of
    position `t`; without a number the last one's. `kept_s_at_t`, `predicted_perplexity_s_at_t`: of the code of
    position `s`, predicted again after that stage.
    """
    codes = trainer.documents.codes
    figures = id_quality(codes, trainer.categories, codebook_sizes=trainer.model.config.codebook_sizes)
    density = collision_density(codes)
    figures["below_5"] = float(density.ids[density.size < 5].sum() / density.ids.sum())
    for t in range(1, codes.shape[1] + 1):
        stage = stages[f"{t}-discrete"]
        figures[f"reconstruction_f1_{t}"] = figures["reconstruction_f1"] = stage["reconstruction_f1"]
        for earlier in range(1, t):
            for name in ("predicted_perplexity", "kept"):
                figures[f"{name}_{earlier}_at_{t}"] = stage[f"position_{earlier}_{name}"]
    return json.loads(json.dumps(figures, default=float))

"""Figures of a stage while it trains, as curves over its steps (Fig. 4 and Table 15 of the paper)."""

import json
from pathlib import Path

import numpy as np
import torch
from transformers import TrainerCallback

from modeling_lmindexer.folder import write_json

from .assignment import most_likely_codes
from .corpus_pass import CorpusPass
from .figures import code_figures, prediction_figures, reconstruction_f1
from .semantic_id_trainer import SemanticIDTrainer

_FILE = "curve.json"


class StageCurves(TrainerCallback):
    """Measures fixed, seeded samples of the documents at every n-th step, and at the start and the end of a stage.

    Training goes on as if nothing had been measured. The points are kept in the stage's folder, so that a stopped run
    goes on with its curves.

    Every point has `step` and `reconstruction_f1`; in discrete stages also the figures of the codes that the documents
    would get ([`code_figures`]), and from the second position on whether earlier codes are remembered
    ([`prediction_figures`]). Perplexities are those of the sample: compare them among runs only.

    ```python
    curves = StageCurves(trainer, every=20)
    trainer.add_callback(curves)
    trainer.train()
    curves.points("1-discrete")[-1]["perplexity"]
    ```

    Args:
        trainer: whose stages are measured.
        every: steps between two points.
        reconstruction_documents: sample that is reconstructed, with fixed hints.
        code_documents: sample that codes are looked at of.
    """

    def __init__(
        self, trainer: SemanticIDTrainer, every: int, reconstruction_documents: int = 512, code_documents: int = 1500
    ):
        if every < 1:
            raise ValueError(f"every is {every}: it is a number of steps, at least 1")
        self.trainer, self.every, self.reconstruction_documents = trainer, every, reconstruction_documents
        documents = trainer.documents
        rows = np.random.default_rng(documents.seed).permutation(len(documents))
        self.rows = np.sort(rows[:code_documents])
        categories = trainer.categories
        self.categories = categories and [categories[row] for row in self.rows]

    def points(self, stage_name: str) -> list[dict[str, float]]:
        """The points of a stage so far, in the order of their steps."""
        path = self._path(stage_name)
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else []

    def on_train_begin(self, args, state, control, **kwargs):
        self.on_step_end(args, state, control)

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step % self.every == 0:
            self._note(state.global_step)

    def on_train_end(self, args, state, control, **kwargs):
        self._note(state.global_step)

    def _path(self, stage_name: str) -> Path:
        return self.trainer.state_of_run.folder(stage_name) / _FILE

    def _note(self, step: int) -> None:
        """Adds the point of a step; what a stopped run measured after its last checkpoint is replaced."""
        name = self.trainer.stage.name
        points = self.points(name)
        if any(point["step"] == step for point in points):
            return
        points = [point for point in points if point["step"] < step] + [{"step": step, **self.measure()}]
        if self.trainer.args.process_index == 0:
            write_json(self._path(name), points)

    @torch.no_grad()
    def measure(self) -> dict[str, float]:
        """The figures of the model as it is."""
        trainer, stage = self.trainer, self.trainer.stage
        model, was_training = trainer.model, trainer.model.training
        model.eval()
        corpus = CorpusPass(model, trainer.documents, trainer.collator(), trainer.args, "curve", quiet=True)
        figures = {
            "reconstruction_f1": reconstruction_f1(corpus.reconstructions(stage.kind, self.reconstruction_documents))
        }
        if stage.kind == "discrete" or (stage.kind == "continuous" and stage.position > 0):
            hidden, predicted = corpus.hidden_states(self.rows)
            prefix = trainer.documents.codes[self.rows]
            if stage.kind == "discrete":
                codes = most_likely_codes(model.codebooks.learned[stage.position], hidden)
                figures |= code_figures(prefix, codes, self.categories)
            figures |= prediction_figures(predicted, prefix)
        model.train(was_training)
        return figures

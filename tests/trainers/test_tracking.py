"""What runs of several stages write into TensorBoard's event files and into trackio's database: one run, in order."""

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import HISTOGRAMS, SCALARS, EventAccumulator
from tiny_training import make_trainer, tiny_indexer
from transformers import TrainerCallback

from trainers import SemanticIDTrainer

SETTINGS = {"save_strategy": "steps", "save_steps": 3, "logging_steps": 1, "run_name": "tiny"}


@pytest.fixture(scope="module")
def trackio(tmp_path_factory):
    """The module with a folder of the tests' own, which it takes when it is first imported."""
    os.environ["TRACKIO_DIR"] = str(tmp_path_factory.mktemp("trackio"))
    import trackio

    return trackio


def event_file(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Steps and values by tag, as TensorBoard shows them; of a histogram the sum of its counts."""
    events = EventAccumulator(str(folder), size_guidance={SCALARS: 0, HISTOGRAMS: 0})
    events.Reload()
    scalars = {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()[SCALARS]}
    return scalars | {
        tag: [(e.step, sum(e.histogram_value.bucket)) for e in events.Histograms(tag)]
        for tag in events.Tags()[HISTOGRAMS]
    }


def database(trackio, project: str, run: str) -> dict[str, list[tuple[int, float]]]:
    """The same of a run in trackio."""
    found: dict[str, list] = {}
    for row in trackio.SQLiteStorage.get_logs(project, run):
        for name, value in row.items():
            if name not in ("step", "timestamp"):
                value = sum(value["values"]) if isinstance(value, dict) else value
                found.setdefault(name, []).append((row["step"], value))
    return found


def steps(logged: dict) -> dict[str, list[int]]:
    return {name: [step for step, _ in points] for name, points in logged.items()}


def test_all(tmp_path, trackio):
    trainer = make_trainer(tmp_path, report_to=["tensorboard", "trackio"], project="whole", **SETTINGS)
    trainer.train()
    tb, db = event_file(tmp_path / "runs" / "tiny"), database(trackio, "whole", "tiny")
    for k in sorted(tb): print(k, tb[k])
    print(tb.keys() ^ db.keys())
    assert steps(tb) == steps(db)
    assert 0

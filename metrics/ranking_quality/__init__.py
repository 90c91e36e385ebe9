"""How good rankings are, as plain functions; `ranking_quality.py` beside them is the `evaluate` module."""

from .collisions import expected_figures
from .comparison import PairedTest, confidence_interval, paired_test
from .ranking import MEASURES, RankingError, RankingFigures, ranking_figures
from .runs import fuse, read_qrels, read_run, write_qrels, write_run

__all__ = [
    "MEASURES",
    "PairedTest",
    "RankingError",
    "RankingFigures",
    "confidence_interval",
    "expected_figures",
    "fuse",
    "paired_test",
    "ranking_figures",
    "read_qrels",
    "read_run",
    "write_qrels",
    "write_run",
]

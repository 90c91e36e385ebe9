"""How an indexer learns: the staged trainer, its losses, sampler and clustering, and codes to compare with."""

from .adaptation import adapt_encoder
from .adaptation_args import AdaptationArguments
from .corpus_check import UnusableCorpusError
from .retrieval_args import SemanticRetrievalTrainingArguments
from .retrieval_data import UnusablePairsError
from .retrieval_trainer import SemanticRetrievalTrainer
from .run_state import ExistingRunError
from .semantic_id_trainer import SemanticIDTrainer
from .training_args import SemanticIDTrainingArguments

__all__ = [
    "AdaptationArguments",
    "ExistingRunError",
    "SemanticIDTrainer",
    "SemanticIDTrainingArguments",
    "SemanticRetrievalTrainer",
    "SemanticRetrievalTrainingArguments",
    "UnusableCorpusError",
    "UnusablePairsError",
    "adapt_encoder",
]

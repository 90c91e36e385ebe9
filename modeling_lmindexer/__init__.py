"""Language Models as Semantic Indexers: the model, its prefix tree and its document index.

Importing this package registers the model, so that `AutoModel.from_pretrained` needs no `trust_remote_code`.
"""

from transformers import AutoConfig, AutoModel, AutoModelForSeq2SeqLM

from .configuration_lmindexer import LMIndexerConfig
from .custom_generate import constrained_beam_search
from .document_table import DocumentTable
from .document_vectors import DocumentVectors
from .folder import CorruptedFolderError
from .logits_process import PrefixTreeLogitsProcessor
from .modeling_lmindexer import LMIndexerForSemanticID
from .outputs import LMIndexerOutput, SearchOutput
from .packed_weights import pack_weights
from .prefix_overview import IDTreeOverview, PrefixOverview
from .prefix_tree import PrefixTree
from .semantic_index import SemanticIndex

AutoConfig.register("lmindexer", LMIndexerConfig, exist_ok=True)
AutoModel.register(LMIndexerConfig, LMIndexerForSemanticID, exist_ok=True)
AutoModelForSeq2SeqLM.register(LMIndexerConfig, LMIndexerForSemanticID, exist_ok=True)

__all__ = [
    "CorruptedFolderError",
    "DocumentTable",
    "DocumentVectors",
    "IDTreeOverview",
    "LMIndexerConfig",
    "LMIndexerForSemanticID",
    "LMIndexerOutput",
    "PrefixOverview",
    "PrefixTree",
    "PrefixTreeLogitsProcessor",
    "SearchOutput",
    "SemanticIndex",
    "constrained_beam_search",
    "pack_weights",
]

"""Tables are read and written with pyarrow; without it, everything says so that needs one, and nothing else."""

import sys

import pytest
from tiny_models import tiny_inputs, tiny_model

from modeling_lmindexer import LMIndexerForSemanticID, PrefixTreeLogitsProcessor, SemanticIndex
from modeling_lmindexer.index_changes import read_changes


@pytest.fixture
def folder(tmp_path):
    model = tiny_model("t5", num_disambiguation_codes=3)
    model.save_pretrained(tmp_path)
    index = SemanticIndex.from_codes(["a", "b"], [[0, 1], [2, 3]], model.config.position_sizes)
    index.save_pretrained(tmp_path)
    return tmp_path


def test_without_pyarrow_what_needs_it_names_it(folder, monkeypatch):
    index = SemanticIndex.from_pretrained(folder)
    for part in ("pyarrow.compute", "pyarrow.parquet"):
        monkeypatch.setitem(sys.modules, part, None)
    calls = (
        lambda: SemanticIndex.from_pretrained(folder),
        lambda: index.save_pretrained(folder / "new"),
        lambda: PrefixTreeLogitsProcessor.from_pretrained(folder).filtered(["a"]),
        lambda: list(read_changes(folder / "index_changes.parquet")),
    )
    for call in calls:
        with pytest.raises(ImportError, match="pip install pyarrow"):
            call()


def test_without_pyarrow_a_model_still_writes_ids(folder, monkeypatch):
    for part in ("pyarrow", "pyarrow.compute", "pyarrow.parquet"):
        monkeypatch.setitem(sys.modules, part, None)
    model = LMIndexerForSemanticID.from_pretrained(folder)
    trie = PrefixTreeLogitsProcessor.from_pretrained(folder)
    ids = model.generate(**tiny_inputs(), num_beams=2, logits_processor=trie)
    assert trie.tree.contains(ids[:, 1:]).all()

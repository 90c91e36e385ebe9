"""A tree that was streamed to its file is the one that is built in memory."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file

from modeling_lmindexer import PrefixTree
from modeling_lmindexer.prefix_arrays import INT32_MAX
from modeling_lmindexer.prefix_file import PREFIX_TREE_NAME
from trainers.tree_stream import TreeStream


def streamed(folder, ids: np.ndarray, sizes: list[int]) -> TreeStream:
    """Writes the tree of `ids`, given in pieces of so many."""
    (folder / "levels").mkdir(parents=True)
    stream, start = TreeStream(folder / "levels", ids.shape[1]), 0
    for size in [*sizes, len(ids)]:
        if len(piece := ids[start : start + size]):
            stream.add(piece)
        start += size
    stream.save_pretrained(folder)
    stream.close()
    return stream


def content(folder):
    with safe_open(folder / PREFIX_TREE_NAME, framework="pt") as file:
        return file.metadata(), load_file(folder / PREFIX_TREE_NAME)


# Few codes make deep sharing, many of them other types: int16 with and without an offset, int32 and int64.
CODES = st.one_of(st.integers(1, 3), st.integers(0, 2**15), st.integers(5, 2**16 + 4), st.integers(0, 2**40))


@settings(max_examples=80, deadline=None)
@given(st.data(), st.integers(1, 4), st.lists(st.integers(1, 9), max_size=6))
def test_equal_to_the_tree_in_memory(tmp_path_factory, data, positions, sizes):
    columns = [data.draw(st.sampled_from([st.integers(1, 3), CODES])) for _ in range(positions)]
    rows = data.draw(st.lists(st.tuples(*columns), min_size=1, max_size=40, unique=True))
    ids, folder = np.array(sorted(rows), dtype=np.int64), tmp_path_factory.mktemp("tree")
    stream = streamed(folder, ids, sizes)
    expected = PrefixTree.from_sequences(ids)
    expected.save_pretrained(folder / "expected")
    (metadata, arrays), (other_metadata, others) = content(folder), content(folder / "expected")
    assert metadata == other_metadata and arrays.keys() == others.keys()
    for name, array in others.items():
        assert array.dtype == arrays[name].dtype and torch.equal(array, arrays[name]), name
    assert stream.distinct_prefixes() == [len(np.unique(ids[:, : t + 1], axis=0)) for t in range(positions)]
    for memory_map in (False, True):
        tree = PrefixTree.from_pretrained(folder, memory_map=memory_map)
        assert torch.equal(tree.sequences(), torch.from_numpy(ids)) and len(tree) == len(ids)


def test_more_documents_than_a_tree_holds(tmp_path):
    stream = TreeStream(tmp_path, 1, count=INT32_MAX)
    with pytest.raises(ValueError, match="make two indexes"):
        stream.add(np.array([[1]]))
    stream.close()

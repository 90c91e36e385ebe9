import importlib.util
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from modeling_lmindexer.folder import CorruptedFolderError
from modeling_lmindexer.logits_process import PrefixTreeLogitsProcessor
from modeling_lmindexer.prefix_tree import PrefixTree
from modeling_lmindexer.semantic_index import SemanticIndex

quick = settings(max_examples=60, deadline=None, database=None)

PAD, EOS, VOCABULARY = 0, 1, 60
TOKENS = torch.arange(10, 40)  # the model's token of code 0, 1, ...
FIXED = [[0, 7, 12], [0, 7, 13], [0, 8, 12], [1, 7, 12], [1, 9, 14], [2, 6, 15], [5, 6, 15], [5, 9, 13]]
RAGGED = [[0], [0, 7], [0, 7, 13], [1, 7, 12], [1, 9], [2, 6, 15], [5], [5, 9, 13]]


@quick
@given(
    st.lists(st.lists(st.integers(2, 7), min_size=1, max_size=4), min_size=1, max_size=12),
    st.integers(0, 2),
    st.integers(1, 3),
    st.booleans(),
    st.data(),
)
def test_valid_is_an_id_that_no_earlier_row_of_its_query_has(sequences, prompt_length, repeats, filtered, data):
    tree = PrefixTree.from_sequences(sequences)
    trie = PrefixTreeLogitsProcessor(tree, prompt_length, None, EOS, PAD)
    queries = data.draw(st.integers(1, 3))
    allowed = [set(map(tuple, sequences))] * queries
    if filtered:
        numbers = st.lists(st.integers(0, len(sequences) - 1), max_size=len(sequences))
        filters = data.draw(st.lists(numbers, min_size=queries, max_size=queries))
        trie = trie.filtered(filters)
        allowed = [{tuple(sequences[number]) for number in numbers} for numbers in filters]
    width = tree.depth + 2
    known = st.sampled_from(sequences).flatmap(
        lambda s: st.sampled_from([[*s, EOS, *[fill] * (width - 1 - len(s))] for fill in (PAD, EOS)])
    )
    odd = st.lists(st.integers(0, 8), min_size=width, max_size=width)
    rows = data.draw(st.lists(known | odd, min_size=queries * repeats, max_size=queries * repeats))
    expected, seen = [], set()
    for i, row in enumerate(rows):
        end = row.index(EOS) if EOS in row else width
        answer = (i // repeats, tuple(row[:end]))
        expected.append(answer[1] in allowed[i // repeats] and answer not in seen)
        seen.add(answer)
    ids = torch.nn.functional.pad(torch.tensor(rows), (prompt_length, 0), value=3)
    assert trie.is_valid(ids, num_return_sequences=repeats).tolist() == expected


def test_valid_without_an_end_token():
    trie = PrefixTreeLogitsProcessor(PrefixTree.from_sequences([[3, 5], [4, 5], [4, 6]]))
    rows = torch.tensor([[0, 3, 5], [0, 4, 5], [0, 4, 5], [0, 3, 6], [0, 9, 9], [0, 4, 5]])
    assert trie.is_valid(rows).tolist() == [True, True, True, False, False, True]
    assert trie.is_valid(rows, num_return_sequences=3).tolist() == [True, True, False, False, False, True]
    assert trie.is_valid(rows, num_return_sequences=6).tolist() == [True, True, False, False, False, False]
    assert not trie.is_valid(rows[:, :2]).any()
    assert trie.filtered([[0], [1]]).is_valid(rows, 3).tolist() == [True, False, False, False, False, True]
    with pytest.raises(ValueError, match="6 rows|num_return_sequences=4"):
        trie.is_valid(rows, num_return_sequences=4)


def test_dead_rows_can_be_sampled_from_where_there_is_a_pad_token():
    tree = PrefixTree.from_sequences([[3, 5], [4, 5]])
    for arguments in ({"pad_token_id": PAD}, {"pad_token_id": PAD, "eos_token_id": EOS}):
        trie = PrefixTreeLogitsProcessor(tree, **arguments)
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            scores = torch.zeros(3, 8, dtype=dtype)
            masked = trie(torch.tensor([[0, 3], [0, 5], [0, 7]]), scores)
            assert masked[0].isfinite().nonzero().tolist() == [[5]]
            assert masked[1:].isfinite().nonzero().tolist() == [[0, PAD], [1, PAD]]
            assert (masked[1:, PAD] == torch.finfo(dtype).min / 256).all()
            assert masked[1:].float().softmax(-1).multinomial(1).tolist() == [[PAD], [PAD]]


def test_a_live_tree_is_followed():
    tree = PrefixTree.from_sequences(FIXED)
    trie = PrefixTreeLogitsProcessor(tree)
    rows = torch.tensor([[0, 1], [0, 5]])

    def allowed():
        return trie(rows, torch.zeros(2, 20)).isfinite().nonzero().tolist()

    assert allowed() == [[0, 7], [0, 9], [1, 6], [1, 9]]
    tree.add([[1, 3, 3]])
    tree.remove([6])
    assert allowed() == [[0, 3], [0, 7], [0, 9], [1, 9]]
    tree.compact()
    assert allowed() == [[0, 3], [0, 7], [0, 9], [1, 9]]
    assert trie(rows[:, :1], torch.zeros(2, 20)).isfinite()[0].nonzero().squeeze(1).tolist() == [0, 1, 2, 5]


@pytest.mark.parametrize(
    ("sequences", "filters", "reuse_buffer"),
    [(FIXED, None, True), (RAGGED, [0, 1, 3, 6], True), (RAGGED, [[0, 1, 3, 6], [2, 4, 5]], False)],
)
def test_compiled_without_breaks_the_same_as_eager(sequences, filters, reuse_buffer):
    eos = None if sequences is FIXED else EOS
    tree = PrefixTree.from_sequences(sequences)
    trie = PrefixTreeLogitsProcessor(tree, 1, TOKENS, eos, PAD, reuse_buffer=reuse_buffer)
    trie = trie if filters is None else trie.filtered(filters)
    torch.compiler.reset()
    compiled = torch.compile(trie, fullgraph=True, backend="eager")
    rows, scores = torch.tensor([[0, 10, 17], [0, 15, 19], [0, 12, EOS], [0, 11, 5]]), torch.rand(4, VOCABULARY)
    kept = []
    for level in range(3):
        expected = trie(rows[:, : 1 + level], scores).clone()
        for _ in range(2):
            kept.append((compiled(rows[:, : 1 + level], scores), expected))
    assert all(torch.equal(found, expected) for found, expected in kept)


def test_documents_are_numbers_where_a_folder_has_no_ids(tmp_path):
    PrefixTree.from_sequences(FIXED).save_pretrained(tmp_path)
    trie = PrefixTreeLogitsProcessor.from_pretrained(tmp_path).filtered([1, 7])
    assert trie.tree.sequences().tolist() == [FIXED[1], FIXED[7]]
    mask = torch.tensor([[True] + [False] * 7, [False] * 7 + [True]])
    rows = torch.nn.functional.pad(torch.tensor(FIXED)[[0, 7, 0, 7]], (1, 0))
    found = PrefixTreeLogitsProcessor.from_pretrained(tmp_path).filtered(mask).is_valid(rows)
    assert found.tolist() == [True, False, False, True]


def test_documents_of_a_folder_are_named_as_the_user_does(tmp_path):
    codes = [[0, 1], [0, 1], [3, 0], [0, 2]]
    SemanticIndex.from_codes(["b", "a", "c", "d"], codes, [4, 5, 3]).save_pretrained(tmp_path)
    index = SemanticIndex.from_pretrained(tmp_path)
    for trie in (PrefixTreeLogitsProcessor.from_pretrained(tmp_path), index.logits_processor):
        assert index.documents_of(trie.filtered(["c", "b"]).tree.sequences()) == [["b"], ["c"]]
        assert trie.filtered([["a"], ["b", "c"]]).tree.num_filters == 2


def test_a_table_of_other_documents_than_the_tree_is_refused(tmp_path):
    SemanticIndex.from_codes(["b", "a"], [[0, 1], [3, 0]], [4, 5, 3]).save_pretrained(tmp_path)
    PrefixTree.from_sequences(FIXED).save_pretrained(tmp_path)
    trie = PrefixTreeLogitsProcessor.from_pretrained(tmp_path)
    with pytest.raises(CorruptedFolderError, match="it has 2 ids, and the prefix tree beside it 8 documents"):
        trie.filtered(["a"])


def test_documents_of_an_index_are_named_as_the_user_does():
    index = SemanticIndex.from_codes(["b", "a", "c", "d"], [[0, 1], [0, 1], [3, 0], [0, 2]], [4, 5, 3])
    trie = index.logits_processor
    filtered = trie.filtered(["a", "d"])
    assert index.documents_of(filtered.tree.sequences()) == [["a"], ["d"]]
    rows = torch.nn.functional.pad(index.sequences, (1, 0))
    assert filtered.is_valid(rows).tolist() == [False, True, False, True]
    per_row = trie.filtered([["a"], ["b", "c"]])
    assert per_row.is_valid(rows[[1, 0, 1, 2]]).tolist() == [True, False, False, True]
    assert trie.filtered(torch.tensor([True, False, False, False])).is_valid(rows).tolist() == [True] + [False] * 3
    with pytest.raises(KeyError, match="z"):
        trie.filtered(["a", "z"])


def test_a_sample_of_the_long_check():
    """Thousands of IDs under filters and changes; `tests/long/decode_valid_ids.py` decodes a million."""
    path = Path(__file__).parents[1] / "long" / "decode_valid_ids.py"
    spec = importlib.util.spec_from_file_location("decode_valid_ids", path)
    module = sys.modules["decode_valid_ids"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    lines = []
    counts = module.decode_valid_ids(sequences=4000, documents=2000, seed=0, log=lines.append)
    assert counts.wrong == 0, lines
    assert counts.sequences >= 4000 * 0.9 and counts.fillers > 0 and len(lines) == 19

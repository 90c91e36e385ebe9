import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prefix_oracle import LAYOUTS, Documents, assert_answers, code_sequences, content, following

from modeling_lmindexer.prefix_tree import PrefixTree

quick = settings(
    max_examples=25, deadline=None, database=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
both_layouts = pytest.mark.parametrize("layout", LAYOUTS)

THREE = [[3, 5], [3, 6], [4, 5]]
RAGGED = [[3], [3, 5], [3, 5, 2], [4, 0, 1], [4, 1]]


@both_layouts
@quick
@given(code_sequences(), st.data())
def test_answers_as_its_documents_do(layout, sequences, data):
    tree, documents = PrefixTree.from_sequences(sequences, layout=layout), Documents(sequences)
    known = sorted({code for sequence in sequences for code in sequence})
    strange = [*known, 0, 1, 2, tree.max_code + 1, 2 * tree.max_code + 2, 2**62]
    strangers = data.draw(st.lists(st.lists(st.sampled_from(strange), min_size=1, max_size=tree.depth), max_size=8))
    assert_answers(tree, documents, strangers=list(map(tuple, strangers)))
    assert tree.layout == layout
    assert (tree.pending, tree.num_filters) == (0, None)
    assert tree.max_code == max(map(max, sequences))
    assert tree.depth == max(map(len, sequences))
    assert tree.fixed_length == (len(set(map(len, sequences))) == 1)


@both_layouts
def test_the_order_of_the_sequences_numbers_the_documents(layout):
    tree = PrefixTree.from_sequences([[4, 5], [3, 6], [4, 5], [3, 5], [4, 5]], layout=layout)
    assert (len(tree), tree.num_documents) == (3, 5)
    rows, numbers = tree.documents(tree.walk(torch.tensor([[4, 5], [3, 5], [3, 7], [3, 6]])), 2)
    assert rows.tolist() == [0, 0, 0, 1, 3]
    assert sorted(numbers[:3].tolist()) == [0, 2, 4] and numbers[3:].tolist() == [3, 1]


@both_layouts
def test_several_prefixes_and_repeated_ones(layout):
    """As the beams of a query have them: in any order, and several rows with the same prefix."""
    generator = torch.Generator().manual_seed(0)
    sequences = torch.randint(0, 6, (300, 4), generator=generator)
    tree, documents = PrefixTree.from_sequences(sequences, layout=layout), Documents(sequences.tolist())
    for level in range(5):
        prefixes = sequences[torch.randint(0, 300, (50,), generator=generator), :level]
        nodes = tree.walk(prefixes)
        expected = [
            (row, code) for row, prefix in enumerate(prefixes.tolist()) for code in following(documents, tuple(prefix))
        ]
        rows, codes, _ = tree.expand(nodes, level)
        assert list(zip(rows.tolist(), codes.tolist(), strict=True)) == expected
        rows, numbers = tree.documents(nodes, level)
        owners = [{n for n, s in documents.items() if s == tuple(prefix)} for prefix in prefixes.tolist()]
        assert [set(numbers[rows == row].tolist()) for row in range(50)] == owners


@both_layouts
def test_no_rows_at_all(layout):
    tree = PrefixTree.from_sequences(THREE, layout=layout)
    for level in range(3):
        nodes = tree.walk(torch.empty(0, level, dtype=torch.long))
        assert nodes.shape == tree.is_terminal(nodes, level).shape == (0,)
        assert all(len(found) == 0 for found in (*tree.expand(nodes, level), *tree.documents(nodes, level)))
        assert tree.mask_scores(torch.zeros(0, 9), nodes, level).shape == (0, 9)
    assert tree.contains(torch.empty(0, 2, dtype=torch.long)).shape == (0,)


@both_layouts
def test_codes_out_of_range_do_not_reach_the_children_of_a_neighbour(layout):
    tree = PrefixTree.from_sequences([[0, 0], [0, 4], [1, 0], [1, 4]], layout=layout)
    nodes = tree.walk(torch.tensor([[0, 4], [0, 5], [0, 9], [1, -1], [1, -5], [2, -1], [-1, 4], [0, 2**62]]))
    assert (nodes >= 0).tolist() == [True] + [False] * 7


@both_layouts
@quick
@given(code_sequences(), st.data())
def test_contains_the_sequences_and_no_others(layout, sequences, data):
    tree = PrefixTree.from_sequences(sequences, layout=layout)
    known = sorted({code for sequence in sequences for code in sequence})
    code = st.sampled_from([*known, -2, tree.max_code + 1])
    others = data.draw(st.lists(st.lists(code, max_size=tree.depth + 1), max_size=20))
    candidates = [*sequences, *(sequence[:-1] for sequence in sequences), *others]
    rows = [[*row, *[-1] * (tree.depth + 1 - len(row))] for row in candidates]
    assert tree.contains(torch.tensor(rows)).tolist() == [list(row) in sequences for row in candidates]
    gaps = [[*sequence, -1, known[0], *[-1] * (tree.depth - len(sequence))] for sequence in sequences]
    assert not tree.contains(gaps).any()


@both_layouts
@quick
@given(code_sequences(scales=(1,)), st.data())
def test_mask_scores_keeps_the_children_and_nothing_else(layout, sequences, data):
    tree, documents = PrefixTree.from_sequences(sequences, layout=layout), Documents(sequences)
    level = data.draw(st.integers(0, tree.depth))
    prefixes = sorted({sequence[:level] for sequence in documents.values() if len(sequence) >= level})
    vocabulary = tree.max_code + 1 + data.draw(st.integers(0, 3))
    picked = data.draw(st.lists(st.sampled_from([*prefixes, None]), min_size=1, max_size=12))
    scores = torch.rand(len(picked), vocabulary)
    # None of these must survive outside the tree; NaN and +inf do not vanish in a sum with -inf.
    scores[data.draw(st.integers(0, len(picked) - 1)), data.draw(st.integers(0, vocabulary - 1))] = torch.inf
    before = scores.clone()
    nodes = tree.walk(torch.tensor([[-5] * level if p is None else p for p in picked]).view(len(picked), level).long())
    nodes = nodes.where(torch.tensor([prefix is not None for prefix in picked]), -1)
    masked = tree.mask_scores(scores, nodes, level)
    expected = torch.full_like(scores, -torch.inf)
    for row, prefix in enumerate(picked):
        for code in following(documents, prefix) if prefix is not None else ():
            expected[row, code] = scores[row, code]
    assert torch.equal(masked, expected)
    assert torch.equal(scores, before)


@both_layouts
@pytest.mark.parametrize("level", [0, 1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_mask_scores_keeps_the_dtype_and_cuts_nan(layout, level, dtype):
    tree = PrefixTree.from_sequences(THREE, layout=layout)
    scores = torch.full((1, 9), torch.nan, dtype=dtype)
    scores[0, 3:7] = torch.tensor([3.0, 4.0, 5.0, 6.0])
    masked = tree.mask_scores(scores, tree.walk(torch.full((1, level), 3)), level)
    assert masked.dtype == dtype
    allowed = tree.children([3] * level)
    assert masked[0, allowed].tolist() == allowed.tolist()
    assert masked.isneginf().sum() == 9 - len(allowed)


@both_layouts
def test_the_root_follows_the_width_and_dtype_of_the_scores(layout):
    tree, root = PrefixTree.from_sequences(THREE, layout=layout), torch.zeros(2, 0, dtype=torch.long)
    for vocabulary in (7, 12, 7):
        for dtype in (torch.float32, torch.bfloat16):
            masked = tree.mask_scores(torch.zeros(2, vocabulary, dtype=dtype), tree.walk(root), 0)
            assert masked.dtype == dtype
            assert masked.isfinite().nonzero().tolist() == [[0, 3], [0, 4], [1, 3], [1, 4]]


@both_layouts
def test_mask_scores_takes_any_memory_layout(layout):
    tree, scores = PrefixTree.from_sequences(THREE, layout=layout), torch.rand(8, 2).T
    strided = torch.rand(4, 16)[::2, ::2]
    for level in (0, 1):
        nodes = tree.walk(torch.tensor([[4], [3]])[:, :level])
        for given_scores in (scores, strided, scores[:1].expand(2, -1)):
            expected = tree.mask_scores(given_scores.contiguous(), nodes, level)
            assert torch.equal(tree.mask_scores(given_scores, nodes, level), expected)


@both_layouts
@pytest.mark.parametrize("level", [0, 1])
def test_too_narrow_scores_are_an_error(layout, level):
    tree = PrefixTree.from_sequences(THREE, layout=layout)
    nodes = tree.walk(torch.full((1, level), 3))
    tree.mask_scores(torch.zeros(1, 7), nodes, level)
    with pytest.raises(ValueError, match="codes up to 6, the scores have 6 columns"):
        tree.mask_scores(torch.zeros(1, 6), nodes, level)


@both_layouts
@pytest.mark.parametrize("dtype", ["int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"])
def test_any_integer_array(layout, dtype):
    expected = content(PrefixTree.from_sequences(THREE[::-1] + THREE, layout=layout))
    array = np.array(THREE[::-1] + THREE, dtype=dtype)
    assert content(PrefixTree.from_sequences(array, layout=layout)) == expected
    assert content(PrefixTree.from_sequences(torch.from_numpy(array), layout=layout)) == expected


@both_layouts
def test_any_memory_layout_leaves_the_input_alone(layout):
    array = np.array(THREE)
    array.flags.writeable = False
    expected = content(PrefixTree.from_sequences(THREE, layout=layout))
    for given_array in (array, np.asfortranarray(array), torch.tensor(THREE).T.contiguous().T):
        assert content(PrefixTree.from_sequences(given_array, layout=layout)) == expected
    turned = PrefixTree.from_sequences(array[::-1], layout=layout)
    assert content(turned) == content(PrefixTree.from_sequences(THREE[::-1], layout=layout))
    assert array.tolist() == THREE


@both_layouts
@pytest.mark.parametrize("kind", [np.array, torch.tensor])
def test_a_tree_does_not_follow_its_input(layout, kind):
    """Sorted arrays need no copy to be built from, but must not be shared with the caller."""
    array = kind(THREE)
    tree = PrefixTree.from_sequences(array, layout=layout)
    array[:] = 0
    assert tree.sequences().tolist() == THREE
    tree.sequences()[:] = 0
    tree.codes_at(0)[:] = 0
    assert tree.sequences().tolist() == THREE and tree.children([]).tolist() == [3, 4]


@both_layouts
@quick
@given(code_sequences(), st.integers(-9, 9))
def test_lengths_tell_codes_from_padding(layout, sequences, filler):
    lengths = [len(sequence) for sequence in sequences]
    rows = [[*sequence, *[filler] * (7 - len(sequence))] for sequence in sequences]
    expected = content(PrefixTree.from_sequences(sequences, layout=layout))
    for array, array_lengths in ((torch.tensor(rows), lengths), (np.array(rows), np.array(lengths))):
        assert content(PrefixTree.from_sequences(array, lengths=array_lengths, layout=layout)) == expected


@both_layouts
@pytest.mark.parametrize(
    ("sequences", "lengths", "message"),
    [
        ([], None, "an empty list"),
        (np.zeros((0, 3), dtype=int), None, "at least one code"),
        (np.zeros((3, 0), dtype=int), None, "at least one code"),
        ([[1], []], None, "an empty sequence at index 1"),
        ([[1, 2], [1, -4]], None, "the code -4"),
        (torch.tensor([[1, -1]]), None, "the code -1.*lengths"),
        (torch.tensor([1, 2]), None, r"shape \(2,\)"),
        (torch.zeros(2, 2, 2, dtype=torch.long), None, r"shape \(2, 2, 2\)"),
        ([1, 2], None, "other than lists"),
        ([[[1]], [[2]]], None, "nested 3 deep"),
        ([[1.5, 2.0]], None, "float64"),
        (torch.rand(2, 2), None, "float32"),
        (np.ones((2, 2)), None, "float64"),
        (np.ones((2, 2), dtype=bool), None, "bool"),
        (torch.ones(2, 2, dtype=torch.bool), None, "bool"),
        ([["a"]], None, "expected lists of integers"),
        ([[1, 2]], [2], "lengths goes with an array"),
        (np.ones((2, 2), dtype=int), [1], "expected 2 integers"),
        (np.ones((2, 2), dtype=int), [1.0, 2.0], "float32"),
        (np.ones((2, 2), dtype=int), [0, 2], "from 0 to 2"),
        (np.ones((2, 2), dtype=int), [1, 3], "from 1 to 3"),
        (np.array([[1, -3], [1, 1]]), [2, 1], "the code -3"),
        (np.array([[2**63 - 1]]), None, "do not fit"),
    ],
)
def test_unfit_sequences(layout, sequences, lengths, message):
    with pytest.raises(ValueError, match=message):
        PrefixTree.from_sequences(sequences, lengths=lengths, layout=layout)


def test_an_unknown_layout_is_named():
    with pytest.raises(ValueError, match="small.*fast.*compact"):
        PrefixTree.from_sequences(THREE, layout="small")


@both_layouts
def test_the_largest_codes_that_fit(layout):
    large = 2**62
    rows = [[0, large], [1, large], [1, 5], [2, 0], [large, 0], [large, large]]
    tree = PrefixTree.from_sequences(rows[::-1], layout=layout)
    assert tree.sequences().tolist() == sorted(rows)
    others = [[0, 5], [2, large], [0, large - 1], [large, large + 1], [2**63 - 1, 0], [-(2**63), large]]
    assert tree.contains(torch.tensor([*rows, *others])).tolist() == [True] * 6 + [False] * 6


@both_layouts
def test_keys_of_all_64_bits_behind_positions_of_one_code(layout):
    """21, 21 and 22 bits; the positions before need none, and the sign belongs to the first that needs some."""
    sequences = [[0, 0, 2**20, 0, 2**22 - 1], [0, 0, 0, 2**20, 1], [0, 0, 2**20, 0, 0]]
    tree = PrefixTree.from_sequences(sequences, layout=layout)
    assert tree.sequences().tolist() == sorted(sequences)
    assert tree.contains(sequences).all()


@both_layouts
def test_repr_and_size(layout):
    text = repr(PrefixTree.from_sequences(RAGGED, layout=layout))
    assert "5 sequences of up to 3 codes" in text and "codes up to 5" in text and "cpu" in text
    codes = torch.randint(0, 512, (10_000, 4), generator=torch.Generator().manual_seed(0))
    tree = PrefixTree.from_sequences(codes, layout=layout)
    assert 8 * 10_000 < tree.nbytes < 50 * 10_000
    assert "10,000 sequences of 4 codes" in repr(tree) and f"{tree.nbytes:,}" in repr(tree) and layout in repr(tree)


def test_the_compact_layout_takes_20_bytes_a_document():
    """Four positions, as many codes as the smallest real corpus has: the map to the documents is included."""
    codes = torch.randint(0, 512, (100_000, 4), generator=torch.Generator().manual_seed(0))
    compact = PrefixTree.from_sequences(codes, layout="compact")
    assert compact.nbytes <= 20 * 100_000 < PrefixTree.from_sequences(codes).nbytes
    codes = torch.randint(0, 64, (100_000, 8), generator=torch.Generator().manual_seed(0))
    assert PrefixTree.from_sequences(codes, layout="compact").nbytes <= 50 * 100_000


@both_layouts
def test_to_another_device(layout):
    for sequences in (THREE, RAGGED):
        tree = PrefixTree.from_sequences(sequences, layout=layout)
        assert tree.to("cpu") is tree
        moved = tree.to("meta")
        assert moved.device.type == "meta" and tree.device.type == "cpu"
        assert (moved.nbytes, moved.depth, moved.fixed_length) == (tree.nbytes, tree.depth, tree.fixed_length)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@both_layouts
def test_the_same_on_a_gpu(layout):
    codes = torch.randint(0, 9, (500, 4), generator=torch.Generator().manual_seed(0))
    lengths = torch.randint(1, 5, (500,), generator=torch.Generator().manual_seed(1))
    for kept in (None, lengths):
        tree = PrefixTree.from_sequences(codes, kept, layout=layout)
        on_gpu = PrefixTree.from_sequences(codes.cuda(), kept if kept is None else kept.cuda(), layout=layout)
        assert on_gpu.device.type == "cuda"
        assert content(on_gpu.to("cpu")) == content(tree)
        on_gpu.add(codes[:5, [1, 0, 2, 3]].cuda())
        tree.add(codes[:5, [1, 0, 2, 3]])
        assert torch.equal(on_gpu.sequences().cpu(), tree.sequences())
        allowed = torch.rand(3, tree.num_documents, generator=torch.Generator().manual_seed(2)) < 0.3
        scores = torch.rand(498, 12)
        for ours, theirs in ((tree, on_gpu), (tree.filtered(allowed), on_gpu.filtered(allowed.cuda()))):
            for level in range(5):
                nodes = ours.walk(codes[:498, :level])
                masked = theirs.mask_scores(scores.cuda(), theirs.walk(codes[:498, :level].cuda()), level)
                assert torch.equal(masked.cpu(), ours.mask_scores(scores, nodes, level))


@pytest.mark.parametrize(
    ("layout", "filtered", "pending"),
    [("fast", False, False), ("fast", True, True), ("compact", False, True)],
)
def test_compiled_without_breaks_the_same_as_eager(layout, filtered, pending):
    tree = PrefixTree.from_sequences(RAGGED * 2, layout=layout)
    if pending:
        tree.add([[4, 1, 5], [2]])
        tree.remove([1, 6])
        assert tree.pending
    if filtered:
        tree = tree.filtered([[0, 2, 3], [4, 8, 9]])

    def step(prefixes, scores, level):
        nodes = tree.walk(prefixes)
        return *tree.expand_padded(nodes, level), tree.mask_scores(scores, nodes, level)

    torch.compiler.reset()
    compiled = torch.compile(step, fullgraph=True, backend="eager")
    prefixes, scores = torch.tensor([[3, 5], [4, 0], [9, 9], [4, 1]]), torch.rand(4, 9)
    for level in range(tree.depth):
        expected = step(prefixes[:, :level], scores, level)
        for found, wanted in zip(compiled(prefixes[:, :level], scores, level), expected, strict=True):
            assert torch.equal(found, wanted)


@both_layouts
@quick
@given(code_sequences(scales=(1,)), st.booleans(), st.randoms())
def test_relabelled_replaces_every_code(layout, sequences, flat, random):
    tree = PrefixTree.from_sequences(sequences, layout=layout)
    table = [random.sample(range(50, 90), tree.max_code + 3) for _ in range(1 if flat else tree.depth + 1)]
    token_ids = table[0] if flat else table
    expected = [[table[0 if flat else i][code] for i, code in enumerate(sequence)] for sequence in sequences]
    for given_ids in (torch.tensor(token_ids, dtype=torch.int32), token_ids):
        assert content(tree.relabelled(given_ids)) == content(PrefixTree.from_sequences(expected))


@both_layouts
def test_relabelled_keeps_layout_numbers_and_changes(layout):
    """Numbers of documents mean the same in the tree of a processor with token_ids."""
    tree = PrefixTree.from_sequences([[1, 2], [0, 1], [1, 2], [2, 0]], layout=layout)
    tree.remove([1])
    tree.add([[0, 0]])
    relabelled = tree.relabelled([10, 11, 12])
    assert relabelled.layout == layout
    assert content(relabelled) == (2, True, 5, {(11, 12): [0, 2], (12, 10): [3], (10, 10): [4]})
    assert content(tree) == (2, True, 5, {(1, 2): [0, 2], (2, 0): [3], (0, 0): [4]})


@pytest.mark.parametrize(
    ("token_ids", "message"),
    [
        ([10, 11, 12, 13, 13, 14, 15], "2 codes of position 0"),
        ([[9, 9, 9, 1, 2, 3, 4], [9, 9, 9, 1, 2, 3, 3]], "2 codes of position 1"),
        ([9, 9, 9, 1, 2, 3, -4], "-4 at position 1"),
        ([9, 9, 9, 1, 2, 3], "codes below 6: the tree has 2 positions and codes up to 6"),
        ([[9, 9, 9, 1, 2, 3, 4]], "covers 1 positions"),
        ([[[1]]], r"shape \(1, 1, 1\)"),
        ([0.5, 1.5], "float32"),
    ],
)
def test_unfit_token_ids(token_ids, message):
    with pytest.raises(ValueError, match=message):
        PrefixTree.from_sequences(THREE).relabelled(token_ids)


def test_relabelled_ignores_codes_that_no_sequence_has():
    tree = PrefixTree.from_sequences(THREE).relabelled([[-1, -1, -1, 1, 2, -1, -1], [-1, -1, -1, -1, -1, 1, 2]])
    assert tree.sequences().tolist() == [[1, 1], [1, 2], [2, 1]]


@both_layouts
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32], ids=str)
def test_prefixes_of_any_integer_type(layout, dtype):
    tree = PrefixTree.from_sequences([[0, 2**40], [5, 7], [3, 300]], layout=layout)
    assert tree.contains(torch.tensor([[5, 7], [3, 44], [0, 7]], dtype=dtype)).tolist() == [True, False, False]


@both_layouts
def test_built_and_read_under_another_default_device(layout):
    with torch.device("meta"):
        tree = PrefixTree.from_sequences(np.array(THREE), layout=layout)
    assert tree.device.type == "cpu" and tree.contains(THREE).all()


@both_layouts
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
def test_a_traced_step_follows_its_tokens(layout):
    tree = PrefixTree.from_sequences([[3, 5], [3, 6], [4, 5]], layout=layout)

    def step(prefixes, scores):
        return tree.mask_scores(scores, tree.walk(prefixes), 1)

    traced = torch.jit.trace(step, (torch.tensor([[3], [3]]), torch.rand(2, 8)))
    prefixes, scores = torch.tensor([[4], [9]]), torch.rand(2, 8)
    assert torch.equal(traced(prefixes, scores), step(prefixes, scores))


@both_layouts
def test_no_rows_at_the_root(layout):
    tree = PrefixTree.from_sequences([[0, 1], [2, 1], [4, 1]], layout=layout)
    assert tree.mask_scores(torch.zeros(0, 9), torch.zeros(0, dtype=torch.long), 0).shape == (0, 9)

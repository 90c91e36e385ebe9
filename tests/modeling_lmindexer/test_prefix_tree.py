import bisect
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file

from modeling_lmindexer.folder import CorruptedFolderError, read_manifest, update_manifest
from modeling_lmindexer.prefix_tree import PREFIX_TREE_NAME, PrefixTree

quick = settings(
    max_examples=60, deadline=None, database=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)

THREE = [[3, 5], [3, 6], [4, 5]]
RAGGED = [[3], [3, 5], [3, 5, 2], [4, 0, 1], [4, 1]]


class DictTrie:
    """The oracle: every prefix of every sequence, with the codes that follow it."""

    def __init__(self, sequences):
        self.sequences = sorted({tuple(sequence) for sequence in sequences})
        self.depth = max(map(len, self.sequences))
        self.following = {}
        for sequence in self.sequences:
            for level, code in enumerate(sequence):
                self.following.setdefault(sequence[:level], set()).add(code)

    def level(self, level):
        """All prefixes of that length, sorted: their places are the node numbers."""
        return sorted({sequence[:level] for sequence in self.sequences if len(sequence) >= level})

    def node(self, prefix):
        nodes = self.level(len(prefix))
        place = bisect.bisect_left(nodes, tuple(prefix))
        return place if place < len(nodes) and nodes[place] == tuple(prefix) else -1


def padded(sequences, width):
    return [[*sequence, *[-1] * (width - len(sequence))] for sequence in sequences]


def assert_same(tree, other):
    """The same arrays, whatever way the two trees came about."""
    assert (tree.max_code, tree.depth, tree.fixed_length) == (other.max_code, other.depth, other.fixed_length)
    for kind in ("_keys", "_starts", "_terminal"):
        for mine, theirs in zip(getattr(tree, kind) or [], getattr(other, kind) or [], strict=True):
            assert mine.dtype == theirs.dtype and torch.equal(mine, theirs)


@st.composite
def code_sequences(draw, scales=(1, 2**20, 2**33)):
    """Few different codes, so that prefixes are shared and sequences repeated; large ones need several sorts."""
    scale, offset = draw(st.sampled_from(scales)), draw(st.sampled_from([0, 7]))
    code = st.integers(0, 4).map(lambda number: number * scale + offset)
    shortest, longest = draw(st.sampled_from([(1, 5), (3, 3), (1, 1), (2, 6)]))
    return draw(st.lists(st.lists(code, min_size=shortest, max_size=longest), min_size=1, max_size=40))


@quick
@given(code_sequences())
def test_holds_exactly_the_sequences(sequences):
    tree, oracle = PrefixTree.from_sequences(sequences), DictTrie(sequences)
    assert len(tree) == len(oracle.sequences)
    assert tree.depth == oracle.depth
    assert tree.max_code == max(map(max, sequences))
    assert tree.fixed_length == (len(set(map(len, sequences))) == 1)
    assert tree.sequences().tolist() == padded(oracle.sequences, tree.depth)
    for position in range(tree.depth):
        assert tree.codes_at(position).tolist() == sorted({s[position] for s in sequences if len(s) > position})


@quick
@given(code_sequences())
def test_walks_and_expands_every_prefix(sequences):
    tree, oracle = PrefixTree.from_sequences(sequences), DictTrie(sequences)
    for level in range(tree.depth + 1):
        prefixes = oracle.level(level)
        nodes = tree.walk(torch.tensor(prefixes, dtype=torch.long).view(len(prefixes), level))
        assert nodes.tolist() == list(range(len(prefixes)))
        assert tree.is_terminal(nodes, level).tolist() == [prefix in oracle.sequences for prefix in prefixes]
        following = [sorted(oracle.following.get(prefix, ())) for prefix in prefixes]
        assert [tree.children(prefix).tolist() for prefix in prefixes] == following
        rows, codes, children = tree.expand(nodes, level)
        assert list(zip(rows.tolist(), codes.tolist(), strict=True)) == [
            (row, code) for row, codes in enumerate(following) for code in codes
        ]
        assert children.tolist() == list(range(len(codes)))


@quick
@given(code_sequences(), st.data())
def test_prefixes_in_and_out_of_the_tree(sequences, data):
    tree, oracle = PrefixTree.from_sequences(sequences), DictTrie(sequences)
    known = sorted({code for sequence in sequences for code in sequence})
    strange = [-2, -1, 0, 1, tree.max_code + 1, 2 * tree.max_code + 2, 2**62]
    width = data.draw(st.integers(0, tree.depth + 2))
    code = st.sampled_from(known) | st.sampled_from(strange)
    prefixes = data.draw(st.lists(st.lists(code, min_size=width, max_size=width), min_size=1, max_size=20))
    prefixes += [[*sequence, *known * width][:width] for sequence in sequences]
    nodes = tree.walk(torch.tensor(prefixes, dtype=torch.long).view(len(prefixes), width))
    assert nodes.tolist() == [oracle.node(prefix) for prefix in prefixes]
    dead = [[]] * int((nodes < 0).sum())
    assert [tree.children(prefix).tolist() for prefix, node in zip(prefixes, nodes, strict=True) if node < 0] == dead


def test_codes_out_of_range_do_not_reach_the_children_of_a_neighbour():
    tree = PrefixTree.from_sequences([[0, 0], [0, 4], [1, 0], [1, 4]])
    assert tree.walk(torch.tensor([[0, 4], [0, 5], [0, 9], [1, -1], [1, -5], [2, -1]])).tolist() == [
        1,
        -1,
        -1,
        -1,
        -1,
        -1,
    ]


@quick
@given(code_sequences(), st.data())
def test_contains_the_sequences_and_no_others(sequences, data):
    tree, oracle = PrefixTree.from_sequences(sequences), DictTrie(sequences)
    known = sorted({code for sequence in sequences for code in sequence})
    code = st.sampled_from([*known, -2, tree.max_code + 1])
    others = data.draw(st.lists(st.lists(code, max_size=tree.depth + 1), max_size=20))
    candidates = [*sequences, *(sequence[:-1] for sequence in sequences), *others]
    rows = padded(candidates, tree.depth + 1)
    assert tree.contains(torch.tensor(rows)).tolist() == [tuple(row) in oracle.sequences for row in candidates]
    gaps = [[*sequence, -1, known[0]] for sequence in sequences]
    assert not tree.contains(padded(gaps, tree.depth + 2)).any()


@quick
@given(code_sequences(scales=(1,)), st.data())
def test_mask_scores_keeps_the_children_and_nothing_else(sequences, data):
    tree, oracle = PrefixTree.from_sequences(sequences), DictTrie(sequences)
    level = data.draw(st.integers(0, tree.depth + 1))
    prefixes = oracle.level(level)
    vocabulary = tree.max_code + 1 + data.draw(st.integers(0, 3))
    picked = data.draw(st.lists(st.integers(-1, len(prefixes) - 1), min_size=1, max_size=12))
    scores = torch.rand(len(picked), vocabulary)
    # None of these must survive outside the tree; NaN and +inf do not vanish in a sum with -inf.
    scores[data.draw(st.integers(0, len(picked) - 1)), data.draw(st.integers(0, vocabulary - 1))] = torch.inf
    before = scores.clone()
    masked = tree.mask_scores(scores, torch.tensor(picked), level)
    expected = torch.full_like(scores, -torch.inf)
    for row, node in enumerate(picked):
        for code in oracle.following.get(prefixes[node], ()) if node >= 0 else ():
            expected[row, code] = scores[row, code]
    assert torch.equal(masked, expected)
    assert torch.equal(scores, before)


@pytest.mark.parametrize("level", [0, 1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_mask_scores_keeps_the_dtype_and_cuts_nan(level, dtype):
    tree = PrefixTree.from_sequences(THREE)
    scores = torch.full((1, 9), torch.nan, dtype=dtype)
    scores[0, 3:7] = torch.tensor([3.0, 4.0, 5.0, 6.0])
    masked = tree.mask_scores(scores, tree.walk(torch.full((1, level), 3)), level)
    assert masked.dtype == dtype
    allowed = tree.children([3] * level)
    assert masked[0, allowed].tolist() == allowed.tolist()
    assert masked.isneginf().sum() == 9 - len(allowed)


def test_root_row_follows_the_width_of_the_scores():
    tree, root = PrefixTree.from_sequences(THREE), torch.zeros(1, dtype=torch.long)
    for vocabulary in (7, 12, 7):
        assert tree.mask_scores(torch.zeros(1, vocabulary), root, 0).isfinite().nonzero()[:, 1].tolist() == [3, 4]


def test_mask_scores_takes_any_memory_layout():
    tree, scores = PrefixTree.from_sequences(THREE), torch.rand(8, 2).T
    nodes = torch.tensor([1, 0])
    assert torch.equal(tree.mask_scores(scores, nodes, 1), tree.mask_scores(scores.contiguous(), nodes, 1))


@pytest.mark.parametrize("level", [0, 1])
def test_too_narrow_scores_are_an_error(level):
    tree = PrefixTree.from_sequences(THREE)
    tree.mask_scores(torch.zeros(1, 7), torch.zeros(1, dtype=torch.long), level)
    with pytest.raises(ValueError, match="codes up to 6, the scores have 6 columns"):
        tree.mask_scores(torch.zeros(1, 6), torch.zeros(1, dtype=torch.long), level)


@pytest.mark.parametrize("dtype", ["int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"])
def test_any_integer_array(dtype):
    expected = PrefixTree.from_sequences(THREE)
    array = np.array(THREE[::-1] + THREE, dtype=dtype)
    assert_same(PrefixTree.from_sequences(array), expected)
    assert_same(PrefixTree.from_sequences(torch.from_numpy(array)), expected)


def test_any_memory_layout_leaves_the_input_alone():
    array = np.array(THREE)
    array.flags.writeable = False
    expected = PrefixTree.from_sequences(THREE)
    assert_same(PrefixTree.from_sequences(array), expected)
    assert_same(PrefixTree.from_sequences(array[::-1]), expected)
    assert_same(PrefixTree.from_sequences(np.asfortranarray(array)), expected)
    assert_same(PrefixTree.from_sequences(torch.tensor(THREE).T.contiguous().T), expected)
    assert array.tolist() == THREE


@quick
@given(code_sequences(), st.integers(-9, 9))
def test_lengths_tell_codes_from_padding(sequences, filler):
    lengths = [len(sequence) for sequence in sequences]
    rows = [[*sequence, *[filler] * (7 - len(sequence))] for sequence in sequences]
    expected = PrefixTree.from_sequences(sequences)
    assert_same(PrefixTree.from_sequences(torch.tensor(rows), lengths=lengths), expected)
    assert_same(PrefixTree.from_sequences(np.array(rows), lengths=np.array(lengths)), expected)


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
        (np.array([[i, 2**61] for i in range(4)]), None, "below 4 nodes"),
    ],
)
def test_unfit_sequences(sequences, lengths, message):
    with pytest.raises(ValueError, match=message):
        PrefixTree.from_sequences(sequences, lengths=lengths)


def test_the_largest_codes_that_fit():
    rows = [[0, 2**61], [1, 2**61], [1, 5], [2, 0]]
    tree = PrefixTree.from_sequences(rows[::-1])
    assert tree.sequences().tolist() == sorted(rows)
    assert tree.walk(torch.tensor(rows)).tolist() == [0, 2, 1, 3]


def test_repr_and_size():
    text = repr(PrefixTree.from_sequences(RAGGED))
    assert "5 sequences of up to 3 codes" in text and "codes up to 5" in text and "cpu" in text
    codes = torch.randint(0, 512, (10_000, 4), generator=torch.Generator().manual_seed(0))
    assert 8 * 10_000 < PrefixTree.from_sequences(codes).nbytes < 40 * 10_000


def test_to_another_device():
    for tree in (PrefixTree.from_sequences(THREE), PrefixTree.from_sequences(RAGGED)):
        assert tree.to("cpu") is tree
        moved = tree.to("meta")
        assert moved.device.type == "meta" and tree.device.type == "cpu"
        assert (moved.nbytes, moved.depth, moved.fixed_length) == (tree.nbytes, tree.depth, tree.fixed_length)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_same_on_a_gpu():
    codes = torch.randint(0, 9, (500, 4), generator=torch.Generator().manual_seed(0))
    lengths = torch.randint(1, 5, (500,), generator=torch.Generator().manual_seed(1))
    for kept in (None, lengths):
        tree = PrefixTree.from_sequences(codes, kept)
        on_gpu = PrefixTree.from_sequences(codes.cuda(), kept)
        assert on_gpu.device.type == "cuda"
        assert_same(on_gpu.to("cpu"), tree)
        assert torch.equal(on_gpu.sequences().cpu(), tree.sequences())
        scores = torch.rand(500, 12)
        for level in range(5):
            nodes = tree.walk(codes[:, :level])
            masked = on_gpu.mask_scores(scores.cuda(), on_gpu.walk(codes[:, :level].cuda()), level)
            assert torch.equal(masked.cpu(), tree.mask_scores(scores, nodes, level))


@quick
@given(code_sequences(scales=(1,)), st.booleans(), st.randoms())
def test_relabelled_replaces_every_code(sequences, flat, random):
    tree = PrefixTree.from_sequences(sequences)
    table = [random.sample(range(50, 90), tree.max_code + 3) for _ in range(1 if flat else tree.depth + 1)]
    token_ids = table[0] if flat else table
    expected = [[table[0 if flat else i][code] for i, code in enumerate(sequence)] for sequence in sequences]
    assert_same(tree.relabelled(torch.tensor(token_ids, dtype=torch.int32)), PrefixTree.from_sequences(expected))
    assert_same(tree.relabelled(token_ids), PrefixTree.from_sequences(expected))


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


@quick
@given(code_sequences())
def test_saved_and_loaded(sequences):
    tree = PrefixTree.from_sequences(sequences)
    with tempfile.TemporaryDirectory() as folder:
        tree.save_pretrained(folder)
        assert [path.name for path in Path(folder).iterdir()] == [PREFIX_TREE_NAME]
        loaded = PrefixTree.from_pretrained(folder)
    assert_same(loaded, tree)


def test_save_updates_a_manifest_and_load_heeds_it(tmp_path):
    update_manifest(tmp_path, [])
    PrefixTree.from_sequences(THREE).save_pretrained(tmp_path)
    assert list(read_manifest(tmp_path / "manifest.json")["files"]) == [PREFIX_TREE_NAME]
    assert len(PrefixTree.from_pretrained(str(tmp_path))) == 3

    PrefixTree.from_sequences(RAGGED).save_pretrained(tmp_path / "other")
    (tmp_path / "other" / PREFIX_TREE_NAME).rename(tmp_path / PREFIX_TREE_NAME)
    with pytest.raises(CorruptedFolderError, match=f"{PREFIX_TREE_NAME}.*manifest"):
        PrefixTree.from_pretrained(tmp_path)


def test_a_missing_file_is_no_corruption(tmp_path):
    with pytest.raises(FileNotFoundError, match=PREFIX_TREE_NAME):
        PrefixTree.from_pretrained(tmp_path)
    with pytest.raises(FileNotFoundError, match="no-such/repository"):
        PrefixTree.from_pretrained("no-such/repository", local_files_only=True)


@pytest.mark.parametrize("sequences", [THREE, RAGGED])
def test_every_truncation_is_noticed(tmp_path, sequences):
    PrefixTree.from_sequences(sequences).save_pretrained(tmp_path)
    path = tmp_path / PREFIX_TREE_NAME
    content = path.read_bytes()
    for size in range(len(content)):
        path.write_bytes(content[:size])
        with pytest.raises(CorruptedFolderError, match=PREFIX_TREE_NAME):
            PrefixTree.from_pretrained(tmp_path)
    path.write_bytes(content)
    assert len(PrefixTree.from_pretrained(tmp_path)) == len(sequences)


@pytest.mark.parametrize("sequences", [THREE, RAGGED])
def test_a_changed_byte_is_noticed_or_makes_another_sound_tree(tmp_path, sequences):
    PrefixTree.from_sequences(sequences).save_pretrained(tmp_path)
    path = tmp_path / PREFIX_TREE_NAME
    content = path.read_bytes()
    noticed = 0
    for place in range(len(content)):
        for value in (content[place] ^ 1, 0x80, 0xFF):
            path.write_bytes(content[:place] + bytes([value]) + content[place + 1 :])
            try:
                tree = PrefixTree.from_pretrained(tmp_path)
            except CorruptedFolderError:
                noticed += 1
                continue
            rows = tree.sequences()
            assert len(rows) == len(tree) and tree.contains(rows).all()
            again = PrefixTree.from_sequences(rows, (rows >= 0).sum(1))
            if again.fixed_length == tree.fixed_length:
                assert_same(again, tree)
    assert noticed > 2 * len(content)


@pytest.mark.parametrize("content", [b"", b"not a safetensors file at all", b"\xff" * 64])
def test_another_kind_of_file(tmp_path, content):
    (tmp_path / PREFIX_TREE_NAME).write_bytes(content)
    with pytest.raises(CorruptedFolderError, match=PREFIX_TREE_NAME):
        PrefixTree.from_pretrained(tmp_path)


def edited(name, value):
    return lambda arrays, metadata: arrays.__setitem__(name, value)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda arrays, metadata: metadata.clear(), "metadata"),
        (lambda arrays, metadata: metadata.update(format="pt"), "metadata"),
        (lambda arrays, metadata: metadata.update(version="latest"), "metadata"),
        (lambda arrays, metadata: metadata.update(version="2"), "version is 2, this package reads up to 1"),
        (lambda arrays, metadata: arrays.clear(), "holds the arrays"),
        (lambda arrays, metadata: arrays.pop("codes.1"), "holds the arrays"),
        (lambda arrays, metadata: arrays.pop("terminal.2"), "holds the arrays"),
        (lambda arrays, metadata: [arrays.pop(f"terminal.{i}") for i in range(3)], "neither has children nor ends"),
        (edited("weight", torch.zeros(2)), "holds the arrays"),
        (edited("codes.0", torch.tensor([3.0, 4.0])), "codes.0 has shape"),
        (edited("codes.0", torch.tensor([[3, 4]])), "codes.0 has shape"),
        (edited("codes.0", torch.tensor([], dtype=torch.int32)), "codes.0 has shape"),
        (edited("starts.0", torch.tensor([0, 2])), "starts.0 has shape.*int64"),
        (edited("terminal.0", torch.tensor([1, 0])), "terminal.0 has shape"),
        (edited("codes.0", torch.tensor([4, 3])), "codes.0 does not ascend"),
        (edited("codes.1", torch.tensor([5, 1, 1])), "codes.1 does not ascend"),
        (edited("codes.0", torch.tensor([-3, 4])), "negative code -3"),
        (edited("codes.0", torch.tensor([3, 2**62])), "do not fit"),
        (edited("starts.1", torch.tensor([0, 1, 2], dtype=torch.int32)), "starts.1 does not share out"),
        (edited("starts.1", torch.tensor([1, 1, 3], dtype=torch.int32)), "starts.1 does not share out"),
        (edited("starts.1", torch.tensor([0, 4, 3], dtype=torch.int32)), "starts.1 does not share out"),
        (edited("starts.1", torch.tensor([0, 3], dtype=torch.int32)), "starts.1 does not share out"),
        (edited("starts.2", torch.tensor([0, 1, 1, 2], dtype=torch.int32)), "position 1 neither"),
        (edited("terminal.2", torch.tensor([True, False])), "position 2 neither"),
        (edited("terminal.1", torch.tensor([True])), "terminal.1 has 1 values for 3 nodes"),
    ],
)
def test_every_array_is_checked(tmp_path, edit, message):
    PrefixTree.from_sequences(RAGGED).save_pretrained(tmp_path)
    path = tmp_path / PREFIX_TREE_NAME
    with safe_open(path, framework="pt") as file:
        metadata, arrays = dict(file.metadata()), {name: file.get_tensor(name).clone() for name in file.keys()}
    edit(arrays, metadata)
    save_file(arrays, path, metadata=metadata)
    with pytest.raises(CorruptedFolderError, match=f"{PREFIX_TREE_NAME}.*{message}"):
        PrefixTree.from_pretrained(tmp_path)

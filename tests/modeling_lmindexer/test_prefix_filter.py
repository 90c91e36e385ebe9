import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from prefix_oracle import (
    LAYOUTS,
    Documents,
    assert_answers,
    code_sequences,
    content,
    document_filters,
    further_sequences,
    tensor_of,
)

from modeling_lmindexer.prefix_tree import PrefixTree

quick = settings(max_examples=25, deadline=None, database=None)
both_layouts = pytest.mark.parametrize("layout", LAYOUTS)

FIVE = [[3, 5], [3, 6], [4, 5], [3, 5], [4, 7]]  # documents 0 and 3 share an ID


@both_layouts
@quick
@given(code_sequences(), st.data())
def test_a_filtered_tree_answers_as_the_allowed_documents_do(layout, sequences, data):
    tree, documents = PrefixTree.from_sequences(sequences, layout=layout), Documents(sequences)
    allowed, sets, per_row = data.draw(document_filters(len(sequences)))
    view = tree.filtered(allowed)
    assert view.num_filters == (len(sets) if per_row else None)
    assert view.layout == layout and (view.depth, view.max_code) == (tree.depth, tree.max_code)
    assert_answers(view, documents, sets)
    assert_answers(tree, documents)


@both_layouts
@quick
@given(code_sequences(), st.data())
def test_filters_on_a_tree_with_pending_changes(layout, sequences, data):
    tree, documents = PrefixTree.from_sequences(sequences, layout=layout), Documents(sequences)
    added = data.draw(further_sequences(sequences))
    tree.add(added)
    documents.add(added)
    for number in data.draw(st.sets(st.integers(0, len(documents.seen) - 1), max_size=len(documents.seen) // 2)):
        tree.remove([number])
        del documents[number]
    allowed, sets, _ = data.draw(document_filters(len(documents.seen)))
    assert_answers(tree.filtered(allowed), documents, sets)
    tree.compact()
    assert_answers(tree.filtered(allowed), documents, sets)


@both_layouts
@quick
@given(code_sequences(scales=(1,)), st.data())
def test_the_masks_of_a_rebuilt_tree(layout, sequences, data):
    """As if a tree had been built from the documents that a row may have, level by level."""
    tree = PrefixTree.from_sequences(sequences, layout=layout)
    allowed, sets, _ = data.draw(document_filters(len(sequences)))
    view = tree.filtered(allowed)
    for level in range(tree.depth):
        prefixes = sorted({tuple(sequence[:level]) for sequence in sequences if len(sequence) >= level})
        rows = tensor_of(prefixes * len(sets), level)
        scores = torch.rand(len(rows), tree.max_code + 2)
        masked = view.mask_scores(scores, view.walk(rows), level)
        for numbers, prefix_rows, some_scores, found in zip(
            sets, *(values.chunk(len(sets)) for values in (rows, scores, masked)), strict=True
        ):
            expected = torch.full_like(some_scores, -torch.inf)
            if numbers:
                rebuilt = PrefixTree.from_sequences([sequences[number] for number in sorted(numbers)])
                expected = rebuilt.mask_scores(some_scores, rebuilt.walk(prefix_rows), level)
            assert torch.equal(found, expected)


@both_layouts
def test_rows_are_shared_out_evenly(layout):
    """Beams of a query stand together: row i belongs to filter i * batch // rows."""
    view = PrefixTree.from_sequences(FIVE, layout=layout).filtered([[0], [1, 2], []])
    nodes = view.walk(torch.tensor([[3], [4]]).repeat(3, 1))
    rows, codes, _ = view.expand(nodes, 1)
    assert list(zip(rows.tolist(), codes.tolist(), strict=True)) == [(0, 5), (2, 6), (3, 5)]
    root = view.walk(torch.empty(3, 0, dtype=torch.long))
    masked = view.mask_scores(torch.zeros(3, 8), root, 0)
    assert masked.isfinite().nonzero().tolist() == [[0, 3], [1, 3], [1, 4]]
    assert view.contains([[3, 5], [3, 6], [3, 5]]).tolist() == [True, True, False]
    assert len(view) == 3


@both_layouts
@pytest.mark.parametrize("rows", [1, 2, 4])
def test_rows_that_cannot_be_shared_out_are_refused(layout, rows):
    view = PrefixTree.from_sequences(FIVE, layout=layout).filtered([[0], [1], [2]])
    nodes = view.walk(torch.tensor([[3]]).repeat(rows, 1))
    for ask in (
        lambda: view.expand(nodes, 1),
        lambda: view.expand_padded(nodes, 1),
        lambda: view.mask_scores(torch.zeros(rows, 9), nodes, 1),
        lambda: view.mask_scores(torch.zeros(rows, 9), torch.zeros_like(nodes), 0),
        lambda: view.is_terminal(nodes, 2),
        lambda: view.contains(torch.tensor(FIVE)[:rows]),
        lambda: view.documents(nodes, 2),
    ):
        with pytest.raises(ValueError, match=f"{rows} rows.*3 filters|3 filters.*{rows} rows"):
            ask()


@both_layouts
def test_filters_of_every_kind_mean_the_same(layout):
    tree = PrefixTree.from_sequences(FIVE, layout=layout)
    mask = [True, False, True, False, False]
    kinds = [[0, 2], (2, 0), [2, 0, 2], np.array([0, 2]), torch.tensor([2, 0], dtype=torch.int32)]
    kinds += [np.array(mask), torch.tensor(mask), mask, {0, 2}, range(0, 3, 2)]
    for allowed in kinds:
        view = tree.filtered(allowed)
        assert view.num_filters is None
        assert content(view) == (2, True, 5, {(3, 5): [0], (4, 5): [2]})
    masks = [mask, [not value for value in mask]]
    for allowed in ([[0, 2], [1, 3, 4]], np.array(masks), torch.tensor(masks), [np.array([0, 2]), [4, 3, 1]]):
        view = tree.filtered(allowed)
        assert view.num_filters == 2
        assert view.contains([[3, 5], [3, 6], [3, 5], [3, 6]]).tolist() == [True, False, True, True]


@both_layouts
def test_nothing_allowed_is_a_tree_of_dead_ends(layout):
    tree = PrefixTree.from_sequences(FIVE, layout=layout)
    for allowed in ([], torch.zeros(5, dtype=torch.bool), np.zeros(5, dtype=bool)):
        view = tree.filtered(allowed)
        assert len(view) == 0 and view.sequences().shape == (0, 2)
        assert view.children([]).tolist() == view.children([3]).tolist() == []
        for level in (0, 1):
            nodes = view.walk(torch.full((2, level), 3))
            assert view.mask_scores(torch.zeros(2, 9), nodes, level).isneginf().all()


@both_layouts
def test_a_document_that_shares_its_id_keeps_the_id(layout):
    tree = PrefixTree.from_sequences(FIVE, layout=layout)
    for numbers, owners in (([0], [0]), ([3], [3]), ([3, 0], [0, 3])):
        view = tree.filtered(numbers)
        assert content(view)[-1] == {(3, 5): owners}
        # The ID is found; which of its documents are allowed, `documents` tells.
        assert view.contains([[3, 5], [3, 6]]).tolist() == [True, False]


@both_layouts
def test_a_view_is_a_snapshot(layout):
    tree = PrefixTree.from_sequences(FIVE, layout=layout)
    allowed = torch.tensor([True, True, False, False, False])
    view, rows = tree.filtered(allowed), tree.filtered([[0], [2]])
    before = content(view)
    allowed[:] = True
    tree.remove([0])
    tree.add([[1, 1], [3, 7]])
    assert content(view) == before == (2, True, 5, {(3, 5): [0], (3, 6): [1]})
    assert rows.contains([[3, 5], [4, 5]]).all()
    tree.compact()
    assert content(view) == before and rows.contains([[3, 5], [4, 5]]).all()


@both_layouts
def test_a_filtered_tree_cannot_be_changed(layout):
    tree = PrefixTree.from_sequences(FIVE, layout=layout)
    for view in (tree.filtered([0, 1]), tree.filtered([[0], [1]])):
        with pytest.raises(ValueError, match="filter"):
            view.add([[1, 1]])
        with pytest.raises(ValueError, match="filter"):
            view.remove([0])
        assert len(view) == 2
    assert len(tree) == 4


@both_layouts
@pytest.mark.parametrize(
    ("allowed", "message"),
    [
        (torch.ones(4, dtype=torch.bool), r"4|\(4,\)"),
        (np.ones(6, dtype=bool), r"6|\(6,\)"),
        (torch.ones(2, 4, dtype=torch.bool), r"\(2, 4\)"),
        (torch.ones(2, 5, 1, dtype=torch.bool), r"\(2, 5, 1\)"),
        (torch.ones(0, 5, dtype=torch.bool), r"\(0, 5\)"),
        ([0, 5], "5"),
        ([-1], "-1"),
        ([[0], [1, 7]], "7"),
        (torch.tensor([0.5]), "float32"),
        (np.ones(5), "float64"),
        (["a"], "a|str|<U1"),
    ],
)
def test_unfit_filters(layout, allowed, message):
    with pytest.raises(ValueError, match=message):
        PrefixTree.from_sequences(FIVE, layout=layout).filtered(allowed)


@both_layouts
def test_a_filter_on_a_filter_allows_what_both_do(layout):
    """Or says that it cannot: never what only the second one allows."""
    view = PrefixTree.from_sequences(FIVE, layout=layout).filtered([0, 1])
    try:
        both = view.filtered([1, 2])
    except ValueError as error:
        assert "filter" in str(error)
    else:
        assert content(both)[-1] == {(3, 6): [1]}

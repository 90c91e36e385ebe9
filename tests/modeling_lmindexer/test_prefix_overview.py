"""What is under a prefix, against a plain loop over all documents."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modeling_lmindexer import DocumentTable, IDTreeOverview, SemanticIndex

CODES = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 4)), min_size=1, max_size=25)


def some_index(codes) -> tuple[SemanticIndex, DocumentTable]:
    ids = [f"d{row:02}" for row in range(len(codes))]
    paths = [["all", f"c{first % 2}", f"s{second}"] if second else [] for first, second in codes]
    return SemanticIndex.from_codes(ids, codes, [4, 5, 30]), DocumentTable(ids, ids, paths)


@given(CODES)
def test_children_are_what_a_loop_over_the_documents_finds(codes):
    index, table = some_index(codes)
    tree = IDTreeOverview(index, table)
    by_id = dict(zip(index.document_ids, map(tuple, index.codes.tolist()), strict=True))
    assert tree.positions == 3 and tree.overview().documents == len(codes) and tree.overview().semantic_id == ""
    for length in range(3):
        for prefix in {code[:length] for code in by_id.values()}:
            under = [d for d, code in by_id.items() if code[:length] == prefix]
            assert sorted(tree.documents(prefix)) == sorted(under)
            children = tree.children(prefix)
            assert [child.codes for child in children] == sorted({by_id[d][: length + 1] for d in under})
            assert sum(child.documents for child in children) == len(under) == tree.overview(prefix).documents
            for child in children:
                inside = [d for d in under if by_id[d][: length + 1] == child.codes]
                labels = Counter(filter(None, (table.label_of(d, length + 1) for d in inside)))
                assert dict(child.categories) == labels and child == tree.overview(child.codes)
                assert set(child.samples) <= set(inside) and len(child.samples) == min(3, len(inside))
                assert [child.share_of(name) for name in labels] == [n / len(inside) for n in labels.values()]


@given(CODES)
def test_the_number_of_children_is_that_of_the_different_codes_under_a_prefix(codes):
    index, _ = some_index(codes)
    tree = IDTreeOverview(index)
    for length in range(4):
        for prefix in {tuple(row[:length]) for row in index.codes.tolist()}:
            under = index.codes[(index.codes[:, :length] == prefix).all(axis=1)]
            expected = len(np.unique(under[:, : length + 1], axis=0)) if length < 3 else 0
            assert tree.num_children(prefix) == len(tree.children(prefix)) == expected
    assert tree.num_children() == len(np.unique(index.codes[:, 0]))


def test_it_follows_no_change_of_the_index_and_needs_no_categories():
    index, _ = some_index([(0, 1), (2, 2), (0, 1)])
    tree = IDTreeOverview(index)
    index.remove(["d00"])
    assert tree.documents([0]) == ["d00", "d02"] and tree.overview([0]).categories == ()
    assert IDTreeOverview(index).documents([0]) == ["d02"]
    assert tree.children([0, 1, 1]) == [] and tree.overview([0, 1, 1]).samples == ("d02",)
    assert tree.overview([0], num_samples=0).samples == ()


def test_prefixes_that_are_not_there_are_named():
    tree = IDTreeOverview(some_index([(0, 1), (2, 2)])[0])
    with pytest.raises(KeyError, match="begins with <0><3>"):
        tree.overview([0, 3, 0])
    with pytest.raises(ValueError, match=r"at most 3 codes.*\[0, 1, 0, 0\]"):
        tree.children([0, 1, 0, 0])
    with pytest.raises(KeyError, match="begins with <0><3>"):
        tree.num_children([0, 3])
    with pytest.raises(ValueError, match="at most 3 codes"):
        tree.num_children([0, 1, 0, 0])

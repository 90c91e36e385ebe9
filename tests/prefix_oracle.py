"""What a prefix tree must answer, from a dict of documents, and random sequences and filters to ask it about."""

from collections import defaultdict
from unittest.mock import patch

import numpy as np
import torch
from hypothesis import strategies as st

LAYOUTS = ("fast", "compact")


class Documents(dict):
    """The oracle: sequences by document number; every answer comes from looking at all of them."""

    def __init__(self, sequences):
        super().__init__(enumerate(map(tuple, sequences)))
        self.seen = list(self.values())  # by document number, those that were removed included

    def add(self, sequences):
        self.update(enumerate(map(tuple, sequences), start=len(self.seen)))
        self.seen += map(tuple, sequences)

    def among(self, numbers):
        """The documents with these numbers that are still there, as a dict."""
        return {number: sequence for number, sequence in self.items() if numbers is None or number in numbers}


def following(documents, prefix):
    """The codes behind `prefix` in a dict of documents, ascending."""
    level = len(prefix)
    return sorted({s[level] for s in documents.values() if len(s) > level and s[:level] == prefix})


def padded(sequences, width):
    return [[*sequence, *[-1] * (width - len(sequence))] for sequence in sequences]


def tensor_of(prefixes, level):
    """Prefixes `(rows, level)`, also of level 0 or of no rows."""
    return torch.tensor(prefixes, dtype=torch.long).view(len(prefixes), level)


def content(tree):
    """All that a tree holds: its shape, and document numbers by sequence."""
    owners, rows = defaultdict(list), tree.sequences()
    lengths = (rows >= 0).sum(1)
    for level in range(1, tree.depth + 1):
        prefixes = rows[lengths == level, :level]
        for row, number in zip(*map(torch.Tensor.tolist, tree.documents(tree.walk(prefixes), level)), strict=True):
            owners[tuple(prefixes[row].tolist())].append(number)
    assert len(owners) == len(tree) == len(rows)
    return tree.depth, tree.fixed_length, tree.num_documents, {key: sorted(value) for key, value in owners.items()}


def assert_answers(tree, documents, filters=None, strangers=()):
    """The tree answers every question as its documents do.

    Args:
        tree: a tree, or one that is filtered by `filters`.
        documents: [`Documents`], all that the tree ever had.
        filters: sets of document numbers, one for all rows or one per row of the batch.
        strangers: sequences to ask about besides.
    """
    groups = [documents.among(numbers) for numbers in filters or [None]]
    together = sorted({sequence for group in groups for sequence in group.values()})
    assert len(tree) == len(together)
    assert tree.num_documents == len(documents.seen)
    assert tree.sequences().tolist() == padded(together, tree.depth)
    for position in range(tree.depth):
        assert tree.codes_at(position).tolist() == sorted({s[position] for s in together if len(s) > position})
    asked = sorted({*documents.seen, *strangers})
    for level in range(tree.depth + 1):
        assert_level_answers(tree, documents, groups, level, {sequence[:level] for sequence in asked})
    candidates = sorted({*asked, *(s[:-1] for s in asked), *((*s, s[0]) for s in asked)})
    rows = padded(candidates * len(groups), max(map(len, candidates)))
    expected = [sequence in group.values() for group in groups for sequence in candidates]
    assert tree.contains(torch.tensor(rows)).tolist() == expected
    assert tree.contains(rows).tolist() == expected


def assert_level_answers(tree, documents, groups, level, prefixes):
    """As [`assert_answers`], for one level: walk, children, expand, expand_padded, is_terminal, documents, masks."""
    prefixes = sorted(prefix for prefix in prefixes if len(prefix) == level)
    nodes = tree.walk(tensor_of(prefixes, level))
    live = {sequence[:level] for sequence in documents.values() if len(sequence) >= level} | {()}
    ever = {sequence[:level] for sequence in documents.seen}
    found = {prefix: node for prefix, node in zip(prefixes, nodes.tolist(), strict=True) if node >= 0}
    # A prefix whose documents were removed may keep its node: it leads nowhere, as the rest of this function sees.
    assert live & set(prefixes) <= found.keys() <= ever
    assert len(set(found.values())) == len(found)
    # A row of every prefix, and one that has left the tree, under every filter.
    nodes = torch.cat([nodes, torch.tensor([-1])]).repeat(len(groups))
    rows = [(group, prefix) for group in groups for prefix in [*prefixes, None]]
    codes_of = [following(group, prefix) if prefix is not None else [] for group, prefix in rows]
    if tree.num_filters is None:
        assert [tree.children(prefix).tolist() for prefix in prefixes] == codes_of[:-1]

    places = [(row, code) for row, codes in enumerate(codes_of) for code in codes]
    row_numbers, codes, children = tree.expand(nodes, level)
    assert list(zip(row_numbers.tolist(), codes.tolist(), strict=True)) == places
    if level < tree.depth:
        assert_children(tree, rows, codes_of, children, level)
        assert_padded(tree, nodes, level, codes_of, {s[level] for s in documents.seen if len(s) > level})

    ends = [prefix is not None and prefix in group.values() for group, prefix in rows]
    assert tree.is_terminal(nodes, level).tolist() == ends
    owned = [
        (row, n) for row, (group, prefix) in enumerate(rows) for n, sequence in group.items() if sequence == prefix
    ]
    row_numbers, numbers = tree.documents(nodes, level)
    assert sorted(zip(row_numbers.tolist(), numbers.tolist(), strict=True)) == sorted(owned)

    if tree.max_code < 100:
        scores = torch.rand(len(rows), tree.max_code + 3)
        expected = torch.full_like(scores, -torch.inf)
        for row, code in places:
            expected[row, code] = scores[row, code]
        assert torch.equal(tree.mask_scores(scores, nodes, level), expected)
        # Compiled code and a GPU take another way, of static shapes.
        with patch("torch.compiler.is_compiling", return_value=True):
            assert torch.equal(tree.mask_scores(scores, nodes, level), expected)


def assert_children(tree, rows, codes_of, children, level):
    """The nodes that `expand` returned are those of their prefixes: column by column, for rows belong to filters."""
    table = torch.full((len(rows), max(map(len, codes_of))), -1)
    counts = torch.tensor([len(codes) for codes in codes_of])
    table[torch.arange(table.shape[1]) < counts[:, None]] = children
    for column, nodes in enumerate(table.unbind(1)):
        expected = [
            following(group, (*prefix, codes[column])) if len(codes) > column else []
            for (group, prefix), codes in zip(rows, codes_of, strict=True)
        ]
        row_numbers, codes, _ = tree.expand(nodes, level + 1)
        found = list(zip(row_numbers.tolist(), codes.tolist(), strict=True))
        assert found == [(row, code) for row, behind in enumerate(expected) for code in behind]
        row_numbers, numbers = tree.documents(nodes, level + 1)
        owned = [
            (row, number)
            for row, ((group, prefix), codes) in enumerate(zip(rows, codes_of, strict=True))
            for number, sequence in group.items()
            if len(codes) > column and sequence == (*prefix, codes[column])
        ]
        assert sorted(zip(row_numbers.tolist(), numbers.tolist(), strict=True)) == sorted(owned)


def assert_padded(tree, nodes, level, codes_of, known_codes):
    """`expand_padded` has the codes `codes_of` each row, in a table of the announced width filled up with codes."""
    codes, children = tree.expand_padded(nodes, level)
    assert codes.shape == children.shape == (len(nodes), tree.widest(level))
    assert set(codes.flatten().tolist()) <= known_codes
    rows, _, expected = tree.expand(nodes, level)
    for row, row_codes in enumerate(codes_of):
        there = children[row] >= 0
        found = sorted(zip(codes[row, there].tolist(), children[row, there].tolist(), strict=True))
        assert found == list(zip(row_codes, expected[rows == row].tolist(), strict=True))
        if not tree.pending:
            assert codes[row, there].tolist() == row_codes


@st.composite
def code_sequences(draw, scales=(1, 2**20, 2**33), lengths=((1, 5), (3, 3), (1, 1), (2, 6)), min_size=1, max_size=40):
    """Few different codes, so that prefixes are shared and sequences repeated; large ones need several sorts."""
    scale, offset = draw(st.sampled_from(scales)), draw(st.sampled_from([0, 7]))
    code = st.integers(0, 4).map(lambda number: number * scale + offset)
    shortest, longest = draw(st.sampled_from(lengths))
    return draw(st.lists(st.lists(code, min_size=shortest, max_size=longest), min_size=min_size, max_size=max_size))


@st.composite
def further_sequences(draw, sequences, max_size=6):
    """Sequences to add to these: of their codes and one more, of their lengths, some of them the same."""
    codes = {code for sequence in sequences for code in sequence}
    code = st.sampled_from(sorted(codes | {min(codes) + 1}))
    lengths = [len(sequence) for sequence in sequences]
    new = st.lists(code, min_size=min(lengths), max_size=max(lengths))
    return draw(st.lists(new | st.sampled_from(sequences), min_size=1, max_size=max_size))


@st.composite
def document_filters(draw, number):
    """What `filtered` takes for a tree of `number` documents, with the sets of document numbers that it means.

    Returns:
        the argument, the sets, and whether they are one per row of the batch.
    """
    per_row = draw(st.booleans())
    subset = st.sets(st.integers(0, number - 1)) | st.just(set(range(number)))
    sets = draw(st.lists(subset, min_size=1, max_size=3)) if per_row else [draw(subset)]
    if draw(st.booleans()):
        mask = np.array([[document in allowed for document in range(number)] for allowed in sets])
        mask = mask if per_row else mask[0]
        return draw(st.sampled_from([mask, torch.from_numpy(mask)])), sets, per_row
    # Numbers in any order, some of them twice.
    lists = [draw(st.permutations([*allowed, *list(allowed)[:2]])) for allowed in sets]
    if per_row:
        return lists, sets, True
    kind = draw(st.sampled_from([list, lambda numbers: torch.tensor(numbers, dtype=torch.long)]))
    return kind(lists[0]), sets, False

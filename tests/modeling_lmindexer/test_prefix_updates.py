import threading

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from prefix_oracle import (
    LAYOUTS,
    Documents,
    assert_answers,
    assert_level_answers,
    code_sequences,
    content,
    following,
    further_sequences,
)

from modeling_lmindexer import logits_process
from modeling_lmindexer.logits_process import PrefixTreeLogitsProcessor
from modeling_lmindexer.prefix_tree import PrefixTree

both_layouts = pytest.mark.parametrize("layout", LAYOUTS)

FIVE = [[3, 5], [3, 6], [4, 5], [3, 5], [4, 7]]  # documents 0 and 3 share an ID
RAGGED = [[3, 5], [3], [3, 5, 2], [4, 1], [4, 0, 1]]


def random_sequences(number, seed=0, codes=30, positions=4):
    return torch.randint(0, codes, (number, positions), generator=torch.Generator().manual_seed(seed))


@both_layouts
@settings(max_examples=25, deadline=None, database=None)
@given(code_sequences(max_size=20), st.data())
def test_any_changes_in_any_order(layout, sequences, data):
    tree, documents = PrefixTree.from_sequences(sequences, layout=layout), Documents(sequences)
    for _ in range(data.draw(st.integers(1, 6))):
        match data.draw(st.sampled_from(["add", "remove", "remove", "compact", "ask"])):
            case "add":
                # What was removed comes back now and then, as another document.
                added = data.draw(further_sequences(documents.seen))
                numbers = tree.add([list(sequence) for sequence in added])
                assert numbers.tolist() == [len(documents.seen) + i for i in range(len(added))]
                documents.add(added)
            case "remove" if documents:
                numbers = data.draw(st.lists(st.sampled_from(sorted(documents)), unique=True, max_size=8))
                tree.remove(numbers)
                for number in numbers:
                    del documents[number]
            case "compact":
                before = content(tree)
                tree.compact()
                assert (tree.pending == 0 or not documents) and content(tree)[2:] == before[2:]
            case "ask":
                assert_answers(tree, documents)
    assert_answers(tree, documents)


@both_layouts
def test_numbers_go_on_from_the_last(layout):
    tree = PrefixTree.from_sequences(FIVE, layout=layout)
    assert tree.add([[9, 9], [3, 5]]).tolist() == [5, 6]
    tree.remove([6])
    assert tree.add(torch.tensor([[3, 6]])).tolist() == [7]
    tree.compact()
    assert tree.add([[1, 1]]).tolist() == [8]
    assert content(tree) == (
        2,
        True,
        9,
        {(1, 1): [8], (3, 5): [0, 3], (3, 6): [1, 7], (4, 5): [2], (4, 7): [4], (9, 9): [5]},
    )


@both_layouts
def test_an_id_leaves_with_the_last_of_its_documents(layout):
    tree = PrefixTree.from_sequences(FIVE, layout=layout)
    tree.remove([0])
    assert tree.contains([[3, 5]]).all() and content(tree)[-1][3, 5] == [3]
    tree.remove(torch.tensor([3, 1]))
    assert not tree.contains([[3, 5], [3, 6]]).any()
    assert len(tree) == 2 and tree.children([]).tolist() == [4] and tree.children([3]).tolist() == []


@both_layouts
@pytest.mark.parametrize("compacted", [False, True])
def test_removed_documents_never_come_back(layout, compacted):
    tree = PrefixTree.from_sequences(FIVE, layout=layout)
    tree.remove([0, 2])
    if compacted:
        tree.compact()
    assert content(tree.filtered([0, 2, 4]))[-1] == {(4, 7): [4]}
    assert content(tree.filtered(torch.ones(5, dtype=torch.bool)))[-1] == {(3, 5): [3], (3, 6): [1], (4, 7): [4]}
    # The same ID again is another document: the filters of the old one do not let it in.
    assert tree.add([[4, 5]]).tolist() == [5]
    assert tree.contains([[4, 5]]).all()
    assert content(tree.filtered([2]))[-1] == {}
    assert content(tree.filtered([5]))[-1] == {(4, 5): [5]}
    tree.compact()
    assert content(tree)[-1] == {(3, 5): [3], (3, 6): [1], (4, 5): [5], (4, 7): [4]}


@both_layouts
def test_all_documents_may_be_removed(layout):
    tree = PrefixTree.from_sequences(FIVE, layout=layout)
    tree.remove(range(5))
    for _ in range(2):
        assert len(tree) == 0 and tree.num_documents == 5
        assert tree.children([]).tolist() == [] and tree.sequences().shape == (0, 2)
        nodes = tree.walk(torch.empty(1, 0, dtype=torch.long))
        assert tree.mask_scores(torch.zeros(1, 9), nodes, 0).isneginf().all()
        assert not tree.contains(FIVE).any()
        tree.compact()
    assert tree.add([[3, 5]]).tolist() == [5]
    assert content(tree) == (2, True, 6, {(3, 5): [5]})


@both_layouts
@pytest.mark.parametrize("sequences", [FIVE, [*FIVE, [4]]], ids=["fixed", "ragged"])
def test_codes_and_lengths_that_no_sequence_had(layout, sequences):
    tree, documents = PrefixTree.from_sequences(sequences, layout=layout), Documents(sequences)
    added = [[[100, 2000]], [[3, 2**33]]]
    if not tree.fixed_length:
        added += [[[3]], [[3, 5, 7]], [[2**34, 1, 2, 3]], [[3, 5, 7, 2]]]
    for some in added:
        tree.add(some)
        documents.add(some)
        assert_answers(tree, documents)
        assert tree.depth == max(map(len, documents.seen)) and tree.max_code == max(map(max, documents.seen))
        columns = [[seen[p] for seen in documents.seen if p < len(seen)] for p in range(tree.depth)]
        assert tree.code_ranges == [(min(column), max(column)) for column in columns]
    tree.compact()
    assert_answers(tree, documents)
    for number in range(len(sequences), len(documents.seen)):
        tree.remove([number])
        del documents[number]
    assert_answers(tree, documents)


@both_layouts
def test_the_largest_codes_in_many_rows(layout):
    """Rows and codes of children in several parts do not fit one number together."""
    large = 2**62
    sequences = [[i, large - 1] for i in range(9)]
    tree, documents = PrefixTree.from_sequences(sequences, layout=layout), Documents(sequences)
    added = [[i, large - i % 2] for i in range(0, 9, 2)] + [[large, 5]]
    tree.add(added)
    documents.add(added)
    assert_answers(tree, documents)


@both_layouts
@pytest.mark.parametrize("added", [[[3]], [[3, 5, 7]], [[3, 5], [3]]])
def test_other_lengths_in_a_tree_of_one_length_are_refused(layout, added):
    """The processors of such a tree expect no end: IDs of other lengths could never be told apart from prefixes."""
    tree = PrefixTree.from_sequences(FIVE, layout=layout)
    with pytest.raises(ValueError, match="codes: those of this tree have 2"):
        tree.add(added)
    assert content(tree) == content(PrefixTree.from_sequences(FIVE)) and tree.num_documents == 5


@both_layouts
def test_a_tree_of_several_lengths_stays_one(layout):
    """Also when those left over at a compaction, which comes at any time, happen to have the same length."""
    tree = PrefixTree.from_sequences(RAGGED, layout=layout)
    tree.remove([1, 2, 4])
    tree.compact()
    assert content(tree)[-1] == {(3, 5): [0], (4, 1): [3]} and not tree.fixed_length
    tree.add([[4], [3, 5, 2]])
    assert content(tree)[-1] == {(3, 5): [0], (4, 1): [3], (4,): [5], (3, 5, 2): [6]}


@both_layouts
def test_lengths_with_an_array(layout):
    tree = PrefixTree.from_sequences([[3], [3, 5]], layout=layout)
    assert tree.add(torch.tensor([[4, -1], [4, 6]]), lengths=[1, 2]).tolist() == [2, 3]
    assert content(tree)[-1] == {(3,): [0], (3, 5): [1], (4,): [2], (4, 6): [3]}


@both_layouts
def test_pending_counts_the_changes(layout):
    tree = PrefixTree.from_sequences(random_sequences(5000), layout=layout)
    assert tree.pending == 0
    numbers = tree.add(random_sequences(3, seed=1))
    assert tree.pending == 3
    tree.remove([0, 7])
    assert tree.pending == 5
    tree.remove(numbers[:1])
    assert tree.pending >= 5
    tree.compact()
    assert tree.pending == 0
    tree.compact()
    assert len(tree) == len({tuple(s) for s in tree.sequences().tolist()})


@both_layouts
@pytest.mark.parametrize(
    ("numbers", "message"),
    [([5], "5"), ([-1], "-1"), ([0, 99], "99"), ([1.5], "float"), ([[0]], r"\(1, 1\)|nested|one dimension")],
)
def test_documents_that_are_not_there_cannot_be_removed(layout, numbers, message):
    tree = PrefixTree.from_sequences(FIVE, layout=layout)
    with pytest.raises((ValueError, KeyError, IndexError), match=message):
        tree.remove(numbers)
    assert content(tree) == content(PrefixTree.from_sequences(FIVE)) and tree.pending == 0


@both_layouts
@pytest.mark.parametrize("sequences", [[[]], [[1, -2]], [[0.5, 1.0]], [1, 2], torch.zeros(1, 2)])
def test_unfit_sequences_change_nothing(layout, sequences):
    tree = PrefixTree.from_sequences(FIVE, layout=layout)
    with pytest.raises(ValueError, match="[Ff]ound"):
        tree.add(sequences)
    assert content(tree) == content(PrefixTree.from_sequences(FIVE)) and tree.pending == 0


@both_layouts
def test_nothing_to_change_changes_nothing(layout):
    tree = PrefixTree.from_sequences(FIVE, layout=layout)
    tree.remove([])
    assert tree.pending == 0 and len(tree) == 4


@both_layouts
@pytest.mark.parametrize("kind", ["add", "remove"])
def test_compaction_comes_by_itself(layout, kind):
    """Pending changes grow up to a bound, are merged, and grow again; the answers are the same all along."""
    sequences = random_sequences(3000)
    tree, documents = PrefixTree.from_sequences(sequences, layout=layout), Documents(sequences.tolist())
    pending = [0]
    for step in range(40):
        if kind == "add":
            added = random_sequences(50, seed=step + 1)
            numbers = tree.add(added)
            assert numbers.tolist() == list(range(len(documents.seen), len(documents.seen) + 50))
            documents.add(added.tolist())
        else:
            numbers = torch.randperm(3000, generator=torch.Generator().manual_seed(0))[50 * step : 50 * step + 50]
            tree.remove(numbers)
            for number in numbers.tolist():
                del documents[number]
        pending.append(tree.pending)
        if step % 8 == 0 or pending[-1] < pending[-2]:
            assert len(tree) == len(set(documents.values()))
            assert content(tree)[-1] == by_sequence(documents)
    merges = sum(later < earlier for earlier, later in zip(pending, pending[1:], strict=False))
    assert merges >= 1 and max(pending) < 3000
    for prefix in [(), *(tuple(row) for row in sequences[:20, :2].tolist())]:
        assert tree.children(prefix).tolist() == following(documents, prefix)


@both_layouts
def test_many_pending_changes(layout):
    """So many that they are not all merged into one another at every change."""
    sequences = random_sequences(2000, codes=8, positions=3)
    tree, documents = PrefixTree.from_sequences(sequences, layout=layout), Documents(sequences.tolist())
    for seed, number in enumerate((280, 280, 20, 5), start=1):
        added = random_sequences(number, seed, codes=9, positions=3).tolist()
        tree.add(added)
        documents.add(added)
        # Of the first ones, of those added before, and of the last ones.
        gone = sorted(documents)[seed :: 90 - 10 * seed]
        tree.remove(gone)
        for document in gone:
            del documents[document]
    assert 600 < tree.pending < 1000
    generator = torch.Generator().manual_seed(0)
    filters = [set(torch.randperm(tree.num_documents, generator=generator)[:size].tolist()) for size in (9, 900, 2500)]
    for view, sets in ((tree, [None]), (tree.filtered(filters[1]), filters[1:2]), (tree.filtered(filters), filters)):
        groups = [documents.among(numbers) for numbers in sets]
        assert len(view) == len({sequence for group in groups for sequence in group.values()})
        for level in range(4):
            prefixes = sorted({sequence[:level] for sequence in documents.seen})
            assert_level_answers(view, documents, groups, level, prefixes[:: 1 + len(prefixes) // 25])
    tree.compact()
    assert content(tree)[-1] == by_sequence(documents)


def by_sequence(documents):
    owners = {}
    for number, sequence in sorted(documents.items()):
        owners.setdefault(sequence, []).append(number)
    return owners


@both_layouts
def test_searches_in_threads_while_documents_come_and_go(layout, monkeypatch):
    """Every call sees one state of the tree: all documents that stay, none that never was, its own rows' scores."""
    monkeypatch.setattr(logits_process, "WORTH_KEEPING", 0)  # as many rows as a real search would use one buffer
    monkeypatch.setattr(logits_process, "WIDE", 0)
    stay, guests = random_sequences(400, codes=8, positions=3), random_sequences(400, 1, codes=8, positions=3)
    tree = PrefixTree.from_sequences(stay, layout=layout)
    trie = PrefixTreeLogitsProcessor(tree)
    at_least, at_most = Documents(stay.tolist()), Documents([*stay.tolist(), *guests.tolist()])
    prefixes = sorted({s[:level] for s in at_least.values() for level in range(3)})
    bounds = {prefix: (set(following(at_least, prefix)), set(following(at_most, prefix))) for prefix in prefixes}
    stop, failures, steps = threading.Event(), [], [0, 0]

    def search(seed):
        generator = torch.Generator().manual_seed(seed)
        while not stop.is_set():
            level, rows = steps[seed] % 3, 1 + steps[seed] % 5
            picked = stay[torch.randint(0, 400, (rows,), generator=generator), :level]
            scores = torch.rand(rows, 9, generator=generator)
            before = scores.clone()
            masked = trie(torch.nn.functional.pad(picked, (1, 0)), scores)
            kept = masked.clone()
            # Of the live tree, in one call: walking and looking must not fall on different sides of a change.
            whole = torch.nn.functional.pad(stay[:50], (1, 0))
            assert trie.is_valid(whole).all() and tree.contains(stay[:50]).all()
            children = set(tree.children(picked[0]).tolist())
            assert bounds[tuple(picked[0].tolist())][0] <= children <= bounds[tuple(picked[0].tolist())][1]
            view = tree.filtered(range(400))
            found = view.expand(view.walk(picked), level)
            for row, prefix in enumerate(map(tuple, picked.tolist())):
                codes = masked[row].isfinite().nonzero().squeeze(1)
                assert bounds[prefix][0] <= set(codes.tolist()) <= bounds[prefix][1]
                assert torch.equal(masked[row, codes], before[row, codes])
                assert set(found[1][found[0] == row].tolist()) == bounds[prefix][0]
            assert torch.equal(masked, kept) and torch.equal(scores, before)
            steps[seed] += 1

    def watched(seed):
        try:
            search(seed)
        except BaseException as error:  # an assertion in a thread fails no test by itself
            failures.append(error)

    threads = [threading.Thread(target=watched, args=(seed,)) for seed in (0, 1)]
    for thread in threads:
        thread.start()
    try:
        changes = 0
        while (min(steps) < 60 or changes < 40) and not failures and all(thread.is_alive() for thread in threads):
            numbers = tree.add(guests[torch.randperm(400)[:7]])
            tree.remove(numbers)
            changes += 1
            if changes % 10 == 0:
                tree.compact()
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert not failures, failures[0]
    assert content(tree)[-1] == by_sequence(at_least)

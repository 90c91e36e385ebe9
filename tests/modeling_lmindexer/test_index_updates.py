"""Documents that change and indexes that join: against a plain dictionary, and refused as a whole."""

import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from tiny_index import TEXTS, documents, learned_index, names, state
from tiny_models import tiny_model, tiny_tokenizer

from modeling_lmindexer import PrefixTree, SemanticIndex, folder
from modeling_lmindexer.index_check import Check, check_changes, check_table, check_tree

EVERYTHING = learned_index(range(40), room=40)
LEARNED = EVERYTHING.codes[:, :2].tolist()  # by number of the text
numbers_of_texts = st.integers(0, 39)


def ids_of(index) -> dict:
    return dict(zip(index.document_ids, map(tuple, index.codes.tolist()), strict=True))


def as_texts(codes_of: dict) -> dict:
    return {document: "".join(f"<{code}>" for code in codes) for document, codes in codes_of.items()}


class LivingIndex(RuleBasedStateMachine):
    """Every change against a dictionary of IDs by document, and one dictionary kept per version."""

    @initialize(first=st.lists(numbers_of_texts, min_size=1, max_size=8, unique=True))
    def begin(self, first):
        self.index = SemanticIndex.from_codes(names(first), [LEARNED[i] for i in first], [4, 5, 40])
        self.index.attach(EVERYTHING.model, EVERYTHING.tokenizer)
        self.held = ids_of(self.index)
        self.versions, self.folder = [dict(self.held)], Path(tempfile.mkdtemp())

    def place(self, incoming: dict) -> None:
        """Documents with learned codes get the least number that is free, the lowest id first."""
        for document in sorted(incoming):
            taken = {code for *learned, code in self.held.values() if learned == list(incoming[document])}
            self.held[document] = (*incoming[document], min(set(range(41)) - taken))

    def changed(self) -> None:
        self.versions.append(dict(self.held))

    @rule(data=st.data())
    def add(self, data):
        free = [i for i in range(40) if names([i])[0] not in self.held]
        if free:
            new = data.draw(st.lists(st.sampled_from(free), unique=True, min_size=1, max_size=5))
            self.index.add(documents(new))
            self.place({names([i])[0]: LEARNED[i] for i in new})
            self.changed()

    @rule(data=st.data())
    def remove(self, data):
        gone = data.draw(st.lists(st.sampled_from(sorted(self.held)), unique=True, max_size=len(self.held) - 1))
        self.index.remove(gone)
        for document in gone:
            del self.held[document]
        if gone:
            self.changed()

    @rule(data=st.data())
    def update(self, data):
        chosen = data.draw(st.lists(st.sampled_from(sorted(self.held)), unique=True, min_size=1, max_size=5))
        texts = data.draw(st.lists(numbers_of_texts, min_size=len(chosen), max_size=len(chosen)))
        flat = self.index.update([{"id": d, "text": TEXTS[i]} for d, i in zip(chosen, texts, strict=True)])
        moving = {d: LEARNED[i] for d, i in zip(chosen, texts, strict=True) if self.held[d][:2] != tuple(LEARNED[i])}
        for document in moving:
            del self.held[document]
        self.place(moving)
        self.changed()
        assert torch.equal(flat, self.index.sequences_of(chosen))

    @rule(other=st.lists(numbers_of_texts, min_size=1, max_size=6, unique=True), replace=st.booleans(), data=st.data())
    def merge(self, other, replace, data):
        texts = data.draw(st.permutations(other))
        theirs = SemanticIndex.from_codes(names(other), [LEARNED[i] for i in texts], [4, 5, 9])
        before, incoming = state(theirs), ids_of(theirs)
        if set(incoming) & set(self.held):
            untouched = state(self.index)
            with pytest.raises(ValueError, match="are in both indexes"):
                self.index.merge(theirs)
            assert state(self.index) == untouched
        renumbered = self.index.merge(theirs, "replace" if replace else "keep")
        both = [d for d in incoming if d in self.held]
        left = [d for d in both if not replace or self.held[d][:2] == incoming[d][:2]]
        for document in set(both) - set(left):
            del self.held[document]
        incoming = {d: code for d, code in incoming.items() if d not in left}
        taken = set(self.held.values())
        self.held |= {d: code for d, code in incoming.items() if code not in taken}
        self.place({d: code[:2] for d, code in incoming.items() if code in taken})
        assert renumbered.keys() == {d for d, code in incoming.items() if code in taken}
        if incoming or (replace and left):
            self.changed()
        assert state(theirs) == before

    @rule()
    def save_and_load(self):
        """Twice, as the changelog is then read from the file that is being replaced; the folder stays for a while."""
        for _ in range(2):
            self.index.save_pretrained(self.folder)
            self.index = SemanticIndex.from_pretrained(self.folder).attach(EVERYTHING.model, EVERYTHING.tokenizer)
        for version, expected in enumerate(self.versions):
            assert self.index.at(version) == as_texts(expected)

    def teardown(self):
        if hasattr(self, "folder"):
            shutil.rmtree(self.folder)

    @invariant()
    def agrees(self):
        if not hasattr(self, "index"):
            return
        assert ids_of(self.index) == self.held
        assert len(self.index.tree) == len(self.held) == len(set(self.held.values()))
        assert self.index.documents_of(self.index.sequences) == [[document] for document in self.index.document_ids]
        assert self.index.version == len(self.versions) - 1
        assert self.index.at(0) == as_texts(self.versions[0])


LivingIndex.TestCase.settings = settings(max_examples=15, stateful_step_count=8, deadline=None, database=None)
TestLivingIndex = LivingIndex.TestCase


def test_an_update_moves_what_changed_and_nothing_else():
    index = learned_index()
    before = ids_of(index)
    index.update(documents([3, 4, 5], texts=[3, 20, 5]))
    after = ids_of(index)
    assert {d for d in before if before[d] != after[d]} <= {"doc04"} and after["doc04"][:2] == tuple(LEARNED[20])
    changes = [(c.document, c.before == c.after) for c in index.changes()]
    assert changes == [("doc03", True), ("doc04", LEARNED[4] == LEARNED[20]), ("doc05", True)]


def test_a_document_may_take_the_place_that_another_leaves():
    """Also when both change at once, in either order."""
    a, b = next((i, j) for i in range(30) for j in range(i) if LEARNED[i] != LEARNED[j])
    for order in ([a, b], [b, a]):
        index = learned_index([a, b])
        before = ids_of(index)
        index.update(documents(order, texts=order[::-1]))
        after = ids_of(index)
        assert after == {names([a])[0]: before[names([b])[0]], names([b])[0]: before[names([a])[0]]}


def test_a_refused_change_changes_nothing():
    index = learned_index(range(20))
    group = max(range(20), key=lambda i: sum(LEARNED[j] == LEARNED[i] for j in range(20)))
    index.remove(["doc19"])
    other = SemanticIndex.from_codes(["x"], [[0, 0]], [4, 5, 3])
    other.codebook_fingerprint, index.codebook_fingerprint = "another", "this one"
    full = SemanticIndex.from_codes([f"x{i:02}" for i in range(12)], [LEARNED[group]] * 12, [4, 5, 12])
    numbers = SemanticIndex.from_codes([1], [[0, 0]], [4, 5, 3])
    refused = [
        (KeyError, "1 documents are not in the index", lambda: index.update(documents([0, 30]))),
        (ValueError, "more than once", lambda: index.update(documents([0, 0]))),
        (ValueError, "room for 12", lambda: index.update(documents(range(19), texts=[group] * 19))),
        (ValueError, "already: remove them first, or update", lambda: index.add(documents([0]))),
        (KeyError, "not in the index", lambda: index.remove(["doc00", "nobody"])),
        (ValueError, "would remove every document", lambda: index.remove(index.document_ids)),
        (ValueError, "cannot shrink", lambda: index.resize_disambiguation(3)),
        (ValueError, "in both indexes", lambda: index.merge(learned_index(range(3)))),
        (ValueError, "different codebooks", lambda: index.merge(other)),
        (ValueError, "room for 12", lambda: index.merge(full)),
        (ValueError, "all integers or all strings", lambda: index.merge(numbers)),
        (ValueError, "on_conflict is 'ask'", lambda: index.merge(full, "ask")),
        (ValueError, "only indexes of one model", lambda: index.merge(SemanticIndex.from_codes("a", [[0]], [4, 5]))),
        (ValueError, "There is no version 2", lambda: list(index.changes(2))),
    ]
    before = state(index)
    for kind, message, call in refused:
        with pytest.raises(kind, match=message):
            call()
        assert state(index) == before, message


def test_ids_that_no_file_holds_are_refused():
    for ids in ([2**63], [-(2**63) - 1], ["\ud800"]):
        with pytest.raises(ValueError, match="integers of 64 bits|half a character"):
            SemanticIndex.from_codes(ids, [[0, 0]], [4, 5, 3])


def plain(ids, codes):
    return SemanticIndex.from_codes(ids, codes, [4, 5], has_disambiguation=False)


def test_learned_codes_alone_are_merged_or_named():
    index = plain(["a", "b"], [[0, 0], [1, 1]])
    with pytest.raises(ValueError, match=r"1 documents have an ID that another document has here.*\['c'\]"):
        index.merge(plain(["c", "d"], [[1, 1], [2, 2]]))
    assert index.document_ids == ["a", "b"] and index.version == 0
    assert index.merge(plain(["c", "d"], [[3, 1], [2, 2]])) == {}
    # What `a` leaves, `e` may take.
    assert index.merge(plain(["a", "e"], [[0, 4], [0, 0]]), "replace") == {}
    assert ids_of(index) == {"b": (1, 1), "c": (3, 1), "d": (2, 2), "a": (0, 4), "e": (0, 0)}


def test_learned_codes_alone_are_updated():
    """A document that did not get the code that it wanted keeps its ID as long as that code is another's."""
    model, tokenizer = tiny_model("mpnet", num_disambiguation_codes=0), tiny_tokenizer()
    inputs = tokenizer([TEXTS[0]], return_tensors="pt")
    code = (model.assign(**{n: inputs[n] for n in ("input_ids", "attention_mask")}) - torch.tensor([1, 5])).tolist()
    index = plain(["doc00"], code).attach(model, tokenizer)
    index.add([{"id": "x", "text": TEXTS[0]}])
    before = ids_of(index)
    index.update([{"id": "x", "text": TEXTS[0]}])
    assert ids_of(index) == before
    index.remove(["doc00"])
    index.update([{"id": "x", "text": TEXTS[0]}])
    assert index.codes.tolist() == code


def test_a_merge_takes_the_larger_room(tmp_path):
    index, other = learned_index(range(10), room=12), learned_index(range(10, 20), room=15)
    index.merge(other)
    assert index.position_sizes == [4, 5, 15] and len(index) == 20
    index.save_pretrained(tmp_path)
    assert SemanticIndex.from_pretrained(tmp_path).version == 1
    with pytest.raises(ValueError, match="they come from different runs"):
        index.check_model(index.model.config)
    index.model.resize_disambiguation(15)
    index.check_model(index.model.config)


def test_the_codebooks_of_another_training_are_refused():
    index, model = learned_index(), tiny_model("mpnet", num_disambiguation_codes=12)
    index.check_model(model.config)  # nothing is known of either
    model.config.codebook_fingerprint = model.codebooks.fingerprint()
    index.codebook_fingerprint = index.model.codebooks.fingerprint()
    assert index.codebook_fingerprint != model.config.codebook_fingerprint
    with pytest.raises(ValueError, match="come from other codebooks"):
        index.attach(model, index.tokenizer)
    # Neither more room nor another precision makes another model of it.
    fingerprint = model.codebooks.fingerprint()
    model.resize_disambiguation(20)
    assert model.codebooks.fingerprint() == fingerprint


def test_many_changes_leave_a_folder_that_holds_together(tmp_path):
    index, random = learned_index(range(20), room=40), np.random.default_rng(0)
    for step in range(6):
        index.update(documents(random.permutation(20)[:4], texts=random.integers(0, 40, 4)))
        index.save_pretrained(tmp_path)
        index = SemanticIndex.from_pretrained(tmp_path).attach(index.model, index.tokenizer)
        checks = [Check(name) for name in ("table", "tree", "changes")]
        check_table(checks[0], tmp_path), check_tree(checks[1], tmp_path, index)
        check_changes(checks[2], tmp_path, index)
        assert [check.problems for check in checks] == [[]] * 3 and index.version == step + 1


def test_a_renumbered_document_takes_no_number_that_another_keeps():
    index = SemanticIndex.from_codes(["a"], [[0, 0]], [4, 5, 3])
    assert index.merge(SemanticIndex.from_codes(["x", "y"], [[0, 0]] * 2, [4, 5, 3])) == {
        "x": ("<0><0><0>", "<0><0><2>")
    }
    assert ids_of(index) == {"a": (0, 0, 0), "x": (0, 0, 2), "y": (0, 0, 1)}


@pytest.mark.parametrize("read", [SemanticIndex.from_pretrained, PrefixTree.from_pretrained])
@pytest.mark.parametrize("replaced", [1, 2])
def test_a_folder_that_is_replaced_while_it_is_read(tmp_path, monkeypatch, read, replaced):
    """Between the look at the manifest and that at the file: read once more; what never fits is an error."""
    index = SemanticIndex.from_codes(["a", "b", "c"], [[0, 1], [1, 0], [1, 1]], [2, 2, 4])
    index.save_pretrained(tmp_path)
    folder.update_manifest(tmp_path, ["semantic_ids.parquet", "prefix_tree.safetensors"])
    digest, replacements = folder.file_digest, []

    def digest_of_what_was_replaced(path):
        if path.parent == tmp_path and len(replacements) < replaced:
            replacements.append(path)
            index.remove(index.document_ids[:1])
            index.save_pretrained(tmp_path)
        return digest(path)

    monkeypatch.setattr(folder, "file_digest", digest_of_what_was_replaced)
    if replaced == 1:
        assert len(read(tmp_path)) == 2
    else:
        with pytest.raises(folder.CorruptedFolderError, match="differs from the file that its manifest lists"):
            read(tmp_path)
    assert len(replacements) == replaced

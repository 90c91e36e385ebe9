import tempfile
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from prefix_oracle import LAYOUTS, Documents, assert_answers, code_sequences, content, further_sequences
from safetensors import safe_open
from safetensors.torch import save_file

from modeling_lmindexer.folder import CorruptedFolderError, read_manifest, update_manifest
from modeling_lmindexer.prefix_file import PREFIX_TREE_NAME
from modeling_lmindexer.prefix_tree import PrefixTree

quick = settings(max_examples=40, deadline=None, database=None)
both_layouts = pytest.mark.parametrize("layout", LAYOUTS)

THREE = [[3, 5], [3, 6], [4, 5]]
SHARED = [[4, 5], [3, 6], [4, 5], [3, 5], [4, 7]]
RAGGED = [[4, 1], [3], [3, 5, 2], [3, 5], [4, 0, 1], [3, 5]]
every_kind = pytest.mark.parametrize("sequences", [THREE, SHARED, RAGGED], ids=["sorted", "shared", "ragged"])


def parts_of_file(folder):
    """Arrays and metadata."""
    with safe_open(folder / PREFIX_TREE_NAME, framework="pt") as file:
        return {name: file.get_tensor(name).clone() for name in file.keys()}, dict(file.metadata())


def assert_sound(tree):
    """It answers as the documents do that it says it has: no dead ends, no ranges that overlap."""
    _, _, count, owners = content(tree)
    documents = Documents([])
    documents.update({number: sequence for sequence, numbers in owners.items() for number in numbers})
    assert len(documents) == sum(map(len, owners.values()))
    documents.seen = [documents.get(number, next(iter(owners))) for number in range(count)]
    assert_answers(tree, documents)


@quick
@given(code_sequences(), st.sampled_from(LAYOUTS), st.sampled_from(LAYOUTS), st.booleans(), st.data())
def test_saved_and_loaded_in_any_layout(sequences, saved_as, loaded_as, memory_map, data):
    """With what is pending, which stays pending in the tree itself."""
    tree, documents = PrefixTree.from_sequences(sequences, layout=saved_as), Documents(sequences)
    if data.draw(st.booleans()):
        added = data.draw(further_sequences(sequences))
        tree.add([list(sequence) for sequence in added])
        documents.add(added)
        for number in data.draw(st.sets(st.integers(0, len(documents.seen) - 1), max_size=len(documents.seen) - 1)):
            tree.remove([number])
            del documents[number]
    before, pending = content(tree), tree.pending
    with tempfile.TemporaryDirectory() as folder:
        tree.save_pretrained(folder)
        assert [path.name for path in Path(folder).iterdir()] == [PREFIX_TREE_NAME]
        loaded = PrefixTree.from_pretrained(folder, layout=loaded_as, memory_map=memory_map)
        assert (loaded.layout, loaded.pending) == (loaded_as, 0)
        assert content(loaded)[2:] == before[2:]
        assert_answers(loaded, documents)
    assert (content(tree), tree.pending) == (before, pending)


@every_kind
@both_layouts
def test_a_mapped_tree_never_changes_its_file(tmp_path, sequences, layout):
    PrefixTree.from_sequences(sequences).save_pretrained(tmp_path)
    file = (tmp_path / PREFIX_TREE_NAME).read_bytes()
    tree = PrefixTree.from_pretrained(tmp_path, layout=layout, memory_map=True)
    documents = Documents(sequences)
    tree.add([[9, 9]])
    tree.remove([1, 2])
    documents.add([[9, 9]])
    del documents[1], documents[2]
    assert_answers(tree, documents)
    assert_answers(
        tree.filtered([[0, 1], [3, 4]]) if len(documents.seen) > 4 else tree.filtered([0, 1]),
        documents,
        [{0, 1}, {3, 4}] if len(documents.seen) > 4 else [{0, 1}],
    )
    tree.compact()
    assert_answers(tree, documents)
    assert (tmp_path / PREFIX_TREE_NAME).read_bytes() == file
    # Over the very file that it lies in.
    again = PrefixTree.from_pretrained(tmp_path, layout=layout, memory_map=True)
    again.remove([0])
    again.save_pretrained(tmp_path)
    assert content(PrefixTree.from_pretrained(tmp_path))[2:] == content(again)[2:]


@both_layouts
def test_what_was_removed_stays_removed(tmp_path, layout):
    tree = PrefixTree.from_sequences(SHARED, layout=layout)
    tree.remove([0, 4])
    tree.add([[8, 8]])
    tree.remove([5])
    tree.save_pretrained(tmp_path)
    loaded = PrefixTree.from_pretrained(tmp_path, layout=layout)
    assert loaded.num_documents == 6  # the number of the last one is not used again, though it is gone
    assert content(loaded)[-1] == {(3, 5): [3], (3, 6): [1], (4, 5): [2]}
    assert loaded.add([[4, 7]]).tolist() == [6]
    assert content(loaded.filtered([0, 4, 5, 6]))[-1] == {(4, 7): [6]}
    with pytest.raises(ValueError, match="4"):
        loaded.remove([4])


def test_save_updates_a_manifest_and_load_heeds_it(tmp_path):
    update_manifest(tmp_path, [])
    PrefixTree.from_sequences(THREE).save_pretrained(tmp_path)
    assert list(read_manifest(tmp_path / "manifest.json")["files"]) == [PREFIX_TREE_NAME]
    assert len(PrefixTree.from_pretrained(str(tmp_path))) == 3

    PrefixTree.from_sequences(RAGGED).save_pretrained(tmp_path / "other")
    (tmp_path / "other" / PREFIX_TREE_NAME).rename(tmp_path / PREFIX_TREE_NAME)
    for memory_map in (False, True):
        with pytest.raises(CorruptedFolderError, match=f"{PREFIX_TREE_NAME}.*manifest"):
            PrefixTree.from_pretrained(tmp_path, memory_map=memory_map)


def test_a_missing_file_is_no_corruption(tmp_path):
    with pytest.raises(FileNotFoundError, match=PREFIX_TREE_NAME):
        PrefixTree.from_pretrained(tmp_path)
    with pytest.raises(FileNotFoundError, match="no-such/repository"):
        PrefixTree.from_pretrained("no-such/repository", local_files_only=True)


def test_an_unknown_layout_is_named(tmp_path):
    PrefixTree.from_sequences(THREE).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="small.*fast.*compact"):
        PrefixTree.from_pretrained(tmp_path, layout="small")


@every_kind
def test_every_truncation_is_noticed(tmp_path, sequences):
    PrefixTree.from_sequences(sequences).save_pretrained(tmp_path)
    path = tmp_path / PREFIX_TREE_NAME
    content = path.read_bytes()
    for size in range(len(content)):
        path.write_bytes(content[:size])
        with pytest.raises(CorruptedFolderError, match=PREFIX_TREE_NAME):
            PrefixTree.from_pretrained(tmp_path, memory_map=size % 2 == 0)
    path.write_bytes(content)
    assert len(PrefixTree.from_pretrained(tmp_path)) == len(set(map(tuple, sequences)))


@pytest.mark.parametrize("sequences", [SHARED, RAGGED], ids=["shared", "ragged"])
def test_a_changed_byte_is_noticed_or_makes_another_sound_tree(tmp_path, sequences):
    PrefixTree.from_sequences(sequences).save_pretrained(tmp_path)
    path = tmp_path / PREFIX_TREE_NAME
    content = path.read_bytes()
    noticed = 0
    for place in range(len(content)):
        for value in {content[place] ^ 1, 0x80, 0xFF}:
            path.write_bytes(content[:place] + bytes([value]) + content[place + 1 :])
            try:
                tree = PrefixTree.from_pretrained(tmp_path)
            except CorruptedFolderError:
                noticed += 1
                continue
            if tree.num_documents < 1000:
                assert_sound(tree)
    assert noticed > 2 * len(content)


@pytest.mark.parametrize("content", [b"", b"not a safetensors file at all", b"\xff" * 64])
def test_another_kind_of_file(tmp_path, content):
    (tmp_path / PREFIX_TREE_NAME).write_bytes(content)
    with pytest.raises(CorruptedFolderError, match=PREFIX_TREE_NAME):
        PrefixTree.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    "edit",
    [
        lambda metadata: metadata.clear(),
        lambda metadata: metadata.update(format="pt"),
        lambda metadata: metadata.update(version="latest"),
        lambda metadata: metadata.update(version="1"),
        lambda metadata: metadata.update(version="99"),
        lambda metadata: metadata.update(num_documents="5"),
        lambda metadata: metadata.update(num_documents="-7"),
        lambda metadata: metadata.update(num_documents="many"),
        lambda metadata: metadata.update(num_documents=str(2**45)),
    ],
)
def test_metadata_of_something_else(tmp_path, edit):
    PrefixTree.from_sequences(RAGGED).save_pretrained(tmp_path)
    arrays, metadata = parts_of_file(tmp_path)
    edit(metadata)
    save_file(arrays, tmp_path / PREFIX_TREE_NAME, metadata=metadata)
    with pytest.raises(CorruptedFolderError, match=PREFIX_TREE_NAME):
        PrefixTree.from_pretrained(tmp_path)


@every_kind
def test_metadata_entries_are_all_needed_and_checked(tmp_path, sequences):
    PrefixTree.from_sequences(sequences).save_pretrained(tmp_path)
    arrays, metadata = parts_of_file(tmp_path)
    for name in metadata:
        for value in (None, "", "x", "-1", "1.5", str(2**64)):
            kept = {key: text for key, text in metadata.items() if key != name}
            save_file(arrays, tmp_path / PREFIX_TREE_NAME, metadata=kept if value is None else kept | {name: value})
            with pytest.raises(CorruptedFolderError, match=PREFIX_TREE_NAME):
                PrefixTree.from_pretrained(tmp_path)


UNFIT = {
    "of another type": lambda array: array.double(),
    "of flags": lambda array: array.bool(),
    "in rows": lambda array: array[None],
    "a number": lambda array: array[0].clone(),
    "empty": lambda array: array[:0].clone(),
    "longer": lambda array: torch.cat([array, array[-1:]]),
    "shorter": lambda array: array[:-1].clone(),
}
ODD = {
    "reversed": lambda array: array.flip(0),
    "all the same": lambda array: array[-1:].repeat(len(array)),
    "negative": lambda array: -array - 1,
    "one up": lambda array: array + 1,
    "last up": lambda array: array + torch.nn.functional.one_hot(torch.tensor(len(array) - 1), len(array)),
    "first down": lambda array: array - torch.nn.functional.one_hot(torch.tensor(0), len(array)),
    "largest": lambda array: torch.full_like(array, torch.iinfo(array.dtype).max),
    "smallest": lambda array: torch.full_like(array, torch.iinfo(array.dtype).min),
    "mixed": lambda array: array[torch.randperm(len(array))],
}


@every_kind
def test_every_array_is_checked(tmp_path, sequences):
    PrefixTree.from_sequences(sequences).save_pretrained(tmp_path)
    arrays, metadata = parts_of_file(tmp_path)
    noticed = 0
    for name, array in arrays.items():
        for kind, edit in (UNFIT | ODD).items():
            edited = edit(array) if kind in UNFIT else edit(array).to(array.dtype)
            save_file(arrays | {name: edited.contiguous()}, tmp_path / PREFIX_TREE_NAME, metadata=metadata)
            try:
                tree = PrefixTree.from_pretrained(tmp_path)
            except CorruptedFolderError:
                noticed += 1
                continue
            # Other numbers can be another tree, in order itself; an array of another kind or length cannot.
            assert kind not in UNFIT or torch.equal(edited, array), f"{name} {kind}"
            assert_sound(tree)
    assert noticed > 10 * len(arrays)


@every_kind
def test_missing_and_foreign_arrays(tmp_path, sequences):
    PrefixTree.from_sequences(sequences).save_pretrained(tmp_path)
    arrays, metadata = parts_of_file(tmp_path)
    foreign = [{"weight": torch.zeros(2)}, {"codes.x": torch.zeros(2, dtype=torch.int32)}]
    for edited in (*(arrays | more for more in foreign), foreign[0]):
        save_file(edited, tmp_path / PREFIX_TREE_NAME, metadata=metadata)
        with pytest.raises(CorruptedFolderError, match="holds the arrays"):
            PrefixTree.from_pretrained(tmp_path)
    for name in arrays:
        kept = {other: array for other, array in arrays.items() if other != name}
        save_file(kept, tmp_path / PREFIX_TREE_NAME, metadata=metadata)
        try:
            tree = PrefixTree.from_pretrained(tmp_path)
        except CorruptedFolderError:
            continue
        # Without the map to the documents, they are in the order of their sequences.
        assert name == "documents" and not name.startswith("codes")
        assert_sound(tree)

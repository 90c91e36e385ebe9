import hashlib
import json
import os
import re

import pytest
import torch
from safetensors import safe_open
from tiny_models import tiny_inputs, tiny_model, tiny_tokenizer
from transformers import AutoConfig, AutoModel

from modeling_lmindexer import (
    CorruptedFolderError,
    LMIndexerForSemanticID,
    PrefixTree,
    PrefixTreeLogitsProcessor,
    SemanticIndex,
)
from modeling_lmindexer.folder import (
    FORMAT_VERSION,
    MANIFEST_NAME,
    UPDATE_NAME,
    atomic_path,
    file_digest,
    read_manifest,
    remove_partial,
    replaced_together,
    resolve_file,
    update_manifest,
    verify_files,
    write_json,
    write_tensors,
)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_appears_only_when_it_is_whole(tmp_path):
    path = tmp_path / "new" / "codes.json"
    with atomic_path(path) as temporary:
        assert temporary.parent == path.parent and temporary.suffix == ".json"
        temporary.write_text("[1]")
        assert not path.exists()
    assert path.read_text() == "[1]" and names(path.parent) == ["codes.json"]
    mask = os.umask(0)
    os.umask(mask)
    assert path.stat().st_mode & 0o777 == 0o666 & ~mask


def test_the_writer_may_replace_the_temporary_file(tmp_path):
    """As safetensors does."""
    with atomic_path(tmp_path / "a") as temporary:
        other = temporary.with_name("other")
        other.write_text("new")
        os.replace(other, temporary)
    assert (tmp_path / "a").read_text() == "new" and names(tmp_path) == ["a"]


def test_on_windows_no_folder_is_opened(tmp_path, monkeypatch):
    """Which it refuses; and a file is flushed only through a handle that may write."""
    open_file = os.open

    def windows_open(path, flags, *more, **settings):
        if not settings and os.path.isdir(path):  # with some, it is rmtree, which has another way on Windows
            raise PermissionError(13, "Permission denied", str(path))
        synced.append(path) if flags == os.O_RDWR else None
        return open_file(path, flags, *more, **settings)

    synced = []
    monkeypatch.setattr("modeling_lmindexer.folder.ON_WINDOWS", True)
    monkeypatch.setattr(os, "open", windows_open)
    with replaced_together(tmp_path) as new:
        (new / "a.json").write_text("1")
    write_json(tmp_path / "b.json", 2)
    assert names(tmp_path) == ["a.json", "b.json"] and len(synced) == 2


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("old", [None, "old"])
def test_an_interrupted_writer_leaves_the_old_file(tmp_path, error, old):
    path = tmp_path / "codes.json"
    if old:
        path.write_text(old)
    with pytest.raises(error), atomic_path(path) as temporary:
        temporary.write_text("half of the ne")
        raise error
    assert names(tmp_path) == (["codes.json"] if old else [])
    assert not old or path.read_text() == old


def test_what_cannot_be_written_as_json_leaves_the_old_file(tmp_path):
    write_json(tmp_path / "a.json", {"é": [1]})
    content = (tmp_path / "a.json").read_bytes()
    assert content == '{\n  "é": [\n    1\n  ]\n}\n'.encode()
    with pytest.raises(TypeError):
        write_json(tmp_path / "a.json", {"a": object()})
    assert names(tmp_path) == ["a.json"] and (tmp_path / "a.json").read_bytes() == content


def test_a_manifest_lists_files_with_size_and_hash(tmp_path):
    (tmp_path / "figures").mkdir()
    (tmp_path / "a.txt").write_text("abc")
    (tmp_path / "figures" / "b.png").write_bytes(b"\0\1")
    update_manifest(tmp_path, ["figures/b.png", "a.txt"])
    entry = {"size": 3, "sha256": hashlib.sha256(b"abc").hexdigest()}
    manifest = read_manifest(tmp_path / MANIFEST_NAME)
    assert manifest["format_version"] == FORMAT_VERSION == 1
    assert list(manifest["files"]) == ["a.txt", "figures/b.png"] and manifest["files"]["a.txt"] == entry
    # Listed again: only what is named is looked at, what is gone is dropped.
    (tmp_path / "a.txt").write_text("abcd")
    (tmp_path / "c.txt").write_text("")
    update_manifest(tmp_path, ["c.txt"])
    assert read_manifest(tmp_path / MANIFEST_NAME)["files"]["a.txt"] == entry
    (tmp_path / "figures" / "b.png").unlink()
    update_manifest(tmp_path, ["a.txt"])
    files = read_manifest(tmp_path / MANIFEST_NAME)["files"]
    assert list(files) == ["a.txt", "c.txt"] and files["a.txt"]["size"] == 4


def test_files_are_compared_with_the_manifest(tmp_path):
    path, manifest = tmp_path / "a.txt", tmp_path / MANIFEST_NAME
    path.write_text("abc")
    verify_files([path], None)
    update_manifest(tmp_path, ["a.txt"])
    verify_files([path], manifest)
    path.write_text("abx")
    with pytest.raises(CorruptedFolderError, match=r"a.txt differs .* \(SHA-256\).*update_manifest\(.*\['a.txt'\]\)"):
        verify_files([path], manifest)
    path.write_text("ab")
    with pytest.raises(CorruptedFolderError, match="a.txt has 2 bytes, its manifest lists 3: the file is truncated"):
        verify_files([path], manifest)
    (tmp_path / "other.txt").write_text("not listed")
    verify_files([tmp_path / "other.txt"], manifest)
    verify_files([path], None)


def test_files_of_subfolders_are_compared_by_their_path(tmp_path):
    names, manifest = ["a.txt", "figures/a.txt"], tmp_path / MANIFEST_NAME
    (tmp_path / "figures").mkdir()
    for name in names:
        (tmp_path / name).write_text(name)
    update_manifest(tmp_path, names)
    verify_files([tmp_path / name for name in names], manifest)
    (tmp_path / "figures" / "a.txt").write_text("figures/b.txt")
    call = re.escape(f"update_manifest({str(tmp_path)!r}, ['figures/a.txt'])")
    with pytest.raises(CorruptedFolderError, match=f"a.txt differs .*{call}"):
        verify_files([tmp_path / name for name in names], manifest)
    update_manifest(tmp_path, ["figures/a.txt"])
    # Some of an index's files may have been moved to their names, and others not.
    (tmp_path / UPDATE_NAME).mkdir()
    (tmp_path / UPDATE_NAME / "a.txt").write_text("a.txt")
    for place in (tmp_path, tmp_path / UPDATE_NAME):
        if place is not tmp_path:
            manifest = manifest.rename(place / MANIFEST_NAME)
        verify_files([tmp_path / UPDATE_NAME / "a.txt", tmp_path / "figures" / "a.txt"], manifest)
        for path in (tmp_path / UPDATE_NAME / "a.txt", tmp_path / "figures" / "a.txt"):
            before = path.read_bytes()
            path.write_bytes(b"x" * len(before))
            with pytest.raises(CorruptedFolderError, match=re.escape(f"{path} differs")):
                verify_files([path], manifest)
            path.write_bytes(before)


def test_the_digest_is_that_of_the_content(tmp_path):
    (tmp_path / "a").write_bytes(b"x" * 3_000_000)
    assert file_digest(tmp_path / "a") == hashlib.sha256(b"x" * 3_000_000).hexdigest()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\xfe",
        b"{",
        b"[]",
        b"null",
        b"{}",
        b'{"format_version": 1}',
        b'{"format_version": "1", "files": {}}',
        b'{"format_version": 1, "files": []}',
        b'{"format_version": 1, "files": {"a": 3}}',
        b'{"format_version": 1, "files": {"a": {"size": 3}}}',
    ],
)
def test_garbage_is_no_manifest(tmp_path, content):
    path = tmp_path / MANIFEST_NAME
    path.write_bytes(content)
    with pytest.raises(CorruptedFolderError, match=f"{MANIFEST_NAME} is not a manifest"):
        read_manifest(path)
    with pytest.raises(CorruptedFolderError):
        SemanticIndex.from_codes(["a"], [[0]], [2, 2]).save_pretrained(tmp_path)


def test_a_newer_manifest_asks_for_an_upgrade(tmp_path):
    write_json(tmp_path / MANIFEST_NAME, {"format_version": 2, "files": {}})
    with pytest.raises(CorruptedFolderError, match="has format version 2, this package reads up to 1: upgrade"):
        read_manifest(tmp_path / MANIFEST_NAME)


def test_files_are_found_in_folders(tmp_path):
    (tmp_path / "part").mkdir()
    (tmp_path / "a.txt").write_text("")
    (tmp_path / "part" / "b.txt").write_text("")
    assert resolve_file(tmp_path, "a.txt") == tmp_path / "a.txt"
    assert resolve_file(str(tmp_path), "b.txt", subfolder="part") == tmp_path / "part" / "b.txt"
    assert resolve_file(tmp_path, "c.txt", optional=True) is None
    with pytest.raises(FileNotFoundError, match=r"holds no c.txt: found \['a.txt', 'part'\]"):
        resolve_file(tmp_path, "c.txt")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="holds no c.txt: found nothing"):
        resolve_file(tmp_path / "empty", "c.txt")
    with pytest.raises(FileNotFoundError, match="part is a folder; expected a file"):
        resolve_file(tmp_path, "part")


@pytest.mark.parametrize("name", ["no/such-repository", "/no/such/folder/at/all", "./nothing"])
def test_what_is_neither_folder_nor_repository_is_named(name):
    with pytest.raises(FileNotFoundError, match=f"{name} is no local folder, and no Hub repository with a.txt"):
        resolve_file(name, "a.txt")
    assert resolve_file(name, "a.txt", optional=True) is None
    for cls in (SemanticIndex, PrefixTree, PrefixTreeLogitsProcessor):
        with pytest.raises(FileNotFoundError, match=name):
            cls.from_pretrained(name)
    with pytest.raises(OSError, match="huggingface.co|Repo id"):
        LMIndexerForSemanticID.from_pretrained(name)


# The whole model folder.


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    model = tiny_model("t5")
    for part in (model, tiny_tokenizer(), SemanticIndex.from_codes(["a", "b"], [[0, 1], [2, 3]], [4, 5, 3])):
        part.save_pretrained(folder)
    return folder


@pytest.fixture
def folder(written, tmp_path):
    """A copy of a model folder without a manifest."""
    for path in written.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


def list_all(folder):
    update_manifest(folder, [path.name for path in folder.iterdir() if path.name != MANIFEST_NAME])


def test_a_whole_folder_loads(folder):
    list_all(folder)
    index = SemanticIndex.from_pretrained(folder)
    trie = PrefixTreeLogitsProcessor.from_pretrained(folder)
    model = AutoModel.from_pretrained(folder)
    assert index.documents_of(model.generate(**tiny_inputs(), num_beams=2, logits_processor=trie)) != [[]] * 3


@pytest.mark.parametrize("listed", [False, True])
@pytest.mark.parametrize("size", [0, 5, 100, 2000, -1])
def test_truncated_weights_are_named(folder, listed, size):
    if listed:
        list_all(folder)
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:size])
    for cls in (LMIndexerForSemanticID, AutoModel):
        with pytest.raises(CorruptedFolderError, match=r"truncated") as error:
            cls.from_pretrained(folder)
        assert str(folder) in str(error.value)


def test_changed_weights_are_noticed(folder):
    list_all(folder)
    path = folder / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(CorruptedFolderError, match="model.safetensors differs from the file that its manifest lists"):
        AutoModel.from_pretrained(folder)


def test_missing_weights_are_named(folder):
    list_all(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="holds no model.safetensors"):
        AutoModel.from_pretrained(folder)


def test_a_changed_config_is_noticed_and_can_be_accepted(folder):
    list_all(folder)
    config = json.loads((folder / "config.json").read_text())
    config["max_source_length"] = 9
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(CorruptedFolderError, match="config.json"):
        LMIndexerForSemanticID.from_pretrained(folder)
    update_manifest(folder, ["config.json"])
    assert LMIndexerForSemanticID.from_pretrained(folder).config.max_source_length == 9


def test_sharded_weights_are_checked_too(folder):
    model = tiny_model("t5")
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size=8000)
    shards = [name for name in names(folder) if name.startswith("model-")]
    assert len(shards) > 1
    list_all(folder)
    loaded = LMIndexerForSemanticID.from_pretrained(folder)
    assert torch.equal(loaded(**tiny_inputs()).logits, model(**tiny_inputs()).logits)
    content = bytearray((folder / shards[1]).read_bytes())
    content[-1] ^= 1
    (folder / shards[1]).write_bytes(content)
    with pytest.raises(CorruptedFolderError, match=shards[1]):
        LMIndexerForSemanticID.from_pretrained(folder)


def test_saving_into_a_folder_keeps_its_manifest_true(folder):
    list_all(folder)
    before = read_manifest(folder / MANIFEST_NAME)["files"]
    model = LMIndexerForSemanticID.from_pretrained(folder)
    model.resize_disambiguation(9)
    model.save_pretrained(folder)
    after = read_manifest(folder / MANIFEST_NAME)["files"]
    changed = {name for name in after if before.get(name) != after[name]}
    assert {"config.json", "model.safetensors"} <= changed and before.keys() <= after.keys()
    for name, entry in after.items():
        assert (folder / name).stat().st_size == entry["size"] and file_digest(folder / name) == entry["sha256"], name
    assert LMIndexerForSemanticID.from_pretrained(folder).config.num_disambiguation_codes == 9
    PrefixTree.from_pretrained(folder)
    SemanticIndex.from_pretrained(folder)


def test_the_manifest_follows_shards(folder):
    """In more files than before, and in fewer: what is new is listed, what is gone is not."""
    model = tiny_model("t5")
    list_all(folder)
    (folder / "model.safetensors").unlink()
    for size in (8000, 30000, 8000):
        model.save_pretrained(folder, max_shard_size=size)
        listed = {name for name in read_manifest(folder / MANIFEST_NAME)["files"] if name.startswith("model")}
        assert listed == {name for name in names(folder) if name.startswith("model")}
        loaded = AutoModel.from_pretrained(folder)
        assert torch.equal(loaded(**tiny_inputs()).logits, model(**tiny_inputs()).logits)


def test_saving_makes_no_manifest_of_its_own(folder):
    tiny_model("t5").save_pretrained(folder)
    assert MANIFEST_NAME not in names(folder)


def test_a_checkpoint_of_another_model_is_refused(folder):
    tiny_model("bert").backbone.save_pretrained(folder)
    with pytest.raises(ValueError, match="checkpoint of type 'bert', not 'lmindexer'.*from_backbone"):
        LMIndexerForSemanticID.from_pretrained(folder)
    assert AutoConfig.from_pretrained(folder).model_type == "bert"


def test_weights_of_other_sizes_are_refused(folder):
    config = json.loads((folder / "config.json").read_text())
    config["codebook_sizes"] = [4, 6]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(CorruptedFolderError, match="other shapes than its config.json"):
        LMIndexerForSemanticID.from_pretrained(folder)


def test_a_tree_of_another_model_is_refused(folder):
    SemanticIndex.from_codes(["a", "b"], [[0, 1, 2], [2, 3, 2]], [4, 5, 6, 3]).save_pretrained(folder)
    trie = PrefixTreeLogitsProcessor.from_pretrained(folder)
    model = AutoModel.from_pretrained(folder)
    with pytest.raises(ValueError, match="The prefix tree does not fit the model.*Load both from one folder"):
        model.generate(**tiny_inputs(), num_beams=2, logits_processor=trie)
    with pytest.raises(ValueError, match="The index has .* codes per position, the model .*Load both from one folder"):
        model.search(**tiny_inputs(), index=SemanticIndex.from_pretrained(folder))


def test_equal_tensors_and_metadata_make_equal_bytes(tmp_path):
    """Eight entries have 40,320 orders; the reading library finds what was written."""
    tensors, metadata = {"b": torch.arange(3), "a": torch.ones(2, 2)}, {f"entry {i}": "ä" * i for i in range(8)}
    for name in ("one", "two"):
        write_tensors(tmp_path / name, tensors, metadata)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    with safe_open(tmp_path / "one", framework="pt") as file:
        assert file.metadata() == metadata and set(file.keys()) == {"a", "b"}
        assert all(torch.equal(file.get_tensor(name), tensor) for name, tensor in tensors.items())


def test_what_killed_writers_left_is_removed(tmp_path):
    """Copies that were never given up, here or in the folders of stages; what is on its way to its name stays."""
    left = [".writing-abc", ".index-update-xyz", "stages/1/.writing-file"]
    for name in (*left, ".index-update", "stages/1/codes"):
        (tmp_path / name).mkdir(parents=True)
    remove_partial(tmp_path)
    assert [name for name in left if (tmp_path / name).exists()] == ["stages/1/.writing-file"]
    remove_partial(tmp_path / "stages", deep=True)
    assert sorted(path.name for path in tmp_path.rglob("*")) == [".index-update", "1", "codes", "stages"]

"""A folder that is whole passes every check; whatever is broken is named by the check that is about it."""

import json
import os
import re
import shutil

import pyarrow
import pyarrow.parquet
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_index import TEXTS, documents, learned_index, write_folder

from modeling_lmindexer import CorruptedFolderError, DocumentVectors, PrefixTree, SemanticIndex, folder
from modeling_lmindexer.document_ids import IDS_NAME
from modeling_lmindexer.folder import MANIFEST_NAME, UPDATE_NAME, update_manifest
from modeling_lmindexer.index_changes import CHANGES_NAME
from modeling_lmindexer.index_check import check_folder

KNOWN = documents(range(30))


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    place = tmp_path_factory.mktemp("index") / "model"
    index = learned_index()
    index.remove(["doc03"])
    index.add(documents([3], texts=[30]))
    write_folder(place, index)
    DocumentVectors.of(index, [{"id": d["id"], "text": d["text"]} for d in KNOWN]).save_pretrained(place)
    return place


@pytest.fixture
def place(written, tmp_path):
    return shutil.copytree(written, tmp_path / "model")


def problems(place) -> list[str]:
    return check_folder(place, KNOWN).problems


def test_a_whole_folder_has_no_problems(place):
    report = check_folder(place, KNOWN, sample=20)
    assert report.problems == [] and len(report.checks) == 9
    printed = str(report)
    assert printed.count("ok  ") == len(printed.splitlines()) == 9
    for line in ("30 documents, version 2", "2 changes up to version 2, 30 documents at version 0", "of 20 documents"):
        assert line in printed
    assert str(check_folder(place, KNOWN, sample=20)) == printed
    # Document 3 has another text now.
    assert "0.967 of 30 documents" in str(check_folder(place, KNOWN))
    with pytest.raises(FileNotFoundError, match="nowhere is no folder"):
        check_folder(place / "nowhere")


def rewrite(place, name, change):
    """Changes a file and lists it, so that only what it holds is wrong."""
    path = place / name
    if name.endswith(".parquet"):
        pyarrow.parquet.write_table(change(pyarrow.parquet.read_table(path)), path)
    elif name.endswith(".safetensors"):
        save_file(change(load_file(path)), path)
    else:
        path.write_text(json.dumps(change(json.loads(path.read_text()))))
    update_manifest(place, [name])


def with_text(table):
    texts = table["semantic_id"].to_pylist()
    return table.set_column(2, "semantic_id", pyarrow.array(["<0>", *texts[1:]]))


def swapped(table):
    ids = table["id"].to_pylist()
    return table.set_column(0, "id", pyarrow.array([ids[1], ids[0], *ids[2:]]))


def changed_row(table):
    after = table["after"].to_pylist()
    return table.set_column(4, "after", pyarrow.array([*after[:-1], "<9><9><9>"]))


def last_tensor(tensors, change):
    name = "codebooks.learned.0.weight"
    return tensors | {name: change(tensors[name])}


@pytest.mark.parametrize(
    ("name", "change", "expected"),
    [
        (IDS_NAME, with_text, ["table: .* has the semantic_id '<0>' beside the codes of"]),
        (IDS_NAME, lambda table: table.slice(0, 29), ["tree: it has 1 IDs that no document of the table has"]),
        (IDS_NAME, swapped, ["changelog: |vectors: .*not the 30"]),
        (CHANGES_NAME, changed_row, ["changelog: version 2 leaves document .* with the ID <9><9><9>"]),
        (CHANGES_NAME, lambda table: table.slice(0, 1), ["changelog: .* has 1 changes up to version 2.*says 2"]),
        ("model.safetensors", lambda t: last_tensor(t, lambda w: w * torch.inf), ["weights: .* not finite"]),
        ("model.safetensors", lambda t: last_tensor(t, lambda w: w[:1]), ["weights: .*learned.0.weight is"]),
        ("model.safetensors", lambda t: {n: w for n, w in t.items() if "learned.0" not in n}, ["tensors are missing"]),
        ("model.safetensors", lambda t: t | {"more": torch.ones(1)}, ["weights: more is no tensor of this model"]),
        ("config.json", lambda c: c | {"codebook_fingerprint": "0" * 32}, ["model and table: .*other codebooks"]),
        ("config.json", lambda c: c | {"codebook_sizes": [4, 6]}, ["weights: ", "model and table: .*different runs"]),
    ],
)
def test_what_does_not_fit_is_named(place, name, change, expected):
    rewrite(place, name, change)
    found = problems(place)
    for pattern in expected:
        assert any(re.search(pattern, problem) for problem in found), found
    assert not any(problem.startswith("manifest") for problem in found)


def test_files_that_are_not_those_listed(place):
    (place / "tokenizer.json").unlink()
    (place / "generation_config.json").write_text("{}")
    (place / "codebooks.py").write_bytes((place / "codebooks.py").read_bytes().replace(b"E", b"F"))
    (place / "extra.bin").write_text("")
    (place / ".semantic_ids.parquet.abcd.parquet").write_text("half of the")
    (place / "document_vectors.safetensors").write_text("not a tensor")
    found = "\n".join(problems(place))
    for expected in (
        "tokenizer.json is listed and missing",
        "generation_config.json has 2 bytes, ",
        "codebooks.py is not the file that is listed",
        "extra.bin is not listed",
        ".semantic_ids.parquet.abcd.parquet is left of a write that was stopped",
        "document vectors: ",
    ):
        assert expected in found


def test_a_tree_of_another_index(place):
    sequences = SemanticIndex.from_pretrained(place).sequences
    PrefixTree.from_sequences(sequences.roll(1, 0)).save_pretrained(place)
    assert any("it numbers 30 documents, 30 of them otherwise" in problem for problem in problems(place))
    PrefixTree.from_sequences(sequences[1:]).save_pretrained(place)
    assert any("it lacks the IDs of 1 documents of the table" in problem for problem in problems(place))


def test_texts_that_the_ids_do_not_come_from(place):
    others = [{"id": d["id"], "text": TEXTS[(i * 7 + 11) % 30]} for i, d in enumerate(KNOWN)]
    (problem,) = check_folder(place, others).problems
    assert "the model, or the texts, are not those that the IDs come from" in problem


def test_an_index_alone_has_what_it_needs(tmp_path):
    learned_index().save_pretrained(tmp_path)
    report = check_folder(tmp_path)
    assert report.problems == [] and "no model in this folder" in str(report)


# Saving all at once.


class Killed(BaseException):
    pass


def no(_) -> bool:
    return False


@pytest.mark.parametrize("calls", range(12))
@pytest.mark.parametrize("name", ["replace", "rename", "fsync"])
def test_a_save_that_is_killed_leaves_one_index_or_the_other(place, monkeypatch, name, calls):
    """Before every call that changes a name or waits for the disk; then a process that knows nothing looks on."""
    index = SemanticIndex.from_pretrained(place)
    old = index.document_ids[:]
    index.remove(old[:5])
    new = index.document_ids[:]
    whole, left = getattr(os, name), calls

    def fatal(*arguments, **settings):
        nonlocal left
        if left == 0:
            raise Killed
        left -= 1
        return whole(*arguments, **settings)

    monkeypatch.setattr(folder.os, name, fatal)
    # A killed process cleans nothing up.
    monkeypatch.setattr(folder.tempfile.TemporaryDirectory, "__exit__", lambda self, *_: no(self._finalizer.detach()))
    killed = False
    try:
        index.save_pretrained(place)
    except Killed:
        killed = True
    monkeypatch.undo()
    loaded = SemanticIndex.from_pretrained(place)
    assert loaded.document_ids in (old, new) and loaded.version in (2, 3) and (killed or loaded.document_ids == new)
    assert len(PrefixTree.from_pretrained(place)) == len(loaded)
    assert len(loaded.at(0)) == 30
    assert not (place / UPDATE_NAME).exists()
    found = [p for p in problems(place) if "is left of a write that was stopped" not in p and "vectors" not in p]
    assert found == []
    SemanticIndex.from_pretrained(place).save_pretrained(place)


def test_a_folder_that_is_only_read_is_read_where_it_lies(place, monkeypatch):
    index = SemanticIndex.from_pretrained(place)
    index.remove(["doc00"])
    monkeypatch.setattr(folder, "finish_update", lambda path: None)
    index.save_pretrained(place)
    assert sorted(p.name for p in (place / UPDATE_NAME).iterdir()) == sorted(
        [IDS_NAME, CHANGES_NAME, MANIFEST_NAME, "prefix_tree.safetensors"]
    )

    def refuse(path):
        raise PermissionError(path)

    monkeypatch.setattr(folder, "finish_update", refuse)
    assert len(SemanticIndex.from_pretrained(place)) == len(PrefixTree.from_pretrained(place)) == 29
    monkeypatch.undo()
    assert len(SemanticIndex.from_pretrained(place)) == 29 and not (place / UPDATE_NAME).exists()


def test_a_changelog_that_is_gone_stops_nothing_but_itself(place):
    (place / CHANGES_NAME).unlink()
    index = SemanticIndex.from_pretrained(place)
    assert index.documents_of(index.sequences[:1]) == [["doc00"]]
    with pytest.raises(CorruptedFolderError, match="has 0 changes up to version 2.*forget_changes"):
        list(index.changes())
    with pytest.raises(CorruptedFolderError, match="forget_changes"):
        index.save_pretrained(place)
    index.forget_changes()
    index.save_pretrained(place)
    assert SemanticIndex.from_pretrained(place).version == 0

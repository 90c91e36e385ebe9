"""Parts are known again, and refused where they are not what they should be."""

import json
import os

import numpy as np
import pytest

from modeling_lmindexer.folder import file_digest
from trainers.corpus_parts import PartsFolder, Records, SourceState, is_complete, write_parts_manifest
from trainers.run_state import ExistingRunError


class Shard:
    def __init__(self, path):
        self.path = path


@pytest.fixture
def shard(tmp_path) -> Shard:
    (tmp_path / "a.jsonl").write_text("x")
    return Shard(tmp_path / "a.jsonl")


def folder_with(tmp_path, shard, numbers, **settings) -> PartsFolder:
    """Parts of two documents each; the last one is number 2."""
    folder = PartsFolder(tmp_path / "parts", settings, 2)
    folder.claim()
    for number in numbers:
        records = Records(number, 2 * number, [2 * number, 2 * number + 1], ["", ""], number == 2)
        folder.write(shard, SourceState.of(shard.path), records, np.zeros((2, 1)), tmp_path)
    return folder


def test_complete_from_the_first_to_the_last(tmp_path, shard):
    assert not is_complete({})
    for numbers, complete in (([0, 1], False), ([0, 2], False), ([1, 2], False), ([0, 1, 2], True)):
        own = tmp_path / "".join(map(str, numbers))
        own.mkdir()
        assert is_complete(folder_with(own, shard, numbers).of(shard)) == complete


def test_manifest(tmp_path, shard):
    folder = folder_with(tmp_path, shard, [0, 1])
    with pytest.raises(ExistingRunError, match="Parts of .*a.jsonl are missing"):
        write_parts_manifest(folder, [shard])
    parts, digest = write_parts_manifest(folder_with(tmp_path, shard, [2]), [shard])
    manifest = json.loads((tmp_path / "parts" / "parts.json").read_text())
    assert manifest["rows"] == 6 and [part["first_row"] for part in manifest["parts"]] == [0, 2, 4]
    assert all(file_digest(tmp_path / "parts" / part["file"]) == part["sha256"] for part in manifest["parts"])
    assert len(parts) == 3 and write_parts_manifest(folder, [shard])[1] == digest


def test_a_part_of_other_settings_or_none_at_all(tmp_path, shard):
    with pytest.raises(ExistingRunError, match="bf16: True there, False now"):
        folder_with(tmp_path, shard, [0], bf16=True)
        folder_with(tmp_path, shard, [], bf16=False)
    other = folder_with(tmp_path / "other", shard, [0]) if (tmp_path / "other").mkdir() is None else None
    mine = PartsFolder(tmp_path / "mine", {"model": "b"}, 2)
    mine.claim()
    own = mine.folder_of(shard)
    own.mkdir()
    os.replace(other.folder_of(shard) / "000000.parquet", own / "000000.parquet")
    with pytest.raises(ExistingRunError, match="other settings than the parts beside it"):
        mine.of(shard)
    (own / "000000.parquet").write_bytes(b"PAR1")
    with pytest.raises(ExistingRunError, match="is no part of an indexed corpus"):
        mine.of(shard)


def test_the_state_of_a_source(shard):
    state = SourceState.of(shard.path)
    os.utime(shard.path, ns=(1, 1))
    assert SourceState.of(shard.path, state).sha256 == state.sha256
    shard.path.write_text("y")
    assert SourceState.of(shard.path, state).sha256 != state.sha256

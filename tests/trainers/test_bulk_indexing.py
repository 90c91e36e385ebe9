"""What of the files a process reads, and hashes, for the parts that are its own."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from trainers import corpus_parts
from trainers.bulk_index import UnusableShardsError
from trainers.bulk_indexing import ShardShare, unfinished
from trainers.corpus_parts import PartsFolder, Records


@dataclass
class Listed:
    """A source of six documents."""

    path: Path
    says_how_many: bool = False
    read: list = field(default_factory=list)

    def number_of_parts(self, size):
        return 6 // size if self.says_how_many else None

    def parts(self, size, wanted):
        self.read.append(self.path.name)
        for number in filter(wanted, range(6 // size)):
            first = number * size
            ids = list(range(first, first + size))
            yield Records(number, first, ids, list(map(str, ids)), first + size == 6)


@pytest.fixture
def hashed(monkeypatch) -> list[str]:
    """Names of the files that were hashed."""
    names, digest = [], corpus_parts.file_digest
    monkeypatch.setattr(corpus_parts, "file_digest", lambda path: names.append(path.name) or digest(path))
    return names


def sources(folder, **settings) -> list[Listed]:
    for name in "ab":
        (folder / name).write_text(name)
    return [Listed(folder / name, **settings) for name in "ab"]


def work_of(listed, folder, index, num_shards=2) -> list[tuple]:
    share = ShardShare(index, num_shards)
    return [
        (work.source, state, records)
        for work in unfinished(listed, folder)
        for state, records in work.records(folder.size, share)
    ]


def write(folder, found, beside):
    for source, state, records in found:
        folder.write(source, state, records, np.zeros((len(records.ids), 1)), beside)


def test_a_file_without_parts_of_a_process_is_not_opened(tmp_path, hashed):
    folder, listed = PartsFolder(tmp_path / "parts", {}, 6), sources(tmp_path, says_how_many=True)
    folder.claim()
    found = work_of(listed, folder, 1)
    assert [source.path.name for source, _, _ in found] == ["b"]
    assert hashed == ["b"] and listed[0].read == []


def test_nor_one_whose_parts_are_there(tmp_path, hashed):
    """A file does not say how many parts it has before the last one is written."""
    folder, listed = PartsFolder(tmp_path / "parts", {}, 3), sources(tmp_path)
    folder.claim()
    first = work_of(listed, folder, 0)
    assert [records.number for _, _, records in first] == [0, 1] and hashed == ["a", "b"]
    write(folder, first, tmp_path)  # the first half of a, the second one of b
    hashed.clear(), [source.read.clear() for source in listed]
    assert work_of(listed, folder, 0) == []
    assert hashed == [] and listed[0].read == ["a"] and listed[1].read == []
    write(folder, work_of(listed, folder, 1), tmp_path)
    assert list(unfinished(listed, folder)) == []


def test_a_file_that_changes_while_it_is_read(tmp_path):
    folder, listed = PartsFolder(tmp_path / "parts", {}, 3), sources(tmp_path)
    folder.claim()
    work = next(unfinished(listed, folder)).records(3, ShardShare())
    next(work)
    listed[0].path.write_text("other")
    with pytest.raises(UnusableShardsError, match="changed while it was read"):
        list(work)

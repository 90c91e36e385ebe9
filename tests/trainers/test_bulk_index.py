"""What concerns all documents, against the index that is built in memory."""

import functools
import json
import tracemalloc

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_training import tiny_indexer, tiny_tokenizer

from modeling_lmindexer import LMIndexerForSemanticID, PrefixTree, SemanticIndex
from trainers import bulk_index, external_sort, tree_stream
from trainers.bulk_index import PartRows, UnusableShardsError, build_bulk_index, equal_tables, load_with_room
from trainers.corpus_parts import Part, PartsFolder, Records, SourceState


class Shard:
    """A source that is only a name."""

    def __init__(self, path):
        self.path = path


def written_parts(root, shards: list[tuple[list, np.ndarray]], size: int, typed: bool = True) -> list[Part]:
    """Parts of `size` documents, of shards with ids and codes."""
    folder, parts = PartsFolder(root / "parts", {}, size), []
    beside = root / "beside"
    beside.mkdir(parents=True)
    folder.claim()
    for number, (ids, codes) in enumerate(shards):
        shard = Shard(root / f"shard{number}.jsonl")
        shard.path.write_text("")
        for place, start in enumerate(range(0, max(len(ids), 1), size)):
            span = slice(start, start + size)
            records = Records(place, start, ids[span], [], start + size >= len(ids), typed)
            folder.write(shard, SourceState.of(shard.path), records, codes[span], beside)
        parts += folder.of(shard).values()
    return parts


def built(root, parts, model, memory):
    columns = [f"c{t}" for t in range(model.config.num_learned_positions)]
    index = build_bulk_index(PartRows(parts, columns), model.config, memory, root / "work")
    index.save_pretrained(root)
    return index


DOCUMENTS = st.one_of(
    st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=80, unique=True),
    st.lists(st.text(min_size=1, max_size=4), min_size=1, max_size=80, unique=True),
)


@settings(max_examples=50, deadline=None)
@given(st.data(), DOCUMENTS, st.sampled_from([1, 2000, 10**6]), st.integers(1, 30))
def test_equal_to_the_index_in_memory(tmp_path_factory, data, ids, memory, size):
    """The same IDs, table and tree for any budget, parts and order of the documents."""
    code = st.integers(0, 3) if data.draw(st.booleans()) else st.just(2)
    codes = np.array([data.draw(st.tuples(code, code)) for _ in ids], dtype=np.int64).reshape(-1, 2)
    cut, root, model = data.draw(st.integers(0, len(ids))), tmp_path_factory.mktemp("index"), tiny_indexer()
    shards = [(ids[:cut], codes[:cut]), (ids[cut:], codes[cut:])]
    found = built(root, written_parts(root, shards, size), model, memory)

    groups = np.unique(codes, axis=0, return_counts=True)[1]
    room = max(16, int(groups.max()))
    expected = SemanticIndex.from_codes(ids, codes, [6, 4, room])
    index = SemanticIndex.from_pretrained(root)
    assert dict(zip(index.document_ids, index.semantic_ids, strict=True)) == dict(
        zip(expected.document_ids, expected.semantic_ids, strict=True)
    )
    assert (found.documents, found.largest_group) == (len(ids), groups.max())
    index.save_pretrained(root / "again")  # its rows are in the order of the IDs: nothing is moved
    for table in ("schema", "rows"):
        old, new = (pq.read_table(folder / "semantic_ids.parquet") for folder in (root / "again", root))
        assert old.schema.equals(new.schema, check_metadata=True) if table == "schema" else old.equals(new)
    assert torch.equal(PrefixTree.from_pretrained(root).sequences(), index.sequences)
    assert sorted(path.name for path in (root / "work").iterdir()) == [
        *(f"codes.{t}" for t in range(3)), "sorted.arrow", *(f"starts.{t}" for t in range(3)),
    ]  # fmt: skip


def peak_memory(work) -> int:
    """Bytes that Python, numpy and arrow held at most while `work()` ran."""
    pool = pa.default_memory_pool()
    own = pa.proxy_memory_pool(pool)
    pa.set_memory_pool(own)
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1] + own.max_memory()
    finally:
        tracemalloc.stop()
        pa.set_memory_pool(pool)


def test_memory_is_that_of_a_small_corpus(tmp_path, monkeypatch):
    """Nothing has an entry for every document: one would take more than 8 bytes."""
    for module, name in ((bulk_index, "_ROWS"), (bulk_index, "_ROW_GROUP"), (tree_stream, "_CHUNK")):
        monkeypatch.setattr(module, name, 64)
    monkeypatch.setattr(external_sort, "_SAMPLES", 256)
    model, peaks = tiny_indexer(), {}
    for size in (100, 2000, 8000):  # the first one loads what is loaded once
        root = tmp_path / str(size)
        codes = np.arange(size)[:, None] // [1, 4] % [6, 4]
        parts = written_parts(root, [([f"item-{place}" for place in range(size)], codes)], 1000)
        peaks[size] = peak_memory(functools.partial(built, root, parts, model, 30_000))
    assert peaks[8000] - peaks[2000] < 8 * 6000


@pytest.mark.parametrize("memory", [1, 10**6])
def test_repeated_ids_are_named(tmp_path, memory):
    codes = np.zeros((40, 2), dtype=np.int64)
    ids = [f"d{i}" for i in range(80)]
    ids[50], ids[70], ids[7] = "d3", "d3", "d9"
    parts = written_parts(tmp_path, [(ids[:40], codes), (ids[40:], codes)], 9)
    with pytest.raises(UnusableShardsError) as error:
        built(tmp_path, parts, tiny_indexer(), memory)
    one, two = tmp_path / "shard0.jsonl", tmp_path / "shard1.jsonl"
    assert f"3 rows repeat the id of another one: 'd3' in {one} row 4, {two} row 11, {two} row 31; " in str(
        error.value
    )
    assert f"'d9' in {one} row 8, {one} row 10." in str(error.value)


def test_ids_of_a_file_without_types_are_text_where_others_are(tmp_path):
    codes = np.zeros((3, 2), dtype=np.int64)
    parts = written_parts(tmp_path, [([7, 8, 9], codes), (["a", "b", "c"], codes)], 2, typed=False)
    built(tmp_path, parts, tiny_indexer(), 1)
    assert SemanticIndex.from_pretrained(tmp_path).document_ids == ["7", "8", "9", "a", "b", "c"]


def test_ids_of_two_kinds_and_no_documents(tmp_path):
    codes = np.zeros((3, 2), dtype=np.int64)
    parts = written_parts(tmp_path / "a", [(["a", "b", "c"], codes), ([7, 8, 9], codes)], 2)
    with pytest.raises(UnusableShardsError, match="shard1.jsonl has whole numbers as ids.*shard0.jsonl has text"):
        built(tmp_path / "a", parts, tiny_indexer(), 1)
    parts = written_parts(tmp_path / "b", [([], codes[:0])], 2)
    with pytest.raises(UnusableShardsError, match="hold no documents"):
        built(tmp_path / "b", parts, tiny_indexer(), 1)


def test_tables_of_one_size():
    batches = [pa.record_batch({"a": list(range(start, stop))}) for start, stop in ((0, 2), (2, 9), (9, 10))]
    assert [table["a"].to_pylist() for table in equal_tables(batches, 4)] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


@pytest.mark.parametrize("had", [0, 4, 16])
def test_a_model_gets_room(tmp_path, had):
    tiny_indexer(num_disambiguation_codes=had).save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    model, _, note = load_with_room(tmp_path, 9)
    assert model.config.position_sizes == [6, 4, max(9, had)]
    assert bool(note) == (had < 9) and ("no disambiguation position" in note) == (had == 0)
    model.save_pretrained(tmp_path / "new")
    again = LMIndexerForSemanticID.from_pretrained(tmp_path / "new")
    weight = again.codebooks.disambiguation.weight
    assert weight.shape == (max(9, had), 16) and not weight.any()
    assert again.generation_config.max_new_tokens == 3
    assert json.loads((tmp_path / "new" / "config.json").read_text())["num_disambiguation_codes"] == max(9, had)
    before = LMIndexerForSemanticID.from_pretrained(tmp_path).state_dict()
    after = again.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before if "disambiguation" not in name)

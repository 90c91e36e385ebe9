import json

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_index import TEXTS, learned_index
from tiny_models import tiny_model, tiny_tokenizer

from modeling_lmindexer import CorruptedFolderError, PrefixTree, SemanticIndex
from modeling_lmindexer.document_ids import IDS_NAME
from modeling_lmindexer.folder import MANIFEST_NAME, read_manifest, update_manifest
from modeling_lmindexer.index_changes import CHANGES_NAME
from modeling_lmindexer.index_rules import number_in_group

quick = settings(max_examples=60, deadline=None, database=None)
SIZES = [4, 5, 3]


def document_ids(number):
    names = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=3)
    kinds = (st.integers(-(2**63), 2**63 - 1), st.integers(0, 30), names)
    return st.one_of(*(st.lists(kind, min_size=number, max_size=number, unique=True) for kind in kinds))


@st.composite
def coded_documents(draw):
    """Ids and learned codes of documents; few codes, so that groups are large."""
    number, positions = draw(st.integers(1, 12)), draw(st.integers(1, 3))
    codes = draw(st.lists(st.tuples(*[st.integers(0, 1)] * positions), min_size=number, max_size=number))
    return draw(document_ids(number)), codes


def small_index(ids=("b", "a", "c", "d")):
    return SemanticIndex.from_codes(list(ids), [[0, 1], [0, 1], [3, 0], [0, 1]], SIZES)


@quick
@given(coded_documents())
def test_documents_of_a_group_are_numbered_by_id(documents):
    ids, codes = documents
    numbers = number_in_group(np.array(codes), ids)
    groups = {}
    for document, code in sorted(zip(ids, codes, strict=True)):
        groups.setdefault(code, []).append(document)
    expected = [groups[code].index(document) for document, code in zip(ids, codes, strict=True)]
    assert numbers.tolist() == expected


@quick
@given(coded_documents())
def test_numbers_do_not_depend_on_the_order_of_the_file(documents):
    ids, codes = documents
    order = np.random.default_rng(0).permutation(len(ids))
    numbers = number_in_group(np.array(codes), ids)
    assert number_in_group(np.array(codes)[order], [ids[i] for i in order]).tolist() == numbers[order].tolist()


@quick
@given(coded_documents(), st.data())
def test_documents_of_ids(documents, data):
    ids, codes = documents
    sizes = [2] * len(codes[0]) + [12]
    index = SemanticIndex.from_codes(ids, codes, sizes)
    assert len(index) == len(ids) and index.document_ids == ids
    offsets = [1 + sum(sizes[:position]) for position in range(len(sizes))]
    owner = {}
    for document, row, text in zip(ids, index.codes.tolist(), index.semantic_ids, strict=True):
        assert text == "".join(f"<{code}>" for code in row)
        owner[tuple(code + offset for code, offset in zip(row, offsets, strict=True))] = document
    assert index.sequences.tolist() == [list(flat) for flat in {v: k for k, v in owner.items()}.values()]
    queries = data.draw(st.lists(st.tuples(*[st.integers(-1, 18)] * len(sizes)), max_size=5))
    queries = torch.tensor([*owner, *queries])
    expected = [[owner[key]] if (key := tuple(row)) in owner else [] for row in queries.tolist()]
    assert index.documents_of(queries) == expected
    assert index.documents_of(torch.nn.functional.pad(queries, (1, 0))) == expected
    assert index.rows_of(ids[::-1]).tolist() == list(range(len(ids)))[::-1]
    assert torch.equal(index.sequences_of(ids[:1]), index.sequences[:1])


def test_the_tree_holds_the_ids():
    index = small_index()
    assert torch.equal(index.tree.sequences(), index.sequences.unique(dim=0))
    assert index.logits_processor.tree is index.tree
    assert repr(index) == "SemanticIndex(4 documents, 4 x 5 x 3 codes)"


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([], "There are no documents"),
        (["a", "b", "a", "a", "c", "b"], r"2 document ids occur more than once: \['a', 'b'\]"),
        (["a", 1], r"all integers or all strings, got \['int', 'str'\]"),
        ([1, 2.0], r"got \['float', 'int'\]"),
        ([True, False], r"got \['bool'\]"),
        ([None, "a"], r"got \['NoneType', 'str'\]"),
        (np.array([0.5, 1.5]), r"got \['float'\]"),
    ],
)
def test_impossible_document_ids_are_named(ids, message):
    with pytest.raises(ValueError, match=message):
        SemanticIndex.from_codes(ids, np.zeros((len(ids), 2), dtype=int), [4, 5, 99])


def test_ids_may_come_from_arrays():
    codes = [[0, 0], [1, 1]]
    for ids in (np.array([7, 8]), torch.tensor([7, 8]), [np.int64(7), np.int32(8)], range(7, 9)):
        assert SemanticIndex.from_codes(ids, codes, SIZES).document_ids == [7, 8]
    for ids in (np.array(["x", "y"]), [np.str_("x"), "y"]):
        found = SemanticIndex.from_codes(ids, codes, SIZES).document_ids
        assert found == ["x", "y"] and {type(i) for i in found} == {str}


@pytest.mark.parametrize(
    ("codes", "message"),
    [
        ([[0, 0], [0, 5]], r"Document 'b' has the codes \[0, 5, 0\]; the sizes are \[4, 5, 3\]"),
        ([[0, 0], [-1, 0]], r"Document 'b' has the codes \[-1, 0, 0\]"),
        ([[0, 0]], r"Expected codes for 2 documents, got an array of shape \(1, 2\)"),
        ([0, 0], r"got an array of shape \(2,\)"),
        ([[0], [1]], r"Expected codes of shape \(2, 3\), got \(2, 2\)"),
    ],
)
def test_impossible_codes_are_named(codes, message):
    with pytest.raises(ValueError, match=message):
        SemanticIndex.from_codes(["a", "b"], codes, SIZES)


def test_the_document_with_the_wrong_code_is_named_and_not_another():
    codes = [[0, 0, 7], [9, 0, 0]]
    with pytest.raises(ValueError, match="Document 'b'"):
        SemanticIndex(["a", "b"], codes, SIZES)


def test_two_documents_cannot_have_one_id():
    with pytest.raises(ValueError, match="2 documents have only 1 different IDs"):
        SemanticIndex(["a", "b"], [[0, 0, 0], [0, 0, 0]], SIZES)


def test_a_group_larger_than_the_room_names_the_way_out():
    with pytest.raises(ValueError, match=r"4 documents share .* room for 3: call model.resize_disambiguation\(4\)"):
        SemanticIndex.from_codes(list("abcd"), [[0, 1]] * 4, SIZES)
    assert len(SemanticIndex.from_codes(list("abcd"), [[0, 1]] * 4, [4, 5, 4])) == 4


def test_unknown_documents_are_named():
    index = small_index()
    for call in (index.rows_of, index.sequences_of, index.remove):
        with pytest.raises(KeyError, match=r"2 documents are not in the index: \['x', 'y'\]"):
            call(["x", "a", "y"])


def test_ids_of_another_length_are_refused():
    for shape in ((2, 2), (2, 5), (3,)):
        with pytest.raises(ValueError, match=r"Expected flat ids of shape \(rows, 3\), or \(rows, 4\)"):
            small_index().documents_of(torch.zeros(shape, dtype=torch.long))


@pytest.mark.parametrize("ids", [["b", "a", "c", "é"], [5, -3, 2**40, 0]])
def test_round_trip(ids, tmp_path):
    index = small_index(ids)
    index.save_pretrained(tmp_path / "new")
    loaded = SemanticIndex.from_pretrained(tmp_path / "new")
    assert loaded.document_ids == ids and loaded.position_sizes == SIZES
    assert np.array_equal(loaded.codes, index.codes) and torch.equal(loaded.sequences, index.sequences)
    tree = PrefixTree.from_pretrained(tmp_path / "new")
    assert torch.equal(tree.sequences(), index.tree.sequences())
    table = pyarrow.parquet.read_table(tmp_path / "new" / IDS_NAME)
    assert table.column_names == ["id", "codes", "semantic_id"]
    kinds = [str(field.type) for field in table.schema]
    assert kinds == ["string" if isinstance(ids[0], str) else "int64", "list<element: int64>", "string"]
    assert table["codes"].to_pylist() == index.codes.tolist()
    assert table["semantic_id"].to_pylist() == index.semantic_ids
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["prefix_tree.safetensors", IDS_NAME]


def test_the_manifest_follows_the_index(tmp_path):
    small_index().save_pretrained(tmp_path)
    update_manifest(tmp_path, [IDS_NAME, "prefix_tree.safetensors"])
    before = read_manifest(tmp_path / MANIFEST_NAME)["files"]
    index = SemanticIndex.from_pretrained(tmp_path)
    index.remove(["a"])
    index.save_pretrained(tmp_path)
    after = read_manifest(tmp_path / MANIFEST_NAME)["files"]
    assert after.keys() == {*before, CHANGES_NAME} and before[IDS_NAME] != after[IDS_NAME]
    assert SemanticIndex.from_pretrained(tmp_path).document_ids == ["b", "c", "d"]
    assert len(PrefixTree.from_pretrained(tmp_path)) == 3


def damage(path, how):
    """Changes a saved table."""
    content = path.read_bytes()
    if how == "cut":
        return path.write_bytes(content[: len(content) // 2])
    if how == "changed":
        middle = len(content) // 2
        return path.write_bytes(content[:middle] + bytes([content[middle] ^ 255]) + content[middle + 1 :])
    table = pyarrow.parquet.read_table(path)
    if how == "no sizes":
        table = table.replace_schema_metadata({})
    if how == "no codes":
        table = table.drop_columns(["codes"])
    if how == "other sizes":
        table = table.replace_schema_metadata({"position_sizes": json.dumps([2, 2, 2])})
    if how == "null":
        table = table.set_column(0, "id", pyarrow.array(["a", None, "c", "d"]))
    pyarrow.parquet.write_table(table, path)


@pytest.mark.parametrize("how", ["cut", "no sizes", "no codes", "other sizes", "null"])
def test_a_damaged_table_is_named(how, tmp_path):
    small_index().save_pretrained(tmp_path)
    damage(tmp_path / IDS_NAME, how)
    with pytest.raises(CorruptedFolderError, match=f"{IDS_NAME} is not a table of semantic IDs"):
        SemanticIndex.from_pretrained(tmp_path)


def test_a_table_that_says_nothing_of_the_last_position_has_one(tmp_path):
    small_index().save_pretrained(tmp_path)
    path = tmp_path / IDS_NAME
    table = pyarrow.parquet.read_table(path).replace_schema_metadata({"position_sizes": json.dumps(SIZES)})
    pyarrow.parquet.write_table(table, path)
    assert SemanticIndex.from_pretrained(tmp_path).has_disambiguation


@pytest.mark.parametrize(("how", "message"), [("cut", "truncated"), ("changed", "differs from the file")])
def test_the_manifest_knows_a_damaged_table(how, message, tmp_path):
    small_index().save_pretrained(tmp_path)
    update_manifest(tmp_path, [IDS_NAME])
    damage(tmp_path / IDS_NAME, how)
    with pytest.raises(CorruptedFolderError, match=message):
        SemanticIndex.from_pretrained(tmp_path)


def test_a_folder_without_an_index(tmp_path):
    with pytest.raises(FileNotFoundError, match=f"holds no {IDS_NAME}"):
        SemanticIndex.from_pretrained(tmp_path)


@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_encode_is_assign(batch_size):
    index = learned_index()
    assert torch.equal(index.encode(TEXTS[:30], batch_size=batch_size), index.sequences[:, :2])
    assert index.encode([]).shape == (0, 2)


def test_encode_does_not_drop_out():
    index = learned_index(dropout=0.5)
    index.model.train()
    assert torch.equal(index.encode(TEXTS[:30]), index.sequences[:, :2])
    assert index.model.training


def test_add_and_remove_leave_other_ids_alone():
    index, everything = learned_index(range(20)), learned_index(range(30))
    before = dict(zip(index.document_ids, index.codes.tolist(), strict=True))
    sequences = index.add([{"id": f"doc{i}", "text": TEXTS[i]} for i in range(20, 30)])
    assert torch.equal(sequences, index.sequences_of([f"doc{i}" for i in range(20, 30)]))
    assert index.document_ids == everything.document_ids
    # Later ids count on: the result is that of indexing all documents at once.
    assert np.array_equal(index.codes, everything.codes)
    assert max(index.codes[20:, 2]) > 0 and index.documents_of(sequences) == [[f"doc{i}"] for i in range(20, 30)]
    index.remove([f"doc{i}" for i in range(20, 30)])
    assert dict(zip(index.document_ids, index.codes.tolist(), strict=True)) == before
    assert len(index.tree) == 20


def test_add_fills_what_remove_left():
    index = SemanticIndex.from_codes(list("abcd"), [[0, 0]] * 4, [4, 5, 4])
    index.attach(tiny_model("t5", num_disambiguation_codes=4), tiny_tokenizer())
    code = index.encode(["w5"])[0] - torch.tensor([1, 5])
    index = SemanticIndex.from_codes(list("abcd"), [code.tolist()] * 4, [4, 5, 4]).attach(index.model, index.tokenizer)
    index.remove(["b", "c"])
    index.add([{"id": "z", "text": "w5"}, {"id": "e", "text": "w5"}])
    assert dict(zip(index.document_ids, index.codes[:, 2].tolist(), strict=True)) == {"a": 0, "d": 3, "z": 2, "e": 1}


@settings(max_examples=25, deadline=None, database=None)
@given(st.data())
def test_adding_and_removing_at_random(data):
    index = learned_index(range(8), room=40)
    held = dict(zip(index.document_ids, index.codes.tolist(), strict=True))
    for _ in range(4):
        if data.draw(st.booleans()):
            free = [i for i in range(40) if f"doc{i:02}" not in held]
            new = data.draw(st.lists(st.sampled_from(free), unique=True, max_size=5))
            flat = index.add([{"id": f"doc{i:02}", "text": TEXTS[i]} for i in new]).tolist()
            held |= {f"doc{i:02}": [a - 1, b - 5, c - 10] for i, (a, b, c) in zip(new, flat, strict=True)}
        else:
            gone = data.draw(st.lists(st.sampled_from(sorted(held)), unique=True, max_size=len(held) - 1))
            index.remove(gone)
            held = {document: codes for document, codes in held.items() if document not in gone}
        assert dict(zip(index.document_ids, index.codes.tolist(), strict=True)) == held
        assert len(set(map(tuple, held.values()))) == len(held) == len(index.tree)


def test_a_refused_add_changes_nothing():
    index = learned_index(range(20))
    ids, codes, tree = list(index.document_ids), index.codes.copy(), index.tree.sequences()
    refused = [
        ([{"id": "doc03", "text": "w2"}], r"Documents \['doc03'\] are in the index already"),
        ([{"id": "x", "text": "w2"}, {"id": "x", "text": "w3"}], "1 document ids occur more than once"),
        ([{"id": 5, "text": "w2"}], "all integers or all strings"),
        ([{"id": f"x{i}", "text": "w2"} for i in range(13)], r"room for 12: call model.resize_disambiguation\(\d+\)"),
    ]
    for documents, message in refused:
        with pytest.raises(ValueError, match=message):
            index.add(documents)
        assert index.document_ids == ids and np.array_equal(index.codes, codes)
        assert torch.equal(index.tree.sequences(), tree)
        assert index.documents_of(index.sequences) == [[document] for document in ids]
    with pytest.raises(ValueError, match="would remove every document"):
        index.remove(ids)
    assert len(index) == 20


def test_more_room_for_the_last_position(tmp_path):
    index = learned_index(range(20))
    codes, full = index.codes.copy(), [{"id": f"x{i:02}", "text": "w2"} for i in range(13)]
    with pytest.raises(ValueError, match="model.resize_disambiguation"):
        index.add(full)
    index.model.resize_disambiguation(30)
    index.resize_disambiguation(30)
    index.add(full)
    assert len(index) == 33 and np.array_equal(index.codes[:20], codes) and index.codes[:, 2].max() >= 12
    inputs = index.tokenizer(["w2"], return_tensors="pt")
    found = index.model.search(**inputs, index=index, num_beams=33, top_k=33).documents[0]
    assert sorted(found) == sorted(index.document_ids)
    index.save_pretrained(tmp_path)
    assert SemanticIndex.from_pretrained(tmp_path).position_sizes == [4, 5, 30]
    with pytest.raises(ValueError, match="room for 30 codes; it cannot shrink to 29"):
        index.resize_disambiguation(29)


def test_the_model_of_the_folder_encodes(tmp_path):
    index = learned_index()
    with pytest.raises(ValueError, match="call index.attach"):
        SemanticIndex.from_codes(["a"], [[0, 0]], SIZES).encode(["w2"])
    for part in (index, index.model, index.tokenizer):
        part.save_pretrained(tmp_path)
    loaded = SemanticIndex.from_pretrained(tmp_path)
    assert torch.equal(loaded.encode(TEXTS[:30]), index.sequences[:, :2])
    loaded.remove(["doc00"])
    loaded.add([{"id": "doc00", "text": TEXTS[0]}])
    assert sorted(loaded.semantic_ids) == sorted(index.semantic_ids)


def test_a_model_of_another_index_is_refused():
    with pytest.raises(ValueError, match="they come from different runs"):
        small_index().attach(tiny_model("t5", codebook_sizes=[5, 5]), tiny_tokenizer())


def plain_index(documents=(), sizes=(4, 5)):
    """An index of tiny texts whose IDs are the learned codes alone, the first document's at least, with its model."""
    sizes, offsets = list(sizes), np.cumsum([1, *sizes[:-1]])
    model = tiny_model("mpnet", codebook_sizes=sizes, num_disambiguation_codes=0)
    tokenizer = tiny_tokenizer()
    inputs = tokenizer([TEXTS[0]], return_tensors="pt")
    codes = model.assign(inputs["input_ids"], inputs["attention_mask"]).numpy() - offsets
    index = SemanticIndex.from_codes(["doc00"], codes, sizes, has_disambiguation=False).attach(model, tokenizer)
    index.add([{"id": f"doc{i:02}", "text": TEXTS[i]} for i in documents])
    return index


def cheapest_free(index, text):
    """The flat id that a new text gets, step by step: the codes that `assign` gives it, or the best free last one."""
    prefix = index.encode([text])[:, :-1]
    inputs = index.tokenizer([text], return_tensors="pt")
    decoder_ids = torch.nn.functional.pad(prefix, (1, 0))
    logits = index.model(inputs["input_ids"], inputs["attention_mask"], decoder_ids).logits[0, -1]
    taken = {tuple(row) for row in index.sequences.tolist()}
    free = [code for code in range(1, len(logits)) if (*prefix[0].tolist(), code) not in taken]
    return [*prefix[0].tolist(), max(free, key=lambda code: logits[code])]


def test_ids_of_learned_codes_alone(tmp_path):
    codes = [[0, 1], [3, 4], [0, 0]]
    index = SemanticIndex.from_codes(["b", "a", "c"], codes, [4, 5], has_disambiguation=False)
    assert index.codes.tolist() == codes and index.semantic_ids == ["<0><1>", "<3><4>", "<0><0>"]
    assert index.sequences.tolist() == [[1, 6], [4, 9], [1, 5]]
    assert index.documents_of(index.sequences) == [["b"], ["a"], ["c"]]
    assert repr(index) == "SemanticIndex(3 documents, 4 x 5 codes)"
    assert index.codebook_sizes == index.position_sizes == [4, 5] and small_index().codebook_sizes == [4, 5]
    index.save_pretrained(tmp_path)
    loaded = SemanticIndex.from_pretrained(tmp_path)
    assert not loaded.has_disambiguation and loaded.position_sizes == [4, 5] and loaded.document_ids == ["b", "a", "c"]
    assert loaded.codes.tolist() == codes
    assert torch.equal(PrefixTree.from_pretrained(tmp_path).sequences(), index.tree.sequences())


@pytest.mark.parametrize(
    ("codes", "message"),
    [
        ([[0, 0], [0, 0]], "2 documents have only 1 different IDs.*trainers.reassignment.reassign"),
        ([[0, 0], [0, 5]], r"Document 'b' has the codes \[0, 5\]; the sizes are \[4, 5\]"),
        ([[0, 0, 0], [0, 1, 0]], r"Expected codes of shape \(2, 2\), got \(2, 3\)"),
    ],
)
def test_learned_codes_that_are_no_ids_are_named(codes, message):
    with pytest.raises(ValueError, match=message):
        SemanticIndex.from_codes(["a", "b"], codes, [4, 5], has_disambiguation=False)


@settings(max_examples=25, deadline=None, database=None)
@given(st.sampled_from([(4, 5), (40,), (3, 2, 6)]), st.permutations(range(1, 40)), st.integers(1, 12))
def test_a_new_document_gets_the_cheapest_free_code(sizes, documents, number):
    """Also when several come at once, which is the same as one by one in the order of their ids."""
    index, documents = plain_index(sizes=sizes), documents[:number]
    expected = plain_index(sizes=sizes)
    try:
        for i in sorted(documents):
            flat = cheapest_free(expected, TEXTS[i])
            assert expected.add([{"id": f"doc{i:02}", "text": TEXTS[i]}]).tolist() == [flat]
    except ValueError:  # the prefix is full, as it then is for all of them
        with pytest.raises(ValueError, match="at the last position: remove some"):
            index.add([{"id": f"doc{i:02}", "text": TEXTS[i]} for i in documents])
        assert index.document_ids == ["doc00"]
        return
    flat = index.add([{"id": f"doc{i:02}", "text": TEXTS[i]} for i in documents], batch_size=3)
    assert torch.equal(flat, index.sequences_of([f"doc{i:02}" for i in documents]))
    codes = dict(zip(index.document_ids, index.codes.tolist(), strict=True))
    assert codes == dict(zip(expected.document_ids, expected.codes.tolist(), strict=True))
    assert index.documents_of(index.sequences) == [[document] for document in index.document_ids]


def test_a_full_prefix_takes_no_more_documents():
    index = plain_index()
    same = [{"id": f"x{i}", "text": TEXTS[0]} for i in range(5)]
    with pytest.raises(ValueError, match="There are 1 documents that begin with <.> and 5 new ones, for 5 codes"):
        index.add(same)
    assert index.document_ids == ["doc00"] and len(index.tree) == 1
    first = index.codes[0].tolist()
    index.add(same[:4])
    assert index.codes[0].tolist() == first and sorted(index.codes[:, 1]) == [0, 1, 2, 3, 4]
    gone = index.codes[2].tolist()
    index.remove(["x1"])
    index.add(same[4:])
    assert index.codes[-1].tolist() == gone


def test_a_last_position_that_is_not_there_cannot_grow():
    with pytest.raises(ValueError, match="no disambiguation position.*index anew with num_disambiguation_codes"):
        plain_index().resize_disambiguation(4)


@pytest.mark.parametrize(
    ("sizes", "room", "message"),
    [
        ([4, 5], 3, r"the model \[4, 5, 3\], and only one of them has a disambiguation position"),
        ([4], 5, r"the model \[4, 5\], and only one of them has a disambiguation position"),
        ([4, 6], 0, r"the model \[4, 6\]: they come from different runs"),
    ],
)
def test_learned_codes_alone_fit_no_other_model(sizes, room, message):
    model = tiny_model("t5", codebook_sizes=sizes, num_disambiguation_codes=room)
    with pytest.raises(ValueError, match=rf"The index has \[4, 5\] codes per position, {message}"):
        plain_index().attach(model, tiny_tokenizer())


def test_a_counted_index_fits_no_model_without_a_last_position():
    index = SemanticIndex.from_codes(["a"], [[0]], [4, 5])
    with pytest.raises(ValueError, match="only one of them has a disambiguation position"):
        index.attach(plain_index().model, tiny_tokenizer())


def test_the_folder_of_learned_codes_alone_takes_new_documents(tmp_path):
    index = plain_index(range(1, 6))
    for part in (index, index.model, index.tokenizer):
        part.save_pretrained(tmp_path)
    loaded = SemanticIndex.from_pretrained(tmp_path)
    expected = cheapest_free(index, TEXTS[2])
    assert loaded.add([{"id": "new", "text": TEXTS[2]}]).tolist() == [expected]
    inputs = index.tokenizer([TEXTS[2]], return_tensors="pt")
    found = loaded.model.search(**inputs, index=loaded, num_beams=20, top_k=7)
    assert sorted(found.documents[0]) == sorted(loaded.document_ids)


def test_a_search_keeps_the_ids_that_go_with_its_tree(monkeypatch):
    """Another thread removes so many documents that all are numbered anew, while a search is between the two."""
    index = SemanticIndex.from_codes([f"d{i}" for i in range(8)], [[0, i] for i in range(8)], [2, 8, 2])
    rows, snapshot = index.sequences, PrefixTree.snapshot

    def meanwhile(tree):
        if len(index) == 8:
            index.remove([f"d{i}" for i in range(5)])
        return snapshot(tree)

    monkeypatch.setattr(PrefixTree, "snapshot", meanwhile)
    assert index.documents_of(rows[5:]) == [["d5"], ["d6"], ["d7"]]
    assert index.documents_of(rows[4:]) == [[], ["d5"], ["d6"], ["d7"]] and index.ids.count == 3

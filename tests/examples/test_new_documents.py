"""Which documents are new, what they are kept out of, and how they are measured apart."""

from dataclasses import dataclass

import numpy as np
import pytest
from data import CorpusError
from data.new_documents import NewDocumentArguments, NewDocuments
from datasets import Dataset
from tiny_models import tiny_model, tiny_tokenizer

from modeling_lmindexer import SemanticIndex

DOCUMENTS = Dataset.from_dict({"id": list(range(20)), "text": [f"w{i + 2} w{i + 30}" for i in range(20)]})


@dataclass
class Arguments(NewDocumentArguments):
    task: str = "retrieval"


def choose(seed=0, **values) -> NewDocuments | None:
    return NewDocuments.choose(Arguments(**values), DOCUMENTS, seed)


def queries(**judged) -> Dataset:
    rows = [
        {"id": query, "text": query, "relevant": list(own), "gains": list(own.values())}
        for query, own in judged.items()
    ]
    return Dataset.from_list(rows)


def test_a_share_is_drawn_by_seed():
    assert choose() is None
    first, again, other = (choose(seed, hold_out_documents=0.25) for seed in (0, 0, 1))
    assert first.ids == again.ids != other.ids and len(first.ids) == 5
    assert set(first.of(DOCUMENTS, new=False)["id"]) == set(range(20)) - first.ids
    assert first.of(DOCUMENTS)["text"][:] == first.documents["text"][:]


def test_a_file_names_them(tmp_path):
    file = tmp_path / "new.txt"
    file.write_text("17\n\n 3 \n17\n")
    assert choose(new_documents_file=str(file)).ids == {3, 17}
    file.write_text("3\n21\n")
    with pytest.raises(CorpusError, match="new.txt, line 2: '21' is no document of the corpus"):
        choose(new_documents_file=str(file))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"hold_out_documents": 0.1, "new_documents_file": "x"}, "Give either"),
        ({"hold_out_documents": 1.0}, "expected a share from 0 to below 1"),
        ({"hold_out_documents": 0.01}, "0 of 20 documents are new"),
        ({"new_documents_file": "nowhere.txt"}, "'nowhere.txt' is not a file"),
        ({"hold_out_documents": 0.1, "task": "recommendation"}, "histories hold items that are known"),
    ],
)
def test_what_cannot_be_chosen(values, message):
    with pytest.raises(CorpusError, match=message):
        choose(**values)


def test_queries_apart():
    """Relevant documents of the other part are hidden; judged ones without a gain go with their part."""
    new = NewDocuments(DOCUMENTS.select([0, 1, 2]), "index")
    table = queries(a={0: 1, 5: 2}, b={6: 1}, c={1: 2, 2: 0, 7: 0}, d={8: 1, 1: 0})
    parts = new.apart({"test": table})
    told = {
        name: {row["id"]: (dict(zip(row["relevant"], row["gains"], strict=True)), row["hidden"]) for row in own}
        for name, own in parts.items()
    }
    assert told == {
        "test_seen": {"a": ({5: 2}, [0]), "b": ({6: 1}, []), "d": ({8: 1}, [])},
        "test_unseen": {"a": ({0: 1}, [5]), "c": ({1: 2, 2: 0}, [])},
    }
    assert new.judged(table, "seen")["id"][:] == ["a", "b", "d"] and "hidden" not in new.judged(table, "seen").features
    assert set(new.apart({"test": queries(b={6: 1})})) == {"test_seen"}
    assert not new.apart({"test": table, "test_unseen": table}), "a folder's own splits are what is measured"
    with pytest.raises(CorpusError, match="Of 1 queries none asks for a document that is unseen"):
        new.judged(queries(b={6: 1}), "unseen")


def own_index(rows=range(20)) -> SemanticIndex:
    codes = np.stack([np.arange(20) % 4, np.arange(20) % 5], axis=1)[list(rows)]
    return SemanticIndex.from_codes(list(rows), codes, [4, 5, 3]).attach(tiny_model(), tiny_tokenizer())


def test_ids_of_the_index_come_back_as_they_were():
    new, index = NewDocuments(DOCUMENTS.select([0, 9]), "index"), own_index()
    before = index.semantic_ids
    part = new.set_apart(index, is_own=False, reads_documents=False)
    assert part.document_ids == [i for i in range(20) if i not in (0, 9)]
    model = tiny_model()
    whole = new.bring_back(part.attach(model, tiny_tokenizer()))
    assert whole.semantic_ids == before and whole.model is model


def test_an_indexer_gives_ids_before_it_learns_the_task():
    """What the model becomes afterwards does not matter; for an index from elsewhere, nothing could give them."""
    new, index = NewDocuments(DOCUMENTS.select([0, 9]), "index"), own_index(range(1, 9))
    with pytest.raises(CorpusError, match="2 new documents have no ID in --index, such as 0"):
        new.set_apart(index, is_own=False, reads_documents=True)
    written = index.encode(new.documents["text"][:]).tolist()
    part = new.set_apart(index, is_own=True, reads_documents=False)
    assert part.document_ids == list(range(1, 9))
    whole = new.bring_back(part.attach(tiny_model(zeros=True), tiny_tokenizer()))
    assert set(whole.document_ids) == set(range(10))
    assert whole.sequences_of([0, 9])[:, :2].tolist() == written


def test_the_fine_tuned_model_writes_ids_when_asked_to():
    new, index = NewDocuments(DOCUMENTS.select([0, 9]), "model"), own_index()
    with pytest.raises(CorpusError, match="never learns to read documents"):
        new.set_apart(index, is_own=False, reads_documents=False)
    part = new.set_apart(index, is_own=False, reads_documents=True)
    assert len(part) == 18
    whole = new.bring_back(part.attach(tiny_model(), tiny_tokenizer()))
    expected = whole.encode(new.documents["text"][:]).tolist()
    assert whole.sequences_of([0, 9])[:, :2].tolist() == expected
    assert whole.document_ids[:18] == [i for i in range(20) if i not in (0, 9)]

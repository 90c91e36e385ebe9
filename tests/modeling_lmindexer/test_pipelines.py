import functools
import importlib
import json
import os
import subprocess
import sys

import datasets
import numpy as np
import pytest
import torch
import transformers
from hidden_package import HIDDEN_PACKAGE
from hub_stand_in import Hub
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_index import documents, learned_index, names, write_folder
from tiny_models import KINDS, all_ids, exhaustive_scores, tiny_model, tiny_tokenizer
from transformers import AutoConfig, AutoModel, BertConfig, BertModel, pipeline
from transformers.pipelines.pt_utils import KeyDataset

import modeling_lmindexer
from modeling_lmindexer import DocumentTable, DocumentVectors, LMIndexerForSemanticID, SemanticIndex
from modeling_lmindexer.pipeline_registration import RegisteringFinder, register_when_asked_for
from modeling_lmindexer.pipelines import PIPELINES, SemanticIDPipeline, SemanticRetrievalPipeline

TASKS = tuple(PIPELINES)
TEXTS = ["w2 w50", "w3 w4 w5 w6 w7", "w9", "w2 w50 w2 w50 w60 w70", "w31 w51"]


def write_whole_folder(folder):
    """Model, tokenizer, index and table of 30 documents, each with the category of its second word."""
    write_folder(folder, learned_index())
    table = DocumentTable.of([row | {"category": ["Shop", row["text"].split()[1]]} for row in documents(range(30))])
    table.save_pretrained(folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model") / "folder"
    folder.mkdir()
    write_whole_folder(folder)
    return folder


@functools.cache
def pipelines_of(kind):
    """Both pipelines of a random model and 25 documents with random IDs."""
    model = tiny_model(kind)
    sizes = model.config.position_sizes
    every = all_ids(model.config) - torch.tensor(model.config.position_offsets)
    index = SemanticIndex([f"d{i}" for i in range(25)], np.random.default_rng(0).permutation(every)[:25], sizes)
    return [pipeline(task, model=model, tokenizer=tiny_tokenizer(), index=index, device="cpu") for task in TASKS]


def tokens(text):
    inputs = tiny_tokenizer()(text, return_tensors="pt")
    return {"input_ids": inputs["input_ids"], "attention_mask": inputs["attention_mask"]}


def assert_same_scores(found, expected):
    torch.testing.assert_close(
        torch.tensor([row["score"] for row in found]), torch.as_tensor(expected), atol=1e-4, rtol=0
    )


texts_and_batch_size = given(
    texts=st.lists(st.lists(st.integers(2, 99), min_size=1, max_size=9), min_size=1, max_size=5),
    batch_size=st.integers(1, 6),
)


@pytest.mark.parametrize("kind", KINDS)
@texts_and_batch_size
@settings(max_examples=5, deadline=None)
def test_whatever_the_batch_documents_are_those_of_search_and_ids_those_of_assign(kind, texts, batch_size):
    assign, retrieve = pipelines_of(kind)
    texts = [" ".join(f"w{token}" for token in text) for text in texts]
    model, index = retrieve.model, retrieve.index
    found = retrieve(texts, batch_size=batch_size, top_k=6)
    for text, rows in zip(texts, found, strict=True):
        # All 25 documents: where two are equal up to rounding, either may come first.
        expected = model.search(**tokens(text), index=index, num_beams=25, top_k=25)
        scores = dict(zip(expected.documents[0], expected.scores[0].tolist(), strict=True))
        assert len(rows) == len({row["id"] for row in rows}) == 6
        assert_same_scores(rows, expected.scores[0, :6])
        assert_same_scores(rows, [scores[row["id"]] for row in rows])
        semantic_ids = dict(zip(index.document_ids, index.semantic_ids, strict=True))
        assert all(row["semantic_id"] == semantic_ids[row["id"]] for row in rows)
    ids = assign(texts, batch_size=batch_size)
    for text, named in zip(texts, ids, strict=True):
        expected = model.assign(**tokens(text))
        assert named["codes"] == (expected[0] - torch.tensor([1, 5])).tolist()
        assert named["semantic_id"] == "".join(f"<{code}>" for code in named["codes"])
        assert_same_scores([named], exhaustive_scores(model, expected, **tokens(text))[0])


def test_alternatives_are_the_most_likely_other_ids():
    assign, _ = pipelines_of("t5")
    every = all_ids(assign.model.config)[::3, :2]  # 20 learned IDs, once each
    assert len(every.unique(dim=0)) == 20
    for top_k in (2, 4, 20, 50):
        for text, named in zip(TEXTS, assign(TEXTS, batch_size=3, top_k=top_k, return_path=False), strict=True):
            scores = exhaustive_scores(assign.model, every, **tokens(text))[0]
            own = (every - torch.tensor([1, 5])).tolist().index(named["codes"])
            others = scores[torch.arange(20) != own].sort(descending=True).values[: top_k - 1]
            assert_same_scores(named["alternatives"], others)
            assert named["codes"] not in [row["codes"] for row in named["alternatives"]]
            assert "path" not in named
    assert "alternatives" not in assign(TEXTS[0])


def test_the_path_says_what_is_under_each_prefix(folder):
    assign = pipeline("semantic-id", model=str(folder), num_samples=2)
    index = SemanticIndex.from_pretrained(folder)
    words = {row["id"]: row["text"].split()[1] for row in documents(range(30))}
    for text, named in zip(TEXTS, assign(TEXTS), strict=True):
        assert [step["codes"] for step in named["path"]] == [named["codes"][:1], named["codes"]], text
        for depth, step in enumerate(named["path"], start=1):
            under = np.array(index.document_ids)[(index.codes[:, :depth] == step["codes"]).all(axis=1)].tolist()
            assert step["documents"] == len(under)
            assert step["semantic_id"] == "".join(f"<{code}>" for code in step["codes"])
            categories = [words[document] for document in under]
            assert len(step["categories"]) == min(5, len(set(categories)))
            for row in step["categories"]:
                assert row["share"] == categories.count(row["category"]) / len(under)
            assert len(step["samples"]) == min(2, len(under))
            assert {row["id"] for row in step["samples"]} <= set(under)
            assert all(row["text"].split()[1] == words[row["id"]] for row in step["samples"])
    own = assign(documents([3])[0]["text"], num_samples=30, num_categories=1)["path"]
    assert names([3])[0] in [row["id"] for row in own[-1]["samples"]] and len(own[0]["categories"]) == 1


def test_codes_that_no_document_has_have_an_empty_path():
    model = tiny_model("t5")
    codes = (model.assign(**tokens("w2"))[0] - torch.tensor([1, 5])).tolist()
    index = SemanticIndex.from_codes(["a"], [[codes[0], (codes[1] + 1) % 5]], model.config.position_sizes)
    assign = pipeline("semantic-id", model=model, tokenizer=tiny_tokenizer(), index=index)
    first, second = assign("w2")["path"]
    assert first["documents"] == 1 and first["samples"] == [{"id": "a", "text": None}] and first["categories"] == []
    assert second == {"semantic_id": f"<{codes[0]}><{codes[1]}>", "codes": codes, "documents": 0} | {
        "categories": [], "samples": [],
    }  # fmt: skip
    # The tree is that of the index now.
    index.attach(model, tiny_tokenizer()).add([{"id": "b", "text": "w2"}])
    assert [step["documents"] for step in assign("w2")["path"]] == [2, 1]


@pytest.mark.parametrize("task", TASKS)
def test_texts_may_come_in_any_container_or_one_by_one(task, folder):
    run = pipeline(task, model=str(folder))
    expected = [run(text) for text in TEXTS]
    rows = datasets.Dataset.from_dict({"text": TEXTS})
    for texts in (TEXTS, tuple(TEXTS), rows["text"]):
        assert run(texts) == expected
    taken = []
    stream = run((taken.append(text) or text for text in TEXTS), batch_size=1)
    assert next(iter(stream)) == expected[0] and len(taken) < len(TEXTS)
    assert list(run(KeyDataset(rows, "text"))) == expected
    assert run([]) == list(run(text for text in [])) == []


def test_documents_come_with_text_and_category(folder):
    retrieve = pipeline("semantic-retrieval", model=str(folder), top_k=3)
    assert type(retrieve) is SemanticRetrievalPipeline
    by_id = {row["id"]: row["text"] for row in documents(range(30))}
    for row in retrieve(TEXTS[0]):
        assert list(row) == ["id", "score", "semantic_id", "text", "category"]
        assert row["text"] == by_id[row["id"]] and row["category"] == ["Shop", row["text"].split()[1]]
    assert len(retrieve(TEXTS[0])) == 3 and len(retrieve(TEXTS[0], top_k=25)) == 25  # a beam as wide as asked for
    without = pipelines_of("t5")[1](TEXTS[0], top_k=1)[0]
    assert without["text"] is None and without["category"] == []


def test_only_allowed_documents_are_found(folder):
    retrieve = pipeline("semantic-retrieval", model=str(folder), top_k=30)
    everything, some = retrieve(TEXTS[0]), names([3, 17, 28])
    expected = [row for row in everything if row["id"] in some]
    mask = np.isin(retrieve.index.document_ids, some)
    texts = [TEXTS[0], TEXTS[1], TEXTS[0]]
    for allowed in (some, set(some), iter(some), mask, torch.from_numpy(mask), mask.tolist()):
        found = retrieve(texts, allowed_ids=allowed, batch_size=2)
        for rows in (found[0], found[2]):
            assert [row["id"] for row in rows] == [row["id"] for row in expected]
            assert_same_scores(rows, [row["score"] for row in expected])
        assert {row["id"] for row in found[1]} == set(some)
    assert retrieve(TEXTS[:2], allowed_ids=[], batch_size=2) == [[], []]


def test_vectors_of_documents_order_what_is_found_where_there_are_any(tmp_path):
    write_whole_folder(tmp_path)
    plain = pipeline("semantic-retrieval", model=str(tmp_path), top_k=30)
    with pytest.raises(ValueError, match="no vectors of documents"):
        plain(TEXTS[0], rescoring=True)
    index = SemanticIndex.from_pretrained(tmp_path)
    vectors = DocumentVectors.of(index, documents(range(30)), weight=5.0)
    by_argument = plain(TEXTS, rescoring=vectors, batch_size=2)
    assert [row["id"] for row in by_argument[0]] != [row["id"] for row in plain(TEXTS[0])]
    vectors.save_pretrained(tmp_path)
    rescored = pipeline("semantic-retrieval", model=str(tmp_path), top_k=30)
    for mine, theirs in zip(rescored(TEXTS, batch_size=2), by_argument, strict=True):
        assert_same_scores(mine, [row["score"] for row in theirs])
    assert rescored(TEXTS[0], rescoring=False) == plain(TEXTS[0])


@pytest.mark.parametrize("task", TASKS)
def test_a_saved_pipeline_is_a_whole_folder(task, folder, tmp_path):
    first = pipeline(task, model=str(folder))
    first.save_pretrained(tmp_path / "saved")
    second = pipeline(task, model=str(tmp_path / "saved"))
    assert second(TEXTS, batch_size=2) == first(TEXTS, batch_size=2)


def test_a_pipeline_that_needs_no_index_is_saved_without(tmp_path):
    first = pipeline("semantic-id", model=tiny_model("t5"), tokenizer=tiny_tokenizer(), return_path=False)
    first.save_pretrained(tmp_path)
    assert pipeline("semantic-id", model=str(tmp_path), return_path=False)(TEXTS) == first(TEXTS)
    assert not (tmp_path / "semantic_ids.parquet").exists()


def test_with_the_package_no_pipeline_asks_for_trust(folder):
    named = json.loads((folder / "config.json").read_text())["custom_pipelines"]
    assert named == {
        "semantic-id": {"impl": "pipelines.SemanticIDPipeline", "pt": ["AutoModel"]},
        "semantic-retrieval": {"impl": "pipelines.SemanticRetrievalPipeline", "pt": ["AutoModel"]},
    }
    assert not hasattr(AutoConfig.from_pretrained(folder), "custom_pipelines")
    for trust in (None, False, True):
        assert type(pipeline("semantic-id", model=str(folder), trust_remote_code=trust)) is SemanticIDPipeline
    model = AutoModel.from_pretrained(folder)
    found = pipeline("semantic-retrieval", model=model, tokenizer=tiny_tokenizer())  # the index of the model's folder
    assert len(found.index) == 30 and found.documents is not None


def test_the_index_is_the_one_of_the_models_revision(folder, monkeypatch):
    calls = []
    for name in ("load_index", "load_document_vectors"):
        load = getattr(LMIndexerForSemanticID, name)

        def recorded(*arguments, load=load, **hub_kwargs):
            calls.append(hub_kwargs)
            return load(*arguments, **hub_kwargs)

        monkeypatch.setattr(LMIndexerForSemanticID, name, staticmethod(recorded))
    asked = {"revision": "v1", "token": "hf_token"}
    run = pipeline("semantic-retrieval", model=str(folder), model_kwargs={"cache_dir": "cache"}, **asked)
    assert run.vectors is None and len(calls) == 2
    assert all(call == asked | {"cache_dir": "cache", "local_files_only": False} for call in calls)


@pytest.mark.parametrize("settings", [{"device": "cpu"}, {"device": -1}, {"device_map": "cpu"}, {"dtype": "bfloat16"}])
def test_device_and_dtype_are_those_of_any_pipeline(settings, folder):
    for task in TASKS:
        run = pipeline(task, model=str(folder), **settings)
        assert run.device.type == "cpu" and not run.model.training
        assert run.dtype == getattr(torch, settings.get("dtype", "float32"))
        assert len(run(TEXTS, batch_size=2)) == len(TEXTS)


def test_a_folder_in_a_folder(tmp_path):
    (tmp_path / "sub").mkdir()
    write_whole_folder(tmp_path / "sub")
    for task in TASKS:
        run = pipeline(task, model=str(tmp_path), model_kwargs={"subfolder": "sub"})
        assert len(run.index) == 30 and run.documents is not None
        run(TEXTS[0])


def test_what_is_wrong_is_said(folder, tmp_path):
    model, tokenizer = tiny_model("t5"), tiny_tokenizer()
    assign, retrieve = pipelines_of("t5")
    for text in ("", " \n", None, 3, {"text": "w2"}):
        with pytest.raises(ValueError, match="expected one that is not empty"):
            retrieve(text)
        with pytest.raises(ValueError, match="expected one that is not empty"):
            assign([TEXTS[0], text], batch_size=2)
    with pytest.raises(ValueError, match="top_k=5 asks for more documents than num_beams=3 finds"):
        retrieve(TEXTS[0], top_k=5, num_beams=3)
    with pytest.raises(KeyError, match="2 documents are not in the index: .'nobody', 'none'."):
        retrieve(TEXTS[0], allowed_ids=["d1", "nobody", "none"])
    for allowed, message in (
        ("d1", "a list of document ids, or a mask"), ([["d1"], ["d2"]], "those of all texts"),
        ([["d1"], ["d2", "d3"]], "those of all texts"),
        (np.ones((1, 25), dtype=bool), "those of all texts"), (np.ones(3, dtype=bool), "a mask of shape"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            retrieve(TEXTS[0], allowed_ids=allowed)
    for wrong in ({"top_k": 0}, {"num_beams": 1.5}, {"top_k": True}):
        with pytest.raises(ValueError, match="must be a whole number, at least 1"):
            retrieve(TEXTS[0], **wrong)
    with pytest.raises(TypeError, match="beams"):
        retrieve(TEXTS[0], beams=3)
    with pytest.raises(ValueError, match="give its index="):
        pipeline("semantic-id", model=model, tokenizer=tokenizer)
    assert pipeline("semantic-id", model=model, tokenizer=tokenizer, return_path=False)(TEXTS[0])["codes"]
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    for task in TASKS:
        with pytest.raises(FileNotFoundError, match="holds no semantic_ids.parquet"):
            pipeline(task, model=str(tmp_path))
        with pytest.raises(ValueError, match="codes per position, the model"):
            pipeline(task, model=model, tokenizer=tokenizer, index=str(folder))
    bert = BertModel(BertConfig(vocab_size=100, hidden_size=16, num_hidden_layers=1, num_attention_heads=2))
    with pytest.raises(ValueError, match="is a BertModel: this task needs a model with semantic IDs"):
        pipeline("semantic-retrieval", model=bert, tokenizer=tokenizer)


@pytest.mark.parametrize("first", ["transformers.pipelines", "modeling_lmindexer.pipelines"])
def test_they_are_registered_when_the_pipelines_of_transformers_are_imported(first, monkeypatch):
    for package in (transformers, modeling_lmindexer):
        monkeypatch.setattr(package, "pipelines", package.pipelines)  # what the imports below replace
        monkeypatch.delitem(sys.modules, f"{package.__name__}.pipelines")
    register_when_asked_for()
    register_when_asked_for()
    assert "transformers.pipelines" not in sys.modules
    assert sum(isinstance(finder, RegisteringFinder) for finder in sys.meta_path) == 1
    importlib.import_module(first)
    theirs, ours = (sys.modules[f"{package.__name__}.pipelines"] for package in (transformers, modeling_lmindexer))
    assert all(theirs.PIPELINE_REGISTRY.check_task(task)[1]["impl"] is ours.PIPELINES[task] for task in TASKS)
    assert not any(isinstance(finder, RegisteringFinder) for finder in sys.meta_path)


WITHOUT_THE_PACKAGE = (
    HIDDEN_PACKAGE
    + """
from transformers import pipeline

texts, results = json.loads(sys.argv[2]), []
for name, settings in json.loads(sys.argv[1]):
    try:
        pipeline("semantic-id", model=name, trust_remote_code=False)
    except ValueError as error:
        results.append("trust_remote_code" in str(error))
    for task in ("semantic-id", "semantic-retrieval"):
        run = pipeline(task, model=name, trust_remote_code=True, **settings)
        assert type(run).__module__.startswith("transformers_modules"), type(run)
        results.append(run(texts, batch_size=2))
assert not [name for name in sys.modules if name.split(".")[0] in ("modeling_lmindexer", "trainers")]
print(json.dumps(results))
"""
)


@pytest.mark.slow
def test_without_the_package_the_folder_or_the_repository_brings_its_pipelines(folder, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    with Hub() as hub:
        hub.files["org/model"] = {path.name: path.read_bytes() for path in folder.iterdir()}
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")} | {
            "HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home"), "HF_HUB_CACHE": str(tmp_path / "home" / "hub"),
            "HF_MODULES_CACHE": str(tmp_path / "modules"), "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1",
            "DISABLE_SAFETENSORS_CONVERSION": "1", "NO_PROXY": "127.0.0.1",
        }  # fmt: skip
        sources = [[str(folder), {}], ["org/model", {"revision": "main", "token": "hf_token"}]]
        run = subprocess.run(
            [sys.executable, "-I", "-c", WITHOUT_THE_PACKAGE, json.dumps(sources), json.dumps(TEXTS)],
            capture_output=True, text=True, cwd=tmp_path / "elsewhere", env=environment,
        )  # fmt: skip
    assert run.returncode == 0, run.stderr[-2000:]
    assert hub.unknown == []
    here = [True, *(pipeline(task, model=str(folder))(TEXTS, batch_size=2) for task in TASKS)]
    assert json.loads(run.stdout.splitlines()[-1]) == here + here

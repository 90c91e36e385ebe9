import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hidden_package import HIDDEN_PACKAGE
from tiny_models import tiny_inputs, tiny_model, tiny_tokenizer
from transformers import AutoConfig, AutoModel, AutoModelForSeq2SeqLM

import modeling_lmindexer
from modeling_lmindexer import LMIndexerConfig, LMIndexerForSemanticID, SemanticIndex

AUTO_MODELS = (AutoModel, AutoModelForSeq2SeqLM)

WITHOUT_THE_PACKAGE = (
    HIDDEN_PACKAGE
    + """
import torch
from transformers import AutoConfig, AutoModel, AutoModelForSeq2SeqLM, AutoTokenizer

folder, saved = sys.argv[1:]
inputs = {name: torch.tensor(value) for name, value in json.load(sys.stdin).items()}
try:
    AutoModel.from_pretrained(folder, trust_remote_code=False)
except ValueError as error:
    refused = "trust_remote_code" in str(error)
config = AutoConfig.from_pretrained(folder, trust_remote_code=True)
results = {"refused": refused, "config": [config.position_sizes, type(config).__module__.split(".")[0]], "models": []}

def figures(model, folder):
    index, trie = model.load_index(folder), model.load_prefix_tree(folder)
    ids = model.generate(**inputs, num_beams=4, num_return_sequences=4, logits_processor=trie)
    found = model.search(**inputs, index=index, num_beams=4, top_k=4)
    documents = [index.documents_of(ids), found.documents]
    return [type(model).__module__.split(".")[0], ids.tolist(), documents, model(**inputs).logits.tolist()]

for auto in (AutoModel, AutoModelForSeq2SeqLM):
    model = auto.from_pretrained(folder, trust_remote_code=True)
    results["models"].append(figures(model, folder))
index = model.load_index(folder)
tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
index.attach(model, tokenizer)
index.add([{"id": "new", "text": "w7 w8 w9"}])
results["added"] = index.document_ids
index.remove(["new"])
for part in (model, tokenizer, index):
    part.save_pretrained(saved)
for auto in (AutoModel, AutoModelForSeq2SeqLM):
    results["models"].append(figures(auto.from_pretrained(saved, trust_remote_code=True), saved))
assert not [name for name in sys.modules if name.split(".")[0] in ("modeling_lmindexer", "trainers")]
print(json.dumps(results))
"""
)


def save_folder(folder, room=3):
    model = tiny_model("t5", num_disambiguation_codes=room, learn_temperature=not room)
    codes = [[0, 0], [0, 1], [1, 2], [1, 2 if room else 3], [2, 0], [3, 4], [3, 3]]
    ids = [f"d{i}" for i in range(len(codes))]
    index = SemanticIndex.from_codes(ids, codes, model.config.position_sizes, model.config.has_disambiguation)
    for part in (model, tiny_tokenizer(), index):
        part.save_pretrained(folder)
    return model, index


def test_with_the_package_no_code_of_the_folder_runs(tmp_path):
    model, _ = save_folder(tmp_path)
    config = AutoConfig.from_pretrained(tmp_path)
    assert type(config) is LMIndexerConfig
    for auto in AUTO_MODELS:
        loaded = auto.from_pretrained(tmp_path)
        assert type(loaded) is LMIndexerForSemanticID and not loaded.training
        assert torch.equal(loaded(**tiny_inputs()).logits, model(**tiny_inputs()).logits)
        assert type(auto.from_config(config)) is LMIndexerForSemanticID


def test_the_folder_names_its_classes_and_holds_their_code(tmp_path):
    save_folder(tmp_path)
    expected = {
        "AutoConfig": "configuration_lmindexer.LMIndexerConfig",
        "AutoModel": "modeling_lmindexer.LMIndexerForSemanticID",
        "AutoModelForSeq2SeqLM": "modeling_lmindexer.LMIndexerForSemanticID",
    }
    assert json.loads((tmp_path / "config.json").read_text())["auto_map"] == expected
    # The check looks at folders from outside, and a folder's pipelines need no registration: no model needs them.
    left_out = {"__init__.py", "index_check.py", "pipeline_registration.py"}
    modules = {path.name for path in Path(modeling_lmindexer.__file__).parent.glob("*.py")} - left_out
    assert {path.name for path in tmp_path.glob("*.py")} == modules


@pytest.mark.slow
@pytest.mark.parametrize("room", [3, 0])
def test_without_the_package_the_folder_brings_its_code(room, tmp_path):
    model, index = save_folder(tmp_path / "folder", room)
    ids = model.generate(**tiny_inputs(), num_beams=4, num_return_sequences=4, logits_processor=index.logits_processor)
    found = model.search(**tiny_inputs(), index=index, num_beams=4, top_k=4)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    environment |= {"HF_MODULES_CACHE": str(tmp_path / "modules"), "HF_HUB_OFFLINE": "1"}
    (tmp_path / "elsewhere").mkdir()
    run = subprocess.run(
        [sys.executable, "-I", "-c", WITHOUT_THE_PACKAGE, str(tmp_path / "folder"), str(tmp_path / "saved")],
        input=json.dumps({name: value.tolist() for name, value in tiny_inputs().items()}),
        capture_output=True,
        text=True,
        cwd=tmp_path / "elsewhere",
        env=environment,
    )
    assert run.returncode == 0, run.stderr[-1000:]
    results = json.loads(run.stdout.splitlines()[-1])
    assert results["refused"]
    assert results["config"] == [model.config.position_sizes, "transformers_modules"]
    assert results["added"] == [*index.document_ids, "new"]
    assert len(results["models"]) == 4
    for module, their_ids, documents, logits in results["models"]:
        assert module == "transformers_modules"
        assert their_ids == ids.tolist()
        assert documents == [index.documents_of(ids), found.documents]
        torch.testing.assert_close(torch.tensor(logits), model(**tiny_inputs()).logits)
    # What they saved loads here again.
    loaded = AutoModel.from_pretrained(tmp_path / "saved")
    assert type(loaded) is LMIndexerForSemanticID
    assert torch.equal(loaded(**tiny_inputs()).logits, model(**tiny_inputs()).logits)
    assert SemanticIndex.from_pretrained(tmp_path / "saved").document_ids == index.document_ids

"""The script against a Hub on this computer: killed, started again, and everything loaded from there."""

import json
import os
import runpy
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hub_stand_in import BROKEN, Hub
from tiny_index import learned_index, names, write_folder
from tiny_models import tiny_inputs

from modeling_lmindexer.document_table import DocumentTable
from modeling_lmindexer.folder import update_manifest
from trainers.publishing import METRIC_MODULES, metric_content

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "examples" / "push_to_hub.py"

# In a process of its own, because every library reads the Hub's address when it is imported.
LOADED = """
import json, sys
import datasets, torch
from transformers import AutoModel
from modeling_lmindexer import DocumentTable, PrefixTreeLogitsProcessor, SemanticIndex

inputs = {name: torch.tensor(value) for name, value in json.load(sys.stdin).items()}
model, index = AutoModel.from_pretrained("org/items").eval(), SemanticIndex.from_pretrained("org/items")
trie = PrefixTreeLogitsProcessor.from_pretrained("org/items")
ids = model.generate(**inputs, num_beams=4, num_return_sequences=4, logits_processor=trie)
table = datasets.load_dataset("org/items-ids", split="train")
texts = datasets.load_dataset("org/items-ids", "documents", split="train")
print(json.dumps({
    "ids": ids.tolist(), "documents": index.document_ids, "semantic_ids": index.semantic_ids,
    "table": [table["id"][:], table["codes"][:], table["semantic_id"][:]], "features": sorted(table.features),
    "texts": texts["text"][:], "own": DocumentTable.from_pretrained("org/items").texts,
    "encoded": index.encode(["w7 w8", "w30"]).tolist(),
}))
"""


def make_folder(folder):
    """A model folder with texts, and its index."""
    index = learned_index()
    write_folder(folder, index)
    DocumentTable(names(range(30)), [f"text {i}" for i in range(30)]).save_pretrained(folder)
    update_manifest(folder, ["documents.parquet"])
    return index


def push(*arguments, **environment):
    """The script in a process of its own."""
    return subprocess.Popen(
        [sys.executable, SCRIPT, *map(str, arguments)], env=os.environ | environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


@pytest.mark.slow
def test_a_killed_upload_goes_on_and_everything_loads(tmp_path):
    index = make_folder(tmp_path / "items")
    arguments = (tmp_path / "items", "org/items")
    with Hub() as hub:
        environment = hub.environment(tmp_path / "home")
        process = push(*arguments, **environment)
        puts = []

        def kill_at_the_fourth_large_file(method, path):
            if method == "PUT":
                puts.append(path.rpartition("/")[2])
            if len(puts) == 4:
                process.send_signal(signal.SIGKILL)
                return BROKEN

        hub.trouble = kill_at_the_fourth_large_file
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        assert hub.files["org/items"] == {} and hub.files["datasets/org/items-ids"]
        arrived = set(hub.objects)
        assert puts[3] not in arrived
        hub.trouble = lambda method, path: None
        process = push(*arguments, **environment)
        output, errors = process.communicate()
        assert process.returncode == 0, errors
        assert arrived < set(hub.sent) and set(hub.sent.values()) == {1}
        assert output.count("Published: ") == 2 and "The documents' texts go along" in output

        loaded = subprocess.run(
            [sys.executable, "-c", LOADED], capture_output=True, text=True, cwd=tmp_path,
            env=os.environ | environment | {"PYTHONPATH": str(ROOT)},
            input=json.dumps({name: value.tolist() for name, value in tiny_inputs().items()}),
        )  # fmt: skip
    assert loaded.returncode == 0, loaded.stderr[-3000:]
    assert hub.unknown == []
    found = json.loads(loaded.stdout.splitlines()[-1])
    expected = index.model.eval().generate(
        **tiny_inputs(), num_beams=4, num_return_sequences=4, logits_processor=index.logits_processor
    )
    assert found["ids"] == expected.tolist()
    assert found["documents"] == index.document_ids and found["semantic_ids"] == index.semantic_ids
    assert found["encoded"] == index.encode(["w7 w8", "w30"]).tolist()
    assert found["table"] == [index.document_ids, index.codes.tolist(), index.semantic_ids]
    assert found["features"] == ["codes", "id", "semantic_id"]
    assert found["texts"] == found["own"] == [f"text {i}" for i in range(30)]


def run_here(monkeypatch, *arguments):
    """The script in this process."""
    monkeypatch.setattr(sys, "argv", ["push_to_hub.py", *map(str, arguments)])
    runpy.run_path(str(SCRIPT), run_name="__main__")


def test_a_dry_run_says_and_writes(tmp_path, monkeypatch, capsys):
    folder, dry = tmp_path / "items", tmp_path / "dry"
    make_folder(folder)
    run_here(monkeypatch, folder, "org/items", "--dry_run", dry, "--without_texts")
    output = capsys.readouterr().out
    assert "dataset org/items-ids: 2 files" in output and f"Written: {dry}/models/org/items\n" in output
    assert "model.safetensors\n" in output and "texts go along" not in output
    assert (dry / "models/org/items/model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()
    assert not list(dry.rglob("documents.parquet"))
    with pytest.raises(SystemExit, match=f"error: {dry} is not empty"):
        run_here(monkeypatch, folder, "org/items", "--dry_run", dry)


# From another folder, with nothing of ours on the path.
METRICS = """
import json, runpy, sys
import evaluate
for path in sys.argv[1:]:
    app = runpy.run_path(path)
    page = app["build_page"]()
    print(json.dumps(app["compute"](json.dumps(app["EXAMPLE"]["inputs"]))))
    metric = evaluate.load("org/" + app["EXAMPLE"]["module"].removesuffix(".py"))
    print(json.dumps(metric.compute(**app["EXAMPLE"]["inputs"])))
"""


@pytest.mark.slow
def test_the_metrics_load_from_their_spaces_and_their_pages_compute(tmp_path):
    with Hub() as hub:
        for content in (contents := [metric_content("org", name) for name in METRIC_MODULES]):
            content.write(target := tmp_path / content.repo_id)
            hub.files[f"spaces/{content.repo_id}"] = {path.name: path.read_bytes() for path in target.iterdir()}
        environment = os.environ | hub.environment(tmp_path / "home")
        done = subprocess.run(
            [sys.executable, "-c", METRICS, *(str(tmp_path / content.repo_id / "app.py") for content in contents)],
            capture_output=True, text=True, cwd=tmp_path,
            env={name: value for name, value in environment.items() if name != "PYTHONPATH"},
        )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    ranking, same_ranking, quality, same_quality = map(json.loads, done.stdout.splitlines()[-4:])
    assert ranking["recall@1"] == 0.0 and ranking["recall@10"] == 0.75 and same_ranking == ranking
    assert quality["ami_1_level_1"] == 1.0 and 0 < quality["ami_1"] < 1
    assert same_quality["ami_1"] == quality["ami_1"]

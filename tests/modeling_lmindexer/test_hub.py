import hashlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hub_stand_in import Hub
from tiny_models import tiny_inputs, tiny_model, tiny_tokenizer

import modeling_lmindexer
from modeling_lmindexer import SemanticIndex
from modeling_lmindexer.folder import MANIFEST_NAME, update_manifest, write_json
from modeling_lmindexer.hub import files_of, upload_folder, uploaded_files
from modeling_lmindexer.hub_upload import UploadError

ROOT = Path(modeling_lmindexer.__file__).parents[1]
# What training leaves in a folder and nobody should download.
PRIVATE = [
    "training_args.bin",
    "stages/1-code-1/model.safetensors",
    "stages/1-code-1/training_args.bin",
    "cache/states-0.npy",
    "runs/events.out.tfevents.1",
    ".writing-x/config.json",
    ".hidden",
    "figures/training_args.bin",
    "figures/.env",
    "logs/events.out.tfevents.1",
    "trackio/lmindexer.db",
    "wandb/run-1/config.yaml",
    "checkpoint-3/optimizer.pt",
    "__pycache__/search.pyc",
    "figures/__pycache__/a.pyc",
]

# In a process of its own, because huggingface_hub reads its settings when it is imported.
UP_AND_DOWN = """
import json, sys
sys.path.insert(0, sys.argv[2])
import torch
from transformers import AutoModel, AutoModelForSeq2SeqLM
from modeling_lmindexer import PrefixTreeLogitsProcessor, SemanticIndex
from modeling_lmindexer.hub import upload_folder

folder, inputs = sys.argv[1], {name: torch.tensor(value) for name, value in json.load(sys.stdin).items()}
results = {}
index = SemanticIndex.from_pretrained(folder)
model = AutoModel.from_pretrained(folder)
results["index"] = index.push_to_hub("org/index", private=True)
results["model"] = model.push_to_hub("org/model").commit_url
results["whole"] = upload_folder(folder, "org/whole", commit_message="All of it")
index.remove(["d0"])
results["again"] = index.push_to_hub("org/index", commit_message="Less")

loaded = AutoModelForSeq2SeqLM.from_pretrained("org/whole")
trie = PrefixTreeLogitsProcessor.from_pretrained("org/whole")
results["ids"] = loaded.generate(**inputs, num_beams=4, num_return_sequences=4, logits_processor=trie).tolist()
results["small"] = SemanticIndex.from_pretrained("org/index").document_ids
whole = SemanticIndex.from_pretrained("org/whole")
results["ids of documents"] = [whole.document_ids, whole.encode(["w7 w8", "w30"]).tolist()]
results["without a manifest"] = AutoModel.from_pretrained("org/model").config.position_sizes
try:
    SemanticIndex.from_pretrained("org/model")
except FileNotFoundError as error:
    results["missing"] = str(error)

# Parts of the whole repository are replaced, and its manifest stays true.
upload_folder(folder, "org/parts")
parts = SemanticIndex.from_pretrained("org/parts")
parts.remove(["d0"])
parts.push_to_hub("org/parts")
results["documents"] = SemanticIndex.from_pretrained("org/parts").document_ids
model.resize_disambiguation(9)
model.push_to_hub("org/parts")
results["sizes"] = AutoModel.from_pretrained("org/parts").config.position_sizes
print(json.dumps(results))
"""

# Every loader of ours, and what it reads later, for somebody who has a token and says that none is to be sent.
WITHOUT_A_TOKEN = """
import sys
sys.path.insert(0, sys.argv[1])
from transformers import AutoConfig, AutoModel
from modeling_lmindexer import DocumentTable, DocumentVectors, PrefixTreeLogitsProcessor, SemanticIndex

hub = {"token": False}
index = SemanticIndex.from_pretrained("org/model", **hub)
print(len(list(index.changes())))
model = AutoModel.from_pretrained("org/model", **hub)
AutoConfig.from_pretrained("org/model", **hub)
PrefixTreeLogitsProcessor.from_pretrained("org/model", **hub).filtered(["d1"])
model.load_prefix_tree("org/model", **hub)
model.load_index("org/model", **hub)
for load in (DocumentTable.from_pretrained, lambda *a, **k: DocumentVectors.from_pretrained(*a, index, **k)):
    try:
        load("org/model", **hub)
    except FileNotFoundError:
        pass
"""


def write_folder(folder):
    """As run_indexing.py leaves it: the model folder, listed in its manifest, and the traces of training."""
    model = tiny_model("mpnet", zeros=True)
    codes = [[0, 0], [0, 1], [1, 2], [1, 2], [2, 0], [3, 4], [3, 3]]
    index = SemanticIndex.from_codes([f"d{i}" for i in range(7)], codes, model.config.position_sizes)
    for part in (model, tiny_tokenizer(), index):
        part.save_pretrained(folder)
    (folder / "README.md").write_text("---\nlibrary_name: transformers\n---\n# A model\n")
    write_json(folder / "metrics.json", {"ami": 0.5})
    (folder / "figures").mkdir()
    (folder / "figures" / "loss.png").write_bytes(b"\x89PNG\0\xff")
    files = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    update_manifest(folder, files)
    for name in PRIVATE:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("private")
    return model, index, {*files, MANIFEST_NAME}


def test_nothing_to_upload_is_an_error(tmp_path):
    (tmp_path / "stages").mkdir()
    (tmp_path / "stages" / "model.safetensors").write_text("private")
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(FileNotFoundError, match="holds nothing to upload"):
            upload_folder(folder, "org/nothing")


def test_what_training_leaves_and_what_hides_stays_here(tmp_path):
    *_, public = write_folder(tmp_path)
    assert set(files_of(tmp_path)) == public


def test_links_lead_to_files_of_the_folder_or_of_the_cache_of_the_hub(tmp_path):
    """As the Hub's client makes them: to a blob of the repository, or by way of it to one that repositories share."""
    repository, shared = tmp_path / "models--org--items", tmp_path / "blobs" / "ab" / f"ab{'0' * 62}"
    folder, blobs = repository / "snapshots" / ("1" * 40), repository / "blobs"
    for path in (folder / "figures", blobs, shared.parent):
        path.mkdir(parents=True)
    (blobs / ("2" * 40)).write_text("of git")
    shared.write_text("of xet")
    (blobs / ("3" * 64)).symlink_to(shared)
    (folder / "config.json").symlink_to(f"../../blobs/{'2' * 40}")
    (folder / "figures" / "a.png").symlink_to(f"../../../blobs/{'3' * 64}")
    (folder / "same.json").symlink_to("config.json")
    (folder / "b.png").symlink_to(folder / "figures" / "a.png")
    (folder / "own.txt").write_text("own")
    (folder / "copy.txt").symlink_to("own.txt")
    linked = tmp_path / "linked"
    linked.symlink_to(folder)
    for place in (folder, linked):
        files = uploaded_files(place)
        assert {name: path.read_text() for name, path in files.items()} == {
            "config.json": "of git", "same.json": "of git", "figures/a.png": "of xet", "b.png": "of xet",
            "own.txt": "own", "copy.txt": "own",
        }  # fmt: skip


@pytest.mark.parametrize("place", ["secret", "blobs/secret", "folder-2/secret", f"blobs/{'2' * 40}"])
@pytest.mark.parametrize("name", ["notes.txt", "figures/a.png"])
def test_a_link_out_of_the_folder_is_refused(tmp_path, place, name):
    folder, secret = tmp_path / "folder", tmp_path / place
    for path in (folder / name, secret):
        path.parent.mkdir(parents=True, exist_ok=True)
    secret.write_text("secret")
    (folder / name).symlink_to(os.path.relpath(secret, (folder / name).parent))
    with pytest.raises(UploadError, match=re.escape(f"{folder / name} is a link to {secret}, outside of {folder}")):
        upload_folder(folder, "org/items")
    # One that is not uploaded leads where it wants to.
    (folder / name).rename(folder / ".hidden")
    assert uploaded_files(folder) == {}


@pytest.mark.slow
def test_up_to_the_hub_and_down_again(tmp_path):
    folder = tmp_path / "folder"
    model, index, public = write_folder(folder)
    with Hub() as hub:
        environment = os.environ | hub.environment(tmp_path / "home")
        run = subprocess.run(
            [sys.executable, "-c", UP_AND_DOWN, str(folder), str(ROOT)],
            input=json.dumps({name: value.tolist() for name, value in tiny_inputs().items()}),
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env=environment,
        )
    assert run.returncode == 0, run.stderr[-2000:]
    assert hub.unknown == []
    results = json.loads(run.stdout.splitlines()[-1])

    assert hub.files.keys() == {"org/index", "org/model", "org/whole", "org/parts"}
    assert hub.private == {"org/index"}
    # The whole folder: what the manifest lists and nothing of the training, byte by byte.
    whole = hub.files["org/whole"]
    assert whole.keys() == public
    assert all(content == (folder / name).read_bytes() for name, content in whole.items())
    # Parts that were replaced: the manifest is that of what is there now.
    assert results["documents"] == [f"d{i}" for i in range(1, 7)] and results["sizes"] == [4, 5, 9]
    parts = hub.files["org/parts"]
    assert parts.keys() == {*public, "index_changes.parquet"}  # of the document that was removed
    assert {name for name in public if parts[name] != whole[name]} >= {"semantic_ids.parquet", "model.safetensors"}
    for files in (whole, parts):
        listed = json.loads(files[MANIFEST_NAME])["files"]
        assert listed.keys() == files.keys() - {MANIFEST_NAME}
        assert all(hashlib.sha256(files[name]).hexdigest() == entry["sha256"] for name, entry in listed.items())
    # The index alone, at last without the document that was removed.
    of_index = {"semantic_ids.parquet", "index_changes.parquet", "prefix_tree.safetensors"}
    assert hub.files["org/index"].keys() == of_index
    assert results["small"] == [f"d{i}" for i in range(1, 7)]
    # The model alone: weights and the code that they need.
    sent = hub.files["org/model"]
    code = {path.name for path in folder.glob("*.py")}
    assert sent.keys() - {"README.md"} == {"config.json", "generation_config.json", "model.safetensors"} | code
    assert sent["model.safetensors"] == (folder / "model.safetensors").read_bytes()

    messages = {repo: [message for name, message in hub.commits if name == repo] for repo in hub.files}
    assert messages["org/index"] == ["Upload an LMIndexer", "Less"] and messages["org/whole"] == ["All of it"]
    for name, repo in (("index", "org/index"), ("model", "org/model"), ("whole", "org/whole"), ("again", "org/index")):
        assert results[name].startswith(f"{hub.url}/{repo}/commit/")

    ids = model.generate(**tiny_inputs(), num_beams=4, num_return_sequences=4, logits_processor=index.logits_processor)
    assert results["ids"] == ids.tolist()
    codes = index.attach(model, tiny_tokenizer()).encode(["w7 w8", "w30"])
    assert results["ids of documents"] == [index.document_ids, codes.tolist()]
    assert results["without a manifest"] == model.config.position_sizes
    assert "org/model" in results["missing"] and "semantic_ids.parquet" in results["missing"]


@pytest.mark.slow
def test_no_loader_sends_a_token_when_none_is_to_be_sent(tmp_path):
    write_folder(tmp_path / "folder")
    with Hub() as hub:
        hub.files["org/model"] = {
            name: (tmp_path / "folder" / name).read_bytes() for name in files_of(tmp_path / "folder")
        }
        run = subprocess.run(
            [sys.executable, "-c", WITHOUT_A_TOKEN, str(ROOT)],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env=os.environ | hub.environment(tmp_path / "home"),
        )
    assert run.returncode == 0, run.stderr[-2000:]
    asked = {Path(path).name for _, path, _ in hub.requests}
    assert {"semantic_ids.parquet", "model.safetensors", "prefix_tree.safetensors", "documents.parquet"} <= asked
    assert "document_vectors.safetensors" in asked and hub.unknown == []
    assert {token for *_, token in hub.requests} == {None}

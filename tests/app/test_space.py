"""What visitors of a Space can read with the token of its owner: its own model, and nothing else."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hub_stand_in import Hub
from tiny_index import documents
from tiny_page import write_page_folder

from modeling_lmindexer import DocumentVectors, SemanticIndex
from modeling_lmindexer.folder import update_manifest

ROOT = Path(__file__).parents[2]
NAMES = ("org/own", "org/public", "org/private", "org/cached")
SPACE = {"SPACE_ID": "org/own-page", "LMINDEXER_MODEL": "org/own"}
TOKEN = "Bearer hf_token"
FETCH = (
    "from huggingface_hub import snapshot_download; [snapshot_download(f'org/{name}') for name in ('own', 'cached')]"
)
# In a process of its own, because huggingface_hub reads its settings when it is imported.
VISIT = """
import json, sys
import app  # as a Space starts it
from loaded_model import CannotLoad, Shelf

shelf, said = Shelf(), {}
for name in sys.argv[1:]:
    try:
        said[name] = len(shelf.model(name).index)
    except CannotLoad as error:
        said[name] = str(error)
print(json.dumps(said))
"""


def run_python(code: str, *arguments: str, home: Path, **environment: str) -> str:
    """The last line that a process prints which takes the stand-in for the Hub."""
    run = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        cwd=home,
        env=os.environ | environment,
    )
    assert run.returncode == 0, run.stderr[-2000:]
    return (run.stdout.splitlines() or [""])[-1]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A model folder with a table and with vectors of documents."""
    folder = tmp_path_factory.mktemp("space") / "tiny"
    write_page_folder(folder)
    index = SemanticIndex.from_pretrained(folder)
    vectors = DocumentVectors.of(index, documents(range(30)), weight=0.5)
    vectors.save_pretrained(folder)
    update_manifest(folder, ["document_vectors.safetensors"])
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def visited(files, home: Path, names: tuple = NAMES, **environment: str) -> tuple[dict, dict]:
    """What is loaded or said of each name, and the `Authorization` of requests for it; the owner has read the own and
    the cached one before, with the token."""
    home.mkdir()
    with Hub() as hub:
        hub.files |= dict.fromkeys(NAMES, files)
        hub.private |= {"org/own", "org/private", "org/cached"}
        environment = hub.environment(home) | {"PYTHONPATH": f"{ROOT / 'app'}{os.pathsep}{ROOT}"} | environment
        environment["DISABLE_SAFETENSORS_CONVERSION"] = ""  # which asks the Hub as well
        run_python(FETCH, home=home, **environment | {"HF_HUB_OFFLINE": "0"})
        hub.requests.clear()
        said = json.loads(run_python(VISIT, *names, home=home, **environment))
        assert hub.unknown == []
        sent = {name: {token for _, path, token in hub.requests if f"/{name}/" in f"{path}/"} for name in names}
    return said, sent


@pytest.mark.slow
def test_the_token_of_a_space_opens_its_own_model_alone(files, tmp_path):
    said, sent = visited(files, tmp_path / "home", **SPACE)
    assert said["org/own"] == said["org/public"] == 30
    for name in ("org/private", "org/cached"):
        assert "cannot be shown" in said[name] and "without its token" in said[name]
    assert TOKEN in sent.pop("org/own") and sent == dict.fromkeys(NAMES[1:], {None})


@pytest.mark.slow
def test_what_the_token_has_brought_is_not_for_visitors_when_the_hub_is_away(files, tmp_path):
    said, _ = visited(files, tmp_path / "home", ("org/own", "org/cached"), HF_HUB_OFFLINE="1", **SPACE)
    assert said["org/own"] == 30 and "without its token" in said["org/cached"]


@pytest.mark.slow
def test_on_a_machine_of_ones_own_the_token_opens_what_it_may_read(files, tmp_path):
    names = ("org/own", "org/private")
    said, sent = visited(files, tmp_path / "home", names, LMINDEXER_MODEL="org/own")
    assert said == dict.fromkeys(names, 30) and sent == dict.fromkeys(names, {TOKEN})

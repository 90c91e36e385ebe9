"""No file of a folder that somebody may have downloaded is executed, and no text of a user becomes code or a path."""

import ast
import json
import os
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from tiny_training import make_trainer, tiny_indexer, tiny_tokenizer
from transformers import AutoModel

from modeling_lmindexer import CorruptedFolderError, DocumentVectors, PrefixTreeLogitsProcessor, SemanticIndex
from modeling_lmindexer.folder import update_manifest
from trainers.encoder_cache import EncoderStates

ROOT = Path(__file__).parents[1]
ROOMS = ("modeling_lmindexer", "trainers", "metrics", "examples", "benchmarks")
FILES = [path for room in ROOMS for path in sorted((ROOT / room).rglob("*.py"))]


class Malicious:
    """A pickle that makes a file when it is read."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def calls(tree):
    """Names of what a file calls, and the calls."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node, {word.arg: ast.unparse(word.value) for word in node.keywords}


def is_unsafe(name: str, node: ast.Call, words: dict[str, str]) -> bool:
    """Whether a call may run what it reads."""
    last = name.rpartition(".")[2]
    if name in ("eval", "exec", "os.system", "os.popen", "yaml.load", "yaml.unsafe_load", "marshal.loads"):
        return True
    if name.split(".")[0] in ("pickle", "dill", "cloudpickle", "joblib", "shelve"):
        return True
    if name == "torch.load":
        return words.get("weights_only") != "True"
    return (
        (last == "load" and words.get("allow_pickle", "False") != "False")
        or words.get("shell", "False") != "False"
        or words.get("trust_remote_code", "False") not in ("False", "None")
    )


@pytest.mark.parametrize(
    ("code", "unsafe"),
    [
        ("eval('1')", True), ("torch.load(p)", True), ("torch.load(p, weights_only=True)", False),
        ("np.load(p, allow_pickle=True)", True), ("np.load(p)", False), ("pickle.loads(b)", True),
        ("subprocess.run(c, shell=True)", True), ("AutoModel.from_pretrained(p, trust_remote_code=True)", True),
        ("yaml.load(f)", True), ("yaml.safe_load(f)", False), ("model.eval()", False),
    ],
)  # fmt: skip
def test_what_is_unsafe_is_recognised(code, unsafe):
    assert [is_unsafe(*call) for call in calls(ast.parse(code))][0] == unsafe


def test_nothing_in_the_packages_runs_what_it_reads():
    assert len(FILES) > 100
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno} {name}"
        for path in FILES
        for name, node, words in calls(ast.parse(path.read_text(encoding="utf-8")))
        if is_unsafe(name, node, words)
    ]
    assert found == []


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model folder."""
    folder = tmp_path_factory.mktemp("model")
    index = SemanticIndex.from_codes(["a", "b", "c"], [[0, 1], [1, 2], [1, 2]], [6, 4, 16])
    tiny_indexer().save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    index.save_pretrained(folder)
    DocumentVectors(index.document_ids, torch.randn(3, 16)).save_pretrained(folder)
    update_manifest(folder, [path.name for path in folder.iterdir()])
    return folder


@pytest.mark.parametrize("is_listed", [True, False])
def test_no_pickle_of_a_model_folder_is_read(folder, tmp_path, is_listed):
    """In the place of every file, and under the names that transformers used to read."""
    readers = [
        AutoModel.from_pretrained, SemanticIndex.from_pretrained, PrefixTreeLogitsProcessor.from_pretrained,
        lambda path: DocumentVectors.from_pretrained(path, SemanticIndex.from_pretrained(path)),
        lambda path: PrefixTreeLogitsProcessor.from_pretrained(path).document_ids.present,
    ]  # fmt: skip
    names = [path.name for path in folder.iterdir() if path.suffix != ".py"]
    for name in [*names, "pytorch_model.bin", "training_args.bin", "optimizer.pt"]:
        shutil.rmtree(tmp_path / "copy", ignore_errors=True)
        shutil.copytree(folder, tmp_path / "copy")
        (tmp_path / "copy" / name).write_bytes(pickle.dumps(Malicious(tmp_path / "executed")))
        if name == "pytorch_model.bin":
            (tmp_path / "copy" / "model.safetensors").unlink()
        if is_listed and name != "manifest.json":
            update_manifest(tmp_path / "copy", [name])
        for read in readers:
            try:
                read(tmp_path / "copy")
            except (ValueError, OSError) as error:
                assert str(error)
        assert not (tmp_path / "executed").exists()


def test_weights_in_a_pickle_are_refused(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "copy")
    (tmp_path / "copy" / "manifest.json").unlink()
    torch.save(tiny_indexer().state_dict(), tmp_path / "copy" / "pytorch_model.bin")
    (tmp_path / "copy" / "model.safetensors").unlink()
    with pytest.raises(OSError, match="model.safetensors"):
        AutoModel.from_pretrained(tmp_path / "copy")


def test_no_pickle_of_a_run_is_executed(tmp_path):
    """In the place of every file of a checkpoint and of a stage, of the sizes that are expected."""

    def trainer():
        return make_trainer(
            tmp_path / "run", model=tiny_indexer(codebook_sizes=[5]), save_strategy="steps", save_steps=1, max_steps=2
        )

    class Stopped(Exception):
        pass

    def stop(stage):
        raise Stopped

    first = trainer()
    first.finish_stage = stop
    with pytest.raises(Stopped):
        first.train()
    checkpoint = Path(first.state_of_run.last_checkpoint("0-reconstructor"))
    (checkpoint / "complete").write_text("{}")
    places = [path for path in checkpoint.iterdir() if path.suffix in (".pt", ".pth", ".bin", ".json", ".safetensors")]
    assert {"optimizer.pt", "scheduler.pt", "rng_state.pth", "training_args.bin"} < {path.name for path in places}
    for path in places:
        content = path.read_bytes()
        path.write_bytes(pickle.dumps(Malicious(tmp_path / "executed")))
        run = trainer()
        run.finish_stage = stop
        with pytest.raises((CorruptedFolderError, Stopped)):
            run.train()
        assert not (tmp_path / "executed").exists(), path.name
        if checkpoint.exists():
            path.write_bytes(content)


def test_a_pickle_in_an_encoder_cache_is_numbers(tmp_path):
    def batches():
        yield [0], torch.ones(1, 50, 16)

    offsets = torch.tensor([0, 50]).numpy()
    EncoderStates.open_or_compute(tmp_path, "mine", offsets, 16, batches)
    data = pickle.dumps(Malicious(tmp_path / "executed"))
    (tmp_path / "encoder_states.float32").write_bytes(data + bytes(50 * 16 * 4 - len(data)))
    EncoderStates.open_or_compute(tmp_path, "mine", offsets, 16, batches).batch(torch.tensor([0]).numpy(), 50)
    (tmp_path / "encoder_states.json").write_bytes(data)
    states = EncoderStates.open_or_compute(tmp_path, "mine", offsets, 16, batches)  # computed again
    assert states.batch(torch.tensor([0]).numpy(), 50).eq(1).all() and not (tmp_path / "executed").exists()


def test_a_token_is_in_no_file_of_a_run(tmp_path, capsys):
    token = "hf_PLANTED0SECRET"
    trainer = make_trainer(tmp_path, model=tiny_indexer(codebook_sizes=[5]), max_steps=1, hub_token=token,
                           save_strategy="steps", save_steps=1)  # fmt: skip
    trainer.finish_stage = lambda stage: {}  # checkpoints stay
    trainer.save_stage = lambda *arguments: None
    trainer.build_index = lambda: None
    trainer.train()
    found = [path for path in tmp_path.rglob("*") if path.is_file() and token.encode() in path.read_bytes()]
    assert found == [] and token not in "".join(capsys.readouterr())
    assert json.loads((tmp_path / "stages" / "settings.json").read_text())

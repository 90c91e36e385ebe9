"""No file of a folder that somebody may have downloaded is executed, and no text of a user becomes code or a path."""

import ast
import json
import os
import pickle
import re
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from tiny_training import make_trainer, tiny_indexer, tiny_tokenizer
from transformers import AutoModel

from metrics.ranking_quality import RankingError, write_run
from modeling_lmindexer import CorruptedFolderError, DocumentVectors, PrefixTreeLogitsProcessor, SemanticIndex
from modeling_lmindexer.folder import update_manifest
from trainers.encoder_cache import EncoderStates
from trainers.model_card import CardContent, write_card
from trainers.task_card import TaskCard, write_task_card

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
        # Its own name: a parameter that a caller sets.
        or words.get("trust_remote_code", "False") not in ("False", "None", "trust_remote_code")
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

    def trainer(name):
        return make_trainer(
            tmp_path / name, model=tiny_indexer(codebook_sizes=[5]), save_strategy="steps", save_steps=1, max_steps=2
        )

    class Stopped(Exception):
        pass

    def stop(stage):
        raise Stopped

    first = trainer("run")
    first.finish_stage = stop
    with pytest.raises(Stopped):
        first.train()
    checkpoint = Path(first.state_of_run.last_checkpoint("0-reconstructor"))
    (checkpoint / "complete").write_text("{}")
    (checkpoint / "training_args.bin").touch()  # an older version's
    kinds = (".pt", ".pth", ".bin", ".json", ".safetensors")
    places = [path.relative_to(tmp_path / "run") for path in checkpoint.iterdir() if path.suffix in kinds]
    assert {"optimizer.pt", "scheduler.pt", "rng_state.pth", "training_args.bin"} < {path.name for path in places}
    for path in places:
        shutil.copytree(tmp_path / "run", tmp_path / path.name)
        (tmp_path / path.name / path).write_bytes(pickle.dumps(Malicious(tmp_path / "executed")))
        run = trainer(path.name)
        run.finish_stage = stop
        with pytest.raises((CorruptedFolderError, Stopped)):
            run.train()
        assert not (tmp_path / "executed").exists(), path.name


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


HOSTILE = ["../../x", "<script>alert(1)</script>", "a|b", "a\n## b", "$(rm -r x)", '"; import os; "', "=1+1", "```"]


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_names_and_texts_in_a_card(tmp_path, text):
    tables = {"positions_table": "-", "stages_table": "-", "queries": "-"}
    card = CardContent(name=text, data=text, documents=3, codebook_sizes=[6, 4], examples=text, licence=text, **tables)
    write_card(card, [], tmp_path / "README.md")
    task = TaskCard(
        name=text, task="search", documents=3, pairs=3, sizes=[6, 4], reading="-", query_code="query = {}",
        example=text, table="-", figures={}, num_beams=3, dataset=text, licence=text,
    )  # fmt: skip
    write_task_card(task, tmp_path / "task.md")
    for name in ("README.md", "task.md"):
        _, metadata, body = (tmp_path / name).read_text().split("---\n", 2)
        assert yaml.safe_load(metadata)["license"] == text
        fences = re.findall(r"^```(\w*)", body, re.M)
        assert fences == ["python", "", "text", ""], fences
        code = re.search(r"^```python\n(.*?)^```", body, re.S | re.M).group(1)
        named = [node for node in ast.parse(code).body if isinstance(node, ast.Assign)][0]
        assert ast.literal_eval(named.value) == text
        outside = re.sub(r"^```.*?^```", "", body, flags=re.S | re.M)
        assert "<script" not in outside and "## b" not in outside.splitlines()


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_ids_stay_ids(tmp_path, text):
    """No file but the index's own; in a run file, an id that it cannot hold is refused."""
    index = SemanticIndex.from_codes([text, "b"], [[0, 1], [1, 2]], [6, 4, 16])
    index.save_pretrained(tmp_path / "index")
    files = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file())
    assert files == ["index/prefix_tree.safetensors", "index/semantic_ids.parquet"]
    assert SemanticIndex.from_pretrained(tmp_path / "index").document_ids == [text, "b"]
    if len(text.split()) == 1:
        write_run(tmp_path / "run", {text: [text]}, None)
        assert (tmp_path / "run").read_text().split()[:3] == [text, "Q0", text]
    else:
        with pytest.raises(RankingError):
            write_run(tmp_path / "run", {text: [text]}, None)


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

"""A disk that takes no more, and files that cannot be read: a line that names the file, and nothing half-written."""

import contextlib
import json
import shutil
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_training import make_trainer, tiny_indexer

from modeling_lmindexer.folder import CorruptedFolderError, WriteError, atomic_path
from trainers.model_card import CardContent
from trainers.model_folder import save_model_folder
from trainers.run_state import COMPLETE_MARK

SETTINGS = {"save_strategy": "steps", "save_steps": 2, "max_steps": 3}
CARD = CardContent(
    name="tiny", data="tiny corpus", documents=60, codebook_sizes=[5], positions_table="-", stages_table="-",
    queries="-", examples="-",
)  # fmt: skip


@contextlib.contextmanager
def largest_file(size):
    """Files cannot grow beyond so many bytes, as on a disk that is full."""
    resource = pytest.importorskip("resource")  # not on Windows
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def trainer_of(folder, **settings):
    model = tiny_indexer(codebook_sizes=[5], dropout=0.1)
    return make_trainer(folder, model=model, **(SETTINGS | settings))


def run(folder, **settings):
    trainer = trainer_of(folder, **settings)
    trainer.train()
    save_model_folder(trainer, {}, CARD)
    return trainer


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return run(tmp_path_factory.mktemp("whole"))


# Beside each limit in bytes, what does not fit.
LIMITS = [
    (1_000, "settings.json"),
    (20_000, "modeling_lmindexer.py"),
    (34_000, "checkpoint-2"),  # the weights, in safetensors
    (60_000, "checkpoint-2"),  # the optimizer, by torch.save
    (74_000, "checkpoint-2"),
]


@pytest.mark.skipif(sys.platform == "win32", reason="no limits there")
def test_a_run_on_a_full_disk_goes_on_when_there_is_room(tmp_path, whole):
    for size, name in LIMITS:
        with pytest.raises(OSError) as error, largest_file(size):
            run(tmp_path)
        message = str(error.value)
        assert name in message and "\n" not in message, (size, message)
        assert "File too large" in message or "the disk took only a part" in message
        assert not list(tmp_path.rglob(".*"))
    trainer = trainer_of(tmp_path)
    trainer.train()
    # The model folder has larger files than the stages: pictures.
    with pytest.raises(OSError, match=str(tmp_path)), largest_file(15_000):
        save_model_folder(trainer, {}, CARD)
    assert [path.name for path in tmp_path.iterdir()] == ["stages"]
    save_model_folder(trainer, {}, CARD)
    assert trainer.index.semantic_ids == whole.index.semantic_ids and trainer.figures == whole.figures
    for name in ("model.safetensors", "semantic_ids.parquet"):
        assert (tmp_path / name).read_bytes() == (whole.run_dir / name).read_bytes()


@pytest.mark.skipif(sys.platform == "win32", reason="no limits there")
@pytest.mark.parametrize(
    ("write", "cause"),
    [
        (lambda path: save_file({"a": torch.zeros(1000)}, path), "File too large"),
        (lambda path: torch.save({"a": torch.zeros(1000)}, path), "the disk took only a part"),
        (lambda path: path.write_text("a" * 5000), "File too large"),
    ],
)
def test_what_libraries_raise_names_the_file(tmp_path, write, cause):
    path = tmp_path / "file"
    path.write_text("before")
    with pytest.raises(WriteError, match=rf"file could not be written: {cause}"), largest_file(1000), \
            atomic_path(path) as temporary:  # fmt: skip
        write(temporary)
    assert path.read_text() == "before" and len(list(tmp_path.iterdir())) == 1


def test_other_errors_pass_through(tmp_path):
    for error in (ValueError("no (os error)"), RuntimeError("of the model"), FileNotFoundError(2, "no file", "x")):
        with pytest.raises(type(error)) as found, atomic_path(tmp_path / "file"):
            raise error
        assert found.value is error
    assert not list(tmp_path.iterdir())


def is_gone(path):
    path.unlink()


def is_folder(path):
    path.unlink()
    path.mkdir()


def is_link_to_nothing(path):
    path.unlink()
    path.symlink_to("nothing")


def is_cut(path):
    path.write_bytes(path.read_bytes()[:20])


def is_other_json(path):
    path.write_text("[1]")


def is_text(path):
    path.write_text("no such format")


def has_other_codes(path):
    save_file({"codes": load_file(path)["codes"] + 1}, path)


def has_fewer_codes(path):
    save_file({"codes": load_file(path)["codes"][:5]}, path)


@pytest.mark.parametrize(
    ("name", "damages"),
    [
        ("stages/settings.json", (is_cut, is_other_json, is_folder)),
        ("stages/1-continuous/done.json", (is_cut, is_other_json, is_folder)),
        ("stages/1-discrete/model.safetensors", (is_cut, is_text, is_gone, is_link_to_nothing, is_folder)),
        ("stages/1-discrete/codes.safetensors", (is_cut, is_gone, has_other_codes, has_fewer_codes)),
    ],
)
def test_a_damaged_stage_is_named(tmp_path, whole, name, damages):
    for damage in damages:
        shutil.rmtree(tmp_path / "run", ignore_errors=True)
        shutil.copytree(whole.run_dir, tmp_path / "run")
        damage(tmp_path / "run" / name)
        with pytest.raises(CorruptedFolderError, match=name) as error:
            trainer_of(tmp_path / "run").train()
        assert "--start_over" in str(error.value) and "\n" not in str(error.value)


def test_a_damaged_checkpoint(tmp_path, whole):
    """One that lost something is not used; one whose files changed is named."""

    class Stopped(Exception):
        pass

    def stopped(*_):
        raise Stopped

    trainer = trainer_of(tmp_path / "run", save_steps=1, save_total_limit=2)
    trainer.finish_stage = lambda stage: stopped() if stage.kind == "discrete" else type(trainer).finish_stage(
        trainer, stage
    )  # fmt: skip
    with pytest.raises(Stopped):
        trainer.train()
    stage = tmp_path / "run" / "stages" / "1-discrete"
    newest = max(stage.glob("checkpoint-*"))
    assert "optimizer.pt" in json.loads((newest / COMPLETE_MARK).read_text())
    for name in ("optimizer.pt", "rng_state.pth", "trainer_state.json", "model.safetensors", "scheduler.pt"):
        content = (newest / name).read_bytes()
        (newest / name).write_bytes(bytes(len(content)))
        with pytest.raises(CorruptedFolderError, match=f"{newest.name}.* Delete this checkpoint"):
            trainer_of(tmp_path / "run", save_steps=1, save_total_limit=2).train()
        (newest / name).write_bytes(content)
    is_cut(newest / "optimizer.pt")
    trainer = trainer_of(tmp_path / "run", save_steps=1, save_total_limit=2)
    assert trainer.state_of_run.last_checkpoint("1-discrete").endswith("checkpoint-2")
    trainer.train()
    assert trainer.index.semantic_ids == whole.index.semantic_ids

"""The model folder: whole or not there, and what its card promises."""

import json
import os
import re

import pytest
import torch
import yaml
from tiny_training import make_trainer, tiny_corpus, tiny_indexer
from transformers import AutoModel, AutoTokenizer

from modeling_lmindexer import PrefixTreeLogitsProcessor, SemanticIndex
from modeling_lmindexer.folder import file_digest, read_manifest
from trainers import model_folder
from trainers.model_card import CardContent, write_card
from trainers.model_folder import save_model_folder
from trainers.report import stage_table

FILES = {
    "config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json",
    "semantic_ids.parquet", "prefix_tree.safetensors", "metrics.json", "figures/losses.png", "figures/codes.png",
    "figures/categories.png", "figures/density.png", "README.md",
}  # fmt: skip


def trained(folder, **settings):
    trainer = make_trainer(folder, max_steps=2, freeze_encoder=True, **settings)
    trainer.train()
    return trainer


def card_of(trainer):
    return CardContent(
        name=str(trainer.run_dir), data="a corpus of {{ words }}", documents=60, codebook_sizes=[6, 4],
        positions_table="| position |\n|---|\n| 1 |", stages_table=stage_table(trainer.figures),
        queries="No queries were given.", examples="<1><2><0>  d1: ```python\n---\n# Heading ``` {{ name }}",
        base_model="google-t5/t5-small", licence="cc-by-4.0", datasets=["some/corpus"],
    )  # fmt: skip


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A trainer and the folder that was written of it."""
    trainer = trained(tmp_path_factory.mktemp("model"))
    metrics = {"stages": trainer.figures, "nothing": float("nan"), "rows": [1.5, float("inf")]}
    return trainer, save_model_folder(trainer, metrics, card_of(trainer))


def check_whole(folder):
    """Every file that the manifest lists is the one it lists; returns their names."""
    files = read_manifest(folder / "manifest.json")["files"]
    for name, entry in files.items():
        assert entry == {"size": (folder / name).stat().st_size, "sha256": file_digest(folder / name)}
    return set(files)


def test_the_folder_holds_everything_and_its_manifest_is_true(saved):
    folder = saved[1]
    listed = check_whole(folder)
    assert listed >= FILES
    assert all((folder / name).read_bytes().startswith(b"\x89PNG") for name in FILES if name.endswith(".png"))
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    # What is not listed is the run's own; the cache of encoder states is gone.
    assert {name.split("/")[0] for name in found - listed} == {"manifest.json", "stages"}


def test_the_folder_is_the_trained_model(saved):
    trainer, folder = saved
    model, index = AutoModel.from_pretrained(folder).eval(), SemanticIndex.from_pretrained(folder)
    assert model.reconstructor is None
    expected = trainer.model.state_dict()
    assert {name: True for name in expected} == {
        name: torch.equal(value, expected[name]) for name, value in model.state_dict().items()
    }
    assert index.document_ids == trainer.index.document_ids
    assert torch.equal(index.sequences, trainer.index.sequences)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    inputs = tokenizer(list(tiny_corpus()["text"])[:7], padding=True, return_tensors="pt")
    trie = PrefixTreeLogitsProcessor.from_pretrained(folder)
    inputs = {name: inputs[name] for name in ("input_ids", "attention_mask")}
    ids = model.generate(**inputs, num_beams=5, num_return_sequences=5, logits_processor=trie)
    assert torch.equal(
        ids, trainer.model.generate(**inputs, num_beams=5, num_return_sequences=5, logits_processor=trie)
    )
    assert all(len(documents) == 1 for documents in index.documents_of(ids))


def test_metrics_are_json_that_everybody_reads(saved):
    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    metrics = json.loads((saved[1] / "metrics.json").read_text(), parse_constant=refuse)
    assert metrics["nothing"] is None and metrics["rows"] == [1.5, None]
    assert metrics["stages"]["1-discrete"]["perplexity"] == saved[0].figures["1-discrete"]["perplexity"]


def test_the_card(saved):
    trainer, folder = saved
    card = (folder / "README.md").read_text()
    _, metadata, body = card.split("---\n", 2)
    metadata = yaml.safe_load(metadata)
    assert metadata["library_name"] == "transformers" and "semantic-ids" in metadata["tags"]
    assert metadata["license"] == "cc-by-4.0" and metadata["datasets"] == ["some/corpus"]
    assert stage_table(trainer.figures) in body and "| position |" in body
    assert "a corpus of {{ words }} (60 documents)" in body and "6 and 4 codes" in body
    for picture in re.findall(r"!\[.*?\]\((.*?)\)", body):
        assert (folder / picture).is_file()
    # The code blocks of the card are closed where they should be: documents have none.
    assert re.findall(r"^\s*```(\w*)", body, re.M) == ["python", "", "text", ""]
    assert "d1: '''python" in body and "''' {{ name }}" in body


def test_the_cards_example_runs(saved, capsys):
    card = (saved[1] / "README.md").read_text()
    exec(re.search(r"```python\n(.*?)```", card, re.S).group(1), {})
    printed = capsys.readouterr().out
    assert len(re.findall(r"'d\d\d\d'", printed)) == 20


def test_a_failure_before_the_files_are_moved_leaves_the_folder_as_it_was(tmp_path, monkeypatch):
    trainer = trained(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(model_folder, "write_card", fail)
    with pytest.raises(OSError, match="disk full"):
        save_model_folder(trainer, {}, card_of(trainer))
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    monkeypatch.undo()
    save_model_folder(trainer, {}, card_of(trainer))
    assert check_whole(tmp_path) >= FILES


def test_a_stop_while_the_files_are_moved_leaves_no_manifest(saved, monkeypatch):
    """Neither the old one, which is not true any more, nor a new one; afterwards the folder can be written again."""
    trainer, folder = saved
    moved = []
    replace = os.replace

    def stop(source, target):
        if str(target).startswith(str(folder)) and ".writing-" not in str(target):
            moved.append(target)
            if len(moved) == 5:
                raise KeyboardInterrupt
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(model_folder.os, "replace", stop)
        with pytest.raises(KeyboardInterrupt):
            save_model_folder(trainer, {}, card_of(trainer))
    assert len(moved) == 5
    assert not (folder / "manifest.json").exists() and not list(folder.glob(".writing-*"))
    save_model_folder(trainer, {}, card_of(trainer))
    assert check_whole(folder) >= FILES


def test_a_run_without_training_or_categories_is_written_too(tmp_path):
    """Nothing to draw: no losses, no categories or not of every document."""
    corpus = tiny_corpus().map(lambda row: {"category": None if row["id"] < "d2" else row["category"]})
    epochs = {"reconstructor_epochs": 0, "continuous_epochs": [0.0], "num_train_epochs": 0}
    for name, documents in (("some", corpus), ("none", corpus.remove_columns("category"))):
        trainer = make_trainer(tmp_path / name, model=tiny_indexer(), corpus=documents, **epochs)
        trainer.train()
        folder = save_model_folder(trainer, {}, card_of(trainer))
        pictures = {path.name for path in (folder / "figures").iterdir()}
        always = {"codes.png", "density.png"}
        assert pictures == (always | {"categories.png"} if name == "some" else always)
        assert "losses.png" not in (folder / "README.md").read_text()


def test_the_card_says_how_documents_are_told_apart(tmp_path):
    for counter, words in ((True, "a last one that tells apart"), (False, "got other codes at the least cost")):
        card = CardContent(
            name="n", data="d", documents=2, codebook_sizes=[2, 2], positions_table="", stages_table="", queries="",
            examples="", counter=counter,
        )  # fmt: skip
        write_card(card, [], tmp_path / "README.md")
        text = " ".join((tmp_path / "README.md").read_text(encoding="utf-8").split())
        assert "2 learned positions with 2 and 2 codes" in text and words in text

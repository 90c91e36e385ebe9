"""The index at the end of a run whose IDs need no last position: unique, searchable, saved and loaded."""

import numpy as np
import pytest
import torch
from tiny_training import make_trainer, tiny_corpus, tiny_indexer
from transformers import AutoModel

from modeling_lmindexer import PrefixTreeLogitsProcessor, SemanticIndex
from trainers.model_card import CardContent
from trainers.model_folder import save_model_folder


@pytest.fixture(scope="module")
def trainer(tmp_path_factory):
    """80 IDs for 60 documents, so that some learned codes collide."""
    model = tiny_indexer(codebook_sizes=[8, 10])
    trainer = make_trainer(tmp_path_factory.mktemp("run"), model=model, collisions="reassign", max_steps=2)
    trainer.train()
    return trainer


@pytest.fixture(scope="module")
def folder(trainer):
    card = CardContent(
        name="unique codes", data="a corpus", documents=60, codebook_sizes=[8, 10], positions_table="",
        stages_table="", queries="", examples="", base_model=None, licence=None, datasets=[],
    )  # fmt: skip
    return save_model_folder(trainer, {"stages": trainer.figures}, card)


def text_inputs(trainer):
    inputs = trainer.tokenizer(list(tiny_corpus()["text"]), padding=True, return_tensors="pt")
    return {name: inputs[name] for name in ("input_ids", "attention_mask")}


def test_every_document_has_learned_codes_of_its_own(trainer):
    learned, codes = trainer.documents.codes, trainer.index.codes
    assert len(np.unique(learned, axis=0)) < 60 == len(np.unique(codes, axis=0))
    assert trainer.model.config.position_sizes == trainer.index.position_sizes == [8, 10]
    assert not trainer.index.has_disambiguation and trainer.model.codebooks.disambiguation is None
    moved = (learned != codes).any(axis=1)
    np.testing.assert_array_equal(trainer.reassignment.moved_at >= 0, moved)
    assert trainer.reassignment.figures()["documents_moved"] == moved.sum() > 0


def test_generate_and_search_find_the_documents(trainer):
    """With as many beams as IDs, every document is found exactly once."""
    inputs, trie = text_inputs(trainer), trainer.index.logits_processor
    inputs = {name: value[:7] for name, value in inputs.items()}
    ids = trainer.model.generate(**inputs, num_beams=60, num_return_sequences=60, logits_processor=trie)
    assert ids.shape == (7 * 60, 3)
    found = [document for (document,) in trainer.index.documents_of(ids)]
    assert all(sorted(found[i : i + 60]) == sorted(tiny_corpus()["id"]) for i in range(0, 420, 60))
    result = trainer.model.search(**inputs, index=trainer.index, num_beams=60, top_k=60)
    assert result.documents == [found[i : i + 60] for i in range(0, 420, 60)]


def test_the_saved_folder_is_the_same_without_a_last_position(trainer, folder):
    model, index = AutoModel.from_pretrained(folder).eval(), SemanticIndex.from_pretrained(folder)
    assert model.config.id_length == 2 and model.generation_config.max_new_tokens == 2
    assert index.document_ids == trainer.index.document_ids and not index.has_disambiguation
    assert torch.equal(index.sequences, trainer.index.sequences)
    inputs, trie = text_inputs(trainer), PrefixTreeLogitsProcessor.from_pretrained(folder)
    ids = model.generate(**inputs, num_beams=3, num_return_sequences=3, logits_processor=trie)
    expected = trainer.model.generate(**inputs, num_beams=3, num_return_sequences=3, logits_processor=trie)
    assert torch.equal(ids, expected)
    found = model.search(**inputs, index=index, num_beams=3, top_k=3).documents
    assert found == trainer.model.search(**inputs, index=trainer.index, num_beams=3, top_k=3).documents


def test_both_ways_out_of_collisions_share_the_stages(tmp_path):
    """The index alone differs: a run that is done is not trained again for the other one."""
    indexes = []
    for collisions in ("counter", "reassign"):
        model = tiny_indexer(codebook_sizes=[8, 10])
        trainer = make_trainer(tmp_path, model=model, collisions=collisions, max_steps=1)
        trainer.train()
        indexes.append(trainer.index)
        assert trainer.state.global_step == (1 if collisions == "counter" else 0)
    counted, reassigned = indexes
    assert counted.position_sizes[:2] == reassigned.position_sizes
    same = (counted.codes[:, :2] == reassigned.codes).all(axis=1)
    assert 0 < same.sum() < 60

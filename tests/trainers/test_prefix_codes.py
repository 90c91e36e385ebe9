"""A code per prefix: the same tree, vectors that are shared with the tokens, and a plain model at the end."""

import datasets
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_retrieval import StopAt, Stopped, retrieval_trainer, tiny_index
from tiny_training import tiny_corpus, tiny_indexer, tiny_tokenizer

from modeling_lmindexer import LMIndexerForSemanticID, SemanticIndex
from trainers.id_tokens import add_id_tokens, id_texts, id_tokens
from trainers.prefix_codes import code_per_prefix, tie_codes, untie_codes


@given(st.lists(st.tuples(*[st.integers(0, 3)] * 3), min_size=1, max_size=20, unique=True))
def test_the_tree_is_the_same_and_no_code_is_below_two_prefixes(rows):
    index = SemanticIndex.from_codes(list(range(len(rows))), np.array(rows), [4, 4, 4], has_disambiguation=False)
    other = code_per_prefix(index)
    assert other.document_ids == index.document_ids and not other.has_disambiguation
    prefixes = {tuple(row[:end]) for row in rows for end in (1, 2, 3)}
    assert sum(other.position_sizes) == len(prefixes), "no code without a prefix"
    for end in (1, 2, 3):
        pairs = {(row[:end], tuple(own[:end])) for row, own in zip(rows, other.codes.tolist(), strict=True)}
        assert len(pairs) == len({one for one, _ in pairs}) == len({own[-1] for _, own in pairs})


def tied_model(kind: str = "t5"):
    index, tokenizer = code_per_prefix(tiny_index(tiny_corpus())), tiny_tokenizer()
    model = tiny_indexer(
        kind, num_reconstructor_layers=0, codebook_sizes=index.position_sizes, num_disambiguation_codes=0,
        similarity="dot",
    )  # fmt: skip
    add_id_tokens(model, tokenizer, index, 0, "prefixes")
    tie_codes(model, tokenizer, index)
    return model.eval(), tokenizer, index


@pytest.mark.parametrize("kind", ["t5", "bert"])
def test_codes_are_what_their_tokens_are_until_they_are_untied(tmp_path, kind):
    model, tokenizer, index = tied_model(kind)
    row = index.sequences[5].tolist()
    names = {flats[-1]: name for name, flats in id_tokens(index, "prefixes").items()}
    embeddings = model.get_input_embeddings().weight
    for position, flat in enumerate(row):
        code = flat - model.config.position_offsets[position]
        token = tokenizer.convert_tokens_to_ids(names[flat])
        assert torch.equal(model.codebooks.learned[position].weight[code], embeddings[token])
    text = tokenizer(id_texts(index, "prefixes")[index.document_ids[5]], return_tensors="pt")
    labels = index.sequences[[7]].long()
    loss = model(**text, labels=labels).loss
    loss.backward()
    own = tokenizer.convert_tokens_to_ids(names[int(labels[0, 0])])
    assert own not in text["input_ids"] and embeddings.grad[own].norm() > 0, "an answer teaches its token"
    untie_codes(model)
    assert not any("parametrizations" in name for name in model.state_dict())
    torch.testing.assert_close(model(**text, labels=labels).loss, loss.detach())
    model.save_pretrained(tmp_path)
    loaded = LMIndexerForSemanticID.from_pretrained(tmp_path).eval()
    torch.testing.assert_close(loaded(**text, labels=labels).loss, loss.detach())
    untie_codes(model)


def histories(index: SemanticIndex):
    """Each item's successor is the next one of the index."""
    texts = id_texts(index, "prefixes")
    ids = index.document_ids
    return [(texts[one], after) for one, after in zip(ids, ids[1:], strict=False)]


def test_training_moves_tokens_and_codes_and_goes_on_where_it_was_stopped(tmp_path):
    def trainer(folder, **settings):
        model, tokenizer, index = tied_model()
        rows = histories(index)
        pairs = datasets.Dataset.from_list([{"text": text, "target": target} for text, target in rows])
        queries = datasets.Dataset.from_list(
            [{"id": str(place), "text": text, "relevant": [target]} for place, (text, target) in enumerate(rows)]
        )
        made = retrieval_trainer(
            folder, model=model, index=index, train=pairs, validation=queries, tokenizer=tokenizer,
            save_strategy="steps", save_steps=4, num_train_epochs=12, learning_rate=0.02, **settings,
        )  # fmt: skip
        return made, {name: value.clone() for name, value in model.state_dict().items()}

    whole, before = trainer(tmp_path / "whole", eval_strategy="epoch", load_best_model_at_end=False)
    figures = whole.train()["task"]["evaluations"]
    after = whole.unwrap().state_dict()
    still = {name for name, value in before.items() if torch.equal(after[name], value)}
    assert all("initialized" in name or name.endswith("norm") for name in still), still
    assert figures[-1][1]["recall@1"] > 0.4, "by chance .017"
    for book in whole.unwrap().codebooks.learned:
        assert book.parametrizations.weight.original.norm() > 0

    stopped, _ = trainer(tmp_path / "parts", eval_strategy="no")
    stopped.add_callback(StopAt(stopped, "task", 9))
    with pytest.raises(Stopped):
        stopped.train()
    again, _ = trainer(tmp_path / "parts", eval_strategy="no")
    again.train()
    for name, value in again.unwrap().state_dict().items():
        assert torch.equal(value, after[name]), name


def test_an_index_whose_prefixes_share_codes():
    index, tokenizer = tiny_index(tiny_corpus()), tiny_tokenizer()
    model = tiny_indexer(num_reconstructor_layers=0)
    add_id_tokens(model, tokenizer, index, 0, "prefixes")
    with pytest.raises(ValueError, match="share a code: take the index of code_per_prefix"):
        tie_codes(model, tokenizer, index)

"""An encoder adapted to a corpus: its losses against loops, what moves, what is found again, what is refused."""

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_adaptation import (
    OBJECTIVES,
    adaptation_trainer,
    first_step,
    tiny_encoder,
    tiny_settings,
    tokenizer_with_mask,
)
from tiny_training import tiny_corpus, tiny_tokenizer
from transformers import AutoModel, Trainer, TrainerCallback

from modeling_lmindexer import LMIndexerForSemanticID
from trainers import ExistingRunError, UnusableCorpusError
from trainers.adaptation import ENCODER_FOLDER, AdaptationTrainer, adapt_encoder
from trainers.adaptation_args import AdaptationArguments
from trainers.adaptation_inputs import crop_masks
from trainers.embeddings import embed_texts
from trainers.losses import contrastive_loss
from trainers.run_state import COMPLETE_MARK

TEXTS = list(tiny_corpus()["text"])


# -- losses -----------------------------------------------------------------------------------------------------------


@torch.no_grad()
def embedding_of(trainer, row, begin=0, end=None):
    """Mean of the states of one document's tokens, or of a part of them, read alone and without padding."""
    ids = torch.from_numpy(trainer.documents[row]["input_ids"].astype(np.int64))[None]
    states = trainer.model.encoder(input_ids=ids[:, begin:end]).last_hidden_state[0]
    return states.mean(0) if trainer.args.pooling == "mean" else states[0]


def losses_of(trainer, rows):
    """By name, for a batch of documents, and what was drawn for it."""
    drawn, draw = [], trainer.draw
    trainer.draw = lambda inputs: drawn.append(draw(inputs)) or drawn[-1]
    loss = trainer.compute_loss(trainer.model.eval(), trainer.data_collator([trainer.documents[row] for row in rows]))
    values = {name: terms[-1].item() for name, terms in trainer.loss_sums.items()}
    return values | {"loss": loss.item()}, drawn[0]


@pytest.mark.parametrize("kind", ["bert", "t5"])
@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_simcse_is_the_cross_entropy_of_cosines(tmp_path, kind, pooling):
    """Documents of different lengths; two read the same, and are no negatives of each other."""
    texts = [*TEXTS, TEXTS[0]]
    trainer = adaptation_trainer(tmp_path, tiny_encoder(kind), texts=texts, pooling=pooling, temperature=0.2)
    rows = [0, 5, 9, 30, 60]
    found = losses_of(trainer, rows)[0]["simcse"]
    vectors = [embedding_of(trainer, row) for row in rows]
    total = 0.0
    for i, anchor in enumerate(vectors):
        scores = [torch.cosine_similarity(anchor, other, dim=0).item() / 0.2 for other in vectors]
        compared = [score for j, score in enumerate(scores) if i == j or texts[rows[i]] != texts[rows[j]]]
        total -= scores[i] - math.log(sum(map(math.exp, compared)))
    assert found == pytest.approx(total / len(rows), rel=1e-4)


def test_dropout_makes_the_two_views(tmp_path):
    trainer = adaptation_trainer(tmp_path, tiny_encoder(dropout=0.3))
    batch = trainer.data_collator([trainer.documents[row] for row in range(16)])
    first, second = trainer.model.train()(**trainer.draw(batch)).views
    assert (first - second).abs().amax(1).min() > 1e-3
    first, second = trainer.model.eval()(**trainer.draw(batch)).views
    torch.testing.assert_close(first, second)


@pytest.mark.parametrize("kind", ["bert", "t5"])
def test_words_are_predicted_by_weight(tmp_path, kind):
    """Words of 8 to 12 documents, by `log1p(count) * log(N / document frequency)`."""
    trainer = adaptation_trainer(
        tmp_path, tiny_encoder(kind), objective=["words"], min_document_frequency=8, max_document_frequency=0.2
    )
    documents = [text.split() for text in TEXTS]
    frequency = {word: sum(word in words for words in documents) for words in documents for word in words}
    number = tokenizer_with_mask().convert_tokens_to_ids
    vocabulary = sorted((word for word in frequency if 8 <= frequency[word] <= 12), key=number)
    assert 10 < len(vocabulary) < len(frequency) - 10
    rows, total = [0, 17, 3, 59], 0.0
    for row in rows:
        embedding = torch.nn.functional.normalize(embedding_of(trainer, row), dim=0) * 16**0.5
        logs = trainer.model.words(embedding).log_softmax(0).tolist()
        words = documents[row]
        weights = [math.log1p(words.count(w)) * math.log(60 / frequency[w]) for w in vocabulary]
        total -= sum(w * log for w, log in zip(weights, logs, strict=True)) / sum(weights)
    assert losses_of(trainer, rows)[0]["words"] == pytest.approx(total / len(rows), rel=1e-4)


def test_the_words_head_starts_from_embeddings_and_shares(tmp_path):
    """What it predicts for an embedding of zero is how often a word stands in a bag."""
    trainer = adaptation_trainer(tmp_path, objective=["words"], min_document_frequency=1, max_document_frequency=1.0)
    documents = [trainer.documents[row] for row in range(60)]
    bags = torch.zeros(60, len(tokenizer_with_mask()))
    for bag, document in zip(bags, documents, strict=True):
        for token, weight in zip(document["input_ids"], document["target_weights"], strict=True):
            bag[token] += weight / document["target_weights"].sum()
    shares = bags.mean(0)
    vocabulary = shares.nonzero()[:, 0]
    torch.testing.assert_close(trainer.model.words(torch.zeros(16)).softmax(0), shares[vocabulary])
    embeddings = trainer.adapted.get_input_embeddings().weight[vocabulary]
    torch.testing.assert_close(trainer.model.words.weight, embeddings / embeddings.norm(dim=1, keepdim=True))


@pytest.mark.parametrize("kind", ["bert", "bert-mlm"])
@torch.no_grad()
def test_masked_tokens_are_predicted(tmp_path, kind):
    """Each document's mean over its masked tokens; special tokens are not masked; a head that is there is used."""
    model = tiny_encoder(kind)
    trainer = adaptation_trainer(tmp_path, model, objective=["mlm"], mlm_probability=0.4)
    if kind == "bert-mlm":
        assert trainer.model.language_model is model
    rows = list(range(0, 60, 4))
    found, drawn = losses_of(trainer, rows)
    mask_id, total = tokenizer_with_mask().mask_token_id, 0.0
    for row, masked, labels in zip(rows, drawn["masked_input_ids"], drawn["labels"], strict=True):
        own = torch.from_numpy(trainer.documents[row]["input_ids"].astype(np.int64))
        masked, labels = masked[: len(own)], labels[: len(own)]
        assert labels[-1] == -100 and own[-1] == 2  # </s>
        places = (labels != -100).nonzero()[:, 0]
        assert torch.equal(labels[places], own[places])
        assert torch.equal(masked[labels == -100], own[labels == -100])
        logs = trainer.model.language_model(input_ids=masked[None]).logits[0].log_softmax(-1)
        total -= sum(logs[place, own[place]].item() for place in places) / max(1, len(places))
    assert found["mlm"] == pytest.approx(total / len(rows), rel=1e-4)
    chosen = drawn["labels"] != -100
    tokens = sum(len(trainer.documents[row]["input_ids"]) - 1 for row in rows)
    assert 0.25 < chosen.sum() / tokens < 0.55
    assert 0.6 < (drawn["masked_input_ids"][chosen] == mask_id).float().mean() < 1


@torch.no_grad()
def test_a_sum_of_objectives_is_weighted(tmp_path):
    trainer = adaptation_trainer(tmp_path, **OBJECTIVES["all"])
    found = losses_of(trainer, range(16))[0]
    expected = 0.5 * found["mlm"] + 2 * found["simcse"] + 2 * found["words"]
    assert found["loss"] == pytest.approx(expected, rel=1e-5)


@torch.no_grad()
def test_crops_are_read_as_if_they_stood_alone(tmp_path):
    """(A T5, whose positions are relative.)"""
    trainer = adaptation_trainer(tmp_path, tiny_encoder("t5"), crop_views=True, temperature=0.3)
    rows = [2, 8, 40]
    found, drawn = losses_of(trainer, rows)
    parts = []
    for masks in drawn["view_masks"]:
        spans = [mask.nonzero()[:, 0].tolist() for mask in masks]
        parts.append(
            [embedding_of(trainer, row, span[0], span[-1] + 1) for row, span in zip(rows, spans, strict=True)]
        )
    anchors, views = (torch.stack(part) for part in parts)
    expected = contrastive_loss(anchors, views, views, ~torch.eye(3, dtype=torch.bool), 0.3, normalize=True)
    assert found["simcse"] == pytest.approx(expected.mean().item(), rel=1e-4)


@settings(max_examples=40, deadline=None, database=None)
@given(st.lists(st.integers(1, 30), min_size=1, max_size=6), st.integers(0, 2**32 - 1))
def test_crops_are_runs_of_tokens(lengths, seed):
    mask = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        views = crop_masks(mask)
    assert views.shape == (2, *mask.shape)
    for view in views:
        for row, length in zip(view, lengths, strict=True):
            places = row.nonzero()[:, 0]
            assert len(places) == places[-1] - places[0] + 1 and places[-1] < length
            assert max(1, 0.3 * length - 0.5) <= len(places) <= max(1, 0.8 * length + 0.5)


@torch.no_grad()
def test_padding_changes_nothing(tmp_path):
    """A document's losses beside long ones are those of the document alone (up to the drawing of masks)."""
    trainer = adaptation_trainer(tmp_path, objective=["words", "simcse"])
    order = np.argsort(trainer.documents.lengths)
    short, long = order[:4].tolist(), order[-1:].tolist()
    trainer.model.eval()
    inputs = [trainer.data_collator([trainer.documents[row] for row in rows]) for rows in (short, short + long)]
    assert inputs[0]["input_ids"].shape[1] < inputs[1]["input_ids"].shape[1]
    alone, padded = (trainer.model(**trainer.draw(batch)) for batch in inputs)
    torch.testing.assert_close(alone.views, padded.views[:, :4])
    torch.testing.assert_close(alone.bag.losses, padded.bag.losses[:4])
    torch.testing.assert_close(alone.bag.targets, padded.bag.targets[:4])


@pytest.mark.parametrize("objective", ["words", "simcse"])
def test_gradient_accumulation(tmp_path, objective):
    """It gives the gradients of a large batch; not for simcse, whose negatives come from each small one."""
    large = first_step(tmp_path / "large", objective=[objective], per_device_train_batch_size=16)[0]
    small = first_step(
        tmp_path / "small", objective=[objective], per_device_train_batch_size=4, gradient_accumulation_steps=4
    )[0]
    differences = {name: (large[name] - small[name]).abs().max().item() for name in large}
    scale = max(value.abs().max().item() for value in large.values())
    assert scale > 1e-3
    assert (max(differences.values()) < 1e-4 * scale) == (objective == "words")


# -- runs -------------------------------------------------------------------------------------------------------------


def weights_of(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def same_weights(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_the_encoder_moves_and_its_pooler_does_not(tmp_path, name):
    model = tiny_encoder()
    before = weights_of(model)
    trainer = adaptation_trainer(tmp_path, model, save_strategy="no", **OBJECTIVES[name])
    figures = trainer.train()
    assert trainer.adapted is model and not model.training
    kept = {name for name, value in model.state_dict().items() if torch.equal(value, before[name])}
    assert kept == {"pooler.dense.weight", "pooler.dense.bias"}
    assert figures["loss_end"] < figures["loss_start"]
    assert {f"{term}_{end}" for term in OBJECTIVES[name]["objective"] for end in ("start", "end")} < figures.keys()
    assert [share for share, _ in figures["loss_curve"]] == pytest.approx([1 / 6, 1 / 3, 1 / 2, 2 / 3, 5 / 6, 1])


@pytest.mark.parametrize("objective", [["simcse"], ["words"]])
def test_of_an_encoder_decoder_only_the_encoder_moves(tmp_path, objective):
    model = tiny_encoder("t5")
    before = weights_of(model)
    adapted = adapt_encoder(model, tokenizer_with_mask(), TEXTS, tiny_settings(tmp_path, objective=objective))
    assert adapted is model
    moved = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    shared = {"shared.weight", "encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "lm_head.weight"}
    assert moved == {name for name in before if name.startswith("encoder.")} | shared


def test_the_head_of_a_language_model_moves_and_is_left_behind(tmp_path):
    model = tiny_encoder("bert-mlm")
    before = weights_of(model)
    adapted = adapt_encoder(model, tokenizer_with_mask(), TEXTS, tiny_settings(tmp_path, objective=["mlm"]))
    assert adapted is model.bert
    assert not [name for name, value in model.state_dict().items() if torch.equal(value, before[name])]
    saved = AutoModel.from_pretrained(tmp_path / ENCODER_FOLDER).state_dict()
    assert same_weights(weights_of(adapted), {name: saved[name] for name in adapted.state_dict()})


@pytest.mark.parametrize(("kind", "name"), [("bert", "all"), ("t5", "simcse")])
def test_the_folder_loads_everywhere(tmp_path, kind, name):
    adapted = adapt_encoder(
        tiny_encoder(kind), tokenizer_with_mask(), TEXTS, tiny_settings(tmp_path, pooling="cls", **OBJECTIVES[name])
    )
    folder = tmp_path / ENCODER_FOLDER
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]
    loaded = AutoModel.from_pretrained(folder)
    assert all(torch.equal(value, adapted.state_dict()[name]) for name, value in loaded.state_dict().items())
    indexer = LMIndexerForSemanticID.from_backbone(str(folder), codebook_sizes=[4], num_disambiguation_codes=4)
    assert same_weights(weights_of(indexer.backbone), weights_of(loaded))
    # The first token's state, as the folder says.
    encoder = adapted.get_encoder() if kind == "t5" else adapted
    ids = tokenizer_with_mask()(TEXTS[7], return_tensors="pt")["input_ids"]
    with torch.no_grad():
        expected = encoder(input_ids=ids).last_hidden_state[0, 0].numpy()
    np.testing.assert_allclose(embed_texts(folder, TEXTS[:9], quiet=True)[7], expected, atol=1e-5)


def test_same_seed_same_weights(tmp_path):
    def run(name, **settings):
        trainer = adaptation_trainer(tmp_path / name, tiny_encoder(dropout=0.1), **OBJECTIVES["all"], **settings)
        return trainer.train(), weights_of(trainer.adapted)

    (figures, weights), (again, same), (_, other) = run("a"), run("b"), run("c", seed=4)
    assert figures == again and same_weights(weights, same)
    assert not same_weights(weights, other)


# -- stops ------------------------------------------------------------------------------------------------------------


class Stopped(Exception):
    """Stands for a kill."""


class StoppedTrainer(AdaptationTrainer):
    """Stops at a place, and notes at which step its training begins."""

    place = None

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.begins = []
        self.add_callback(Observer(self))

    def reach(self, place):
        if self.place == place:
            raise Stopped

    def measure_losses(self, moment):
        self.reach(moment)
        return super().measure_losses(moment)

    def _save_rng_state(self, output_dir):
        self.reach(f"inside checkpoint {self.state.global_step}")
        super()._save_rng_state(output_dir)


class Observer(TrainerCallback):
    def __init__(self, trainer):
        self.trainer = trainer

    def on_train_begin(self, args, state, control, **kwargs):
        self.trainer.begins.append(state.global_step)

    def on_step_end(self, args, state, control, **kwargs):
        self.trainer.reach(f"step {state.global_step}")


def run_to(folder, place, kind="bert", **settings):
    """A run with a checkpoint after every second; up to a place."""
    trainer = adaptation_trainer(
        folder, tiny_encoder(kind, dropout=0.1), trainer_class=StoppedTrainer, save_strategy="steps", save_steps=2,
        logging_steps=2, **settings,
    )  # fmt: skip
    trainer.place = place
    if place is None:
        figures = trainer.train()
        return trainer, figures
    with pytest.raises(Stopped):
        trainer.train()
    return trainer, None


@pytest.mark.parametrize(
    ("kind", "steps", "settings"),
    [
        ("bert", 6, OBJECTIVES["all"]),
        ("t5", 6, {"objective": ["simcse", "words"]}),
        ("bert-mlm", 8, {"objective": ["mlm"], "per_device_train_batch_size": 8, "gradient_accumulation_steps": 2}),
    ],
)
def test_a_run_that_is_stopped_goes_on_and_ends_the_same(tmp_path, kind, steps, settings):
    """Stopped before its first checkpoint, in mid-epoch, inside a checkpoint, and before its result is written."""
    whole, figures = run_to(tmp_path / "whole", None, kind, **settings)
    folder, begins = tmp_path / "stopped", []
    for place in ("start", "step 1", "step 3", "inside checkpoint 4", "step 5", "end"):
        begins += run_to(folder, place, kind, **settings)[0].begins
        assert not (folder / ENCODER_FOLDER).exists()
    trainer, found = run_to(folder, None, kind, **settings)
    assert begins + trainer.begins == [0, 0, 2, 2, 4, steps]
    assert same_weights(weights_of(trainer.adapted), weights_of(whole.adapted))
    assert found == figures
    assert not list(trainer.state_of_run.root.glob("*/checkpoint-*"))


def test_a_checkpoint_that_lacks_files_is_ignored(tmp_path):
    run_to(tmp_path, "step 5", save_total_limit=2)
    older, newer = sorted((tmp_path / "stages" / "adaptation").glob("checkpoint-*"))
    assert (older.name, newer.name) == ("checkpoint-2", "checkpoint-4")
    (newer / COMPLETE_MARK).unlink()
    (newer / "model.safetensors").unlink()
    assert run_to(tmp_path, None)[0].begins == [2]


@pytest.mark.parametrize("kind", ["bert", "t5", "bert-mlm"])
def test_a_run_that_is_done_is_loaded(tmp_path, kind, monkeypatch):
    first = adaptation_trainer(tmp_path, tiny_encoder(kind))
    figures, weights = first.train(), weights_of(first.adapted)
    monkeypatch.setattr(Trainer, "train", None)
    again = adaptation_trainer(tmp_path, tiny_encoder(kind))
    assert again.train() == figures
    assert type(again.adapted) is type(first.adapted) and not again.adapted.training
    assert same_weights(weights_of(again.adapted), weights)
    texts = ["other texts", *TEXTS[1:]]
    for changed in ({"learning_rate": 1e-3}, {"texts": texts}, {"model": tiny_encoder(kind, seed=1)}):
        with pytest.raises(ExistingRunError, match="start_over"):
            adaptation_trainer(tmp_path, **({"model": tiny_encoder(kind)} | changed)).train()


def test_starting_over_replaces_the_folder(tmp_path):
    first = weights_of(adapt_encoder(tiny_encoder(), tokenizer_with_mask(), TEXTS, tiny_settings(tmp_path)))
    other = tiny_settings(tmp_path, pooling="cls", start_over=True)
    second = weights_of(adapt_encoder(tiny_encoder(), tokenizer_with_mask(), TEXTS, other))
    assert not same_weights(first, second)
    saved = AutoModel.from_pretrained(tmp_path / ENCODER_FOLDER).state_dict()
    assert same_weights(saved, second)
    assert json.loads((tmp_path / ENCODER_FOLDER / "1_Pooling" / "config.json").read_text()) == {
        "word_embedding_dimension": 16,
        "pooling_mode_cls_token": True,
    }


# -- errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "message", "model", "changes"),
    [
        (ValueError, "mlm needs an encoder .* 't5'.*leave mlm out", "t5", {"objective": ["mlm"]}),
        (UnusableCorpusError, "60 texts do not fill a batch of 64", "bert", {"per_device_train_batch_size": 64}),
        (ValueError, "at least 50 .* lower min_document_frequency", "bert",
         {"objective": ["words"], "min_document_frequency": 50}),
        (UnusableCorpusError, "finds nothing in 1 documents", "bert", {"texts": ["", *TEXTS], "eos": False}),
    ],
)  # fmt: skip
def test_what_cannot_be_learned_from_is_refused(tmp_path, error, message, model, changes):
    tokenizer, texts = tokenizer_with_mask(), changes.pop("texts", TEXTS)
    if not changes.pop("eos", True):
        tokenizer.backend_tokenizer.post_processor = None
    with pytest.raises(error, match=message):
        AdaptationTrainer(tiny_encoder(model), tiny_settings(tmp_path, **changes), texts, tokenizer)
    assert not list(tmp_path.iterdir())


def test_a_tokenizer_must_fit(tmp_path):
    with pytest.raises(ValueError, match="the tokenizer has none.*add_special_tokens"):
        adapt_encoder(tiny_encoder(), tiny_tokenizer(), TEXTS, tiny_settings(tmp_path, objective=["mlm"]))
    larger = tokenizer_with_mask()
    larger.add_tokens(["unheard", "of"])
    with pytest.raises(ValueError, match="tokenizer has 56 tokens and the model 54"):
        adapt_encoder(tiny_encoder(), larger, TEXTS, tiny_settings(tmp_path))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"objective": ["simcse", "clm"]}, "of simcse, mlm, words"),
        ({"objective": []}, "objective is"),
        ({"objective": ["mlm", "mlm"]}, "at most once"),
        ({"objective_weights": [1.0, 2.0]}, "one number above 0 per objective"),
        ({"objective_weights": [0.0]}, "above 0"),
        ({"pooling": "max"}, "mean or cls"),
        ({"temperature": 0.0}, "temperature"),
        ({"mlm_probability": 1.0}, "mlm_probability"),
        ({"start_over": True, "go_on": True}, "exclude"),
    ],
)
def test_settings_are_checked(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        AdaptationArguments(output_dir=str(tmp_path), **changes)


def test_the_last_weight_counts_for_all_beyond(tmp_path):
    args = AdaptationArguments(
        output_dir=str(tmp_path), objective=["words", "mlm", "simcse"], objective_weights=[3, 2]
    )
    assert args.weights == {"words": 3, "mlm": 2, "simcse": 2}
    assert AdaptationArguments(output_dir=str(tmp_path), objective="words").weights == {"words": 1}
    assert args.result_settings()["objective"] == {"words": 3, "mlm": 2, "simcse": 2}
    json.dumps(args.result_settings())

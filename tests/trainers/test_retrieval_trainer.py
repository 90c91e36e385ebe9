"""Text in, ID out: what is learned, from which pairs, how it is evaluated, and that a stop changes nothing."""

import datasets
import numpy as np
import pytest
import torch
from tiny_retrieval import StopAt, Stopped, retrieval_trainer, tiny_index, tiny_task
from tiny_training import tiny_corpus, tiny_indexer, tiny_tokenizer
from torch.nn import functional as F
from transformers import TrainerCallback

from trainers import ExistingRunError, SemanticRetrievalTrainer
from trainers.adapters import with_adapter
from trainers.prefix_sampler import SampleKey
from trainers.reading_check import check_reading
from trainers.retrieval import Queries, Searcher
from trainers.retrieval_data import UnusablePairsError
from trainers.retrieval_trainer import TASK, WARM_START


@pytest.mark.parametrize("kind", ["t5", "bert"])
def test_a_run_learns_the_task(tmp_path, kind):
    """Everything moves; the validation queries, words of the same documents, are found far above chance."""
    model = tiny_indexer(kind, num_reconstructor_layers=0)
    before = {name: value.clone() for name, value in model.named_parameters()}
    trainer = retrieval_trainer(tmp_path, model=model, num_train_epochs=12, document_epochs=4)
    untrained = trainer.evaluate()
    figures = trainer.train()
    still = {name for name, value in trainer.model.named_parameters() if torch.equal(value, before[name])}
    unused = {"backbone.pooler.dense.weight", "backbone.pooler.dense.bias", "backbone.lm_head.weight"}
    assert still <= unused | {"backbone.embeddings.token_type_embeddings.weight"}
    losses = [loss for _, loss in figures[TASK]["loss_curve"]]
    assert losses[-1] < 0.7 * losses[0] and figures[WARM_START]["loss_curve"][-1][0] == 1.0
    shares = [share for share, _ in figures[TASK]["evaluations"]]
    assert shares == pytest.approx([(epoch + 1) / 12 for epoch in range(12)])
    best = max(found["recall@5"] for _, found in figures[TASK]["evaluations"])
    trained = trainer.evaluate()
    assert trained["eval_recall@5"] == best > max(0.3, 2 * untrained["eval_recall@5"])
    assert set(trained) == {f"eval_{name}" for name in ("recall@1", "recall@5", "ndcg@1", "ndcg@5", "mrr@5")}


def test_the_loss_is_that_of_eq_14(tmp_path):
    """Minus the log-probability of the whole ID, by hand and one pair at a time; fillers do not count."""
    trainer = retrieval_trainer(tmp_path, queries=False)
    rows = [trainer.train_dataset[SampleKey(row, 0, weight)] for row, weight in ((3, 1), (8, 1), (11, 1), (0, 0))]
    batch = trainer.get_train_dataloader().collate_fn(rows)
    model, expected = trainer.model.eval(), 0.0
    offsets = model.config.position_offsets
    for row in rows[:3]:
        labels = torch.tensor(row["labels"])[None]
        output = model(input_ids=torch.tensor(row["input_ids"].astype(np.int64))[None], labels=labels)
        for position, scores in enumerate(output.code_logits):
            expected += F.cross_entropy(scores, labels[:, position] - offsets[position]).item() / 3
    assert trainer.compute_loss(model, batch).item() == pytest.approx(expected, rel=1e-5)


def test_the_loss_over_existing_ids_is_that_of_one_among_them(tmp_path):
    """Minus the log of an ID's share in the probability of all IDs, by hand; the search says the same."""
    trainer = retrieval_trainer(tmp_path, queries=False, loss_over="existing")
    row = trainer.train_dataset[SampleKey(3, 0, 1)]
    batch = trainer.get_train_dataloader().collate_fn([row])
    inputs = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}
    model, index = trainer.model.eval(), trainer.index
    loss = trainer.compute_loss(model, batch)
    number = len(index)
    found = model.search(**inputs, index=index, num_beams=number, top_k=number)
    score = found.scores[0][(found.sequences[0] == torch.tensor(row["labels"])).all(1)].item()
    assert loss.item() == pytest.approx(-score, rel=1e-5)
    assert found.scores.exp().sum().item() == pytest.approx(1, rel=1e-4)
    loss.backward()
    gradient = model.codebooks.learned[0].weight.grad.norm(dim=1)
    nobody = sorted(set(range(len(gradient))) - set(index.codes[:, 0].tolist()))
    assert not gradient[nobody].any(), "what nobody has is not learned"
    loaded = type(model).from_pretrained(saved(model, tmp_path))
    assert loaded.generation_config.renormalize_logits
    retrieval_trainer(tmp_path / "all", model=loaded, queries=False)
    assert not loaded.generation_config.renormalize_logits, "what is learned over all codes is searched so"


def saved(model, folder):
    model.save_pretrained(folder / "saved")
    return folder / "saved"


@pytest.mark.parametrize(("size", "steps"), [(4, 3), (6, 2), (12, 1)])
def test_accumulated_gradients_are_those_of_one_batch(tmp_path, size, steps):
    """Of twelve pairs, cut anyhow."""
    corpus = tiny_corpus().select(range(12))

    def gradients(batch_size, accumulated):
        model = tiny_indexer(num_reconstructor_layers=0).double()
        trainer = retrieval_trainer(
            tmp_path / f"{batch_size}", model=model, corpus=corpus, queries=False, max_steps=1, optim="sgd",
            lr_scheduler_type="constant", warmup_steps=0, learning_rate=1.0, max_grad_norm=0, save_strategy="no",
            per_device_train_batch_size=batch_size, gradient_accumulation_steps=accumulated,
        )  # fmt: skip
        before = {name: value.clone() for name, value in model.named_parameters()}
        trainer.train()
        return {name: before[name] - value.detach() for name, value in trainer.model.named_parameters()}

    whole, parts = gradients(12, 1), gradients(size, steps)
    for name, gradient in whole.items():
        torch.testing.assert_close(parts[name], gradient, rtol=1e-6, atol=1e-9)


def test_documents_go_round(tmp_path):
    """A third of an epoch are documents with their own IDs; every epoch shows the next ones."""
    trainer = retrieval_trainer(tmp_path, document_share=1 / 3, queries=False)
    data, corpus = trainer.train_dataset, tiny_corpus()
    assert len(data) == 60 + 30
    sequences = {document: trainer.index.sequences_of([document])[0].tolist() for document in corpus["id"]}
    tokens = dict(zip(corpus["id"], tiny_tokenizer()(corpus["text"][:])["input_ids"], strict=True))
    shown = [data[SampleKey(row, epoch, 1)] for epoch in (0, 1) for row in range(60, 90)]
    found = [next(d for d, ids in sequences.items() if ids == item["labels"].tolist()) for item in shown]
    assert sorted(found) == sorted(corpus["id"]), "two halves, all documents"
    assert all(item["input_ids"].tolist() == tokens[document] for item, document in zip(shown, found, strict=True))
    pairs = tiny_task(corpus, "train")
    assert data[SampleKey(7, 5, 1)]["labels"].tolist() == sequences[pairs["target"][7]]


def test_other_tokens_are_left_out_every_epoch(tmp_path):
    whole = retrieval_trainer(tmp_path / "whole", document_share=0.4).task
    data = retrieval_trainer(tmp_path / "some", document_share=0.4, token_dropout=0.5).task
    kept, epochs = 0, []
    for epoch in (0, 1):
        rows = [data[SampleKey(row, epoch, 1)]["input_ids"].tolist() for row in range(len(data))]
        assert rows == [data[SampleKey(row, epoch, 1)]["input_ids"].tolist() for row in range(len(data))]
        for row, tokens in enumerate(rows):
            rest = iter(whole[SampleKey(row, epoch, 1)]["input_ids"].tolist())
            assert all(token in rest for token in tokens), "a part of the text, in its order"
            assert len(tokens) > 1 and tokens[-1] == 2, "and its end"
        kept += sum(map(len, rows))
        epochs.append(rows[:60])
    assert epochs[0] != epochs[1]
    ends = 2 * len(data)
    assert (kept - ends) / (whole.lengths(0).sum() + whole.lengths(1).sum() - ends) == pytest.approx(0.5, abs=0.1)


def test_texts_are_cut_at_a_random_place(tmp_path):
    whole = retrieval_trainer(tmp_path / "whole").task
    data = retrieval_trainer(tmp_path / "some", cut_share=0.5).task
    shares = []
    for epoch in range(4):
        for row in range(len(data)):
            text, cut = (part[SampleKey(row, epoch, 1)]["input_ids"].tolist() for part in (whole, data))
            assert len(cut) > 1 and cut == [*text[: len(cut) - 1], text[-1]], "the token of the end stays"
            shares.append(len(cut) / len(text))
    assert 0.4 < np.mean(np.array(shares) == 1) < 0.8 and len(set(shares)) > 2


@pytest.mark.parametrize("strategy", ["random", "group_by_length"])
def test_batches_of_one_length_where_they_are_asked_for(tmp_path, strategy):
    trainer = retrieval_trainer(tmp_path, document_share=0.4, train_sampling_strategy=strategy)
    data, padding = trainer.task, []
    for epoch in range(3):
        shown = [len(data[SampleKey(row, epoch, 1)]["input_ids"]) for row in range(len(data))]
        assert data.lengths(epoch).tolist() == shown
    for batch in trainer.get_train_dataloader():
        padding.append((batch["attention_mask"] == 0).float().mean().item())
    assert (np.mean(padding) < 0.25) == (strategy == "group_by_length")


@pytest.mark.parametrize("place", [(WARM_START, 3), (TASK, 2), (TASK, 10)])
def test_a_stopped_run_ends_the_same(tmp_path, place):
    """Checkpoints after every epoch of four steps; with dropout, a share of documents and the best checkpoint."""
    settings = {"document_epochs": 1, "document_share": 0.2, "num_train_epochs": 3, "per_device_train_batch_size": 20}

    def trainer_of(folder):
        return retrieval_trainer(folder, model=tiny_indexer(dropout=0.1, num_reconstructor_layers=0), **settings)

    whole = trainer_of(tmp_path / "whole")
    expected = whole.train()
    stopped = trainer_of(tmp_path / "stopped")
    stopped.add_callback(StopAt(stopped, *place))
    with pytest.raises(Stopped):
        stopped.train()
    again = trainer_of(tmp_path / "stopped")
    assert again.train() == expected
    for name, value in whole.model.state_dict().items():
        assert torch.equal(again.model.state_dict()[name], value), name
    done = trainer_of(tmp_path / "stopped")
    assert done.train() == expected
    assert all(torch.equal(done.model.state_dict()[name], value) for name, value in whole.model.state_dict().items())
    assert not list((tmp_path / "stopped").rglob("checkpoint-*"))
    with pytest.raises(ExistingRunError, match="learning_rate: 0.01 there, 0.5 now"):
        retrieval_trainer(tmp_path / "stopped", **(settings | {"learning_rate": 0.5})).train()


def test_it_stops_when_nothing_gets_better(tmp_path):
    """Without a learning rate the first evaluation stays the best."""
    trainer = retrieval_trainer(
        tmp_path, num_train_epochs=9, learning_rate=0.0, early_stopping_patience=2, document_epochs=0.5
    )
    assert [share for share, _ in trainer.train()[TASK]["evaluations"]] == pytest.approx([1 / 9, 2 / 9, 3 / 9])


@pytest.mark.parametrize("place", [(TASK, 9), (TASK, 12), "before the end"])
def test_patience_goes_on_where_it_was(tmp_path, place):
    """Evaluations of 4 steps; without a rate none is better than the first, and the third is the last."""
    settings = {"num_train_epochs": 9, "learning_rate": 0.0, "early_stopping_patience": 2}
    whole = retrieval_trainer(tmp_path / "whole", **settings)
    expected = whole.train()
    assert len(expected[TASK]["evaluations"]) == 3
    stopped = retrieval_trainer(tmp_path / "stopped", **settings)
    if place == "before the end":
        stopped.state_of_run.finish = lambda *values: (_ for _ in ()).throw(Stopped)
    else:
        stopped.add_callback(StopAt(stopped, *place))
    with pytest.raises(Stopped):
        stopped.train()
    again = retrieval_trainer(tmp_path / "stopped", **settings)
    assert again.train() == expected == again.train(), "a second call finds the run done"
    assert all(torch.equal(again.model.state_dict()[name], value) for name, value in whole.model.state_dict().items())


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"model": lambda: tiny_indexer(dropout=0.5, num_reconstructor_layers=0)}, "dropout"),
        ({"max_eval_queries": 5}, "max_eval_queries"),
        ({"validation": lambda: tiny_task(tiny_corpus(), "other")}, "queries"),
        ({"index": lambda: tiny_index(tiny_corpus(), seed=1)}, "index"),
    ],
)
def test_another_run_in_the_folder_is_refused(tmp_path, changes, named):
    """Whatever the result depends on, the shape of the model and what chooses the checkpoint with it."""
    retrieval_trainer(tmp_path, num_train_epochs=0.25, eval_strategy="no").train()
    settings = {"num_train_epochs": 0.25, "eval_strategy": "no"}
    values = {name: value() if callable(value) else value for name, value in changes.items()}
    with pytest.raises(ExistingRunError, match=rf"\b{named}\b.*: .* there, .* now"):
        retrieval_trainer(tmp_path, **(settings | values)).train()


def test_steps_are_counted_in_the_task(tmp_path):
    trainer = retrieval_trainer(tmp_path, document_epochs=2, max_steps=3, queries=False)
    steps = {}
    trainer.add_callback(CountSteps(trainer, steps))
    trainer.train()
    assert steps == {WARM_START: 8, TASK: 3}


class CountSteps(TrainerCallback):
    def __init__(self, trainer, steps):
        self.trainer, self.steps = trainer, steps

    def on_step_end(self, args, state, control, **kwargs):
        self.steps[self.trainer.stage_name] = state.global_step


def table(**columns):
    return datasets.Dataset.from_dict(columns)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"train": table(text=["common1", "common2"], target=["d000", "d9"])}, "1 of 2 pairs .* 'd9' in row 1"),
        (
            {"train": table(text=["common1", ""], target=["d000", "d000"])},
            "1 of 2 pairs have no words: .'row 1, of d000'",
        ),
        ({"validation": table(id=[7], text=[" "], relevant=[["d000"]])}, r"1 of 1 queries have no words: \[7\]"),
        ({"validation": table(id=[1, 1], text=["common1"] * 2, relevant=[["d000"]] * 2)}, "Query 1 has several rows"),
        ({"validation": table(id=[1], text=["common1"], relevant=[["d000"]], gains=[[0]])}, "1 queries have no rel"),
        ({"validation": table(id=[1], text=["common1"], relevant=[["d000"]], hidden=[["d9"]])}, "Query 1 hides 'd9'"),
        ({"train": table(text=[], target=[])}, "There are no pairs"),
        ({"validation": table(id=[], text=[], relevant=[])}, "There are no queries"),
    ],
)
def test_what_cannot_be_learned(tmp_path, given, message):
    with pytest.raises(UnusablePairsError, match=message):
        retrieval_trainer(tmp_path, **given)


def test_without_queries_no_checkpoint_is_the_best(tmp_path):
    assert retrieval_trainer(tmp_path, queries=False).args.load_best_model_at_end is False


def test_missing_parts_are_named(tmp_path):
    arguments = retrieval_trainer(tmp_path, document_share=0.5).settings
    corpus = tiny_corpus()
    parts = {"train_dataset": tiny_task(corpus, "train"), "processing_class": tiny_tokenizer()}
    with pytest.raises(UnusablePairsError, match="document_epochs and document_share need documents"):
        SemanticRetrievalTrainer(tiny_indexer(), arguments, index=tiny_index(corpus), **parts)
    with pytest.raises(UnusablePairsError, match="eval_strategy is epoch and there are no validation queries"):
        SemanticRetrievalTrainer(tiny_indexer(), arguments, index=tiny_index(corpus), documents=corpus, **parts)
    with pytest.raises(ValueError, match="come from different runs"):
        SemanticRetrievalTrainer(tiny_indexer(), arguments, index=tiny_index(corpus, (5, 4)), **parts)
    for wrong, message in (
        ({"document_share": 1.0}, "document_share is 1.0"),
        ({"cutoffs": [50]}, r"cutoffs is \[50\]; .* num_beams, 10"),
        ({"start_over": True, "go_on": True}, "exclude each other"),
        ({"metric_for_best_model": "ndcg@10"}, "metric_for_best_model is ndcg@10; .* there are recall@1, ndcg@1, "),
        ({"queries": False, "early_stopping_patience": 1}, "early_stopping_patience needs evaluations"),
        ({"label_smoothing_factor": 0.1}, "label_smoothing_factor has no effect"),
        ({"max_eval_queries": 0}, "max_eval_queries is 0"),
    ):
        with pytest.raises(ValueError, match=message):
            retrieval_trainer(tmp_path, **wrong)


@pytest.mark.parametrize("batch_size", [1, 7, 60])
def test_search_does_not_depend_on_the_batch(batch_size):
    """Hidden documents are no answers, and others take their places."""
    corpus = tiny_corpus()
    table = tiny_task(corpus, "test").add_column("hidden", [[corpus["id"][i]] * (i % 2) for i in range(60)])
    queries = Queries.of(table, tiny_index(corpus), tiny_tokenizer(), 32)
    model, index = tiny_indexer(num_reconstructor_layers=0), tiny_index(corpus)

    def search(size, queries):
        return Searcher(model, index, 0, num_beams=12, top_k=8, batch_size=size, quiet=True)(queries)

    found, expected = search(batch_size, queries), search(16, queries)
    assert found.documents == expected.documents and list(found.documents) == queries.ids
    for query, scores in found.scores.items():
        np.testing.assert_allclose(scores, expected.scores[query], rtol=1e-5)
        assert scores == sorted(scores, reverse=True)
    for row, (query, documents) in enumerate(found.documents.items()):
        assert len(documents) == len(set(documents)) == 8
        assert row % 2 == 0 or queries.relevant[row].keys().isdisjoint(documents), query
    measured = found.figures(queries, ["recall@8"])
    assert measured.means()["recall@8"] == np.mean(
        [bool(queries.relevant[row].keys() & set(found.documents[query])) for row, query in enumerate(queries.ids)]
    )
    part = queries.sample(9, seed=1)
    assert len(part) == 9 and part.ids == sorted(part.ids, key=queries.ids.index)
    assert search(4, part).documents == {query: found.documents[query] for query in part.ids}
    assert queries.sample(9, seed=1).ids == part.ids != queries.sample(9, seed=2).ids


def test_trainer_evaluates_other_queries(tmp_path):
    corpus = tiny_corpus()
    trainer = retrieval_trainer(tmp_path, corpus=corpus, max_eval_queries=11)
    assert len(trainer.queries) == 11
    other = trainer.read_queries(tiny_task(corpus, "test"))
    figures = trainer.evaluate(other, metric_key_prefix="test")
    rankings = trainer.rank(other)
    assert figures["test_recall@5"] == rankings.figures(other, ["recall@5"]).means()["recall@5"]
    assert trainer.evaluate(tiny_task(corpus, "test"), metric_key_prefix="test") == figures, "a table does, too"
    assert trainer.settings.metric_for_best_model == "recall@5"
    with pytest.raises(UnusablePairsError, match="There are no validation queries"):
        retrieval_trainer(tmp_path, queries=False).evaluate()
    assert {len(documents) for documents in rankings.documents.values()} == {10}


@pytest.mark.parametrize("kind", ["t5", "bert"])
def test_a_frozen_encoder_reads_every_text_once(tmp_path, kind):
    """The decoder and the codebooks move; the losses are those of an encoder that runs, and is in evaluation mode."""
    settings = {"num_train_epochs": 3, "document_share": 0.3, "learning_rate": 1e-3, "document_epochs": 1}
    settings["train"] = datasets.concatenate_datasets([tiny_task(tiny_corpus(), "train", seed) for seed in (0, 0, 1)])
    shared = {"freeze_encoder": True, "encoder_cache_dir": str(tmp_path / "states")}
    trainer = retrieval_trainer(tmp_path / "first", model=no_dropout(kind), **settings, **shared)
    before = {name: value.clone() for name, value in trainer.model.named_parameters()}
    figures = trainer.train()
    encoder = {name for name, _ in trainer.model.get_encoder().named_parameters(prefix="backbone")}
    encoder |= {name.replace("backbone", "backbone.encoder", 1) for name in encoder}
    moved = {name for name, value in trainer.model.named_parameters() if not torch.equal(value, before[name])}
    assert not moved & encoder and any("codebooks" in name for name in moved)
    assert any("decoder" in name for name in moved)
    again = retrieval_trainer(tmp_path / "second", model=no_dropout(kind), **settings, **shared, queries=False)
    again.model.get_encoder().forward = None  # what was computed once is there
    curves = again.train()
    assert curves[TASK]["loss_curve"] == figures[TASK]["loss_curve"]
    by_hand = retrieval_trainer(tmp_path / "third", model=no_dropout(kind), **settings, queries=False)
    by_hand.model.get_encoder().requires_grad_(False)
    for name in (WARM_START, TASK):
        found = [loss for _, loss in by_hand.train()[name]["loss_curve"]]
        np.testing.assert_allclose(found, [loss for _, loss in figures[name]["loss_curve"]], rtol=1e-4)


def test_a_run_that_is_done_encodes_nothing(tmp_path):
    """Nor is what it has computed left in its folder."""
    retrieval_trainer(tmp_path, freeze_encoder=True, queries=False, num_train_epochs=1).train()
    assert not list(tmp_path.rglob("encoder_states*"))
    again = retrieval_trainer(tmp_path, freeze_encoder=True, queries=False, num_train_epochs=1)
    again.model.get_encoder().forward = None
    again.train()


def test_a_tokenizer_and_texts_that_do_not_fit(tmp_path):
    model, tokenizer = tiny_indexer("bert", num_reconstructor_layers=0), tiny_tokenizer()
    tokenizer.add_tokens([f"new{i}" for i in range(model.get_input_embeddings().num_embeddings)])
    with pytest.raises(ValueError, match="give the model's own tokenizer"):
        check_reading(model, tokenizer, 8)
    places = model.config.backbone_config.max_position_embeddings
    with pytest.raises(ValueError, match=f"Texts of {places + 1} tokens do not fit"):
        retrieval_trainer(tmp_path, model=model, max_query_length=places + 1)


def no_dropout(kind):
    model = tiny_indexer(kind, num_reconstructor_layers=0)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return model


def test_a_frozen_encoder_has_no_adapters_and_no_other_texts(tmp_path):
    with pytest.raises(ValueError, match="another text of it every epoch"):
        retrieval_trainer(tmp_path, freeze_encoder=True, token_dropout=0.1)
    model = with_adapter(tiny_indexer(num_reconstructor_layers=0), 2, seed=0)
    with pytest.raises(ValueError, match="adapters in the encoder"):
        retrieval_trainer(tmp_path, model=model, freeze_encoder=True)

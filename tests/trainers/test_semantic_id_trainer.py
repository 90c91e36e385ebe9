"""Whole runs: what each stage trains, what it leaves alone, which codes come of it, and what is reported."""

import copy
import math

import numpy as np
import pytest
import torch
from tiny_training import at_second_position, make_trainer, tiny_arguments, tiny_corpus, tiny_indexer, tiny_tokenizer

from trainers import SemanticIDTrainer
from trainers.documents import EVALUATION_EPOCH

# Every option takes part in one of them: backbone, similarity, views, target, number of positions, additions.
RUNS = {
    "t5": ({"kind": "t5", "dropout": 0.1}, {}),
    "frozen bert": (
        {"kind": "bert", "similarity": "dot"},
        {
            "freeze_encoder": True,
            "contrastive_views": "crops",
            "codebook_init": "ward",
            "ema_decay": 0.8,
            "restart_threshold": 0.5,
        },
    ),
    "three positions": (
        {
            "codebook_sizes": [4, 3, 5],
            "similarity": "euclidean",
            "reconstruction_target": "words",
            "learn_temperature": True,
        },
        {
            "train_earlier_codebooks": True,
            "contrastive_views": "identical",
            "idf_weights": True,
            "code_choice": ["expectation"],
            "choice_weight": 0.3,
            "likelihood_weight": 20.0,
            "choice_candidates": 3,
        },
    ),
    "unique codes": (
        {"codebook_sizes": [8, 10], "learn_temperature": True, "dropout": 0.1},
        {
            "contrastive_views": "neighbours",
            "num_neighbours": 3,
            "anchor_weights": [0.5, 2.0],
            "anchor_lexical_weight": 0.5,
            "anchor_temperature": 0.2,
            "anchor_smoothing": [2, 1],
            "anchor_residuals": True,
            "neighbours_across_excluded": True,
            "code_choice": ["most_likely", "balanced"],
            "balance_smoothness": 0.5,
            "codebook_init": ["micro", "kmeans"],
            "micro_share": 0.5,
            "ema_decay": 0.9,
            "collisions": "reassign",
            "stage_learning_rates": [3e-3, 1e-2, 2e-3, 5e-3, 1e-3],
        },
    ),
    "one position": (
        {"kind": "bert", "codebook_sizes": [5]},
        {
            "contrastive_views": "decoder_dropout",
            "gradient_accumulation_steps": 2,
            "restart_threshold": 0.9,
            "contrastive_normalize": True,
            "contrastive_weights": [0.3],
            "reconstruction_weight": 0.7,
            "discrete_rate_factor": 0.5,
        },
    ),
}


class RecordingTrainer(SemanticIDTrainer):
    """Keeps the weights before and after the training of every stage, and what the stage found."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.before, self.after, self.ended = {}, {}, {}
        self.codes_after, self.logs, self.labels, self.trainable = {}, {}, {}, {}

    def weights(self):
        return {name: value.clone() for name, value in self.model.state_dict().items()}

    def prepare_stage(self, stage):
        super().prepare_stage(stage)
        self.before[stage.name] = self.weights()
        self.trainable[stage.name] = {name for name, value in self.model.named_parameters() if value.requires_grad}

    def finish_stage(self, stage):
        assert self.documents.hint_ratio == stage.hint_ratio
        self.after[stage.name] = self.weights()
        self.logs[stage.name] = copy.deepcopy(self.state.log_history)
        prefix = self.documents.codes.copy()
        figures = super().finish_stage(stage)
        self.ended[stage.name] = self.weights()
        self.codes_after[stage.name] = self.documents.codes.copy()
        if stage.kind != "reconstructor":
            found = self.labels[stage.name] if stage.kind == "continuous" else self.documents.codes[:, -1]
            np.testing.assert_array_equal(codes_one_by_one(self, prefix), found)
        return figures

    def initialize_codebook(self, codebook, hidden, position):
        labels = super().initialize_codebook(codebook, hidden, position)
        self.labels[self.stage.name] = labels
        return labels


@torch.no_grad()
def codes_one_by_one(trainer, prefix):
    """The codes that the model's forward finds most likely after `prefix` `(N, positions)`, each document alone."""
    model, codes = trainer.model.eval(), []
    offsets = np.array(model.config.position_offsets[: prefix.shape[1]], dtype=np.int64)
    for row in range(len(trainer.documents)):
        input_ids = torch.from_numpy(trainer.documents[row]["input_ids"].astype(np.int64))[None]
        decoder_input_ids = torch.from_numpy(np.append(0, prefix[row] + offsets))[None]
        codes.append(model(input_ids, decoder_input_ids=decoder_input_ids).code_logits[-1].argmax().item())
    return codes


def moved_groups(before, after):
    """Which parts of a model have changed."""
    parts = {
        "codebooks.disambiguation": "disambiguation", "reconstructor.start": "start",
        "reconstructor": "reconstructor", "backbone.shared": "embeddings",
        "backbone.embeddings.word_embeddings": "embeddings", "backbone.encoder.embed_tokens": "embeddings",
        "backbone.decoder.embed_tokens": "embeddings", "backbone.decoder": "decoder", "decoder": "decoder",
        "backbone": "encoder",
    }  # fmt: skip
    changed = set()
    for name, value in before.items():
        if not torch.equal(value, after[name]):
            if name.startswith("codebooks.learned."):
                part = "temperature" if name.endswith("log_temperature") else "codebook"
                changed.add(f"{part} {int(name.split('.')[2]) + 1}")
            else:
                changed.add(next(part for start, part in parts.items() if name.startswith(start)))
    return changed


@pytest.fixture(scope="module", params=RUNS)
def run(request, tmp_path_factory):
    model, settings = RUNS[request.param]
    corpus = tiny_corpus()
    trainer = make_trainer(
        tmp_path_factory.mktemp("run"), model=tiny_indexer(**model), corpus=corpus,
        trainer_class=RecordingTrainer, save_strategy="no", **settings,
    )  # fmt: skip
    trainer.train()
    return trainer


def test_each_stage_moves_its_own_and_nothing_else(run):
    """The warm-up: the reconstructor; then everything, but of the codebooks only the one of a discrete stage.

    A temperature moves with its codebook. Codes that follow their documents have no gradient.
    """
    parts = ("codebook", "temperature") if run.model.config.learn_temperature else ("codebook",)
    text_model = {"decoder"} if run.args.freeze_encoder else {"encoder", "embeddings", "decoder"}
    for stage in run.stages:
        expected = {"reconstructor", "start"} if stage.kind == "reconstructor" else {"reconstructor"} | text_model
        if stage.kind == "discrete":
            expected |= {f"{part} {stage.position + 1}" for part in parts}
            assert (f"codebooks.learned.{stage.position}.weight" in run.trainable[stage.name]) == (
                not run.args.ema_decay
            )
        if run.args.train_earlier_codebooks and stage.kind != "reconstructor":
            expected |= {f"{part} {position + 1}" for part in parts for position in range(stage.position)}
        assert moved_groups(run.before[stage.name], run.after[stage.name]) == expected, stage.name


def test_only_the_clustering_changes_weights_between_the_stages(run):
    for stage in run.stages:
        clustered = {f"codebook {stage.position + 1}"} if stage.kind == "continuous" else set()
        assert moved_groups(run.after[stage.name], run.ended[stage.name]) == clustered, stage.name
    for earlier, later in zip(run.stages, run.stages[1:], strict=False):
        assert moved_groups(run.ended[earlier.name], run.before[later.name]) == set()


def test_codebooks_are_initialised_by_all_documents_in_turn(run):
    for stage in run.stages:
        initialized = [
            bool(run.ended[stage.name][f"codebooks.learned.{position}.initialized"])
            for position in range(run.model.config.num_learned_positions)
        ]
        done = stage.position + 1 if stage.kind != "reconstructor" else 0
        assert initialized == [position < done for position in range(len(initialized))]


def test_codes_of_a_finished_position_never_change(run):
    """(That they are the most likely ones of every document alone is compared after every stage.)"""
    sizes = run.model.config.codebook_sizes
    for stage in run.stages:
        codes = run.codes_after[stage.name]
        done = stage.position + (stage.kind == "discrete")
        np.testing.assert_array_equal(codes, run.documents.codes[:, :done])
    assert run.documents.codes.shape == (60, len(sizes))
    for position, size in enumerate(sizes):
        labels = run.labels[f"{position + 1}-continuous"]
        assert set(labels) == set(range(size))
        assert len(np.unique(run.documents.codes[:, position])) > 1


def test_the_index_holds_every_document_with_an_id_of_its_own(run):
    corpus = tiny_corpus()
    assert run.index.document_ids == list(corpus["id"])
    if run.args.collisions == "reassign":
        np.testing.assert_array_equal(run.index.codes, run.reassignment.codes)
        assert run.index.position_sizes == run.model.config.position_sizes == [8, 10]
    else:
        np.testing.assert_array_equal(run.index.codes[:, :-1], run.documents.codes)
        assert run.reassignment is None
    assert len(np.unique(run.index.codes, axis=0)) == 60
    assert run.index.documents_of(run.index.sequences) == [[document] for document in corpus["id"]]
    assert run.index.model is run.model and not run.model.training


def test_figures_of_every_stage(run):
    losses = {"loss", "reconstruction", "contrastive", "commitment", "anchor", "choice"}
    assert list(run.figures) == [stage.name for stage in run.stages]
    for stage in run.stages:
        figures = run.figures[stage.name]
        expected = losses - ({"contrastive", "anchor"} if stage.kind == "reconstructor" else set())
        expected -= {"commitment"} if stage.position == 0 else set()
        expected -= set() if stage.anchor_weight else {"anchor"}
        expected -= set() if stage.kind == "discrete" and run.args.choice_weight else {"choice"}
        names = {f"{name}_{end}" for name in expected for end in ("start", "end")}
        names |= {"loss_curve", "reconstruction_f1"}
        if stage.kind != "reconstructor":
            names |= {"perplexity", "difference_ratio_pairs", "difference_ratio_groups", "distinct_prefixes", "ami"}
        if stage.kind == "continuous":
            names |= {"kmeans_agreement"}
            assert figures["kmeans_agreement"] == 1
        if stage.position > 0:
            names |= {"ami_prefix"}
        for position in range(stage.position):
            names |= {f"position_{position + 1}_{name}" for name in ("kept", "predicted_perplexity")}
        assert set(figures) == names, stage.name
        numbers = [value for name, value in figures.items() if name != "loss_curve"]
        assert all(math.isfinite(number) for number in numbers)
        assert 0 <= figures["reconstruction_f1"] <= 1
        if stage.kind == "discrete":
            assert 1 <= figures["perplexity"] <= run.model.config.codebook_sizes[stage.position] + 1e-6
        logged = [entry for entry in run.logs[stage.name] if "loss" in entry]
        assert figures["loss_curve"] == [[entry["step"] / logged[-1]["step"], entry["loss"]] for entry in logged]


def test_every_loss_is_logged_by_its_name(run):
    """Weighted, they add up to the loss."""
    for stage in run.stages:
        weights = {
            "reconstruction": run.args.reconstruction_weight,
            "contrastive": stage.contrastive_weight,
            "commitment": run.args.commitment_weight,
            "anchor": stage.anchor_weight,
            "choice": run.args.choice_weight,
        }
        names = ["reconstruction"]
        names += ["contrastive"] if stage.kind != "reconstructor" else []
        names += ["commitment"] if stage.position else []
        names += ["anchor"] if stage.kind != "reconstructor" and stage.anchor_weight else []
        names += ["choice"] if stage.kind == "discrete" and run.args.choice_weight else []
        entries = [entry for entry in run.logs[stage.name] if "loss" in entry]
        batches = 60 / 16 / run.args.gradient_accumulation_steps
        assert len(entries) == math.ceil(batches) * stage.epochs
        for entry in entries:
            assert [name for name in weights if name in entry] == names
            assert sum(weights[name] * entry[name] for name in names) == pytest.approx(entry["loss"], rel=1e-5)
            assert entry["stage"] == stage.name


def test_training_lowers_the_reconstruction_loss(run):
    for name in ("0-reconstructor", "1-continuous"):
        figures = run.figures[name]
        assert figures["reconstruction_end"] < figures["reconstruction_start"]


@pytest.mark.parametrize("parts", [None, 4])
def test_measured_losses_are_means_over_documents(tmp_path, parts):
    """All 60 documents are seen once, in 5 batches, of about 40 that there would be room for."""
    settings = {"global_batch_size": 12, "batch_parts": parts, "contrastive_weights": [0.0]}
    trainer = at_second_position(tmp_path, **settings)
    measured = trainer.measure_losses("start")
    collator, sampler = trainer.collator(), trainer.batch_sampler()
    sampler.set_epoch(EVALUATION_EPOCH)
    keys = [key for keys in sampler for key in keys]
    assert len(keys) == 60
    alone = [
        trainer.compute_loss(trainer.model, trainer._prepare_inputs(collator([trainer.documents[key]]))).item()
        for key in keys
    ]
    assert measured["loss_start"] == pytest.approx(sum(alone) / 60, rel=1e-4)


def test_padding_changes_no_code(run):
    """A document alone, in a batch, and padded twice as far."""
    rows = [3, 11, 25, 40]
    texts = [tiny_corpus()["text"][row] for row in rows]
    inputs = run.tokenizer(texts, padding=True, return_tensors="pt")
    assert (inputs["attention_mask"] == 0).any()
    together = run.model.assign(inputs["input_ids"], inputs["attention_mask"])
    width = inputs["input_ids"].shape[1]
    pads = [torch.nn.functional.pad(inputs[name], (0, width)) for name in ("input_ids", "attention_mask")]
    assert torch.equal(run.model.assign(*pads), together)
    for text, ids in zip(texts, together, strict=True):
        assert torch.equal(run.model.assign(run.tokenizer([text], return_tensors="pt")["input_ids"])[0], ids)
    states = torch.cat([run.model.encode(*pads)[0][:, :width], run.model.encode(**inputs)[0]]).unflatten(0, (2, -1))
    real = inputs["attention_mask"].bool()
    torch.testing.assert_close(states[0][real], states[1][real], rtol=1e-4, atol=1e-5)


def test_a_frozen_encoder_is_read_from_the_cache(tmp_path):
    """Once its states are there, it does not run any more."""
    settings = {"freeze_encoder": True, "max_steps": 1, "encoder_cache_dir": str(tmp_path / "states")}
    make_trainer(tmp_path / "first", model=tiny_indexer("bert"), **settings).train()
    trainer = make_trainer(tmp_path / "second", model=tiny_indexer("bert"), **settings)
    trainer.model.backbone.forward = None
    trainer.train()
    assert trainer.index is not None


def test_half_precision_ends_with_the_stage(tmp_path):
    """Training under autocast leaves the model's forward in full precision: its codes are those of the index."""
    trainer = make_trainer(tmp_path, trainer_class=RecordingTrainer, bf16=True, max_steps=2, save_strategy="no")
    dtypes = set()
    trainer.model.reconstructor.layers[0].query.register_forward_hook(
        lambda module, args, output: dtypes.add((trainer.stage.name, trainer.is_in_train, output.dtype))
    )
    trainer.train()
    pairs = ((True, torch.bfloat16), (False, torch.float32))
    assert dtypes == {(stage.name, *pair) for stage in trainer.stages for pair in pairs}
    inputs = trainer.tokenizer(list(tiny_corpus()["text"]), padding=True, return_tensors="pt")
    labels = trainer.index.sequences
    logits = trainer.model(inputs["input_ids"], inputs["attention_mask"], labels=labels).code_logits
    found = logits[1].argmax(-1).numpy()
    np.testing.assert_array_equal(found, trainer.documents.codes[:, 1])


def test_stages_without_epochs_still_cluster_and_assign(tmp_path):
    epochs = {"reconstructor_epochs": 0, "continuous_epochs": [0.0], "num_train_epochs": 0}
    trainer = make_trainer(tmp_path, trainer_class=RecordingTrainer, **epochs)
    figures = trainer.train()
    assert all(moved_groups(trainer.before[name], trainer.after[name]) == set() for name in figures)
    assert trainer.documents.codes.shape == (60, 2) and len(trainer.index) == 60
    assert all("loss_end" not in values for values in figures.values())
    assert trainer.loss_curves() == {}


def test_the_last_position_grows_to_the_largest_group(tmp_path):
    model = tiny_indexer(codebook_sizes=[2], num_disambiguation_codes=4)
    trainer = make_trainer(tmp_path, model=model, max_steps=1)
    trainer.train()
    largest = np.bincount(trainer.documents.codes[:, 0]).max()
    assert model.config.num_disambiguation_codes == 2 * largest
    assert len(model.codebooks.disambiguation.weight) == 2 * largest
    assert trainer.index.position_sizes == [2, 2 * largest]


def test_the_settings_that_came_in_stay_as_they_are(tmp_path):
    """Stages have folders, epochs and learning rates of their own; another trainer may get the same settings."""
    trainer = make_trainer(tmp_path, max_steps=1)
    arguments = trainer.args
    again = SemanticIDTrainer(tiny_indexer(), arguments, tiny_corpus(), trainer.tokenizer)
    before = copy.deepcopy(arguments.to_dict())
    again.train()
    assert arguments.to_dict() == before
    third = SemanticIDTrainer(tiny_indexer(), again.args, tiny_corpus(), trainer.tokenizer)
    assert third.run_dir == tmp_path


def test_one_process_takes_one_of_several_devices(tmp_path):
    """DataParallel would look for negatives in a part of the batch, and average over parts."""
    settings = tiny_arguments(tmp_path)
    settings._n_gpu = 4  # as where there are so many, and no launcher
    trainer = SemanticIDTrainer(tiny_indexer(), settings, tiny_corpus(), tiny_tokenizer())
    assert (trainer.args.n_gpu, trainer.args.train_batch_size) == (1, 16) and settings.n_gpu == 4


def test_words_that_a_corpus_excludes_are_no_targets(tmp_path):
    """Neither in training nor for documents that are held out of it."""
    corpus = tiny_corpus().map(lambda row: {"excluded": row["text"].split()[0]})
    trainer = make_trainer(tmp_path, corpus=corpus)
    for documents in (trainer.documents, trainer.like_documents(corpus)):
        for row, text in enumerate(corpus["text"]):
            words = text.split()
            excluded = documents.is_excluded[documents.offsets[row] : documents.offsets[row + 1]].tolist()
            assert excluded == [*[word == words[0] for word in words], True]


def test_temperatures_do_not_decay(tmp_path):
    """Of their logarithms a decay would draw them towards 1; codes decay as other weights do."""
    trainer = make_trainer(tmp_path, model=tiny_indexer(learn_temperature=True))
    names = trainer.get_decay_parameter_names(trainer.model)
    assert not any("temperature" in name for name in names)
    assert {f"codebooks.learned.{t}.weight" for t in (0, 1)} <= set(names)


def test_a_corpus_without_categories(tmp_path):
    trainer = make_trainer(tmp_path, corpus=tiny_corpus().remove_columns("category"), max_steps=1)
    figures = trainer.train()
    assert "ami" not in figures["1-discrete"] and "perplexity" in figures["1-discrete"]


def test_codes_that_disagree_with_the_clustering_are_an_error(tmp_path):
    class Wrong(SemanticIDTrainer):
        def initialize_codebook(self, codebook, hidden, position):
            return np.roll(super().initialize_codebook(codebook, hidden, position), 1)

    with pytest.raises(RuntimeError, match="codes at position 1 agree with the clustering"):
        make_trainer(tmp_path, trainer_class=Wrong, max_steps=1).train()

"""What recommenders of sequences learn from and rank; each of them learns a chain, where its library is there."""

import gzip
import importlib
import json
import random
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from metrics.ranking_quality import ranking_figures, read_run

ROOT = Path(__file__).parents[2]
MODELS = {
    "sasrec": "rectools", "bert4rec": "rectools", "gru4rec": "recbole", "hgn": "recbole", "fdsa": "recbole",
}  # fmt: skip
_ITEMS = 20


@pytest.fixture
def module(monkeypatch):
    """A module of the benchmarks by its name."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return importlib.import_module


class Counting:
    """A rival whose favourites after so many epochs are given; its weights are their number."""

    items = [*"123456789", "dev", "test"]

    def __init__(self, *favourites):
        self.favourites, self.epochs, self.asked = favourites, 0, []

    def train_epoch(self):
        self.epochs += 1
        return 1.0 / self.epochs

    def scores(self, first, histories):
        self.asked.append((first, [list(items) for items in histories]))
        favourites = self.favourites[self.epochs - 1]
        rows = [[10.0 * (item in favourites) - place for place, item in enumerate(self.items)] for _ in histories]
        return torch.tensor(rows)

    def state(self):
        return {"epochs": self.epochs}

    def load(self, state):
        self.epochs = state["epochs"]


def test_reading(module, tmp_path):
    """Ids are text, and what cannot be split is refused with its line."""
    protocol, file = module("sequential.protocol"), tmp_path / "sequences.txt.gz"
    with gzip.open(file, "wt") as lines:
        lines.write("ann 1 02 3 4\n\nbob 4 3 1\n")
    sequences = protocol.read_sequences(file)
    assert sequences.users == ["ann", "bob"]
    assert sequences.before(2) == [["1", "02"], ["4"]] and sequences.before(1) == [["1", "02", "3"], ["4", "3"]]
    assert sequences.answers(2) == {"ann": "3", "bob": "3"} and sequences.answers(1) == {"ann": "4", "bob": "1"}
    wrong = {"ann 1 2\n": "line 1: 2 items", "ann 1 2 3\nann 1 2 3\n": "line 2: user ann has", "\n": "no histories"}
    for text, message in wrong.items():
        (tmp_path / "wrong.txt").write_text(text)
        with pytest.raises(ValueError, match=message):
            protocol.read_sequences(tmp_path / "wrong.txt")


def test_the_epoch_is_chosen_on_the_validation_items(module):
    """Training ends after two epochs without a better one; the test item is neither read nor looked for."""
    protocol = module("sequential.protocol")
    sequences = protocol.Sequences(["a", "b"], [["1", "2", "dev", "test"], ["3", "2", "dev", "test"]])
    rival, points = Counting([], ["dev"], ["dev", "9"], ["dev"], ["dev"]), []
    curve = protocol.learn(rival, sequences, epochs=9, patience=2, report=points.append)
    assert points == curve and [point["recall@5"] for point in curve] == [0, 1, 1, 1]
    assert [point["loss"] for point in curve] == [1, 1 / 2, 1 / 3, 1 / 4]
    assert rival.epochs == 2, "the weights of the best epoch"
    assert rival.asked == [(0, [["1", "2"], ["3", "2"]])] * 4
    protocol.rankings_of(rival, sequences, 1)
    assert rival.asked[-1] == (0, [["1", "2", "dev"], ["3", "2", "dev"]]), "the validation item is read for the test"
    assert len(protocol.learn(Counting(["dev"], [], ["dev"]), sequences, 3, 9, points.append)) == 3


def test_rankings(module, monkeypatch):
    """Best first, what a user has had left out, whether or not the rival knows it; in as many parts as one likes."""
    protocol = module("sequential.protocol")
    sequences = protocol.Sequences(["a", "b", "c"], [["1", "3", "new", "x"], ["2", "9", "x"], ["9", "dev", "3", "x"]])
    rival = Counting(["9", "dev"])
    rival.train_epoch()
    whole = protocol.rankings_of(rival, sequences, 1, depth=4)
    assert whole == {"a": ["9", "dev", "2", "4"], "b": ["dev", "1", "3", "4"], "c": ["1", "2", "4", "5"]}
    monkeypatch.setattr(protocol, "_SCORED", 2)
    assert protocol.rankings_of(rival, sequences, 1, depth=4) == whole
    assert [first for first, _ in rival.asked] == [0, 0, 2]
    everything = protocol.rankings_of(rival, sequences, 1)
    assert [len(row) for row in everything.values()] == [9, 9, 8], "no more than there is"


@settings(deadline=None)
@given(st.lists(st.permutations("abcdefghijkl").map(lambda row: row[:11]), min_size=1, max_size=5))
def test_figures(rankings):
    """As the measures of this project have them."""
    sys.path.insert(0, str(ROOT / "benchmarks"))
    protocol = importlib.import_module("sequential.protocol")
    sys.path.pop(0)
    runs, answers = dict(enumerate(rankings)), dict.fromkeys(range(len(rankings)), "a")
    found = protocol.figures_of(runs, answers)
    expected = ranking_figures(runs, {user: {answer: 1} for user, answer in answers.items()}, list(found))
    assert found == pytest.approx(expected.means(), abs=1e-9)


def test_settings(module):
    """Later ones hold; unknown ones are refused."""
    rivals = module("sequential_rivals")
    presets = rivals.yaml.safe_load(rivals.PRESETS.read_text())
    for name, models in presets.items():
        for model in models:
            rivals.settings_of(model, name, [])
    found = rivals.settings_of("fdsa", None, ["hidden_size=8", "selected_features=[brand]", "learning_rate=0.01"])
    assert (found.hidden_size, found.selected_features, found.learning_rate) == (8, ("brand",), 0.01)
    name, models = next(iter(presets.items()))
    changed = rivals.settings_of("sasrec", name, ["lr=0.5"])
    assert changed == replace(rivals.settings_of("sasrec", name, []), lr=0.5)
    for pairs, message in ((["depth=3"], "no setting 'depth'; it has n_blocks"), (["lr"], "expected name=value")):
        with pytest.raises(ValueError, match=message):
            rivals.settings_of("sasrec", None, pairs)
    with pytest.raises(ValueError, match="has none for sasrec"):
        rivals.settings_of("sasrec", "nowhere", [])


def test_features(module, tmp_path):
    """What an item lacks is empty."""
    file = tmp_path / "items.jsonl"
    file.write_text('{"id": 1, "title": "Red Soap", "brand": "", "categories": ["a", "b c"]}\n{"id": "x"}\n')
    assert module("sequential_rivals").read_features(str(file)) == {
        "categories": {"1": ["a", "b c"], "x": []}, "brand": {"1": [], "x": []},
        "title": {"1": ["red", "soap"], "x": []},
    }  # fmt: skip


def command(monkeypatch, rivals, *arguments):
    """Runs the command line."""
    monkeypatch.setattr(sys, "argv", ["sequential_rivals.py", *map(str, arguments)])
    rivals.main()


def test_a_run_is_written_once(module, tmp_path, monkeypatch, capsys):
    """Both runs and the figures; a finished folder is read, and is no place for another run."""
    rivals = module("sequential_rivals")
    made = []

    def make_rival(options, settings, sequences):
        made.append(Counting([]))
        made[-1].items = ["x", "t", "1", "2", "3"]
        return made[-1]

    monkeypatch.setattr(rivals, "make_rival", make_rival)
    (tmp_path / "sequences.txt").write_text("ann 1 x t\nbob 2 t x\n")
    arguments = ["--model", "hgn", "--sequences_file", tmp_path / "sequences.txt", "--output_dir", tmp_path / "out"]
    command(monkeypatch, rivals, *arguments, "--epochs", 1)
    said = capsys.readouterr().out
    assert said.startswith("epoch 1 loss 1.0000 recall@5 1.0000 ndcg@5 0.8155") and "test: recall@5 1.0000" in said
    assert read_run(tmp_path / "out" / "run.test.trec") == {"ann": ["t", "2", "3"], "bob": ["x", "1", "3"]}
    assert read_run(tmp_path / "out" / "run.dev.trec") == {"ann": [*"xt23"], "bob": [*"xt13"]}
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert metrics["asked"]["settings"]["pooling_type"] == "average" and metrics["asked"]["seed"] == 0
    assert [point["epoch"] for point in metrics["curve"]] == [metrics["epoch"]] == [1]
    command(monkeypatch, rivals, *arguments, "--epochs", 1)
    assert len(made) == 1 and capsys.readouterr().out == said.splitlines(keepends=True)[-1]
    with pytest.raises(SystemExit, match="other settings: choose another"):
        command(monkeypatch, rivals, *arguments, "--epochs", 1, "--seed", 1)


@pytest.mark.parametrize("model", MODELS)
def test_a_planted_chain_is_learned(model, module, tmp_path, monkeypatch):
    """After item i comes item i + 1: every one finds it, recommends nothing twice, and does so again for the seed."""
    pytest.importorskip(MODELS[model])
    rivals, draw = module("sequential_rivals"), random.Random(0)
    starts = [draw.randrange(_ITEMS) for _ in range(80)]
    with open(tmp_path / "sequences.txt", "w") as file:
        for user, start in enumerate(starts):
            items = [f"i{(start + step) % _ITEMS}" for step in range(4 + user % 4)]
            file.write(f"u{user} {' '.join(items)}\n")
    with open(tmp_path / "items.jsonl", "w") as file:
        for item in range(_ITEMS):
            file.write(json.dumps({"id": f"i{item}", "categories": ["all", f"part {item % 4}"]}) + "\n")
    small = {
        "sasrec": ["n_factors=32", "lr=0.01"], "bert4rec": ["n_factors=32", "lr=0.01"],
        "gru4rec": [], "hgn": ["embedding_size=32"], "fdsa": ["hidden_size=32", "inner_size=32", "n_layers=1"],
    }[model]  # fmt: skip
    if MODELS[model] == "rectools":
        small += ["batch_size=16", "dropout_rate=0.0", "session_max_len=8"]
    else:
        small += ["train_batch_size=16", "learning_rate=0.01", "MAX_ITEM_LIST_LENGTH=8"]
    epochs, runs = 15 if MODELS[model] == "rectools" else 5, []
    for folder in ("first", "second"):
        command(
            monkeypatch, rivals, "--model", model, "--sequences_file", tmp_path / "sequences.txt",
            "--items_file", tmp_path / "items.jsonl", "--output_dir", tmp_path / folder, "--epochs", epochs,
            "--settings", *small,
        )  # fmt: skip
        runs.append((tmp_path / folder / "run.test.trec").read_text())
    assert runs[0] == runs[1]
    rankings = read_run(tmp_path / "first" / "run.test.trec")
    found = 0
    for line in (tmp_path / "sequences.txt").read_text().splitlines():
        name, *items = line.split()
        assert not set(rankings[name]) & set(items[:-1])
        assert len(rankings[name]) == _ITEMS - len(items) + 1, "every other item is ranked"
        found += items[-1] in rankings[name][:3]
    assert found >= 0.8 * len(starts)


@pytest.mark.parametrize("loss", ["softmax", "sampled_softmax", "BCE", "gBCE"])
@pytest.mark.parametrize("model", ["sasrec", "bert4rec"])
def test_what_is_faster_is_the_same(model, loss, module):
    """Losses without the padding are RecTools', and so are the rankings."""
    pytest.importorskip("rectools")
    from rectools.models.nn.transformers.lightning import TransformerLightningModule

    kind = module("sequential_rivals").SETTINGS[model]
    protocol, rivals = module("sequential.protocol"), module("sequential.rectools_rivals")
    draw = random.Random(1)
    users = [[str(item) for item in draw.sample(range(30), draw.randrange(4, 12))] for _ in range(40)]
    sequences = protocol.Sequences([f"u{user}" for user in range(40)], users)
    small = kind(n_factors=16, session_max_len=6, dropout_rate=0.0, loss=loss, n_negatives=5, batch_size=40)
    rival = rivals.RecToolsRival(model, sequences.before(2), small, 0)
    rival.train_epoch()
    network = rival._model.lightning_model
    network.trainer = None
    for batch in rival._model.data_preparator.get_dataloader_train():
        plain = TransformerLightningModule.training_step(network, batch, 0)
        assert network.training_step(batch, 0).item() == pytest.approx(plain.item(), rel=1e-5)
    found = rival._model.recommend(list(range(40)), rivals._dataset(sequences.before(1)), 20, filter_viewed=True)
    expected = found.groupby("user_id")["item_id"].agg(list).tolist()
    assert list(protocol.rankings_of(rival, sequences, 1).values()) == expected


def test_what_is_asked_is_what_was_learned(module):
    """A history is given to a model of RecBole in the form of the samples that it learned from, also a long one."""
    pytest.importorskip("recbole")
    rivals, draw = module("sequential.recbole_rivals"), random.Random(2)
    histories = [draw.sample([f"i{item}" for item in range(30)], draw.randrange(2, 9)) for _ in range(20)]
    rival = rivals.RecBoleRival("hgn", histories, rivals.HGNSettings(MAX_ITEM_LIST_LENGTH=4), 0, {})
    names = {part: rival._dataset.field2id_token[part] for part in ("user_id", "item_id")}
    learned = {}
    for sample in range(len(rival._samples)):
        row = rival._samples[sample]
        user, item = (str(names[part][int(row[part])]) for part in names)
        learned[user, item] = (int(row["user_id"]), row["item_id_list"].tolist(), int(row["item_length"]))
    assert len(learned) == sum(len(items) - 1 for items in histories)
    asked = rival._questions(0, [items[:-1] for items in histories])
    for user, items in enumerate(histories):
        own = asked[user]
        expected = learned[str(user), items[-1]]
        assert (int(own["user_id"]), own["item_id_list"].tolist(), int(own["item_length"])) == expected

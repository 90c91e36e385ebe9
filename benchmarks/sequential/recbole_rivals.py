"""GRU4Rec, HGN and FDSA, as RecBole has them: its models and training samples, in a loop of ours.

RecBole's own evaluation recommends what a user has had, so that its trainer would choose another epoch.
"""

import copy
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from unittest import mock


@dataclass(frozen=True)
class RecBoleSettings:
    """Names and meanings are RecBole's, here and below."""

    learning_rate: float = 1e-3
    train_batch_size: int = 256
    weight_decay: float = 0.0
    MAX_ITEM_LIST_LENGTH: int = 20


@dataclass(frozen=True)
class GRU4RecSettings(RecBoleSettings):
    """Of GRU4Rec, as [`RecBoleSettings`]."""

    embedding_size: int = 64
    hidden_size: int = 128
    num_layers: int = 1
    dropout_prob: float = 0.3


@dataclass(frozen=True)
class HGNSettings(RecBoleSettings):
    """Of HGN, as [`RecBoleSettings`]."""

    embedding_size: int = 64
    pooling_type: str = "average"
    reg_weight: tuple[float, float] = (0.0, 0.0)


@dataclass(frozen=True)
class FDSASettings(RecBoleSettings):
    """Of FDSA, as [`RecBoleSettings`]; `selected_features` are names of what is known of items."""

    n_layers: int = 2
    n_heads: int = 2
    hidden_size: int = 64
    inner_size: int = 256
    hidden_dropout_prob: float = 0.5
    attn_dropout_prob: float = 0.5
    selected_features: tuple[str, ...] = ("categories", "brand")


class RecBoleRival:
    """A [`Rival`] around a sequential model of RecBole, which reads what comes before every item and guesses it."""

    def __init__(
        self, name: str, histories: Sequence[Sequence[str]], settings: RecBoleSettings, seed: int,
        features: Mapping[str, Mapping[str, Sequence[str]]],
    ):  # fmt: skip
        """`features`: by name such as `brand`, the values of items by id; FDSA reads its `selected_features`."""
        import torch
        from recbole.utils import get_model, init_seed

        init_seed(seed, reproducibility=True)
        wanted = getattr(settings, "selected_features", ())
        missing = [feature for feature in wanted if feature not in features]
        if missing:
            raise ValueError(f"selected_features: there is no {missing[0]!r}; there are {', '.join(features)}")
        chosen = {feature: features[feature] for feature in wanted}
        kind = {"gru4rec": "GRU4Rec", "hgn": "HGN", "fdsa": "FDSA"}[name]
        config, self._dataset = _load(kind, histories, asdict(settings), chosen)
        self._model = get_model(kind)(config, self._dataset)
        self._optimizer = torch.optim.Adam(
            self._model.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay
        )
        self._batch_size, self._length = settings.train_batch_size, settings.MAX_ITEM_LIST_LENGTH
        self._samples = self._dataset.inter_feat
        self.items = [str(item) for item in self._dataset.field2id_token["item_id"][1:]]

    def train_epoch(self) -> float:
        import torch

        self._model.train()
        losses = []
        for rows in torch.randperm(len(self._samples)).split(self._batch_size):
            self._optimizer.zero_grad()
            loss = self._model.calculate_loss(self._samples[rows])
            loss.backward()
            self._optimizer.step()
            losses.append(loss.item() * len(rows))
        return sum(losses) / len(self._samples)

    def scores(self, first: int, histories: Sequence[Sequence[str]]):
        """As [`Rival`] says."""
        import torch

        self._model.eval()
        with torch.no_grad():
            scores = self._model.full_sort_predict(self._questions(first, histories))
        return scores.view(len(histories), -1)[:, 1:]  # the first is the padding

    def _questions(self, first: int, histories: Sequence[Sequence[str]]):
        """RecBole's form of histories, padded behind."""
        import torch
        from recbole.data.interaction import Interaction

        places, users = (self._dataset.field2token_id[name] for name in ("item_id", "user_id"))
        read = torch.zeros(len(histories), self._length, dtype=torch.long)
        lengths = torch.ones(len(histories), dtype=torch.long)
        for row, items in enumerate(histories):
            known = [places[item] for item in items if item in places][-self._length :]
            read[row, : len(known)] = torch.tensor(known, dtype=torch.long)
            lengths[row] = max(1, len(known))
        own = torch.tensor([users.get(str(first + row), 0) for row in range(len(histories))])
        return Interaction({"user_id": own, "item_id_list": read, "item_length": lengths})

    def state(self) -> dict:
        return copy.deepcopy(self._model.state_dict())

    def load(self, state: dict) -> None:
        self._model.load_state_dict(state)


def _load(name: str, histories: Sequence[Sequence[str]], settings: dict, features: Mapping):
    """RecBole's configuration and data, through files as it wants them."""
    from recbole.config import Config
    from recbole.data import create_dataset

    columns = {"inter": ["user_id", "item_id", "timestamp"], "item": ["item_id", *features]}
    if not features:
        del columns["item"]
    with tempfile.TemporaryDirectory() as folder:
        _write_files(Path(folder) / "histories", histories, features)
        with mock.patch.object(sys, "argv", sys.argv[:1]):  # it reads the command line
            config = Config(
                model=name, dataset="histories",
                config_dict={
                    **{key: list(value) if isinstance(value, tuple) else value for key, value in settings.items()},
                    "data_path": folder, "use_gpu": False, "load_col": columns, "loss_type": "CE",
                    "train_neg_sample_args": None,
                    "eval_args": {"split": {"RS": [1, 0, 0]}, "order": "TO", "group_by": "user", "mode": "full"},
                },
            )  # fmt: skip
        return config, create_dataset(config).build()[0]  # a user's samples are all to learn from


def _write_files(folder: Path, histories: Sequence[Sequence[str]], features: Mapping) -> None:
    """RecBole's atomic files; values of features are numbered, for they may have spaces."""
    folder.mkdir()
    lines = ["user_id:token\titem_id:token\ttimestamp:float\n"]
    for user, items in enumerate(histories):
        lines += [f"{user}\t{item}\t{time}\n" for time, item in enumerate(items)]
    (folder / "histories.inter").write_text("".join(lines))
    if not features:
        return
    numbers: dict[str, int] = {}
    lines = ["\t".join(["item_id:token", *(f"{name}:token_seq" for name in features)]) + "\n"]
    for item in dict.fromkeys(item for items in histories for item in items):
        cells = [
            " ".join(str(numbers.setdefault(value, len(numbers))) for value in values.get(item, ()))
            for values in features.values()
        ]
        lines.append("\t".join([item, *cells]) + "\n")
    (folder / "histories.item").write_text("".join(lines))

"""SASRec and BERT4Rec, as RecTools has them."""

import copy
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class TransformerSettings:
    """Names and meanings are RecTools'; `loss` is softmax, BCE, gBCE or sampled_softmax."""

    n_blocks: int = 2
    n_heads: int = 2
    n_factors: int = 128
    dropout_rate: float = 0.3
    session_max_len: int = 20
    loss: str = "softmax"
    n_negatives: int = 256
    gbce_t: float = 0.75
    lr: float = 1e-3
    batch_size: int = 128


@dataclass(frozen=True)
class MaskedSettings(TransformerSettings):
    """`mask_prob` items of a history are hidden and guessed; one place of `session_max_len` is the mask's."""

    mask_prob: float = 0.3


class RecToolsRival:
    """A [`Rival`] around a transformer of RecTools."""

    def __init__(self, name: str, histories: Sequence[Sequence[str]], settings: TransformerSettings, seed: int):
        import pytorch_lightning
        from rectools.models import BERT4RecModel, SASRecModel

        pytorch_lightning.seed_everything(seed, verbose=False)
        logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
        kind = {"sasrec": SASRecModel, "bert4rec": BERT4RecModel}[name]
        self._model = kind(
            **asdict(settings), epochs=1, deterministic=True, recommend_torch_device="cpu",
            lightning_module_type=_packed_module(),
        )  # fmt: skip
        self._histories = _dataset(histories)

    @property
    def items(self) -> list[str]:
        return self._model.data_preparator.get_known_item_ids().tolist()

    def train_epoch(self) -> float:
        self._model.fit_partial(self._histories, min_epochs=1, max_epochs=1)
        return float(self._model.fit_trainer.callback_metrics["train_loss"])

    def scores(self, first: int, histories: Sequence[Sequence[str]]):
        """As [`Rival`] says; the model's own `recommend` gives the same and takes most of an epoch's time."""
        import torch

        form, network = self._model.data_preparator, self._model.torch_model
        places = {item: place for place, item in enumerate(self.items, start=form.n_item_extra_tokens)}
        known = [[places[item] for item in items if item in places] for items in histories]
        network.eval()
        with torch.no_grad():
            # Padding is read where nothing is known.
            batch = form._collate_fn_recommend([(items or [0], [], {}) for items in known])
            items = network.item_model.get_all_embeddings()
            states = network.encode_sessions(batch, items)[:, -1]
            return network.similarity_module(states, items)[:, form.n_item_extra_tokens :]

    def state(self) -> dict:
        return copy.deepcopy(self._model.torch_model.state_dict())

    def load(self, state: dict) -> None:
        self._model.torch_model.load_state_dict(state)


def _dataset(histories: Sequence[Sequence[str]]):
    """RecTools' form; a user is the place of a history, a time the place in it."""
    import pandas
    from rectools.dataset import Dataset

    rows = [(user, item, time) for user, items in enumerate(histories) for time, item in enumerate(items)]
    table = pandas.DataFrame(rows, columns=["user_id", "item_id", "datetime"])
    table["datetime"] = pandas.to_datetime(table["datetime"], unit="D")
    return Dataset.construct(table.assign(weight=1.0))


def _packed_module():
    """RecTools' training, with scores only where something is to be guessed.

    The library scores all items at every place of `session_max_len`, most of them padding: the loss is the same
    without them, at a fifth of the time with five items a user.
    """
    import torch
    from rectools.models.nn.transformers.lightning import TransformerLightningModule

    class PackedModule(TransformerLightningModule):
        def training_step(self, batch: dict, batch_idx: int) -> torch.Tensor:
            kept = batch["y"] != 0
            y, weights = batch["y"][kept].unsqueeze(0), batch["yw"][kept].unsqueeze(0)  # (1, guessed)
            candidates = None
            if "negatives" in batch:
                candidates = torch.cat([y.unsqueeze(-1), batch["negatives"][kept].unsqueeze(0)], dim=-1)
            items = self.torch_model.item_model.get_all_embeddings()
            states = self.torch_model.encode_sessions(batch, items)[kept].unsqueeze(0)  # (1, guessed, n_factors)
            logits = self.torch_model.similarity_module(states, items, candidates) / self.logits_t
            loss = self.loss_calculator(logits, y, weights)
            self.log(self.train_loss_name, loss, on_step=False, on_epoch=True)
            return loss

    return PackedModule

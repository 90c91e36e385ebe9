"""A model that FSDP cuts into shards for a training, and the whole one that everything between trainings looks at."""

import copy

import torch
from accelerate import FullyShardedDataParallelPlugin
from torch import nn
from torch.distributed.fsdp import FSDPModule, StateDictType
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers import TrainerCallback


def is_sharded(model: nn.Module) -> bool:
    """Whether FSDP has cut a model into shards."""
    return isinstance(model, FSDPModule)


def check_state_dict_type(plugin: FullyShardedDataParallelPlugin) -> None:
    """Raises ValueError for checkpoints in shards, FSDP2's default: here one process writes and reads whole files,
    while the others would wait to do their part."""
    if plugin.state_dict_type != StateDictType.FULL_STATE_DICT:
        raise ValueError(
            f"fsdp_state_dict_type is {plugin.state_dict_type.name}; expected FULL_STATE_DICT, whose checkpoints any "
            "number of processes reads again: set it, as examples/accelerate/fsdp2.yaml does."
        )


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """A parameter as it is on one process; of one in shards a copy, that all processes must ask for."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def store(values: torch.Tensor, tensor: torch.Tensor) -> None:
    """Gives a parameter, in shards or not, the values that [`whole`] gave, as they were changed since."""
    if isinstance(tensor, DTensor):
        tensor.copy_(distribute_tensor(values, tensor.device_mesh, tensor.placements))


class Twins:
    """The whole model of a run, and the copy of it that a stage cuts into shards.

    Shards are not put together again in place, and a model that was cut once keeps what its first stage froze. So
    every stage gets a copy, and leaves what it learned in the whole model, which all processes hold between trainings.

    Args:
        device: where the whole model works between trainings, and its copy until it is cut. During a training the
            whole model is on the CPU, out of the shards' way, but after an evaluation.
    """

    def __init__(self, device: torch.device):
        self.device, self.whole = device, None

    def copy_of(self, model: nn.Module) -> nn.Module:
        """A copy of the whole model for a stage to train, on the device: losses are measured before it is cut."""
        self.whole = model.to("cpu")
        return copy.deepcopy(self.whole).to(self.device)

    @torch.no_grad()
    def gather(self, sharded: nn.Module) -> nn.Module:
        """The whole model with the weights of a sharded one; all processes must ask for it."""
        values = self.whole.state_dict()
        for name, value in sharded.state_dict().items():
            values[name].copy_(whole(value))
        return self.whole.to(self.device)


class EmbeddingsInRoot(TrainerCallback):
    """Keeps accelerate from making a group of its own of the token embeddings.

    The reconstructor reads them as they are, outside of their own forward, at whose end a group of their own would be
    put away; and where encoder and decoder share them, FSDP refuses it. In the group of the whole model they are there
    while a step runs.
    """

    @staticmethod
    def hide(model: nn.Module) -> nn.Module:
        """Lets a model say that it has none, until training begins."""
        model.get_input_embeddings = lambda: None
        return model

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        if is_sharded(model):
            vars(model).pop("get_input_embeddings", None)

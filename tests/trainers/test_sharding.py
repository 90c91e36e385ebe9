"""What a CPU can say of models in shards: where the whole one is, and which checkpoints are refused."""

import pytest
import torch
from accelerate import FullyShardedDataParallelPlugin
from torch import nn

from trainers.sharding import Twins, check_state_dict_type


class Moved(nn.Linear):
    """Notes where it is sent, and stays."""

    def __init__(self):
        super().__init__(2, 2)
        self.places = []

    def to(self, device):
        self.places.append(torch.device(device))
        return self

    def __deepcopy__(self, memo):
        copied = Moved()
        copied.load_state_dict(self.state_dict())
        return copied


def test_the_whole_model_works_on_the_device_and_makes_way_for_a_training():
    twins, model = Twins(torch.device("cuda", 1)), Moved()
    stage = twins.copy_of(model)
    assert model.places == [torch.device("cpu")] and stage is not model
    assert stage.places == [torch.device("cuda", 1)]
    nn.init.constant_(stage.weight, 7.0)
    assert twins.gather(stage) is model
    assert model.places[1:] == [torch.device("cuda", 1)] and (model.weight == 7).all()


@pytest.mark.parametrize("kind", ["SHARDED_STATE_DICT", None])
def test_checkpoints_in_shards_are_refused(kind):
    """They are the default of FSDP2."""
    plugin = FullyShardedDataParallelPlugin(fsdp_version=2, state_dict_type=kind, auto_wrap_policy="NO_WRAP")
    with pytest.raises(ValueError, match="fsdp_state_dict_type is SHARDED_STATE_DICT; expected FULL_STATE_DICT"):
        check_state_dict_type(plugin)
    whole = FullyShardedDataParallelPlugin(
        fsdp_version=2, state_dict_type="FULL_STATE_DICT", auto_wrap_policy="NO_WRAP"
    )
    check_state_dict_type(whole)

"""`torch_compile` where it pays: in the encoder, layer by layer."""

from accelerate import Accelerator
from accelerate.utils import DynamoBackend
from transformers import PreTrainedModel, TrainingArguments
from transformers.modeling_layers import GradientCheckpointingLayer


def compile_encoder_layers(model: PreTrainedModel, args: TrainingArguments, accelerator: Accelerator) -> None:
    """Compiles the layers of a model's encoder in place, instead of the whole model when it is prepared.

    Sizes of our losses depend on how many tokens are hidden, which a compiler cannot see: it would cut the whole model
    into dozens of graphs, and make them anew for every kind of batch. The encoder's layers, where nearly all of the
    time goes, are one graph that all of them share but for the first. Names of weights do not change.
    """
    accelerator.state.dynamo_plugin.backend = DynamoBackend.NO
    for layer in model.get_encoder().modules():
        if isinstance(layer, GradientCheckpointingLayer):
            layer.compile(backend=args.torch_compile_backend, mode=args.torch_compile_mode)

"""Products of few rows on the CPU, where reading the weights takes the time: by oneDNN, with weights in its order."""

import functools
import weakref
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel
from transformers.models.mt5.modeling_mt5 import MT5Stack
from transformers.models.t5.modeling_t5 import T5Stack

from .plain_maps import is_plain
from .shared_attention import SHARED_ATTENTION

T5_STACKS = T5Stack, MT5Stack
# Numbers in a weight from which on the kernels pay for their dearer call: packed, and with the weight as it is.
WORTH_PACKING, WORTH_ONEDNN = 2**17, 2**19
FEW_ROWS = 20  # what copies are laid out for; many rows want the same order, one row another that is no quicker
SAMPLE = 64  # of a weight's numbers, to notice what torch does not count
PACKED: "weakref.WeakKeyDictionary[nn.Linear, PackedWeight]" = weakref.WeakKeyDictionary()


def pack_weights(model: PreTrainedModel) -> int:
    """Copies the weights that a search multiplies few rows with into the order in which the CPU's kernels read them.

    Makes the search for one or a few queries cheaper, with the same results. The copies are those of a T5 decoder's
    linear maps and of a plain T5's output head, and take as much memory again: call it once, on the model that serves.
    They are no part of the model: its copies, pickles and `save_pretrained` go without.

    ```python
    >>> from transformers import T5Config, T5ForConditionalGeneration
    >>> from modeling_lmindexer import pack_weights
    >>> t5 = T5Config(vocab_size=1024, d_model=128, d_kv=32, d_ff=1024, num_layers=1, num_heads=4)
    >>> pack_weights(T5ForConditionalGeneration(t5).eval())  # wi, wo and the head; attention's are too small
    1572864

    ```

    A copy is left out for good once its weight has changed: trained, loaded, replaced or moved. torch does not count
    what is written through `weight.data`, as peft does when it merges adapters, or by fused optimizers; every search
    compares 64 numbers of each weight to notice that, so that a change of a few other numbers by these goes
    unnoticed. Pack again after a change. Maps that adapters replace or that have hooks are called as ever.

    Args:
        model: an [`LMIndexerForSemanticID`] on a T5 or mT5, or such a model of transformers, on the CPU in float32.

    Returns:
        the bytes of the copies, 0 where all maps are too small to gain.

    Raises:
        ValueError: another decoder, attention, device or type, or a torch without these kernels.
    """
    backbone = getattr(model, "backbone", model)
    decoder = backbone.get_decoder() if backbone.config.is_encoder_decoder else None
    check_packable(model, decoder)
    head = model.get_output_embeddings() if backbone is model else None
    maps = [m for m in (*maps_of(decoder), head) if is_plain(m) and is_suited(m.weight)]
    packed = {m: PackedWeight(m.weight) for m in maps if m.weight.numel() >= WORTH_PACKING}
    PACKED.update(packed)
    return sum(copy.weight.nbytes for copy in packed.values())


def check_packable(model: PreTrainedModel, decoder: nn.Module | None) -> None:
    """Raises ValueError for a model that [`pack_weights`] can do nothing for."""
    if type(decoder) not in T5_STACKS:
        raise ValueError(
            f"{type(model).__name__} has no decoder of T5 or mT5, and pack_weights is for those: search without it."
        )
    if decoder.config._attn_implementation not in ("sdpa", SHARED_ATTENTION):
        raise ValueError(
            f"Found the attention {decoder.config._attn_implementation!r}, with which a search calls the model as it "
            "is. Call model.set_attn_implementation('sdpa') before pack_weights."
        )
    weight = decoder.final_layer_norm.weight
    if weight.device.type != "cpu" or weight.dtype != torch.float32:
        raise ValueError(
            f"Found weights of {weight.dtype} on {weight.device}: pack_weights is for float32 on the CPU. Call "
            "model.float().cpu() before, or search without it."
        )
    if not has_kernels():
        raise ValueError(
            "This torch has no oneDNN kernels to pack weights for, or torch.backends.mkldnn has them switched off: "
            "search without pack_weights."
        )


def maps_of(decoder: nn.Module) -> Iterator[nn.Module]:
    """The linear maps in the blocks of a T5 decoder, or what stands in their place."""
    for block in decoder.block:
        for layer in block.layer:
            for part in layer.children():  # attention or feed-forward; norm and dropout have no children
                yield from part.children()


def linear_map(module: nn.Module) -> Callable[[Tensor], Tensor]:
    """What maps `(..., in)` to `(..., out)` as a module does, in the quickest way for few rows; for one search.

    Anything but a plain linear map stays what it is. Gradients and autocast are as in the module: oneDNN's kernels
    are for neither.
    """
    if not is_plain(module):
        return module
    weight, bias = module.weight, module.bias
    if weight.numel() >= min(WORTH_PACKING, WORTH_ONEDNN):
        copy = valid_copy(module)
        if is_served(module):
            if copy is not None:
                return functools.partial(onednn_linear, weight=copy, bias=bias)
            if weight.numel() >= WORTH_ONEDNN:
                return functools.partial(onednn_linear, weight=weight, bias=bias)
    return functools.partial(F.linear, weight=weight, bias=bias)


def is_served(module: nn.Linear) -> bool:
    """Whether oneDNN's kernels can take the place of a linear map now."""
    changing = module.training or torch.is_grad_enabled() or torch.is_autocast_enabled("cpu")
    return not changing and is_suited(module.weight)


def is_suited(weight: Tensor) -> bool:
    """Whether oneDNN's kernels are for a weight: float32 on the CPU, neither quantized nor sharded."""
    return (
        type(weight) is nn.Parameter
        and weight.dtype == torch.float32
        and weight.device.type == "cpu"
        and weight.is_contiguous()
        and has_kernels()
    )


def valid_copy(module: nn.Linear) -> Tensor | None:
    """The packed copy of a weight, if there is one; it is dropped when it no longer is a copy."""
    packed = PACKED.get(module)
    if packed is None or packed.is_copy_of(module.weight):
        return None if packed is None else packed.weight
    PACKED.pop(module, None)  # another thread may have done so
    return None


class PackedWeight:
    """A copy of a weight `(out, in)` in oneDNN's order."""

    def __init__(self, weight: nn.Parameter):
        self.source, self.state, self.sample = weakref.ref(weight), state_of(weight), sample_of(weight).clone()
        self.weight = reordered(weight.detach(), FEW_ROWS)

    def is_copy_of(self, weight: nn.Parameter) -> bool:
        """Whether it is what `weight` is now."""
        same = self.source() is weight and self.state == state_of(weight)
        return same and torch.equal(self.sample, sample_of(weight))


def state_of(weight: Tensor) -> tuple:
    """What changes when a tensor is moved or written to, unless through `.data`."""
    return weight.data_ptr(), weight.shape, None if weight.is_inference() else weight._version


def sample_of(weight: Tensor) -> Tensor:
    """Some numbers of a contiguous weight, of many rows and columns."""
    return weight.detach().view(-1)[:: weight.numel() // SAMPLE | 1]  # an odd step, or all were in one column


def onednn_linear(states: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """`F.linear` by oneDNN, which also takes a packed weight."""
    return torch.ops.mkldnn._linear_pointwise.default(states, weight, bias, "none", [], "")


def reordered(weight: Tensor, rows: int) -> Tensor:
    """A copy of `weight` `(out, in)` in oneDNN's order for products with so many rows."""
    return torch.ops.mkldnn._reorder_linear_weight.default(weight, rows)


def has_kernels() -> bool:
    """Whether torch has the kernels, which are private operators, and may use them."""
    return torch.backends.mkldnn.enabled and kernels_work()


@functools.cache
def kernels_work() -> bool:
    """Tries the kernels on numbers that are not rounded."""
    kind = {"dtype": torch.float32, "device": "cpu"}  # whatever the defaults are
    weight, states = torch.arange(32, **kind).view(4, 8), torch.ones(2, 8, **kind)
    try:
        found = [onednn_linear(states, copy, None) for copy in (weight, reordered(weight, 2))]
    except (AttributeError, RuntimeError):
        return False
    return all(torch.equal(product, weight.sum(1).expand(2, 4)) for product in found)

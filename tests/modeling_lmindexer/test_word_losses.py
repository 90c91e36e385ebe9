"""The losses of words in chunks are those of all at once, in values and gradients, and hold fewer scores in memory."""

import os
import sys
from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from modeling_lmindexer import word_losses as module
from modeling_lmindexer.word_losses import liger_losses, word_losses

PREDICTIONS, WIDTH, WORDS = 11, 4, 7


def inputs(distributions, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    shapes = (PREDICTIONS, WIDTH), (WORDS, WIDTH), (WORDS,)
    floats = [torch.randn(shape, generator=generator, dtype=dtype).requires_grad_() for shape in shapes]
    targets = torch.randint(WORDS, (PREDICTIONS,), generator=generator)
    if distributions:
        targets = torch.rand(PREDICTIONS, WORDS, generator=generator, dtype=dtype).softmax(-1)
    return *floats, targets


def plain(hidden, weight, bias, targets):
    return F.cross_entropy(F.linear(hidden, weight, bias), targets, reduction="none")


@pytest.mark.parametrize("distributions", [False, True])
@pytest.mark.parametrize("at_once", [1, 3 * WORDS, 10**6])
def test_values_and_gradients_are_those_of_the_plain_loss(monkeypatch, distributions, at_once):
    """Every prediction with a factor of its own, as weights and documents give them."""
    monkeypatch.setattr(module, "SCORES_AT_ONCE", at_once)
    factors = torch.linspace(-1, 2, PREDICTIONS, dtype=torch.float64)
    results = []
    for function in (word_losses, plain):
        *floats, targets = inputs(distributions)
        losses = function(*floats, targets)
        (losses * factors).sum().backward()
        results.append([losses, *(tensor.grad for tensor in floats)])
    torch.testing.assert_close(*results)
    *floats, targets = inputs(distributions)
    assert torch.autograd.gradcheck(lambda *tensors: word_losses(*tensors, targets), floats)


class LargestTensor(TorchDispatchMode):
    """Elements of the largest result of an operation."""

    elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if torch.is_tensor(result):
            self.elements = max(self.elements, result.numel())
        return result


def test_no_more_scores_than_allowed_exist_at_once(monkeypatch):
    monkeypatch.setattr(module, "SCORES_AT_ONCE", 3 * WORDS)
    *floats, targets = inputs(distributions=False)
    with LargestTensor() as largest:
        word_losses(*floats, targets).sum().backward()
    assert largest.elements == PREDICTIONS * WIDTH  # 44; all scores are 77


def test_half_precision_is_added_up_in_float32():
    hidden, weight, bias, targets = inputs(distributions=False, dtype=torch.bfloat16)
    losses = word_losses(hidden, weight, bias, targets)
    assert losses.dtype == torch.float32
    scores = (hidden @ weight.T + bias).double()
    exact = F.cross_entropy(scores, targets, reduction="none")
    torch.testing.assert_close(losses.double(), exact, rtol=1e-5, atol=1e-5)


class OnCuda(torch.Tensor):
    """A tensor that says it is on a GPU."""

    is_cuda = True


@pytest.mark.parametrize("distributions", [False, True])
@pytest.mark.parametrize("at_once", [3 * WORDS, 10**6])
def test_words_that_fill_up_a_product_change_nothing(monkeypatch, distributions, at_once):
    """Seven words become eight on a GPU, here on what says that it is one."""
    monkeypatch.setattr(module, "SCORES_AT_ONCE_ON_CUDA", at_once)
    monkeypatch.setattr(module, "liger_losses", lambda: None)
    results, widths = [], []
    losses_of = module._losses
    monkeypatch.setattr(
        module, "_losses", lambda hidden, weight, *rest: widths.append(len(weight)) or losses_of(hidden, weight, *rest)
    )
    for function in (word_losses, plain):
        hidden, *others = inputs(distributions)
        losses = function(hidden.as_subclass(OnCuda) if function is word_losses else hidden, *others)
        losses.sum().backward()
        leaves = [hidden, *others[:2]]
        results.append([tensor.as_subclass(torch.Tensor) for tensor in (losses, *(leaf.grad for leaf in leaves))])
    torch.testing.assert_close(*results)
    assert set(widths) == {8}


@pytest.mark.parametrize("at_once, kind, used", [(1, "words", True), (10**6, "words", False), (1, "bags", False)])
def test_liger_takes_many_predictions_of_single_words_on_a_gpu(monkeypatch, at_once, kind, used):
    calls = []

    def fused(weight, hidden, targets, bias):
        calls.append(targets)
        return F.cross_entropy(hidden @ weight.T + bias, targets, reduction="none")

    monkeypatch.setattr(module, "SCORES_AT_ONCE_ON_CUDA", at_once)
    monkeypatch.setattr(module, "liger_losses", lambda: fused)
    hidden, *others = inputs(distributions=kind == "bags", dtype=torch.float32)
    losses = word_losses(hidden.as_subclass(OnCuda), *others)
    assert bool(calls) == used
    torch.testing.assert_close(losses.as_subclass(torch.Tensor), plain(hidden, *others))
    word_losses(hidden, *others)  # on a CPU never
    assert len(calls) == used


@pytest.mark.parametrize("version, used", [("0.8.1", False), ("0.8.2", True), ("0.10.0", True)])
def test_a_liger_with_wrong_gradients_is_left_alone(monkeypatch, version, used):
    liger_losses.cache_clear()
    stand_in = SimpleNamespace(LigerFusedLinearCrossEntropyLoss=lambda reduction: reduction)
    monkeypatch.setitem(sys.modules, "liger_kernel", SimpleNamespace(transformers=stand_in))
    monkeypatch.setitem(sys.modules, "liger_kernel.transformers", stand_in)
    monkeypatch.setattr(module.importlib.metadata, "version", lambda name: version)
    assert liger_losses() == ("none" if used else None)
    liger_losses.cache_clear()


@pytest.mark.skipif(
    os.environ.get("TRITON_INTERPRET") != "1" and not torch.cuda.is_available(),
    reason="a GPU; or liger-kernel and triton installed, and TRITON_INTERPRET=1",
)
def test_ligers_own_losses_and_gradients():
    """Also without a GPU: `pip install --no-deps liger-kernel triton`, and `TRITON_INTERPRET=1` for this test."""
    pytest.importorskip("liger_kernel")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    factors = torch.linspace(-1, 2, PREDICTIONS, device=device)
    results = []
    for function in (lambda hidden, weight, bias, targets: liger_losses()(weight, hidden, targets, bias), plain):
        *floats, targets = (tensor.detach().to(device) for tensor in inputs(distributions=False, dtype=torch.float32))
        for tensor in floats:
            tensor.requires_grad_()
        losses = function(*floats, targets)
        (losses * factors).sum().backward()
        results.append([losses, *(tensor.grad for tensor in floats)])
    torch.testing.assert_close(*results)

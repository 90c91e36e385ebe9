"""What tells two sets of weights apart."""

import hashlib

import torch
from torch import nn


def digest_of_weights(module: nn.Module, beside: str = "") -> str:
    """Hash of all weights and buffers of a module, and of a text beside them."""
    sha = hashlib.sha256(beside.encode())
    for tensor in module.state_dict().values():
        sha.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return sha.hexdigest()

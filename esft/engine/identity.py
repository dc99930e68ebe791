"""The identity of a base model."""

import hashlib

import torch
from torch import nn


def identity(model: nn.Module) -> str:
    """Return the sha256, in hex, over (name, dtype, shape, bytes) of a module's parameters.

    Parameters in the module's order, tied ones once; bytes in row-major order, streamed.
    """
    digest = hashlib.sha256()
    for name, parameter in model.named_parameters():
        digest.update(f"{name}|{parameter.dtype}|{tuple(parameter.shape)}|".encode())
        flat = parameter.detach().contiguous().view(-1).view(torch.uint8)
        for start in range(0, flat.numel(), 1 << 24):
            digest.update(flat[start : start + (1 << 24)].cpu().numpy())
    return digest.hexdigest()

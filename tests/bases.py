"""What the tests of mapped base weights share: mapping, comparing, damaging."""

import os

import torch

from esft.engine import Weights
from esft.engine.weights import identity
from esft.models.base_file import base_path, map_base


def mapped_base(loaded):
    """Map all parameters of a model."""
    return map_base(loaded, Weights(loaded.model).names, identity(loaded.model))


def cache_file(loaded):
    return base_path(identity(loaded.model))


def same_bits(mapped, model):
    """Whether what is mapped is every parameter of `model`, tied ones once, bit for bit."""
    parameters = dict(model.named_parameters())
    return list(mapped.tensors) == list(parameters) and all(
        mapped.tensors[name].shape == (parameter.numel(),)
        and mapped.tensors[name].dtype == parameter.dtype
        and bits(mapped.tensors[name]).equal(bits(parameter))
        for name, parameter in parameters.items()
    )


def bits(tensor):
    return tensor.detach().flatten().view(torch.uint8)


def content(folder):
    return sorted(
        path.name for path in folder.rglob("*") if path.is_file() and path.name != ".lock"
    )


def cut_off(path):
    os.truncate(path, path.stat().st_size - 1)


def flip_the_last_bit(path):
    whole = bytearray(path.read_bytes())
    whole[-1] ^= 1
    path.write_bytes(whole)

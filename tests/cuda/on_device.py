"""The same small weights on two devices, and what compares them bit for bit."""

import pytest
import torch
from some_weights import SMALL_SCRATCH, Tensors, mapped_base, some_model

from esft.engine import Drift, Weights
from esft.engine.kernels import Kernels, chosen_kernels

forms = pytest.mark.parametrize("form", ["torch", "chosen"])


def kernels_of(form, device):
    """The reference, or the passes that esft chooses for a device."""
    return Kernels() if form == "torch" else chosen_kernels(device)


def weights_on(device, dtype, kernels=None, scratch=SMALL_SCRATCH):
    """Weights with every kind of number; and some large enough for several blocks of a grid."""
    draw = torch.Generator().manual_seed(1)
    tensors = dict(some_model(dtype).named_parameters())
    tensors["large"] = (0.02 * torch.randn(300, 101, generator=draw)).to(dtype)
    model = Tensors(**{name: tensor.data.to(device) for name, tensor in tensors.items()})
    return Weights(model, scratch=scratch, kernels=kernels)


def drift_on(device, dtype, kept, store="device", drift_store=None, path=None, kernels=None):
    """A drift of `weights_on` at D = 0; `path` becomes the file that store "disk" maps."""
    weights = weights_on(device, dtype, kernels)
    base = mapped_base(weights, path) if store == "disk" else None
    return Drift(weights, store, kept, base=base, drift_store=drift_store)


def reference(dtype, kept):
    """The same drift on the CPU, with plain torch."""
    return drift_on("cpu", dtype, kept, kernels=Kernels())


def kept_bits(drift):
    """The bits of D as it is kept."""
    tensors = drift.state().tensors
    return {name: t.reshape(-1).view(torch.uint8).tolist() for name, t in tensors.items()}

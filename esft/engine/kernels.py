"""The passes over a piece of the weights, in plain torch: any faster form must equal their bits.

A product always comes before its sum: a fused multiply-add rounds once where these round twice.
"""

import torch
from torch import Tensor

from esft.engine.noise import noise
from esft.engine.weights import Piece

_BITS = {2: torch.int16, 4: torch.int32}


def scaled_noise(piece: Piece, seed: int, scale: float) -> Tensor:
    """Return scale * noise of a piece, float32 of shape (count,)."""
    shift = noise(seed, piece.name, piece.start, piece.count, piece.flat.device)
    shift *= scale
    return shift


def perturb(flat: Tensor, shift: Tensor) -> Tensor:
    """Return round(flat + shift) in the dtype of `flat`; `shift` is float32 and stays."""
    return (shift + flat).to(flat.dtype)


def subtract(moved: Tensor, shift: Tensor) -> Tensor:
    """Return round(moved - shift), which is what was perturbed but for a few elements."""
    return (moved - shift).to(moved.dtype)


def accumulate(piece: Piece, nets: list[tuple[int, float]], scale: float) -> Tensor:
    """Return scale * sum_i c_i * noise(seed_i) of a piece: float32, (count,), in their order."""
    total = torch.zeros(piece.count, dtype=torch.float32, device=piece.flat.device)
    for seed, net in nets:
        total += scaled_noise(piece, seed, net)
    total *= scale
    return total


def composed(base: Tensor, drift: Tensor) -> Tensor:
    """Return round(base + drift), a piece of theta, in the dtype of the base."""
    # Where the drift is 0, -0.0 + 0.0 would lose the sign of a base weight of -0.0. A
    # subtracted +0.0 keeps it, and (-drift) + 0.0 is +0.0 for zeros of either sign.
    return torch.sub(base.float(), drift.neg().add_(0.0)).to(base.dtype)


def differing_bits(left: Tensor, right: Tensor) -> Tensor:
    """Return the bits in which two tensors of one dtype differ, as integers; -0.0 is not 0.0."""
    bits = _BITS[left.element_size()]
    return left.view(bits) ^ right.view(bits)

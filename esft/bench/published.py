"""The published way to perturb and update weights, as its formulas say: what esft is timed against.

Every noise is drawn tensor by tensor from a generator that is seeded again, in the dtype of the
weights, and added in place. Perturbed weights come back by subtracting the noise, not to the bit.

Source: arXiv:2509.24372, section 3.2 and Algorithm 2.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor


def noises(tensors: Sequence[Tensor], seed: int) -> Iterator[Tensor]:
    """Yield the noise of each tensor."""
    generator = torch.Generator(tensors[0].device).manual_seed(seed)
    for tensor in tensors:
        yield torch.randn(
            tensor.shape, generator=generator, dtype=tensor.dtype, device=tensor.device
        )


def perturb_(tensors: Sequence[Tensor], seed: int, sigma: float) -> None:
    """Add sigma * noise; with -sigma, take it away again."""
    for tensor, noise in zip(tensors, noises(tensors, seed), strict=True):
        tensor.add_(sigma * noise)


def update_(
    tensors: Sequence[Tensor], seeds: Sequence[int], coefficients: Sequence[float], alpha: float
) -> None:
    """Add alpha / N * coefficient * noise of each member, one after the other."""
    for seed, coefficient in zip(seeds, coefficients, strict=True):
        perturb_(tensors, seed, alpha / len(seeds) * coefficient)

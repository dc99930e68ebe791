"""Small modules whose weights hold every kind of number, and what compares them bit for bit."""

from functools import partial

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from esft.engine import Drift, Member, Weights
from esft.engine.anchor import STORES
from esft.engine.kept import DRIFT_STORES
from esft.engine.kernels import Kernels
from esft.engine.kernels.reference import read
from esft.engine.members import population
from esft.engine.noise import drawn

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
DRIFT_DTYPES = ("float32", "float16", "int8")
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=str)
kinds = pytest.mark.parametrize("kept", DRIFT_DTYPES)
both_kernels = pytest.mark.parametrize("kernels", [None, Kernels()], ids=["chosen", "torch"])
"""The passes that are chosen on this device, and those in plain torch."""
stores = pytest.mark.parametrize("store", STORES)
drift_stores = pytest.mark.parametrize("drift_store", DRIFT_STORES)
RANK: int | None = None
"""Of the noise of `some_weights`; `with_both_noises` sets it."""
with_both_noises = pytest.mark.usefixtures("rank")
SMALL_SCRATCH = 48 * 256
"""Makes pieces of 256 elements, the fewest: the largest tensor of `some_model` has two."""


class Tensors(nn.Module):
    """A module that is nothing but its parameters."""

    def __init__(self, **tensors: Tensor) -> None:
        super().__init__()
        for name, tensor in tensors.items():
            self.register_parameter(name, nn.Parameter(tensor, requires_grad=False))


def some_model(dtype: torch.dtype, seed: int = 0) -> Tensors:
    """Five matrices of 552 weights, so that both noises tune them all: two like those of layers,
    norm weights, awkward numbers, a single one."""
    draw = torch.Generator().manual_seed(seed)
    return Tensors(
        embed=(0.02 * torch.randn(61, 5, generator=draw)).to(dtype),
        proj=(0.2 * torch.randn(12, 16, generator=draw)).to(dtype),
        norm=torch.ones(5, 6, dtype=dtype),
        odd=awkward_numbers(dtype).view(4, 6),
        scale=torch.tensor([[0.5]], dtype=dtype),
    )


def awkward_numbers(dtype: torch.dtype) -> Tensor:
    """Zeros of both signs, subnormals, the smallest normals, the largest numbers; 24 elements."""
    limits = torch.finfo(dtype)
    smallest = limits.smallest_normal * limits.eps  # the smallest subnormal
    positive = [0.0, smallest, 3 * smallest, limits.tiny, 1.0, limits.max]
    numbers = torch.tensor(positive, dtype=torch.float64)
    return torch.cat([numbers, -numbers, numbers, -numbers]).to(dtype)


class FailingWeights(Weights):
    """Weights that raise `failure`, once, when a pass over them comes to the tensor `fails_at`."""

    fails_at = failure = None

    def pieces(self, whole=False, whole_codes=True):
        for piece in super().pieces(whole, whole_codes):
            if piece.name == self.fails_at and self.failure is not None:
                failure, self.failure = self.failure, None
                raise failure
            yield piece


def some_weights(dtype: torch.dtype, kernels: Kernels | None = None) -> FailingWeights:
    """Weights of `some_model`."""
    return FailingWeights(some_model(dtype), scratch=SMALL_SCRATCH, kernels=kernels, rank=RANK)


def some_drift(
    dtype: torch.dtype, kept: str = "float32", steps: int = 3, kernels: Kernels | None = None
) -> Drift:
    """A drift of `some_weights`, kept as `kept`, moved by some steps."""
    drift = Drift(some_weights(dtype, kernels), dtype=kept)
    walk(drift, steps)
    return drift


def stored_drift(dtype, kept, store, drift_store, path) -> Drift:
    """A drift of `some_weights` at D = 0; `path` becomes the file that store "disk" maps."""
    weights = some_weights(dtype)
    base = mapped_base(weights, path) if store == "disk" else None
    return Drift(weights, store, kept, base=base, drift_store=drift_store)


def walk(drift: Drift, steps: int, run_seed: int = 0, alpha: float = 0.01, **decay) -> None:
    """Make `steps` steps of four members with made-up coefficients."""
    for step in range(1, steps + 1):
        drift.step(population(run_seed, step, 4), [1.5, -0.5, -1.25, 0.25], alpha, **decay)


def bits_of(weights: Weights) -> dict[str, bytes]:
    """The bits of every tuned tensor: unlike values, they tell -0.0 from 0.0."""
    return {name: tensor_bits(weights.flat(name)) for name in weights.names}


def tensor_bits(tensor: Tensor) -> bytes:
    return tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes()


def drift_of(drift: Drift, name: str) -> Tensor:
    """D of one tensor as it is kept, in float32, shape (numel,)."""
    kept = drift._kept[name]
    return read(kept.stored(kept.parts(0, drift.weights.flat(name).numel())))


def whole_drift(drift: Drift) -> Tensor:
    """D of all tensors as it is kept, one after the other, in float32."""
    return torch.cat([drift_of(drift, name) for name in drift.weights.names])


def mapped_base(weights: Weights, path) -> dict[str, Tensor]:
    """The weights in a safetensors file, mapped: what a Drift with store "disk" is given."""
    save_file({name: weights.flat(name) for name in weights.names}, path)
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in weights.names}


class Transcript:
    """The formulas of a step once more: D in float64, whole tensors, straight, from D = 0."""

    def __init__(self, weights: Weights) -> None:
        self.drift = {
            name: torch.zeros(weights.flat(name).numel(), dtype=torch.float64)
            for name in weights.names
        }
        self.factors = {name: weights.factors(name) for name in weights.names}

    def step(self, members: list[Member], coefficients: list[float], alpha, decay=0.0, norm="l2"):
        sums = {name: sum_of_noises(self, name, members, coefficients) for name in self.drift}
        self.step_by(sums, len(members), alpha, decay, norm)

    def step_by(self, sums: dict[str, Tensor], size: int, alpha, decay=0.0, norm="l2"):
        """Make a step from the sums over the members of coefficient times noise."""
        for name, drift in self.drift.items():
            moved = drift + alpha / size * sums[name]
            if norm == "l2":
                self.drift[name] = (1 - alpha * decay) * moved
            else:
                self.drift[name] = moved.sign() * (moved.abs() - alpha * decay).clamp(min=0)

    def norm(self) -> float:
        return float(self.vector().norm())

    def vector(self) -> Tensor:
        return torch.cat(list(self.drift.values()))


def sum_of_noises(transcript, name, members, coefficients, draw=None) -> Tensor:
    draw = partial(drawn, factors=transcript.factors[name]) if draw is None else draw
    total = torch.zeros_like(transcript.drift[name])
    for member, coefficient in zip(members, coefficients, strict=True):
        total += coefficient * member.sign * draw(member.seed, name, 0, total.numel()).double()
    return total

"""Small models whose matrices are codes, many of them at the bounds of their grid."""

import pytest
import torch
from some_weights import SMALL_SCRATCH, FailingWeights, tensor_bits
from torch import Tensor, nn

from esft.engine import Drift, Member, Weights, noise
from esft.engine.coded import CodedEmbedding, CodedLinear
from esft.engine.codes import Grid, Quantized
from esft.engine.kernels import Kernels
from esft.engine.kernels.reference import CHANCE, read
from esft.engine.members import population
from esft.engine.noise import random_bits

GRIDS = {
    "int8": Grid(-127, 127),
    "packed": Grid(0, 15, packed=True),
    "packed, signed": Grid(-8, 7, packed=True),
}
BYTE = GRIDS["int8"]
SIGMAS = (1e-3, 0.1, 0.6, 2.5, 40.0)
grids = pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)
decays = pytest.mark.parametrize(
    "decay", [{}, {"decay": 0.05, "norm": "l2"}, {"decay": 0.03, "norm": "l1"}], ids=str
)


def some_matrix(
    low: int, high: int, rows: int, columns: int, groups: int = 1, seed: int = 0
) -> Quantized:
    """A matrix with a fifth of its codes at each bound, and with minima where `low` is 0."""
    draw = torch.Generator().manual_seed(seed)
    codes = torch.randint(low, high + 1, (rows, columns), generator=draw).to(torch.int8)
    at = torch.rand(rows, columns, generator=draw)
    codes[at < 0.2], codes[at > 0.8] = low, high
    scale = 0.01 + 0.01 * torch.rand(rows, groups, generator=draw)
    minimum = 0.1 * torch.randn(rows, groups, generator=draw) if low == 0 else None
    return Quantized(codes, low, high, scale, minimum)


class CodedModel(nn.Module):
    """Four tuned matrices of 556 codes on every grid, 4 bits in an odd number of columns among
    them, beside floats and an embedding that is not tuned."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = CodedEmbedding(some_matrix(0, 15, 8, 6, seed=1), torch.float32)
        self.up = CodedLinear(some_matrix(0, 15, 15, 20, 2, seed=2), None, torch.float32)
        self.down = CodedLinear(some_matrix(-8, 7, 8, 14, seed=3), torch.ones(8), torch.float32)
        self.odd = CodedLinear(some_matrix(0, 15, 5, 9, seed=4), None, torch.float32)
        self.out = CodedLinear(some_matrix(-127, 127, 9, 11, seed=5), None, torch.float32)
        self.norm = nn.LayerNorm(6)


class CodedWeights(FailingWeights):
    """Weights of a `CodedModel`, which is at hand; its largest matrix has two pieces."""

    def __init__(self, kernels: Kernels | None = None, **chosen) -> None:
        self.model = CodedModel()
        super().__init__(self.model, scratch=SMALL_SCRATCH, kernels=kernels, **chosen)


def coded_drift(kept: str = "float32", steps: int = 3, kernels: Kernels | None = None) -> Drift:
    """A drift of `CodedWeights`, kept as `kept`, moved by some steps."""
    drift = Drift(CodedWeights(kernels), dtype=kept)
    walk_codes(drift, steps)
    return drift


def one_layer(codes: Tensor, grid: Grid, kernels: Kernels | None = None) -> Weights:
    """Weights that are one matrix of given codes, "weight"."""
    matrix = Quantized(codes, grid.low, grid.high, torch.ones(codes.shape[0], 1))
    layer = nn.ModuleDict({"w": CodedLinear(matrix, None, torch.float32)})
    return Weights(layer, kernels=kernels)


def walk_codes(drift: Drift, steps: int, run_seed: int = 0, alpha: float = 1.5, **decay) -> None:
    """Make `steps` steps of four members with made-up coefficients."""
    for step in range(1, steps + 1):
        members = population(run_seed, step, 4)
        drift.step(members, [1.5, -0.5, -1.25, 0.25], alpha, sigma=0.6, **decay)


def codes_of(weights: Weights, name: str) -> Tensor:
    """The codes of one matrix: a copy, int8 of shape (numel,)."""
    return weights.grid(name).unpack(weights.flat(name)).clone()


def all_codes(weights: Weights) -> Tensor:
    """The codes of all matrices, one after the other."""
    return torch.cat([codes_of(weights, name) for name in weights.names])


def drift_of_codes(drift: Drift, name: str) -> Tensor:
    """D of one matrix as it is kept, in float32, shape (numel,)."""
    kept = drift._kept[name]
    return read(kept.stored(kept.parts(0, drift.weights.count(name))))


def model_bits(model: nn.Module) -> dict[str, bytes]:
    """The bits of all that a model has: parameters and buffers, tuned or not."""
    return {name: tensor_bits(tensor) for name, tensor in model.state_dict().items()}


class CodesTranscript:
    """The formulas of a step of codes once more: one element at a time, D in float64."""

    def __init__(self, weights: Weights) -> None:
        self.grids = {name: weights.grid(name) for name in weights.names}
        self.base = {name: codes_of(weights, name).tolist() for name in weights.names}
        self.codes = {name: list(codes) for name, codes in self.base.items()}
        self.drift = {name: [0.0] * len(codes) for name, codes in self.base.items()}
        self.refused = 0
        """Steps of members that would have left a grid."""

    def applied(self, name: str, member: Member, sigma: float) -> list[int]:
        """Return u of a member, 0 where a code cannot take it."""
        grid, steps = self.grids[name], []
        drawn = whole_steps_by_formula(name, member.seed, sigma, len(self.base[name]))
        for code, step in zip(self.codes[name], drawn, strict=True):
            stays = grid.low <= code + member.sign * step <= grid.high
            self.refused += not stays
            steps.append(member.sign * step if stays else 0)
        return steps

    def step(self, members, coefficients, sigma, alpha, decay=0.0, norm="l2") -> None:
        pull = alpha * decay
        for name, grid in self.grids.items():
            steps = [self.applied(name, member, sigma) for member in members]
            for j, base in enumerate(self.base[name]):
                total = sum(c * u[j] for c, u in zip(coefficients, steps, strict=True))
                moved = self.drift[name][j] + alpha / len(members) * total
                size = abs(moved) * (1 - pull) if norm == "l2" else max(abs(moved) - pull, 0.0)
                moved = size if moved > 0 else -size
                moved = min(max(moved, grid.low - 0.5 - base), grid.high + 0.5 - base)
                self.drift[name][j] = moved
                # Half a step beyond the bound may round to one.
                self.codes[name][j] = min(max(base + round(moved), grid.low), grid.high)


def whole_steps_by_formula(name: str, seed: int, sigma: float, count: int) -> list[int]:
    """floor(x) + Bernoulli(x - floor(x)) of x = sigma * noise, an element at a time."""
    bits = random_bits(CHANCE, seed, name, 0, count).tolist()
    steps = []
    for eps, chance in zip(noise(seed, name, 0, count).tolist(), bits, strict=True):
        x = sigma * eps
        below = int(x // 1)
        uniform = (chance % 2**32 // 256) / 2**24
        steps.append(below + (uniform < x - below))
    return steps

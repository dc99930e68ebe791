"""The passes in Triton, compiled for the cuda device at hand: a piece in one launch.

Products are not fused with their sums, and integers round 16-bit numbers, in their bits: a compiler
may take a number that goes to bfloat16 and back for the number itself.
"""

from collections.abc import Iterable, Sequence
from types import ModuleType

import numpy as np
import torch
import triton
import triton.language as tl
from torch import Tensor

from esft.engine.codes import Grid
from esft.engine.kernels.reference import BLOCK, Kernels, Part
from esft.engine.noise import (
    CUBIC,
    MEAN_BYTE_SUM,
    MIX_1,
    MIX_2,
    STRIDE,
    UNIT,
    Factors,
    hash_keys,
)

# A kernel reads no other global numbers.
_STRIDE, _MIX_1, _MIX_2 = tl.constexpr(STRIDE), tl.constexpr(MIX_1), tl.constexpr(MIX_2)
_MEAN, _CUBIC, _UNIT = tl.constexpr(MEAN_BYTE_SUM), tl.constexpr(CUBIC), tl.constexpr(UNIT)
_BLOCK = tl.constexpr(BLOCK)

# Elements of a program, a multiple of BLOCK: 8 a thread, 16 bytes of a 16-bit dtype.
SIZE = 1024
_OPTIONS = {"SIZE": SIZE, "num_warps": 4, "enable_fp_fusion": False}


class TritonKernels(Kernels):
    """The passes on the current stream of the device of their tensors; none waits for it."""

    name = "triton"
    fused = True

    def perturb(self, parts: Iterable[Part], seed: int, scale: float) -> None:
        for part in parts:
            if part.grid is not None:
                _codes().write_codes(part, seed, scale)
                continue
            ((counter, key),) = _keys(part.name, part.start, [seed]).tolist()
            made = _made(part.factors, part.out, part.name, part.start, [seed])
            _write_part(part, scale, counter, key, made, noise=True)

    def compose(self, parts: Iterable[Part]) -> None:
        for part in parts:
            if part.grid is not None:
                _codes().write_codes(part, None, 1.0)
                continue
            _write_part(part, 0.0, 0, 0, _made(None), noise=False)

    def accumulate(
        self,
        total: Tensor,
        name: str,
        start: int,
        nets: Sequence[tuple[int, float]],
        factors: Factors | None = None,
    ) -> None:
        # (members, 3): the keys and the bits of the coefficient, in one copy to the device.
        keys = _keys(name, start, [seed for seed, _ in nets])
        coefficients = torch.tensor([net for _, net in nets], dtype=torch.float32)
        members = torch.cat([keys, coefficients.view(torch.int32).view(-1, 1)], 1)
        if total.is_cuda:  # page-locked, so that the copy is not waited for
            members = members.pin_memory().to(total.device, non_blocking=True)
        made = _made(factors, total, name, start, [seed for seed, _ in nets])
        launch(_accumulate, total, members, len(nets), *made)

    def accumulate_codes(
        self,
        total: Tensor,
        codes: Tensor,
        grid: Grid,
        name: str,
        start: int,
        pairs: Sequence[tuple[int, float, float]],
        sigma: float,
    ) -> None:
        _codes().accumulate_codes(total, codes, grid, name, start, pairs, sigma)


def _codes() -> ModuleType:
    """Return the passes over codes, which are made of those below."""
    from esft.engine.kernels import triton_codes

    return triton_codes


def _write_part(
    part: Part, scale: float, counter: int, key: int, made: tuple, *, noise: bool
) -> None:
    launch(_write, part.out, part.base, *part.kept, scale, counter, key, *made, NOISE=noise)


def _made(
    factors: Factors | None,
    out: Tensor | None = None,
    name: str = "",
    start: int = 0,
    seeds: Sequence[int] = (),
) -> tuple:
    """Return what a kernel makes noise of low rank from, no vectors where it is full: a, (seeds,
    rank, rows), b, (seeds, rank, columns), rows, columns, where among these rows elements begin,
    1 / sqrt(rank), and the rank."""
    if factors is None or not seeds:
        return None, None, 1, 1, 0, 1.0, 1
    columns = factors.columns
    first, last = start // columns, (start + out.numel() - 1) // columns
    rows = last - first + 1
    made = [factors.vectors(seed, name, first, rows, out.device) for seed in seeds]
    left, right = (torch.stack(vectors) for vectors in zip(*made, strict=True))
    place = start - first * columns
    return left, right, rows, columns, place, factors.unit, factors.rank


def _keys(name: str, start: int, seeds: Sequence[int]) -> Tensor:
    """Return counter of element `start` and second key of each noise: (seeds, 2) int32 bits."""
    keys = [hash_keys("noise", seed, name) for seed in seeds]
    bits = [((key_1 + start * STRIDE) & 0xFFFFFFFF, key_2) for key_1, key_2 in keys]
    return torch.from_numpy(np.array(bits, np.uint32).reshape(-1, 2).view(np.int32))


def launch(kernel: triton.JITFunction, out: Tensor, *arguments: object, **flags: bool) -> None:
    """Run a kernel over the elements of `out`, on its device."""
    count = out.numel()
    with torch.cuda.device_of(out):
        kernel[(triton.cdiv(count, SIZE),)](out, count, *arguments, **flags, **_OPTIONS)


@triton.jit(do_not_specialize=["counter", "key", "rows", "columns", "place"])
def _write(
    out, count, base, drift, scales, factor, owed, scale, counter, key,
    left, right, rows, columns, place, unit, RANK: tl.constexpr,
    NOISE: tl.constexpr, SIZE: tl.constexpr,
):  # fmt: skip
    """Write round(base + D) to `out`, and round that plus scale * noise where NOISE.

    Where `drift` is None there is no D; `scales` are those of int8.
    """
    first, at, mask = _places(count, SIZE)
    values = _float32(tl.load(base + first + at, mask=mask, other=0))
    if drift is not None:
        values = _composed(values, drift_of(drift, scales, factor, owed, first, at, mask))
        if NOISE:
            values = _float32(_rounded(values, out.dtype.element_ty))
    if NOISE:
        if left is None:
            noise = noise_of(counter, key, first, at)
        else:
            noise = _product(left, right, rows, columns, place + first + at, mask, unit, RANK)
        values = noise * scale + values
    tl.store(out + first + at, _rounded(values, out.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["members", "rows", "columns", "place"])
def _accumulate(
    total, count, keys, members, left, right, rows, columns, place, unit, RANK: tl.constexpr,
    SIZE: tl.constexpr,
):  # fmt: skip
    """Add the noises to `total`, one after the other, each element in a register."""
    first, at, mask = _places(count, SIZE)
    sums = tl.load(total + first + at, mask=mask, other=0)
    for _ in range(members):
        net = tl.load(keys + 2).to(tl.float32, bitcast=True)
        if left is None:
            noise = noise_of(tl.load(keys), tl.load(keys + 1), first, at)
        else:
            noise = _product(left, right, rows, columns, place + first + at, mask, unit, RANK)
            left += RANK * rows
            right += RANK * columns
        sums += noise * net
        keys += 3
    tl.store(total + first + at, sums, mask=mask)


@triton.jit
def _places(count, SIZE: tl.constexpr):
    """Return a program's first element, in 64 bits, the places of all after it, which exist."""
    first = tl.program_id(0).to(tl.int64) * SIZE
    at = tl.arange(0, SIZE)
    return first, at, at < count - first


@triton.jit
def noise_of(counter, key, first, at):
    """Return elements of the noise; see `noise.noise`. The counter wraps at 32 bits."""
    x = hashed_bits(counter, key, first, at)
    pairs = (x & 0xFF00FF) + ((x >> 8) & 0xFF00FF)
    y = ((pairs + (pairs >> 16)) & 0xFFFF).to(tl.int32) - _MEAN
    return (y * (y * y + _CUBIC)).to(tl.float32) * _UNIT


@triton.jit
def hashed_bits(counter, key, first, at):
    """Return the hashed bits of elements; see `noise.random_bits`."""
    x = counter.to(tl.uint32, bitcast=True) + first.to(tl.uint32) * _STRIDE
    x += at.to(tl.uint32) * _STRIDE
    x = (x ^ (x >> 16)) * _MIX_1
    x ^= key.to(tl.uint32, bitcast=True)
    x = (x ^ (x >> 15)) * _MIX_2
    return x ^ (x >> 16)


@triton.jit
def _product(left, right, rows, columns, at, mask, unit, RANK: tl.constexpr):
    """Return elements of noise of low rank; see `noise.Factors`."""
    row, column = at // columns, at % columns
    a, b = tl.load(left + row, mask=mask, other=0), tl.load(right + column, mask=mask, other=0)
    total = a * b
    for k in tl.static_range(1, RANK):
        a = tl.load(left + k * rows + row, mask=mask, other=0)
        b = tl.load(right + k * columns + column, mask=mask, other=0)
        total += a * b
    return total * unit


@triton.jit
def drift_of(values, scales, factor, owed, first, at, mask):
    """Return D as float32; see `reference.read`."""
    drift = _float32(tl.load(values + first + at, mask=mask, other=0))
    if scales is None:
        drift *= factor
    else:
        drift *= tl.load(scales + first // _BLOCK + at // _BLOCK, mask=mask, other=0)
        shrunk = tl.abs(drift) - owed
        sign = drift.to(tl.uint32, bitcast=True) & 0x80000000
        bits = tl.where(shrunk < 0, 0.0, shrunk).to(tl.uint32, bitcast=True) | sign
        drift = bits.to(tl.float32, bitcast=True)
    return drift


@triton.jit
def _composed(base, drift):
    """Return base + drift, with the sign that `reference.composed` gives a zero."""
    return base - (0.0 - drift)  # 0.0 - 0.0 and 0.0 - -0.0 are both 0.0


@triton.jit
def _float32(values):
    """Return numbers of any dtype as float32; bfloat16 is its upper half."""
    if values.dtype == tl.bfloat16:
        bits = values.to(tl.uint16, bitcast=True).to(tl.uint32) << 16
        values = bits.to(tl.float32, bitcast=True)
    return values.to(tl.float32)


@triton.jit
def _rounded(values, dtype: tl.constexpr):
    """Return float32 rounded to a dtype, to the nearest, half to even; NaN stays NaN."""
    bits = values.to(tl.uint32, bitcast=True)
    if dtype == tl.bfloat16:
        half = (bits + ((bits >> 16) & 1) + 0x7FFF) >> 16
        half = tl.where(values != values, 0x7FC0, half)
        values = half.to(tl.uint16).to(dtype, bitcast=True)
    elif dtype == tl.float16:
        part = bits & 0x7FFFFFFF
        # From 2**-14 on: 112 less in the exponent, 13 bits of the mantissa rounded away.
        half = (part + ((part >> 13) & 1) + 0xFFF - (112 << 23)) >> 13
        # Below, a sum with 0.5 is rounded at 2**-24, the step of the subnormals.
        small = part.to(tl.float32, bitcast=True) + 0.5
        small = small.to(tl.uint32, bitcast=True) - 0x3F000000
        half = tl.where(part < (113 << 23), small, half)
        half = tl.where(part >= (143 << 23), 0x7C00, half)
        half = tl.where(values != values, 0x7E00, half) | ((bits >> 16) & 0x8000)
        values = half.to(tl.uint16).to(dtype, bitcast=True)
    return values

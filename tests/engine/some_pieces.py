"""Pieces of weights and of D in every form, awkward numbers among them, drawn by hypothesis."""

import torch
from hypothesis import strategies as st
from some_weights import DRIFT_DTYPES, DTYPES, awkward_numbers
from torch import Tensor

from esft.engine.kernels.reference import BLOCK, Stored
from esft.engine.noise import MAX_ELEMENTS

_BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32}
_LARGEST = 2**31 - 1

seeds = st.integers(-(2**70), 2**70)
names = st.sampled_from(["weight", "model.layers.0.mlp.down_proj.weight", "ü", ""])
dtypes = st.sampled_from(DTYPES)
forms = st.sampled_from(DRIFT_DTYPES)
float32 = st.floats(width=32, allow_nan=False, allow_infinity=False)
scales = st.sampled_from([1e-3, -1e-3, 0.02, 0.0, 1e39]) | float32
nets = st.lists(st.tuples(seeds, st.floats(-3, 3) | scales), max_size=5)


@st.composite
def places(draw, most: int) -> tuple[int, int]:
    """Where a piece starts, a multiple of BLOCK, and how many elements it has, 1 to `most`."""
    count = draw(st.sampled_from([1, BLOCK, most - 1]) | st.integers(1, most))
    last = (MAX_ELEMENTS - count) // BLOCK
    blocks = st.sampled_from([0, 1, 1 << 23, last]) | st.integers(0, last)  # 2**31 is in between
    return BLOCK * draw(blocks), count


@st.composite
def numbers(draw, count: int, dtype: torch.dtype) -> Tensor:
    """Weights: most are normal, the others zeros of both signs, limits, and any bits at all."""
    random = torch.Generator().manual_seed(draw(st.integers(0, _LARGEST)))
    # Not every piece of memory is aligned.
    values = torch.empty(count + draw(st.integers(0, 3)), dtype=dtype)[-count:]
    values.copy_(0.02 * torch.randn(count, generator=random))
    for share, odd in ((0.1, _any_bits(count, dtype, random)), (0.3, awkward_numbers(dtype))):
        chosen = torch.rand(count, generator=random) < share
        picked = torch.randint(odd.numel(), (count,), generator=random)
        values[chosen] = odd[picked][chosen]
    return values


@st.composite
def drifts(draw, count: int, form: str) -> Stored:
    """D of a piece kept in one of DRIFT_DTYPES, as far as steps can make it and further."""
    if form == "float32":
        return Stored(draw(numbers(count, torch.float32)))
    if form == "float16":
        factor = 2.0 ** draw(st.integers(-100, 100))
        return Stored(draw(numbers(count, torch.float16)), factor=factor)
    random = torch.Generator().manual_seed(draw(st.integers(0, _LARGEST)))
    codes = torch.randint(-127, 128, (count,), generator=random, dtype=torch.int8)
    codes[torch.rand(count, generator=random) < 0.1] = 0
    blocks = -(-count // BLOCK)
    bounds = draw(st.sampled_from([(-120, 120), (-20, -12)]))
    scales = torch.exp2(torch.empty(blocks).uniform_(*bounds, generator=random))
    scales[torch.rand(blocks, generator=random) < 0.2] = 0
    return Stored(codes, scales, owed=draw(st.sampled_from([0.0, 1e-5, 1e-2]) | st.floats(0, 1)))


def _any_bits(count: int, dtype: torch.dtype, random: torch.Generator) -> Tensor:
    bits = torch.randint(-(2**31), 2**31, (count,), generator=random, dtype=torch.int64)
    return bits.to(_BITS[dtype.itemsize]).view(dtype)


def assert_same_bits(found: Tensor, expected: Tensor) -> None:
    """Fail unless two tensors have one dtype and the same bits; NaN may be any NaN."""
    assert found.dtype == expected.dtype
    bits = _BITS[found.itemsize]
    differ = found.view(bits) != expected.view(bits)
    differ &= ~(found.isnan() & expected.isnan())
    at = differ.nonzero().view(-1)
    assert not at.numel(), f"{at.tolist()[:5]}: {found[at][:5]}, expected {expected[at][:5]}"

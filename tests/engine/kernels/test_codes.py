"""Passes over codes have the bits of the reference, and grids give back what they pack."""

import os

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from some_codes import GRIDS, grids
from some_pieces import assert_same_bits, names, places, seeds
from some_weights import DRIFT_DTYPES

from esft.engine.codes import Grid
from esft.engine.kernels import Kernels, chosen_kernels
from esft.engine.kernels.reference import BLOCK, Part, Stored

# Elements, more than a buffer of numba's.
MOST = 600
# More than the shares of two threads.
MANY = 2 * (1 << 17) + 1002
REFERENCE = Kernels()
all_grids = st.sampled_from([*GRIDS.values(), Grid(0, 15)])
forms = st.sampled_from(DRIFT_DTYPES)
draws = st.integers(0, 2**31 - 1).map(torch.Generator().manual_seed)
sigmas = st.sampled_from([1e-3, 0.3, 1.0, 2.5, 200.0]) | st.floats(1e-4, 10)
coefficients = st.sampled_from([0.0, 1.0, -0.25]) | st.floats(-3, 3)
pairs = st.lists(st.tuples(seeds, coefficients, coefficients), min_size=1, max_size=5)


@pytest.fixture(scope="module")
def kernels():
    if os.environ.get("TRITON_INTERPRET") == "1":
        from esft.engine.kernels.triton_cuda import TritonKernels

        return TritonKernels()
    pytest.importorskip("numba")
    return chosen_kernels(torch.device("cpu"))


def some_codes(grid, count, draw):
    """Codes of a grid, a third of them at its bounds: int8 (count,)."""
    codes = torch.randint(grid.low, grid.high + 1, (count,), generator=draw)
    bounds = torch.tensor([grid.low, grid.high])[torch.randint(2, (count,), generator=draw)]
    return torch.where(torch.rand(count, generator=draw) < 0.3, bounds, codes).to(torch.int8)


def some_drift(form, count, draw):
    """D of a piece that goes beyond every grid, with zeros and halves, which round to even."""
    values = torch.randn(count, generator=draw) * torch.logspace(-2, 2.5, count)
    halves = torch.rand(count, generator=draw) < 0.3
    values[halves] = (2 * values[halves]).round() / 2
    if form == "float32":
        return Stored(values)
    if form == "float16":
        return Stored((8 * values).to(torch.float16), factor=0.125)
    scales = torch.rand(-(-count // BLOCK), generator=draw) * 0.1
    scales[::3] = 0.5
    codes = torch.randint(-127, 128, (count,), generator=draw).to(torch.int8)
    return Stored(codes, scales, owed=float(torch.rand(1, generator=draw)))


@st.composite
def pieces(draw, with_drift):
    """A piece as `Part` has it, but for where it is written; an even count where packed."""
    grid, (start, count) = draw(all_grids), draw(places(MOST))
    count += grid.packed and count % 2
    start = min(start, (1 << 32) - 4 * BLOCK)
    draw_numbers = draw(draws)
    base = grid.pack(some_codes(grid, count, draw_numbers))
    form = draw(forms if with_drift else st.none() | forms)
    drift = None if form is None else some_drift(form, count, draw_numbers)
    return draw(names), start, base, drift, grid


def part(piece, out):
    name, start, base, drift, grid = piece
    return Part(name, start, out, base, drift, grid=grid)


@given(pieces(with_drift=False), seeds, sigmas, st.sampled_from([1, -1]), st.booleans())
@settings(max_examples=150)
def test_perturb(kernels, piece, seed, sigma, sign, in_place):
    base = piece[2]
    expected = torch.empty_like(base)
    REFERENCE.perturb([part(piece, expected)], seed, sign * sigma)

    out = base if in_place else torch.empty_like(base)
    kernels.perturb([part(piece, out)], seed, sign * sigma)

    assert_same_bits(out, expected)


@given(pieces(with_drift=True))
@settings(max_examples=60)
def test_compose(kernels, piece):
    out, expected = torch.empty_like(piece[2]), torch.empty_like(piece[2])
    REFERENCE.compose([part(piece, expected)])

    kernels.compose([part(piece, out)])

    assert_same_bits(out, expected)


@given(all_grids, places(MOST), names, pairs, sigmas, draws)
@settings(max_examples=60)
def test_accumulate_codes(kernels, grid, place, name, pairs, sigma, draw):
    start, count = place
    codes = some_codes(grid, count, draw).float()
    total = torch.randn(count, generator=draw)
    expected = total.clone()
    REFERENCE.accumulate_codes(expected, codes, grid, name, start, pairs, sigma)

    kernels.accumulate_codes(total, codes, grid, name, start, pairs, sigma)

    assert_same_bits(total, expected)


@given(
    all_grids,
    st.tuples(*[st.integers(1, n) for n in (5, 4, 40)]),
    st.sampled_from([torch.float32, torch.float16]),
    st.booleans(),
    draws,
)
@settings(max_examples=100)
def test_dequantize(kernels, grid, shape, dtype, with_minimum, draw):
    rows, groups, size = shape  # where two lie in a byte, groups may begin in the middle of one
    groups *= 1 + (grid.packed and groups * size % 2)
    codes = some_codes(grid, rows * groups * size, draw)
    stored = grid.pack(codes).view(rows, -1)
    scale = torch.rand(rows, groups, generator=draw).to(dtype)
    minimum = torch.randn(rows, groups, generator=draw).to(dtype) if with_minimum else None
    out, expected = (torch.empty(rows, groups * size) for _ in range(2))
    REFERENCE.dequantize(expected, stored, grid, scale, minimum)

    kernels.dequantize(out, stored, grid, scale, minimum)

    assert_same_bits(out, expected)
    by_hand = codes.view(rows, groups, size).float() * scale.float()[..., None]
    by_hand += 0 if minimum is None else minimum.float()[..., None]
    assert_same_bits(expected, by_hand.view(rows, -1))


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize("form", DRIFT_DTYPES)
@grids
def test_threads_change_no_bit_and_neither_do_chunks(kernels, threads, grid, form):
    draw = torch.Generator().manual_seed(0)
    codes = some_codes(grid, MANY, draw)
    piece = "weight", 512, grid.pack(codes), some_drift(form, MANY, draw), grid
    pairs = [(1, 0.5, 0.0), (2, -1.5, 0.25)]

    def passes(by):
        out = [torch.empty_like(piece[2]), torch.empty_like(piece[2]), torch.zeros(MANY)]
        by.perturb([part(piece, out[0])], 1, -0.6)
        by.compose([part(piece, out[1])])
        by.accumulate_codes(out[2], codes.float(), grid, "weight", 512, pairs, 0.6)
        return out

    expected = passes(REFERENCE)
    for count in (1, 2, 3):
        threads(count)
        for found, tensor in zip(passes(kernels), expected, strict=True):
            assert_same_bits(found, tensor)


@grids
def test_every_pair_of_codes_comes_back_from_where_it_was_packed(grid):
    codes = torch.arange(grid.low, grid.high + 1, dtype=torch.int8)
    pairs = torch.cartesian_prod(codes, codes).view(-1)

    stored = grid.pack(pairs)

    assert stored.dtype == (torch.uint8 if grid.packed else torch.int8)
    assert stored.numel() * grid.per_byte == pairs.numel()
    assert_same_bits(grid.unpack(stored), pairs)


def test_the_first_of_two_codes_has_the_lower_four_bits_and_one_a_byte_stay_where_they_are():
    codes = torch.tensor([-8, 7, 1, -1], dtype=torch.int8)

    assert GRIDS["packed, signed"].pack(codes).tolist() == [0xF0, 0x79]
    assert GRIDS["int8"].pack(codes) is codes
    assert GRIDS["int8"].unpack(codes) is codes

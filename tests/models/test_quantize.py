"""A float matrix on a grid is as near as its steps allow, and the extremes stay."""

import pytest
import torch

from esft.models.quantize import quantize_int4, quantize_int8

SEEDS = [0, 1, 42]
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
ROUNDING = 2**-22  # of the largest weight: a few operations, each rounded by at most 2^-24


def some_matrix(seed, rows=12, columns=192, dtype=torch.float32):
    noise = torch.Generator().manual_seed(seed)
    sizes = 10 ** torch.empty(rows, 1).uniform_(-4, 2, generator=noise)
    return (torch.randn(rows, columns, generator=noise) * sizes + sizes / 3).to(dtype)


def near(result, expected, tolerance):
    return bool(((result - expected).abs() <= tolerance).all())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("seed", SEEDS)
def test_int8_is_off_by_half_a_step_at_most_and_keeps_the_largest(seed, dtype):
    weight = some_matrix(seed, dtype=dtype)

    result = quantize_int8(weight)

    largest = weight.float().abs().amax(1, keepdim=True)
    assert (result.low, result.high, result.minimum) == (-127, 127, None)
    assert result.codes.dtype == torch.int8
    assert result.codes.abs().amax(1).tolist() == [127] * 12
    assert near(result.scale * 127, largest, largest * ROUNDING)
    assert near(result.dequantized(), weight.float(), result.scale / 2 + largest * ROUNDING)


def test_int8_rounds_halves_to_even():
    weight = torch.tensor([[127.0, 0.5, 1.5, 2.5, -0.5, -1.5, -127.0]])

    assert quantize_int8(weight).codes.tolist() == [[127, 0, 2, 2, 0, -2, -127]]


def test_int8_keeps_zeros_exactly():
    weight = some_matrix(0)
    weight[3] = 0
    weight[:, ::5] = 0

    result = quantize_int8(weight)

    assert result.scale[3] == 0
    assert not result.codes[3].any()
    assert not result.dequantized()[weight == 0].any()


@pytest.mark.parametrize("group", [32, 64])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("seed", SEEDS)
def test_int4_is_off_by_half_a_step_at_most_and_keeps_the_extremes(seed, dtype, group):
    weight = some_matrix(seed, dtype=dtype)

    result = quantize_int4(weight, group)

    grouped = weight.float().view(12, -1, group)
    minimum, maximum = grouped.aminmax(dim=2)
    rounding = grouped.abs().amax(2) * ROUNDING
    assert (result.low, result.high) == (0, 15)
    assert result.codes.view(12, -1, group).aminmax(dim=2).min.unique().tolist() == [0]
    assert result.codes.view(12, -1, group).aminmax(dim=2).max.unique().tolist() == [15]
    assert torch.equal(result.minimum, minimum)
    assert near(result.minimum + 15 * result.scale, maximum, rounding)
    values = result.dequantized().view(12, -1, group)
    assert near(values, grouped, (result.scale / 2 + rounding)[..., None])


@pytest.mark.parametrize("seed", SEEDS)
def test_int4_keeps_constant_groups_exactly(seed):
    weight = some_matrix(seed)
    weight[2, :64] = 0
    weight[5, 64:128] = -0.3

    result = quantize_int4(weight)

    assert result.scale[2, 0] == result.scale[5, 1] == 0
    assert not result.codes[2, :64].any()
    assert torch.equal(result.dequantized()[2, :64], weight[2, :64])
    assert torch.equal(result.dequantized()[5, 64:128], weight[5, 64:128])


@pytest.mark.parametrize(
    ("columns", "group", "expected"),
    [
        (192, 64, 64),
        (96, 64, 48),
        (90, 64, 30),
        (45, 64, 45),
        (32, 64, 32),
        (75, 64, 25),
        (6, 3, 3),
    ],
)
def test_int4_groups_divide_the_columns(columns, group, expected):
    result = quantize_int4(some_matrix(0, columns=columns), group)

    assert result.scale.shape == result.minimum.shape == (12, columns // expected)


@pytest.mark.parametrize("quantize", [quantize_int8, quantize_int4])
@pytest.mark.parametrize("size", [2**-149, 11 * 2**-149, 190 * 2**-149, 1e-38, 1e37])
def test_tiny_and_huge_weights_stay_on_the_grid(size, quantize):
    weight = torch.tensor([[0.0, 1, -1, 0.5] * 16]) * size

    result = quantize(weight)

    assert result.low <= result.codes.min() <= result.codes.max() <= result.high
    assert result.scale.any() or not result.codes.any()
    # Subnormal steps, multiples of 2^-149, may be off by half of one: 15 or 127 times that.
    assert near(result.dequantized(), weight, size / 7.5 + 64 * 2**-149)


@pytest.mark.parametrize("quantize", [quantize_int8, quantize_int4])
def test_the_same_matrix_gets_the_same_codes_in_any_layout_and_stays_as_it_is(quantize):
    weight = some_matrix(7)
    before = weight.clone()

    first, second = quantize(weight), quantize(weight.T.contiguous().T)

    assert torch.equal(first.codes, second.codes)
    assert second.codes.is_contiguous()
    assert torch.equal(first.scale, second.scale)
    assert torch.equal(weight, before)


@pytest.mark.parametrize("quantize", [quantize_int8, quantize_int4])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_finite_are_refused(quantize, bad):
    weight = some_matrix(0)
    weight[4, 9] = bad

    with pytest.raises(ValueError, match="hold NaN or infinite values"):
        quantize(weight)


def test_a_group_below_1_is_refused():
    with pytest.raises(ValueError, match="group is 0, expected at least 1"):
        quantize_int4(some_matrix(0), group=0)

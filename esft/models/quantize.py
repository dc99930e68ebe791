"""A float matrix on a grid: rounded to whole numbers of steps.

A row that is all 0, or a group that is all the same, has scale 0 and comes back exactly.
"""

import torch
from torch import Tensor

from esft.engine.codes import Quantized


def quantize_int8(weight: Tensor) -> Quantized:
    """Return `weight` with a scale per row, max |w| / 127, and codes from -127 to 127; 0 stays 0.

    Args:
        weight: (rows, columns), any floating dtype; the arithmetic is float32.

    Raises:
        ValueError: if a weight is not finite in float32.
    """
    values = _finite(weight)
    scale = values.abs().amax(1, keepdim=True) / 127  # (rows, 1)
    return Quantized(_steps(values, scale, -127, 127), -127, 127, scale)


def quantize_int4(weight: Tensor, group: int = 64) -> Quantized:
    """Return `weight` with a scale and a minimum per group of columns, and codes from 0 to 15.

    The scale is (max - min) / 15. If `group` does not divide the columns, the largest even divisor
    below it does instead; if none is even, the largest.

    Args:
        weight: (rows, columns), any floating dtype; the arithmetic is float32.
        group: columns that share a scale, > 0.

    Raises:
        ValueError: if a weight is not finite in float32, or `group` is below 1.
    """
    if group < 1:
        raise ValueError(f"group is {group}, expected at least 1")
    values = _finite(weight)
    rows, columns = values.shape
    values = values.view(rows, -1, _divisor(columns, group))
    minimum, maximum = values.aminmax(dim=2, keepdim=True)  # (rows, groups, 1)
    scale = (maximum - minimum) / 15
    codes = _steps(values - minimum, scale, 0, 15).view(rows, columns)
    return Quantized(codes, 0, 15, scale.squeeze(2), minimum.squeeze(2))


def _steps(values: Tensor, scale: Tensor, low: int, high: int) -> Tensor:
    # The division may leave the largest a rounding above `high`, or steps below float32's least.
    steps = (values / scale.masked_fill(scale == 0, 1)).round_()  # half to even
    return steps.clamp_(low, high).to(torch.int8)


def _divisor(columns: int, group: int) -> int:
    if columns % group == 0:
        return group
    divisors = [n for n in range(1, min(group, columns) + 1) if columns % n == 0]
    return max(divisors, key=lambda n: (n % 2 == 0, n))


def _finite(weight: Tensor) -> Tensor:
    values = weight.detach().float().contiguous()
    if not values.isfinite().all():
        raise ValueError("the weights hold NaN or infinite values, expected finite numbers")
    return values

"""Noise as a pure function of seed, tensor name and element."""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import Tensor

NOISE_VERSION = 1
"""What a journal records; a new noise gets a new version and leaves this one as it is."""

LOW_RANK_VERSION = 2
"""What it records of noise of low rank, which is made of the other."""

CODES_VERSION = 3
"""What it records of noise of whole steps, for codes: it is made of the first, too."""

LOW_RANK_CODES_VERSION = 4
"""What it records of noise of low rank that is added to what codes stand for."""

NOISE_VERSIONS = NOISE_VERSION, LOW_RANK_VERSION, CODES_VERSION, LOW_RANK_CODES_VERSION

STRIDE = 0x9E3779B9
MIX_1 = 0x7FEB352D
MIX_2 = 0x846CA68B
_BYTES_0_AND_2 = 0x00FF00FF
MEAN_BYTE_SUM = 510
CUBIC = 1_150_000
# 1 / standard deviation of y * (y * y + CUBIC), summed exactly over the law of four bytes.
UNIT = 5.593022820053089e-09

MAX_NOISE = 4.0223
"""No noise value is larger than this in magnitude."""

MAX_ELEMENTS = 1 << 32
"""Elements of one tensor that have noise of their own: the counter has 32 bits."""


@dataclass(frozen=True)
class Factors:
    """Noise of low rank for a matrix: (1 / sqrt(rank)) * sum_k a_k b_k^T.

    a_k and b_k are noise, of an element a row and a column, so that each element has mean 0 and
    variance 1 as full noise has, and is a number of its own only along with its row and column.

    Source: arXiv:2511.16652 (EGGROLL): E = A B^T / sqrt(r).
    """

    columns: int
    rank: int

    @property
    def unit(self) -> float:
        """1 / sqrt(rank)."""
        return 1 / math.sqrt(self.rank)

    @property
    def largest(self) -> float:
        """No noise value is larger than this in magnitude."""
        return MAX_NOISE**2 * math.sqrt(self.rank)

    def vectors(
        self, seed: int, name: str, first: int, rows: int, device: torch.device | str = "cpu"
    ) -> tuple[Tensor, Tensor]:
        """Return a of some rows, (rank, rows), and b, (rank, columns), of the matrix `name`."""
        left = noise_rows(self.streams("left", seed, name), first, rows, device)
        return left, noise_rows(self.streams("right", seed, name), 0, self.columns, device)

    def streams(self, side: str, seed: int, name: str) -> list[tuple[str, int, str]]:
        """Return the purpose, seed and name of the noise that each a_k ("left") or b_k is."""
        return [(side, seed, f"{name}:{k}") for k in range(self.rank)]


def drawn(
    seed: int,
    name: str,
    start: int,
    count: int,
    device: torch.device | str = "cpu",
    factors: Factors | None = None,
) -> Tensor:
    """Return `noise`, of low rank where there are `factors`: float32 (count,)."""
    if factors is None or not count:
        return noise(seed, name, start, count, device)
    columns = factors.columns
    first, last = start // columns, (start + count - 1) // columns
    left, right = factors.vectors(seed, name, first, last - first + 1, device)
    total = left[0, :, None] * right[0]
    for k in range(1, factors.rank):
        total += left[k, :, None] * right[k]
    return total.view(-1)[start - first * columns :][:count] * factors.unit


def noise(
    seed: int,
    name: str,
    start: int,
    count: int,
    device: torch.device | str = "cpu",
    *,
    purpose: str = "noise",
) -> Tensor:
    """Return elements `start` to `start + count` of the noise that `seed` gives the tensor `name`.

    float32 of shape (count,), close to N(0, 1), at most MAX_NOISE in magnitude; elements count in
    row-major order, and any integer is a seed. A counter-based hash: no generator state, so any
    slice can be had alone and agrees with the whole. The sum of four hashed bytes is bent
    towards the normal law by a cubic; all steps but the last multiplication are integers, hence
    the same on every device.

    Raises:
        ValueError: if the slice lies outside 0 to MAX_ELEMENTS.
    """
    return noise_rows([(purpose, seed, name)], start, count, device)[0]


def noise_rows(
    streams: Sequence[tuple[str, int, str]],
    start: int,
    count: int,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Return a row of `noise` for each (purpose, seed, name): float32 (streams, count)."""
    bits = _hashed(streams, start, count, device)
    high = bits >> 8
    high &= _BYTES_0_AND_2
    bits &= _BYTES_0_AND_2
    bits += high
    torch.bitwise_right_shift(bits, 16, out=high)
    bits += high
    bits &= 0xFFFF
    bits -= MEAN_BYTE_SUM
    torch.mul(bits, bits, out=high)
    high += CUBIC
    bits *= high
    values = bits.to(torch.float32)
    values *= UNIT
    return values


def random_bits(
    purpose: str, seed: int, name: str, start: int, count: int, device: torch.device | str = "cpu"
) -> Tensor:
    """Return 32 hashed bits an element, int32 of shape (count,), as `noise` slices them.

    Streams of another purpose, seed or name are independent: all three go through SHA-256 into
    the two keys of the hash. Multiplications wrap; shifts are masked, since int32 shifts
    keep the sign.
    """
    return _hashed([(purpose, seed, name)], start, count, device)[0]


def _hashed(
    streams: Sequence[tuple[str, int, str]], start: int, count: int, device: torch.device | str
) -> Tensor:
    if start < 0 or count < 0 or start + count > MAX_ELEMENTS:
        raise ValueError(f"elements {start} to {start + count}, expected 0 to {MAX_ELEMENTS}")
    keys = [
        (_signed(key_1 + start * STRIDE), _signed(key_2))
        for key_1, key_2 in (hash_keys(*stream) for stream in streams)
    ]
    first, second = torch.tensor(keys, dtype=torch.int32, device=device)[..., None].unbind(1)
    bits = torch.arange(count, dtype=torch.int32, device=device)
    bits *= _signed(STRIDE)
    bits = bits + first  # (streams, count)
    shifted = bits >> 16
    shifted &= 0xFFFF
    bits ^= shifted
    bits *= MIX_1
    bits ^= second
    torch.bitwise_right_shift(bits, 15, out=shifted)
    shifted &= 0x1FFFF
    bits ^= shifted
    bits *= _signed(MIX_2)
    torch.bitwise_right_shift(bits, 16, out=shifted)
    shifted &= 0xFFFF
    bits ^= shifted
    return bits


@cache
def whole_steps_square(sigma: float) -> float:
    """Return the mean square of sigma * noise, rounded to whole numbers by chance: what is added
    to codes.

    Summed over the law of the sum of four bytes; sigma^2 + E[f (1 - f)], f being the fraction.
    """
    law, values = _law(sigma)
    fraction = values - np.floor(values)
    return float((law * (values * values + fraction * (1 - fraction))).sum())


@cache
def steps_taken(sigma: float) -> float:
    """Return the share of codes that such noise changes: those that it does not leave at 0."""
    law, values = _law(sigma)
    stays = np.clip(1 - np.abs(values), 0, None)
    return float((law * (1 - stays)).sum())


def _law(sigma: float) -> tuple[np.ndarray, np.ndarray]:
    """Return probabilities and values of sigma * noise, by the sum of its four bytes."""
    law = np.ones(1)
    for _ in range(4):
        law = np.convolve(law, np.full(256, 1 / 256))
    y = np.arange(law.size, dtype=np.float64) - MEAN_BYTE_SUM
    return law, sigma * UNIT * y * (y * y + CUBIC)


def derived_seed(purpose: str, *numbers: int) -> int:
    """Return a 63-bit seed hashed from `numbers`, such as (run seed, step, member)."""
    text = ":".join(["esft seed", purpose, *map(str, numbers)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1


def hash_keys(purpose: str, seed: int, name: str) -> tuple[int, int]:
    """Return the two 32-bit keys of a stream: what makes its bits its own."""
    text = f"esft noise {NOISE_VERSION}:{purpose}:{seed}:{name}"
    digest = hashlib.sha256(text.encode()).digest()
    return int.from_bytes(digest[:4], "little"), int.from_bytes(digest[4:8], "little")


def _signed(value: int) -> int:
    """Return the int32 with the low 32 bits of `value`."""
    value &= 0xFFFFFFFF
    return value - (1 << 32) if value >= 1 << 31 else value

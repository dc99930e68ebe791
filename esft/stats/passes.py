"""Pass@k: how often one of k sampled answers is right, from n samples of each row."""

from collections.abc import Sequence
from dataclasses import dataclass

from esft.stats.intervals import Interval, mean_and_error
from esft.stats.paired import compare


@dataclass(frozen=True, kw_only=True)
class PassRate:
    """Pass@k in the mean over rows, and what it is against the base on the same rows."""

    k: int
    rate: float
    se: float
    """Of `rate` over rows; NaN for a single row, as for `change_se`."""
    change: float | None = None
    """These three: None for the base."""
    change_se: float | None = None
    interval: Interval | None = None
    """Of `change`, at 95 %."""


def pass_at_k(samples: int, right: int, k: int) -> float:
    """Return the chance that at least one of k samples, drawn without repetition, is right.

    1 - C(n - c, k) / C(n, k) with n samples of which c are right: unbiased for the chance that one
    of k independent answers is right. As a product of k factors, none of which overflows.

    Raises:
        ValueError: unless 0 <= right <= samples and 1 <= k <= samples.

    Source: arXiv:2107.03374, equation 1.
    """
    if not (0 <= right <= samples and 1 <= k <= samples):
        raise ValueError(f"{right} right of {samples} samples, and k is {k}")
    none = 1.0
    for drawn in range(k):  # the chance that the next one is wrong too
        none *= max(0, samples - right - drawn) / (samples - drawn)
    return 1.0 - none


def sizes(samples: int) -> tuple[int, ...]:
    """Return 1, 2, 4, ... below a number of samples, and that number."""
    return (*(1 << power for power in range((samples - 1).bit_length())), samples)


def pass_rates(
    samples: int, right: Sequence[int], base: Sequence[int] | None = None
) -> tuple[PassRate, ...]:
    """Return pass@k for each of `sizes`.

    Args:
        samples: of each row.
        right: how many of them, row by row.
        base: the same of the base, on the same rows in one order; None compares with nothing.

    Raises:
        ValueError: if the numbers of rows differ, or there is none.
    """
    rates = []
    for k in sizes(samples):
        now = [pass_at_k(samples, one, k) for one in right]
        rate, se = mean_and_error(now)
        against = {}
        if base is not None:
            paired = compare([pass_at_k(samples, one, k) for one in base], now)
            against = {"change": paired.difference, "change_se": paired.se}
            against["interval"] = paired.interval
        rates.append(PassRate(k=k, rate=rate, se=se, **against))
    return tuple(rates)

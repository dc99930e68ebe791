"""Reward shaping: from the rewards of a population to its coefficients."""

import math
from bisect import bisect_left, bisect_right

EQUAL = 1e-12
"""Rewards no further apart than this are equal: they say nothing about a direction."""

_STD_FLOOR = 1e-8
SHAPINGS = ("zscore", "ranks")


def shape(
    rewards: list[float], shaping: str = "zscore", antithetic: bool = False
) -> list[float | None]:
    """Return the coefficient of each member, or None for one that gets none.

    A member whose reward is NaN or infinite gets None, and so does its antithetic partner. When
    the others' rewards are equal, all get None: the step makes no update.

    Args:
        rewards: mean reward of each member, pairs side by side when `antithetic`.
        shaping: "zscore" (R - mean) / (std + 1e-8), std with ddof 0; or "ranks", centred ranks in
            -0.5 to 0.5, ties sharing their rank.

    Raises:
        ValueError: if the shaping is unknown, or antithetic rewards are odd in number.

    Source: arXiv:2509.24372, section 3.2 (z-score); centred ranks: arXiv:1703.03864, section 2.
    """
    if shaping not in SHAPINGS:
        raise ValueError(f"shaping is {shaping!r}, expected one of {', '.join(SHAPINGS)}")
    if antithetic and len(rewards) % 2:
        raise ValueError(f"{len(rewards)} antithetic rewards, expected an even number")
    finite = [math.isfinite(reward) for reward in rewards]
    counted = [i for i in range(len(rewards)) if finite[i] and finite[i ^ antithetic]]
    values = [rewards[i] for i in counted]
    coefficients: list[float | None] = [None] * len(rewards)
    if not values or max(values) - min(values) <= EQUAL:
        return coefficients
    shaped = _zscore(values) if shaping == "zscore" else _centred_ranks(values)
    for i, coefficient in zip(counted, shaped, strict=True):
        coefficients[i] = coefficient
    return coefficients


def _zscore(values: list[float]) -> list[float]:
    mean = math.fsum(values) / len(values)
    variance = math.fsum((value - mean) ** 2 for value in values) / len(values)
    return [(value - mean) / (math.sqrt(variance) + _STD_FLOOR) for value in values]


def _centred_ranks(values: list[float]) -> list[float]:
    ordered, last = sorted(values), len(values) - 1
    ranks = [(bisect_left(ordered, v) + bisect_right(ordered, v) - 1) / 2 for v in values]
    return [rank / last - 0.5 for rank in ranks]

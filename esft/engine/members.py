"""Members: what a step tries, and the coefficients that their rewards earn them."""

import math
from bisect import bisect_left, bisect_right
from dataclasses import dataclass

from esft.engine.noise import derived_seed

EQUAL = 1e-12
"""Rewards no further apart than this are equal: they say nothing about a direction."""

SHAPINGS = ("zscore", "ranks")


@dataclass(frozen=True)
class Member:
    """One member of a population: the weights plus sigma * sign * noise(seed)."""

    seed: int
    sign: int = 1
    """-1 for the mirrored member of an antithetic pair."""

    def __post_init__(self) -> None:
        if self.sign not in (1, -1):
            raise ValueError(f"sign is {self.sign}, expected 1 or -1")


def population(run_seed: int, step: int, size: int, antithetic: bool = False) -> list[Member]:
    """Return the `size` members of a step; pairs lie side by side when `antithetic`."""
    signs = (1, -1) if antithetic else (1,)
    if size % len(signs):
        raise ValueError(f"size is {size}, expected an even number: antithetic pairs the members")
    seeds = [derived_seed("member", run_seed, step, i) for i in range(size // len(signs))]
    return [Member(seed, sign) for seed in seeds for sign in signs]


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

    Source: arXiv:2509.24372, section 3.2 (z-score); centred ranks: arXiv:1703.03864, section 2.
    """
    if shaping not in SHAPINGS:
        raise ValueError(f"shaping is {shaping!r}, expected one of {', '.join(SHAPINGS)}")
    counted = with_finite_rewards(rewards, antithetic)
    values = [rewards[i] for i in counted]
    coefficients: list[float | None] = [None] * len(rewards)
    if not values or max(values) - min(values) <= EQUAL:
        return coefficients
    if shaping == "zscore":
        mean = math.fsum(values) / len(values)
        variance = math.fsum((value - mean) ** 2 for value in values) / len(values)
        shaped = [(value - mean) / (math.sqrt(variance) + 1e-8) for value in values]
    else:
        ordered, last = sorted(values), len(values) - 1
        ranks = [(bisect_left(ordered, v) + bisect_right(ordered, v) - 1) / 2 for v in values]
        shaped = [rank / last - 0.5 for rank in ranks]
    for i, coefficient in zip(counted, shaped, strict=True):
        coefficients[i] = coefficient
    return coefficients


def with_finite_rewards(rewards: list[float], antithetic: bool = False) -> list[int]:
    """Return which members have a finite reward, and an antithetic partner that has one too."""
    if antithetic and len(rewards) % 2:
        raise ValueError(f"{len(rewards)} antithetic rewards, expected an even number")
    finite = [math.isfinite(reward) for reward in rewards]
    return [i for i in range(len(rewards)) if finite[i] and finite[i ^ antithetic]]


def expected_squares(
    size: int, shaping: str = "zscore", antithetic: bool = False
) -> tuple[float, float]:
    """Return the sum S of the squared net coefficients of a step that is expected without signal,
    and the largest one; there are `size` members, of different rewards.

    Without pairs both are the sum of the squared coefficients, which the shaping fixes. With
    them S is from 0 (the two of each pair get the same reward) to twice that sum (opposite
    ones); the expectation is a little above the sum, since coefficients add up to 0, so that
    those of two members are opposed by 1 in size - 1.
    """
    squares = float(size) if shaping == "zscore" else size * (size + 1) / (12 * (size - 1))
    return (squares * size / (size - 1), 2 * squares) if antithetic else (squares, squares)


def with_coefficients(
    members: list[Member], coefficients: tuple[float, ...]
) -> tuple[list[Member], list[float]]:
    """Return the members that got a coefficient, with it; NaN stands for none."""
    pairs = zip(members, coefficients, strict=True)
    counted = [(member, c) for member, c in pairs if not math.isnan(c)]
    return [member for member, _ in counted], [c for _, c in counted]


def net_coefficients(members: list[Member], coefficients: list[float]) -> list[tuple[int, float]]:
    """Return (seed, coefficient) of each distinct noise, in the members' order.

    The two of an antithetic pair share a noise: their signed coefficients add up, and one draw
    serves both. Noises whose coefficients cancel are left out.
    """
    nets: dict[int, float] = {}
    for member, coefficient in zip(members, coefficients, strict=True):
        nets[member.seed] = nets.get(member.seed, 0.0) + member.sign * float(coefficient)
    return [(seed, net) for seed, net in nets.items() if net != 0.0]


def pair_coefficients(
    members: list[Member], coefficients: list[float]
) -> list[tuple[int, float, float]]:
    """Return (seed, coefficient of +noise, coefficient of -noise) of each distinct noise, in the
    members' order: what codes need, which may take a step one way and not the other."""
    pairs: dict[int, list[float]] = {}
    for member, coefficient in zip(members, coefficients, strict=True):
        pairs.setdefault(member.seed, [0.0, 0.0])[member.sign < 0] += float(coefficient)
    return [(seed, plus, minus) for seed, (plus, minus) in pairs.items() if plus or minus]

"""Members: what a step tries."""

import math
from dataclasses import dataclass

from esft.engine.noise import derived_seed


@dataclass(frozen=True)
class Member:
    """One member of a population: the weights plus sigma * sign * noise(seed).

    Raises:
        ValueError: if `sign` is neither 1 nor -1.
    """

    seed: int
    """What its noise is drawn from."""
    sign: int = 1
    """-1 for the mirrored member of an antithetic pair."""

    def __post_init__(self) -> None:
        if self.sign not in (1, -1):
            raise ValueError(f"sign is {self.sign}, expected 1 or -1")


def population(run_seed: int, step: int, size: int, antithetic: bool = False) -> list[Member]:
    """Return the `size` members of a step; pairs lie side by side when `antithetic`.

    Args:
        run_seed: seed of the run.
        step: counted from 1.
        size: members; even when antithetic.

    Raises:
        ValueError: if an antithetic population is odd.
    """
    if not antithetic:
        return [Member(derived_seed("member", run_seed, step, i)) for i in range(size)]
    if size % 2:
        raise ValueError(f"size is {size}, expected an even number: antithetic pairs the members")
    seeds = [derived_seed("member", run_seed, step, i) for i in range(size // 2)]
    return [Member(seed, sign) for seed in seeds for sign in (1, -1)]


def with_coefficients(
    members: list[Member], coefficients: tuple[float, ...]
) -> tuple[list[Member], list[float]]:
    """Return the members that got a coefficient, with it; NaN stands for none.

    Raises:
        ValueError: if the lengths differ.
    """
    pairs = [
        (member, c) for member, c in zip(members, coefficients, strict=True) if not math.isnan(c)
    ]
    return [member for member, _ in pairs], [c for _, c in pairs]


def net_coefficients(members: list[Member], coefficients: list[float]) -> list[tuple[int, float]]:
    """Return (seed, coefficient) of each distinct noise, in the members' order.

    The two of an antithetic pair share a noise: their signed coefficients add up, and one draw
    serves both. Noises whose coefficients cancel are left out.

    Raises:
        ValueError: if the lengths differ.
    """
    nets: dict[int, float] = {}
    for member, coefficient in zip(members, coefficients, strict=True):
        nets[member.seed] = nets.get(member.seed, 0.0) + member.sign * float(coefficient)
    return [(seed, net) for seed, net in nets.items() if net != 0.0]

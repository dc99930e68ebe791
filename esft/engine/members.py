"""Members: what a step tries."""

import math
from dataclasses import dataclass

from esft.engine.noise import derived_seed


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

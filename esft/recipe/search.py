"""How a step explores the weights: the [search] table of a recipe."""

from __future__ import annotations

import math
from dataclasses import dataclass

from esft.recipe.check import Settings, setting
from esft.recipe.rules import SEARCH_RULES

CODED_SCALES = {"int8": (0.001, 5.0), "int4": (0.01, 2.5), "codes": (0.01, 2.5)}
"""Sigma and alpha by [model] weights, in steps of the grid, where nothing else is said and noise is
full: those published for 50 members, arXiv:2602.03120. Those of floats are in other units."""

SIGMA_END, ALPHA_END = 1.0, 0.1
"""What sigma and alpha are annealed to where nothing else is said."""


@dataclass(frozen=True, kw_only=True)
class Search(Settings):
    """How a step explores the weights: the [search] table."""

    table = "search"
    rules = SEARCH_RULES

    # Larger ones are not exact in floating point, which the forecast is made of.
    steps: int = setting("Updates of the weights", 500, flag="--steps", at_most=10**15)
    population: int = setting(
        "Members per step, an even number if antithetic", 30, flag="--population", at_least=2
    )
    sigma: float = setting(
        "Noise scale, standard deviation added to every weight; of codes with full noise 0.01 "
        "steps of their grid, 0.001 of int8",
        1e-3,
        flag="--sigma",
        above=0,
    )
    alpha: float = setting(
        "Learning rate, with the 1/sigma of the gradient estimate folded in; of codes with full "
        "noise 2.5 steps, 5 of int8",
        5e-4,
        flag="--alpha",
        above=0,
    )
    seed: int | None = setting(
        "Seed of the run, 0 or more",
        example=42,
        unset="drawn and recorded",
        flag="--seed",
        at_least=0,
        at_most=2**63 - 1,
    )
    anneal: str | None = setting(
        "How sigma and alpha fall from the first step to the last",
        example="cosine",
        unset="they stay as they are",
        flag="--anneal",
        choices=("cosine", "linear"),
    )
    sigma_end: float | None = setting(
        "Sigma of the last step, a fraction of that of the first",
        example=0.5,
        unset=f"{SIGMA_END:g} with anneal",
        above=0,
        at_most=1,
    )
    alpha_end: float | None = setting(
        "Alpha of the last step, a fraction of that of the first",
        example=0.1,
        unset=f"{ALPHA_END:g} with anneal",
        above=0,
        at_most=1,
    )
    antithetic: bool = setting("Try each noise with both signs", False)
    screen_rows: bool = setting(
        "Leave rows out on which the members of three steps did not differ, and look at them again "
        "every fifth turn; rewards of a step are of the rows it sees",
        False,
    )
    shaping: str = setting("How rewards become coefficients", "zscore", choices=("zscore", "ranks"))
    noise: str = setting(
        "Noise of a matrix: a number of its own for each weight, or products of two vectors, which "
        "leave norms alone",
        "full",
        flag="--noise",
        choices=("full", "lowrank"),
    )
    rank: int = setting("Rank of the noise of a matrix", 1, example=4, at_least=1, at_most=64)

    @property
    def low_rank(self) -> int | None:
        """Rank of the noise of matrices; None where it is full."""
        return self.rank if self.noise == "lowrank" else None

    def at(self, step: int) -> tuple[float, float]:
        """Return sigma and alpha of a step, counted from 1."""
        passed = min(1, (step - 1) / max(1, self.steps - 1))  # 1 in the last step
        match self.anneal:
            case None:
                return self.sigma, self.alpha
            case "cosine":
                passed = (1 - math.cos(math.pi * passed)) / 2
        sigma_end = SIGMA_END if self.sigma_end is None else self.sigma_end
        alpha_end = ALPHA_END if self.alpha_end is None else self.alpha_end
        return (
            self.sigma * (1 - passed * (1 - sigma_end)),
            self.alpha * (1 - passed * (1 - alpha_end)),
        )

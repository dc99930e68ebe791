"""The formulas of a step, written down once more: straight, whole tensors, float64."""

import torch
from torch import Tensor

from esft.engine import Member, Weights, noise


class Transcript:
    """D of some weights in float64, tensor by tensor, from D = 0."""

    def __init__(self, weights: Weights) -> None:
        self.drift = {
            name: torch.zeros(weights.flat(name).numel(), dtype=torch.float64)
            for name in weights.names
        }

    def step(self, members: list[Member], coefficients: list[float], alpha, decay=0.0, norm="l2"):
        sums = {name: sum_of_noises(self, name, members, coefficients) for name in self.drift}
        self.step_by(sums, len(members), alpha, decay, norm)

    def step_by(self, sums: dict[str, Tensor], size: int, alpha, decay=0.0, norm="l2"):
        """Make a step from the sums over the members of coefficient times noise."""
        for name, drift in self.drift.items():
            moved = drift + alpha / size * sums[name]
            if norm == "l2":
                self.drift[name] = (1 - alpha * decay) * moved
            else:
                self.drift[name] = moved.sign() * (moved.abs() - alpha * decay).clamp(min=0)

    def norm(self) -> float:
        return float(self.vector().norm())

    def vector(self) -> Tensor:
        return torch.cat(list(self.drift.values()))


def sum_of_noises(transcript, name, members, coefficients, draw=noise) -> Tensor:
    total = torch.zeros_like(transcript.drift[name])
    for member, coefficient in zip(members, coefficients, strict=True):
        total += coefficient * member.sign * draw(member.seed, name, 0, total.numel()).double()
    return total

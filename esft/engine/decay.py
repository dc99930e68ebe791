"""Anchored Weight Decay: the pull of the drift towards zero."""

import math

import torch
from torch import Tensor

NORMS = ("l1", "l2")


def pull_of(alpha: float, decay: float, norm: str) -> float:
    """Return what a decay pulls in one step: alpha * decay, checked.

    Args:
        alpha: learning rate, >= 0.
        decay: lambda in the paper, >= 0; 0 pulls nothing.
        norm: "l1" (the pull is in units of weight) or "l2" (it is a share of the drift).

    Raises:
        ValueError: if the norm is unknown, the pull is negative or no number, or an L2 pull
            is above 1, which would jump past the anchor.
    """
    if norm not in NORMS:
        raise ValueError(f"norm is {norm!r}, expected 'l1' or 'l2'")
    pull = alpha * decay
    if not (pull >= 0 and math.isfinite(pull)):
        raise ValueError(f"alpha * decay is {pull:g}, expected 0 or more")
    if norm == "l2" and pull > 1:
        raise ValueError(f"alpha * decay is {pull:g}, expected 0 to 1: lower decay")
    return pull


def decay_(drift: Tensor, pull: float, norm: str) -> None:
    """Shrink `drift` towards the anchor, in place.

    L2: d <- (1 - pull) * d. L1: d <- sign(d) * max(|d| - pull, 0).

    Args:
        drift: theta - theta_0, any shape, float32 on any device.
        pull: alpha * lambda, from `pull_of`.
        norm: "l1" or "l2".

    Source: arXiv:2605.30148, Algorithm 1, line 8, as a proximal step.
    """
    if pull == 0:
        return
    if norm == "l2":
        # Not a product with 1 - pull: that constant's rounding error adds up over thousands
        # of steps.
        drift -= drift * pull
        return
    shrunk = drift.abs()
    shrunk -= pull
    shrunk.clamp_(min=0)
    torch.copysign(shrunk, drift, out=drift)

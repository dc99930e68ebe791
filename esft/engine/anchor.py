"""The anchor: where theta_0 lies while a drift is tuned, and the pull towards it."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from esft.engine.weights import Weights
from esft.errors import AnchorError

STORES = ("disk", "cpu", "device")
"""Where theta_0 lies: mapped from a file, copied to host memory, copied to the weights' device."""

NORMS = ("l1", "l2")


def anchor_of(
    weights: Weights, store: str, mapped: Mapping[str, Tensor] | None
) -> dict[str, Tensor]:
    """Return theta_0 of `weights`, which are at their base values: (numel,) each, by name."""
    if store not in STORES:
        raise ValueError(f"store is {store!r}, expected one of {', '.join(STORES)}")
    if (mapped is not None) != (store == "disk"):
        raise ValueError(
            f"base is {'missing' if mapped is None else 'given'} with store {store!r}: "
            "it goes with 'disk', and 'disk' with it"
        )
    flats = {name: weights.flat(name) for name in weights.names}
    if mapped is not None:
        has, needs = forms(mapped), forms(flats)
        for name in needs | has:
            if has.get(name) != needs.get(name):
                raise ValueError(f"base of {name} is {has.get(name)}, expected {needs.get(name)}")
    for piece in weights.pieces():
        if not bool(torch.isfinite(piece.flat).all()):
            raise AnchorError(
                f"{piece.name} of the base model is NaN or infinite, expected finite weights",
                hint="load the checkpoint in another dtype, or take another checkpoint",
            )
    if mapped is not None:
        return dict(mapped)
    if store == "device":
        return {name: flat.clone() for name, flat in flats.items()}
    return {
        name: torch.empty(flat.shape, dtype=flat.dtype, pin_memory=flat.is_cuda).copy_(flat)
        for name, flat in flats.items()
    }


def forms(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """Return dtype and shape of tensors, as words."""
    return {name: f"{t.dtype} of shape {tuple(t.shape)}" for name, t in tensors.items()}


def pull_of(alpha: float, decay: float, norm: str) -> float:
    """Return alpha * decay, checked: in units of weight for "l1", a share of the drift for "l2".

    Raises:
        ValueError: if the norm is unknown, the pull is negative or not a number, or an L2 pull
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

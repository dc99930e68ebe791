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
    """Return theta_0 of `weights`, which are at their base values: (numel,) each, by name.

    Args:
        weights: checked to be finite.
        store: one of `STORES`. A copy in host memory is page-locked for cuda.
        mapped: for "disk" the base weights by name, flat and in host memory; only read.

    Raises:
        ValueError: if the store is unknown, `mapped` is missing for "disk" or given for another
            store, or its names, sizes or dtypes are not those of the weights.
        AnchorError: if a base weight is NaN or infinite.
    """
    if store not in STORES:
        raise ValueError(f"store is {store!r}, expected one of {', '.join(STORES)}")
    if (mapped is not None) != (store == "disk"):
        raise ValueError(
            f"base is {'missing' if mapped is None else 'given'} with store {store!r}: "
            "it goes with 'disk', and 'disk' with it"
        )
    if mapped is not None:
        _refuse_other_tensors(weights, mapped)
    for piece in weights.pieces():
        if not bool(torch.isfinite(piece.flat).all()):
            raise AnchorError(
                f"{piece.name} of the base model is NaN or infinite, expected finite weights",
                hint="load the checkpoint in another dtype, or take another checkpoint",
            )
    if mapped is not None:
        return {name: mapped[name] for name in weights.names}
    return {name: _copy_of(weights.flat(name), store) for name in weights.names}


def _refuse_other_tensors(weights: Weights, mapped: Mapping[str, Tensor]) -> None:
    missing, unknown = set(weights.names) - set(mapped), set(mapped) - set(weights.names)
    if missing or unknown:
        raise ValueError(
            f"base lacks {sorted(missing)} and has {sorted(unknown)}, "
            "expected the names of the weights"
        )
    for name, base in mapped.items():
        flat = weights.flat(name)
        if base.dtype != flat.dtype or base.shape != flat.shape or base.device.type != "cpu":
            raise ValueError(
                f"base of {name} is {base.dtype} of shape {tuple(base.shape)} on {base.device}, "
                f"expected {flat.dtype} of shape {tuple(flat.shape)} on cpu"
            )


def _copy_of(flat: Tensor, store: str) -> Tensor:
    if store == "device":
        return flat.clone()
    return torch.empty(flat.shape, dtype=flat.dtype, pin_memory=flat.is_cuda).copy_(flat)


def pull_of(alpha: float, decay: float, norm: str) -> float:
    """Return what a decay pulls in one step: alpha * decay, checked.

    Args:
        alpha: learning rate, >= 0.
        decay: lambda in the paper, >= 0; 0 pulls nothing.
        norm: "l1" (the pull is in units of weight) or "l2" (it is a share of the drift).

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


def decay_(drift: Tensor, pull: float, norm: str) -> None:
    """Shrink `drift`, float32 of any shape, towards the anchor, in place.

    L2: d <- (1 - pull) * d. L1: d <- sign(d) * max(|d| - pull, 0). `pull` is from `pull_of`.

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

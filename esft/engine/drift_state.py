"""What a drift is after a step, as a snapshot holds it, and what it must be to be loaded."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from esft.engine.anchor import forms
from esft.engine.kept import KeptDrift
from esft.errors import AnchorError

Figures = Mapping[str, Mapping[str, int | float]]


@dataclass(frozen=True, kw_only=True)
class DriftState:
    """What a drift is after a step, besides its base weights and its seed: a snapshot holds it."""

    steps: int
    sum_of_squares: float
    """Of D over all tuned weights; kept, since adding it up anew could round otherwise."""
    kind: str  # one of `KINDS`
    tensors: Mapping[str, Tensor]
    """What is kept of each parameter, on the host: D under its name, E where the anchor moves under
    "<name>:anchor", and for int8 the scales of these under "<these>:scales". Views where they lie
    on the host: the next step changes them."""
    figures: Figures
    """What else is needed to read them, by parameter; survives JSON exactly."""
    anchor_squares: float | None = None
    """The sum of squares of E; None where the anchor does not move."""


def require_kind(state: DriftState, kind: str) -> None:
    """Raise AnchorError if a state is kept otherwise."""
    if state.kind != kind:
        raise AnchorError(
            f"the saved drift is kept as {state.kind}, expected {kind}",
            hint=f"set [anchor] drift = {state.kind!r}, as it was when the drift was saved",
        )


def tensors_of(kept: Mapping[str, KeptDrift]) -> dict[str, Tensor]:
    """Return what is kept, by the names of a state; not a copy."""
    return {
        name + suffix: tensor
        for name, one in kept.items()
        for suffix, tensor in one.tensors.items()
    }


def require_like(state: DriftState, kept: Mapping[str, KeptDrift], kind: str) -> None:
    """Raise AnchorError if a state is kept otherwise, or has not the very names, sizes and figures
    of what is kept."""
    require_kind(state, kind)
    figures = {name: one.figures for name, one in kept.items()}
    has, needs = _described(state.tensors, state.figures), _described(tensors_of(kept), figures)
    for name in needs | has:
        if has.get(name) != needs.get(name):
            raise AnchorError(
                f"{name}: the saved drift has {has.get(name, 'none')}, "
                f"expected {needs.get(name, 'none')}",
                hint="take the model, include, exclude and [anchor] move that the drift was saved "
                "with",
            )


def put_back(state: DriftState, kept: Mapping[str, KeptDrift]) -> None:
    """Make what is kept that of a state like it."""
    for name, tensor in tensors_of(kept).items():
        tensor.copy_(state.tensors[name])
    for name, one in kept.items():
        one.figures = state.figures[name]


def _described(tensors: Mapping[str, Tensor], figures: Figures) -> dict[str, str]:
    keys = {f"figures of {name}": ", ".join(sorted(f)) or "none" for name, f in figures.items()}
    return forms(tensors) | keys

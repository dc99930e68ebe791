"""The state of a drift, as a snapshot holds it."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from esft.errors import AnchorError

Figures = dict[str, dict[str, int | float]]


@dataclass(frozen=True, kw_only=True)
class DriftState:
    """What a drift is after a step, besides its base weights and its seed."""

    steps: int
    """Steps made."""
    sum_of_squares: float
    """Of D over all tuned weights; kept, since adding it up anew could round otherwise."""
    kind: str
    """How D is kept, one of `KINDS`."""
    tensors: dict[str, Tensor]
    """What is kept of each parameter, on the host: under its name, and for int8 the scales under
    "<name>:scales". Views where D lies on the host: the next step changes them."""
    figures: Figures
    """What else is needed to read them, by parameter; survives JSON exactly."""


def refuse_other(
    state: DriftState, kind: str, tensors: Mapping[str, Tensor], figures: Figures
) -> None:
    """Raise AnchorError unless `state` is one of a drift with such a kind, tensors and figures."""
    if state.kind != kind:
        raise AnchorError(
            f"the saved drift is kept as {state.kind}, expected {kind}",
            hint=f"set [anchor] drift = {state.kind!r}, as it was when the drift was saved",
        )
    for name in [*tensors, *state.tensors]:
        _refuse(name, _found(state.tensors.get(name)), _found(tensors.get(name)))
    for name in [*figures, *state.figures]:
        _refuse(f"figures of {name}", _keys(state.figures.get(name)), _keys(figures.get(name)))


def _refuse(what: str, found: str, expected: str) -> None:
    if found != expected:
        raise AnchorError(
            f"{what}: the saved drift has {found}, expected {expected}",
            hint="take the model, include and exclude that the drift was saved with",
        )


def _found(tensor: Tensor | None) -> str:
    return "none" if tensor is None else f"{tensor.dtype} of shape {tuple(tensor.shape)}"


def _keys(figures: Mapping[str, int | float] | None) -> str:
    return "none" if not figures else ", ".join(sorted(figures))

"""A step over the weights: the update, the decay, D as it is kept, and what is rounded from it."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from esft.engine.anchor import pull_of
from esft.engine.kept import KeptDrift, Put, close_steps
from esft.engine.kernels import Kernels
from esft.engine.kernels.reference import (
    Found,
    Stored,
    Update,
    composed,
    decay_,
    moved_codes,
    read,
)
from esft.engine.members import Member, net_coefficients, pair_coefficients
from esft.engine.moving_anchor import MovingAnchor
from esft.engine.noise import MAX_NOISE
from esft.engine.stream import Parts, Stream, Tally, length
from esft.engine.weights import Piece, Weights
from esft.errors import AnchorError


@dataclass(frozen=True)
class Made:
    """What a step came to."""

    sum_of_squares: float  # of D as it is kept
    changed: int  # codes
    overflowed: str | None  # a parameter that it made infinite, which must not be used


def update_of(
    members: Sequence[Member],
    coefficients: Sequence[float],
    alpha: float,
    decay: float,
    norm: str,
    sigma: float | None,
    rounding: int,
    whole_steps: bool,
) -> Update:
    """Return the numbers of a step, checked; as `Drift.step` has them, and its ValueErrors."""
    if whole_steps and sigma is None:
        raise ValueError("sigma is missing, expected that of the members: the weights are codes")
    if not (alpha > 0 and math.isfinite(alpha)):
        raise ValueError(f"alpha is {alpha}, expected a positive number")
    if not all(math.isfinite(coefficient) for coefficient in coefficients):
        raise ValueError("a coefficient is not finite: leave its member out")
    return Update(
        nets=net_coefficients(members, coefficients),
        scale=alpha / max(1, len(members)),
        pull=pull_of(alpha, decay, norm),
        norm=norm,
        rounding=rounding,
        pairs=pair_coefficients(members, coefficients) if whole_steps else (),
        sigma=sigma,
    )


def overflow(weights: Weights, name: str, step: int) -> AnchorError:
    """Return the error of a step that makes the parameter `name` infinite."""
    return AnchorError(
        f"step {step} makes {name} infinite in {weights.flat(name).dtype}, expected finite "
        "weights: the update is too large",
        hint="start a new run with a smaller --alpha; the model of the step before: "
        f"esft replay --at {step - 1} --out DIR",
    )


def update_weights(
    weights: Weights,
    kept: Mapping[str, KeptDrift],
    stream: Stream,
    parts_of: Callable[[Piece], Parts],
    update: Update,
    anchor: MovingAnchor | None = None,
) -> Made:
    """Make a step of all weights, piece by piece.

    Args:
        kept: D of each parameter.
        parts_of: theta_0 of a piece, then D of it as it is kept, then E where there is `anchor`.
        anchor: what the decay pulls towards; None where that is theta_0.
    """
    peaks, reach, lengths, changed = Tally(), Tally(), Tally(), Tally()
    for name, one in kept.items():
        growth = _largest(weights, name, update)
        if anchor is not None:  # D ends between what the update made of it and E
            growth = max(growth, anchor.kept[name].largest - one.largest)
        one.open_step(growth)
    fused = weights.kernels.fused_update and anchor is None
    pieces = weights.pieces(fused, whole_codes=False)
    for piece, (base, *parts) in stream.brought(pieces, parts_of):
        own, towards = kept[piece.name], None
        if anchor is not None:
            parts, towards = anchor.taken(piece, parts)
        step = update, stream.put, towards
        found = update_piece(weights.kernels, piece, base, own, parts, *step)
        peaks.note(piece.name, found.peak)
        lengths.note(piece.name, found.length)
        reach.note(piece.name, found.reach)
        changed.note(piece.name, found.changed)
    # Both: a narrow dtype overflows where D does not, and int8 keeps an infinite D as a finite.
    for name, peak in (*reach.read(), *peaks.read()):
        if not math.isfinite(peak):
            return Made(math.nan, 0, name)
    close_steps(kept, peaks.read())
    counts = [count for _, count in changed.read()]
    return Made(lengths.sum_of_squares(), int(sum(counts)), None)


def _largest(weights: Weights, name: str, update: Update) -> float:
    """Return what no element of D of a parameter grows by more than."""
    grid, factors = weights.grid(name), weights.factors(name)
    if grid is not None and factors is not None:  # D stays within half a step of the grid
        return grid.high - grid.low + 1 if update.nets else 0.0
    if grid is not None:
        largest = math.ceil(update.sigma * MAX_NOISE)
        largest *= sum(abs(plus) + abs(minus) for _, plus, minus in update.pairs)
    else:
        largest = MAX_NOISE if factors is None else factors.largest
        largest *= sum(abs(net) for _, net in update.nets)
    return update.scale * largest * (1 + 1e-5)  # the margin is for the rounding of the sum


def update_piece(
    kernels: Kernels,
    piece: Piece,
    base: Tensor,
    kept: KeptDrift,
    parts: Sequence[Tensor],
    update: Update,
    put: Put,
    anchor: Tensor | None = None,
) -> Found:
    """Make D' = D + scale * sum_i c_i * noise(seed_i), D = prox(D'), theta = round(theta_0 + D).

    Args:
        base: theta_0 of the piece; `parts`: D of it, as `kept` keeps it; both on its device.
        put: see `KeptDrift.write`.
        anchor: E of the piece, with which D = E + prox(D' - E), float32 (count,); None where it is
            0.

    Source: arXiv:2605.30148, Algorithm 1.
    """
    stored = kept.stored(parts)
    if piece.grid is not None:
        return _update_codes(kernels, piece, base, kept, stored, update, put, anchor)
    if kernels.fused_update and anchor is None:
        where = piece.name, piece.start, update, piece.factors
        return kernels.update(piece.flat, base, stored, kept.next_factor, *where)
    drift = read(stored)
    if update.nets:
        total = torch.zeros_like(drift)
        kernels.accumulate(total, piece.name, piece.start, update.nets, piece.factors)
        total *= update.scale
        drift += total
    _decay_towards(anchor, drift, update)
    peak = drift.abs().max()
    drift = kept.write(piece.start, drift, update.rounding, put)
    piece.flat.copy_(composed(base, drift))
    return Found(peak, length(drift), piece.flat.abs().max().float())


def _decay_towards(anchor: Tensor | None, drift: Tensor, update: Update) -> None:
    if anchor is not None:
        drift -= anchor
    decay_(drift, update.pull, update.norm)
    if anchor is not None:
        drift += anchor


def _update_codes(
    kernels: Kernels,
    piece: Piece,
    base: Tensor,
    kept: KeptDrift,
    stored: Stored,
    update: Update,
    put: Put,
    anchor: Tensor | None,
) -> Found:
    """Make the same step of codes, D in steps of their grid.

    The members took whole steps; or, of low rank, noise in units of the weights, the sum of which
    is divided by the size of a step.

    Source: arXiv:2602.03120; that D, kept whole, carries what rounding leaves over, is ours, and so
    is the noise of low rank.
    """
    grid = piece.grid
    first, drift = grid.unpack(base).float(), read(stored)
    before = moved_codes(first, drift, grid)
    if piece.factors is not None and update.nets:
        total = torch.zeros_like(drift)
        kernels.accumulate(total, piece.name, piece.start, update.nets, piece.factors)
        total *= update.scale
        drift += piece.in_steps_(total)
    elif piece.factors is None and update.pairs:
        total = torch.zeros_like(drift)
        where = grid, piece.name, piece.start
        kernels.accumulate_codes(total, before, *where, update.pairs, update.sigma)
        total *= update.scale
        drift += total
    _decay_towards(anchor, drift, update)
    wanted = drift.abs().max()
    torch.clamp(drift, grid.low - 0.5 - first, grid.high + 0.5 - first, out=drift)
    # A bound hides what is infinite.
    peak = torch.where(wanted.isfinite(), drift.abs().max(), wanted)
    drift = kept.write(piece.start, drift, update.rounding, put)
    after = moved_codes(first, drift, grid)
    piece.flat.copy_(grid.pack(after.to(torch.int8)))
    return Found(peak, length(drift), torch.zeros_like(peak), (after != before).sum())

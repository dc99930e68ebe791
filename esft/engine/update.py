"""A step of one piece: the update, the decay, D as it is kept, and the weights rounded from it."""

from collections.abc import Sequence

import torch
from torch import Tensor

from esft.engine.kept import KeptDrift, Put
from esft.engine.kernels import Kernels
from esft.engine.kernels.reference import Found, Update, composed, decay_, read
from esft.engine.stream import length
from esft.engine.weights import Piece


def update_piece(
    kernels: Kernels,
    piece: Piece,
    base: Tensor,
    kept: KeptDrift,
    parts: Sequence[Tensor],
    update: Update,
    put: Put,
) -> Found:
    """Make D' = D + scale * sum_i c_i * noise(seed_i), D = prox(D'), theta = round(theta_0 + D).

    Args:
        base: theta_0 of the piece; `parts`: D of it, as `kept` keeps it; both on its device.
        put: see `KeptDrift.write`.

    Source: arXiv:2605.30148, Algorithm 1.
    """
    stored = kept.stored(parts)
    if kernels.fused_update:
        where = piece.name, piece.start, update, piece.factors
        return kernels.update(piece.flat, base, stored, kept.next_factor, *where)
    drift = read(stored)
    if update.nets:
        total = torch.zeros_like(drift)
        kernels.accumulate(total, piece.name, piece.start, update.nets, piece.factors)
        total *= update.scale
        drift += total
    decay_(drift, update.pull, update.norm)
    peak = drift.abs().max()
    drift = kept.write(piece.start, drift, update.rounding, put)
    piece.flat.copy_(composed(base, drift))
    return Found(peak, length(drift), piece.flat.abs().max().float())

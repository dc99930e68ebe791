"""No step of the engine holds more than the scratch, whatever the largest tensor."""

import weakref

import pytest
import torch
from some_weights import (
    DRIFT_DTYPES,
    Tensors,
    bits_of,
    both_kernels,
    drift_of,
    dtypes,
    kinds,
    walk,
)
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from esft.engine import Drift, Member, Weights, perturbed
from esft.engine.kernels import Kernels
from esft.engine.largest import at_largest, largest
from esft.engine.measures import measures
from esft.engine.perturb import unmoved_share

SCRATCH = 48 * 1000
NUMEL = 10_001


class Allocated(TorchDispatchMode):
    """Follows what operations allocate: the bytes alive, and the most there ever were."""

    def __init__(self):
        super().__init__()
        self.alive = self.peak = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        given = {place_of(tensor) for tensor in tensors_in((args, kwargs))}
        result = function(*args, **(kwargs or {}))
        for tensor in tensors_in(result):
            if place_of(tensor) not in given:  # neither in place nor a view
                self.alive += tensor.nbytes
                weakref.finalize(tensor, self.free, tensor.nbytes)
        self.peak = max(self.peak, self.alive)
        return result

    def free(self, nbytes):
        self.alive -= nbytes


def tensors_in(tree):
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)]


def place_of(tensor):
    return tensor.untyped_storage().data_ptr()


def large_weights(dtype, scratch=SCRATCH, kernels=None):
    draw = torch.Generator().manual_seed(0)
    tensors = Tensors(w=torch.randn(NUMEL, generator=draw).to(dtype))
    return Weights(tensors, scratch=scratch, kernels=kernels)


def moved_once(weights, kept):
    walk(drift := Drift(weights, dtype=kept), steps=1)
    return drift


def test_what_is_allocated_is_seen():
    with Allocated() as seen:
        kept = torch.zeros(1000) + torch.ones(1000)
    with Allocated() as nothing_new:
        kept.view(10, 100).add_(1)

    assert seen.peak == 3 * kept.nbytes
    assert seen.alive == kept.nbytes
    assert nothing_new.peak == 0


@pytest.mark.parametrize("kept", [None, *DRIFT_DTYPES])
@pytest.mark.parametrize("sigma", [1e-3, 0.5, 1e4])
@both_kernels
@dtypes
def test_a_member_needs_the_scratch_and_its_log(dtype, kernels, sigma, kept):
    weights = large_weights(dtype, kernels=kernels)
    drift = None if kept is None else moved_once(weights, kept)
    # Without a Drift there is nothing else to restore from: at worst a copy is kept.
    log = (0.1 if drift else 1) * weights.nbytes

    with Allocated() as seen, perturbed(weights, Member(1), sigma, drift, "log"):
        held = seen.alive

    assert held <= log
    assert seen.peak <= log + SCRATCH
    assert seen.alive == 0


@kinds
@both_kernels
@dtypes
def test_restoring_a_step_the_base_and_measures_need_the_scratch_alone(dtype, kernels, kept):
    weights = large_weights(dtype, kernels=kernels)
    drift = moved_once(weights, kept)

    with Allocated() as seen:
        with perturbed(weights, Member(1), 1e-3, drift, "restore"):
            assert seen.alive == 0
        walk(drift, steps=1, decay=0.1, norm="l1")
        with drift.at_base():
            pass
        unmoved_share(weights, Member(1), 1e-3)
        measures(drift)
        (one,) = largest(drift, [10])
        with at_largest(drift, one.least):
            pass

    assert seen.peak <= SCRATCH


TABLES = 8 * (3 * (1 << 16) + 4 * (1 << 15))
"""Bytes of how often bits of |D| occur, however many weights there are."""


class ReadsAll(Kernels):
    """Reads all parts before it writes one, as those of numba do out of sight of `Allocated`."""

    def compose(self, parts):
        super().compose(list(parts))


@kinds
@dtypes
def test_the_largest_changes_need_the_scratch_and_tables_of_one_size(dtype, kept):
    scratch = 48 * 256
    assert scratch < NUMEL * torch.float32.itemsize
    drift = moved_once(large_weights(dtype, scratch, ReadsAll()), kept)

    with Allocated() as seen:
        found = largest(drift, (50, 5))
    held = at_largest(drift, found[0].least)
    with Allocated() as written:
        held.__enter__()
    held.__exit__(None, None, None)

    assert seen.peak <= scratch + TABLES
    assert written.peak <= scratch


@kinds
@dtypes
def test_the_size_of_the_scratch_changes_no_bit(dtype, kept):
    scratches = (48 * 7, 48 * 1000, 64 << 20)
    sizes = [large_weights(dtype, scratch, Kernels()) for scratch in scratches]
    assert [len(list(weights.pieces())) for weights in sizes] == [40, 14, 1]
    seen = []

    for weights in sizes:
        walk(drift := Drift(weights, dtype=kept), steps=3, decay=1.0, norm="l1")
        with perturbed(weights, Member(1), 1e-2, drift):
            inside = bits_of(weights)
        seen.append((bits_of(weights), inside, drift_of(drift, "w").tolist(), drift.norm()))

    for bits, inside, values, norm in seen[1:]:
        assert (bits, inside, values) == seen[0][:3]
        assert norm == pytest.approx(seen[0][3], rel=1e-12)

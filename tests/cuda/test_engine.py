"""Members, steps, stores, streams and memory on a device."""

from functools import partial
from itertools import product

import pytest
import torch
from on_device import drift_on, kept_bits, reference, weights_on
from some_weights import Tensors, bits_of, drift_stores, dtypes, kinds, stores, walk

from esft.engine import Drift, Member, Weights, visiting
from esft.engine.largest import at_largest, largest
from esft.engine.measures import measures

SIGMAS = (1e-3, 3e-3, 0.1, 1e4)
LARGE = 24 << 20  # elements: 48 MB in bfloat16


@pytest.fixture
def peak(device):
    """Gives the most bytes that torch held on the device during a call, above those before it."""
    if device.type != "cuda":
        pytest.skip(f"{device} does not count its memory")

    def most(do):
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        do()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before

    return most


@kinds
@dtypes
def test_both_ways_to_revert_agree_inside_and_leave_every_bit(device, dtype, kept):
    drifts = [drift_on(device, dtype, kept) for _ in range(2)]
    for drift in drifts:
        walk(drift, steps=2)
    before = bits_of(drifts[0].weights)

    for sigma in SIGMAS:
        inside = []
        for drift, revert in zip(drifts, ("restore", "log"), strict=True):
            with visiting(drift.weights, sigma, drift, revert) as visit:
                for seed in range(6):
                    visit(Member(seed, -1 if seed % 2 else 1))
                    inside.append(bits_of(drift.weights))
            assert bits_of(drift.weights) == before, (sigma, revert)
        assert inside[:6] == inside[6:], sigma


@dtypes
def test_a_member_that_raises_leaves_every_bit_without_a_drift_too(device, dtype):
    weights = weights_on(device, dtype)
    before = bits_of(weights)

    for sigma in SIGMAS:
        with pytest.raises(RuntimeError, match="grader"):
            fail_with_the_second_member(weights, sigma)
        assert bits_of(weights) == before


def fail_with_the_second_member(weights, sigma):
    with visiting(weights, sigma) as visit:
        visit(Member(1))
        visit(Member(2))
        raise RuntimeError("grader failed")


@stores
@drift_stores
@kinds
@dtypes
def test_where_base_and_drift_lie_changes_no_bit(device, dtype, kept, store, drift_store, tmp_path):
    here = drift_on(device, dtype, kept, store, drift_store, tmp_path / "base.safetensors")
    there = reference(dtype, kept)

    for drift in (here, there):
        walk(drift, steps=2, decay=0.1, norm="l1")
        with visiting(drift.weights, 0.01, drift) as visit:
            visit(Member(1))
        with drift.at_base():
            drift.base = bits_of(drift.weights)
        (drift.tenth,) = largest(drift, [10])
        with at_largest(drift, drift.tenth.least):
            drift.alone = bits_of(drift.weights)
        walk(drift, steps=1, run_seed=1)

    assert here.on_device == (device.type == "cpu" or (store, drift_store) == ("device", "device"))
    assert here.base == there.base
    assert (here.tenth.least, here.tenth.share) == (there.tenth.least, there.tenth.share)
    assert here.alone == there.alone
    assert kept_bits(here) == kept_bits(there)
    assert bits_of(here.weights) == bits_of(there.weights)


def large_drift(device, store, drift_store=None, scratch=16 << 20):
    draw = torch.Generator().manual_seed(0)
    large = (0.02 * torch.randn(LARGE, generator=draw)).to(torch.bfloat16).to(device)
    return Drift(
        Weights(Tensors(w=large), scratch=scratch), store, "float16", drift_store=drift_store
    )


def test_copies_that_run_beside_the_work_change_no_bit(device):
    streamed, plain = large_drift(device, "cpu"), large_drift(device, "device")

    for drift in (streamed, plain):
        for round in range(5):
            walk(drift, steps=1, run_seed=round)
            with visiting(drift.weights, 0.01, drift) as visit:
                visit(Member(round))
            with drift.at_base():
                pass

    for name, tensor in streamed.state().tensors.items():
        assert tensor.equal(plain.state().tensors[name])
    assert streamed.weights.flat("w").equal(plain.weights.flat("w"))


@pytest.mark.parametrize("scratch", [16 << 20, 64 << 20])
@pytest.mark.parametrize(
    ("store", "drift_store"), [("cpu", "cpu"), ("cpu", "device"), ("device", "device")]
)
def test_above_inference_the_device_holds_log_and_scratch(
    peak, device, note, store, drift_store, scratch
):
    drift = large_drift(device, store, drift_store, scratch)
    walk(drift, steps=1)
    weights = drift.weights
    log = {"restore": 0, "log": weights.nbytes // 10}
    held = {}

    def visit_some(sigma, revert):
        with visiting(weights, sigma, drift, revert) as visit:
            for seed in range(3):
                visit(Member(seed))

    def hold_the_largest():
        with at_largest(drift, 1e-3):
            pass

    for sigma, revert in product((1e-3, 0.1), ("restore", "log") if drift.on_device else ("log",)):
        most = peak(partial(visit_some, sigma, revert))
        held[f"members at sigma {sigma}, {revert}"] = most - log[revert]
    held["a step"] = peak(lambda: walk(drift, steps=1, decay=0.1, norm="l1"))
    held["measures"] = peak(lambda: measures(drift))
    held["the largest"] = peak(lambda: largest(drift, [50, 20, 10, 5]))
    held["the largest alone"] = peak(hold_the_largest)
    note(
        "\n".join(f"- {what}: {most / 2**20:.1f} MiB above the log" for what, most in held.items())
    )

    assert max(held.values()) <= scratch

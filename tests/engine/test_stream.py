"""What is kept elsewhere is brought a piece ahead and put back late, and the bits are the same."""

from contextlib import nullcontext

import pytest
import torch
from some_weights import (
    Tensors,
    bits_of,
    kinds,
    some_drift,
    some_weights,
    walk,
    whole_drift,
    with_both_noises,
)

from esft.engine import Drift, Member, Weights, perturbed
from esft.engine.kernels import Kernels
from esft.engine.stream import Stream

CPU = torch.device("cpu")


class Late(Stream):
    """Copies as late as a device may: what is put lands in `settle`."""

    def __init__(self):
        super().__init__(CPU)
        self.pending = []
        self.settled = 0

    def brought(self, pieces, parts_of):
        fetched = ((piece, tuple(part.clone() for part in parts_of(piece))) for piece in pieces)
        here = next(fetched)
        for coming in fetched:
            yield here
            here = coming
        yield here

    def put(self, into, values):
        assert into.dtype == values.dtype
        self.pending.append((into, values))

    def settle(self):
        while self.pending:
            into, values = self.pending.pop(0)
            into.copy_(values)
            self.settled += 1


@with_both_noises
@kinds
def test_copies_that_land_late_change_no_bit_and_have_landed_when_a_step_raises(kept):
    # In torch: a pass that makes a step at once does so in host memory alone, copying nothing.
    plain, late = (some_drift(torch.bfloat16, kept, 0, Kernels()) for _ in range(2))
    late._stream = stream = Late()

    for drift in (plain, late):
        walk(drift, steps=2, decay=0.1)
        drift.step([], [], 0.1, decay=0.01, norm="l1")
        walk(drift, steps=2, run_seed=1)
        with perturbed(drift.weights, Member(1), 0.1, drift):
            pass
        with drift.at_base():
            pass
    assert bits_of(late.weights) == bits_of(plain.weights)
    assert whole_drift(late).equal(whole_drift(plain))

    stream.settled, late.weights.fails_at, late.weights.failure = 0, "norm", MemoryError("stop")
    with pytest.raises(MemoryError, match="stop"):
        walk(late, steps=1)
    assert stream.settled > 0 == len(stream.pending)


@with_both_noises
def test_on_a_cpu_nothing_is_copied_on_the_way_in():
    pieces = list(some_weights(torch.float32).pieces())

    brought = Stream(CPU).brought(pieces, lambda piece: (piece.flat,))

    assert [part is piece.flat for piece, (part,) in brought] == [True] * len(pieces)


class Recorded:
    """A cuda stream that notes what it is asked, on a machine without one."""

    def __init__(self, asked):
        self.record_event = lambda: asked.append("fetched") or "arrival"
        self.wait_event = lambda event: asked.append(f"wait for {event}")
        self.synchronize = lambda: asked.append("settled")


@with_both_noises
def test_on_cuda_the_next_piece_is_asked_for_before_this_one_is_computed(monkeypatch):
    asked = []
    stream = Stream(CPU)
    stream._side = Recorded(asked)
    monkeypatch.setattr(torch.cuda, "stream", lambda _: nullcontext())
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _: Recorded(asked))
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda *_: asked.append("in use"))
    pieces = list(some_weights(torch.float32).pieces())[:3]

    for piece, _ in stream.brought(pieces, lambda piece: (piece.flat,)):
        asked.append(f"computed {piece.name} {piece.start}")
    stream.settle()

    arrived = ["wait for arrival", "in use"]
    assert asked == [
        *["fetched", "fetched", *arrived, "computed embed 0"],
        *["fetched", *arrived, "computed embed 256"],
        *[*arrived, "computed proj 0", "settled"],
    ]


def after_steps_on_cuda(kept, store, drift_store):
    """Bits of the weights, D and its norm after some steps and a visit to the base."""
    draw = torch.Generator().manual_seed(0)
    large = (0.02 * torch.randn(3_000_001, generator=draw)).to(torch.bfloat16)
    model = Tensors(large=large, small=large[:1000].clone())
    base = {name: tensor.detach().view(-1) for name, tensor in model.named_parameters()}
    weights = Weights(model.cuda(), scratch=48 << 18)
    mapped = {"base": base} if store == "disk" else {}
    drift = Drift(weights, store, kept, **mapped, drift_store=drift_store)
    walk(drift, steps=3, decay=0.1)
    drift.step([], [], 0.1, decay=0.01, norm="l1")
    walk(drift, steps=2, run_seed=1)
    with drift.at_base():
        assert all(weights.flat(name).cpu().equal(base[name]) for name in weights.names)
    drift.load(drift.state())
    return bits_of(weights), whole_drift(drift).tolist(), drift.norm()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs cuda")
@kinds
@pytest.mark.parametrize(
    ("store", "drift_store"),
    [("disk", "cpu"), ("cpu", "cpu"), ("cpu", "device"), ("device", "cpu")],
)
def test_on_cuda_every_store_makes_the_same_bits(kept, store, drift_store):
    expected = after_steps_on_cuda(kept, "device", "device")

    assert after_steps_on_cuda(kept, store, drift_store) == expected

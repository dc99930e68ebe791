"""The anchor where it moves: what the decay pulls towards, how it follows, and that 0 is none."""

import json
from dataclasses import replace

import pytest
import torch
from some_codes import CodedWeights
from some_weights import (
    Tensors,
    bits_of,
    both_kernels,
    dtypes,
    kinds,
    some_weights,
    tensor_bits,
    walk,
    with_both_noises,
)

from esft.engine import Drift, Weights
from esft.engine.forecast import Forecast, sum_of_squares
from esft.engine.kernels.reference import composed, decay_, read
from esft.engine.members import net_coefficients, population
from esft.errors import AnchorError

norms = pytest.mark.parametrize("norm", ["l1", "l2"])
LOOSE = {"float32": 1e-5, "float16": 0.02, "int8": 0.3}
NOTHING = ([], [], 0.1)  # members, coefficients and alpha of a step without an update


def moving(dtype=torch.float32, kept="float32", kernels=None, tau=0.3, steps=3) -> Drift:
    """A drift of `some_weights` whose anchor has followed it for some steps."""
    drift = Drift(some_weights(dtype, kernels), dtype=kept, seed=5, moving=True)
    walk(drift, steps, tau=tau)
    return drift


def whole(drift: Drift, kept) -> torch.Tensor:
    """What is kept of all tensors, one after the other, in float32."""
    counts = {name: drift.weights.count(name) for name in drift.weights.names}
    return torch.cat([read(kept[n].stored(kept[n].parts(0, count))) for n, count in counts.items()])


def whole_drift(drift: Drift) -> torch.Tensor:
    return whole(drift, drift._kept)


def whole_anchor(drift: Drift) -> torch.Tensor:
    return whole(drift, drift.anchor.kept)


def state_bits(drift: Drift, of_drift: bool = False) -> dict[str, object]:
    """All that a drift is, to the bit; or what one without an anchor that moves has of it."""
    state = drift.state()
    own = {n for n in state.tensors if not (of_drift and ":anchor" in n)}
    bits = {name: tensor_bits(state.tensors[name]) for name in own}
    figures = {n: dict(f) for n, f in state.figures.items() if n in own}
    squares = None if of_drift else state.anchor_squares
    return (
        bits
        | {"weights": bits_of(drift.weights), "figures": figures}
        | {"squares": (state.sum_of_squares, squares)}
    )


def every_kind_of_step(drift, decay, norm, **tau):
    rest = {"decay": decay, "norm": norm, **tau}
    walk(drift, 2, **rest)
    drift.step(*NOTHING, **rest)
    drift.step(*NOTHING, **rest)
    drift.step(*NOTHING, **tau)
    walk(drift, 1, run_seed=1, **rest)


@with_both_noises
@both_kernels
@kinds
@norms
@pytest.mark.parametrize("decay", [0.0, 0.5])
def test_tau_0_is_no_moving_anchor_to_the_bit(kernels, kept, norm, decay):
    plain = Drift(some_weights(torch.bfloat16, kernels), dtype=kept)
    other = Drift(some_weights(torch.bfloat16, kernels), dtype=kept, moving=True)

    every_kind_of_step(plain, decay, norm)
    every_kind_of_step(other, decay, norm, tau=0.0)

    assert state_bits(other, of_drift=True) == state_bits(plain, of_drift=True)
    assert other.anchor.norm() == 0
    assert not whole_anchor(other).any()


@norms
@kinds
@dtypes
def test_the_decay_acts_on_what_is_between_drift_and_anchor(dtype, kept, norm):
    drift = moving(dtype, kept)
    before, anchor = whole_drift(drift), whole_anchor(drift)

    drift.step(*NOTHING, decay=0.2, norm=norm)

    between = before - anchor
    decay_(between, 0.1 * 0.2, norm)
    expected = anchor + between
    # To the bit where every bit is kept; else to what rounding by chance moves.
    if kept == "float32":
        assert whole_drift(drift).equal(expected)
    else:
        share = 2**-10 if kept == "float16" else 1 / 127
        most = torch.maximum(before.abs(), anchor.abs()).max()
        assert (whole_drift(drift) - expected).abs().max() <= share * most
    assert whole_anchor(drift).equal(anchor)
    for piece, base, d in drift.streamed():
        assert piece.flat.equal(composed(base, d))


@norms
def test_a_pull_of_all_that_there_is_ends_at_the_anchor_and_not_at_the_base(norm):
    drift = moving()
    assert drift.anchor.distance() > 0.01

    drift.step(*NOTHING, decay=10.0 if norm == "l2" else 1e3, norm=norm)

    # L2 multiplies by 0 after D - E was rounded.
    assert drift.anchor.distance() <= (0 if norm == "l1" else 1e-6) * drift.norm()
    assert drift.norm() == pytest.approx(drift.anchor.norm(), rel=1e-6)
    with drift.at_anchor():
        there = bits_of(drift.weights)
    assert norm == "l2" or bits_of(drift.weights) == there


@with_both_noises
@norms
@pytest.mark.parametrize("tau", [1e-3, 0.3, 1.0])
def test_the_anchor_follows_by_the_share_of_every_step(tau, norm):
    drift = Drift(some_weights(torch.float32), moving=True)
    anchor = torch.zeros(drift.weights.numel)

    for step in range(1, 6):
        members, coefficients = population(0, step, 4), [1.5, -0.5, -1.25, 0.25]
        given = (members, coefficients, 0.1) if step != 3 else NOTHING
        drift.step(*given, decay=0.5, norm=norm, tau=tau)
        anchor = anchor + tau * (whole_drift(drift) - anchor) if tau < 1 else whole_drift(drift)

        assert whole_anchor(drift).equal(anchor)
        norms_of = drift.anchor.norm(), drift.anchor.distance()
        between = whole_drift(drift) - anchor
        assert norms_of == pytest.approx((anchor.norm().item(), between.norm().item()), rel=1e-5)


@kinds
def test_a_share_below_what_is_kept_adds_up_and_leaves_the_drift_alone(kept):
    drift, tau, steps = moving(torch.bfloat16, kept), 1e-3, 400
    before, began = state_bits(drift, of_drift=True), whole_anchor(drift)

    for _ in range(steps):
        drift.step(*NOTHING, tau=tau)

    assert state_bits(drift, of_drift=True) == before
    # A third of the way; a step of int8 is 8 times as much as the first of these.
    went = whole_anchor(drift) - began
    expected = (1 - (1 - tau) ** steps) * (whole_drift(drift) - began)
    assert float(went @ expected) / float(expected @ expected) == pytest.approx(1, rel=0.05)
    # Chance is another in each step: an element that always fell short would be left behind.
    assert (went - expected).norm() < LOOSE[kept] * expected.norm()


@kinds
def test_tau_1_makes_the_anchor_the_very_drift(kept):
    drift = moving(torch.bfloat16, kept)

    drift.step(*NOTHING, tau=1.0)

    state = drift.state()
    for name, tensor in state.tensors.items():
        own = name.replace(":anchor", "")
        assert tensor_bits(tensor) == tensor_bits(state.tensors[own])
    assert all(state.figures[n] == state.figures[n.replace(":anchor", "")] for n in state.figures)
    assert drift.anchor.distance() == 0
    assert drift.anchor.norm() == drift.norm()


@kinds
def test_neither_drift_nor_anchor_overflows_where_the_other_is_much_larger(kept):
    """float16 is scaled to what is the largest that may come."""
    drift = Drift(some_weights(torch.float32), dtype=kept, moving=True)
    members, coefficients = population(0, 1, 4), [1.0, -0.5, 0.25, 0.5]
    drift.step(members, coefficients, 1e-6, tau=1.0)
    small = drift.anchor.norm()

    drift.step(members, coefficients, 10.0, tau=0.5)
    assert drift.anchor.norm() == pytest.approx(0.5 * drift.norm(), rel=0.02)
    drift.step(*NOTHING, tau=1.0)
    large = drift.norm()
    drift.step(members, [-coefficient for coefficient in coefficients], 10.0)
    assert drift.norm() < 0.02 * large
    drift.step(*NOTHING, decay=10.0, norm="l2")

    assert drift.norm() == pytest.approx(large, rel=0.02)
    assert small < 1e-5 * large


def saved(drift):
    """A state as a file gives it back: other memory, figures through JSON."""
    state = drift.state()
    tensors = {name: tensor.clone() for name, tensor in state.tensors.items()}
    return replace(state, tensors=tensors, figures=json.loads(json.dumps(state.figures)))


@with_both_noises
@kinds
@dtypes
def test_steps_from_a_loaded_state_make_the_bits_of_an_unbroken_run(dtype, kept):
    unbroken, resumed = moving(dtype, kept), moving(dtype, kept, steps=0)
    unbroken.step(*NOTHING, decay=0.1, norm="l1", tau=0.1)
    state = saved(unbroken)
    half_way = state_bits(unbroken)
    every_kind_of_step(unbroken, 0.1, "l1", tau=0.1)

    resumed.load(state)
    assert state_bits(resumed) == half_way
    every_kind_of_step(resumed, 0.1, "l1", tau=0.1)

    assert state_bits(resumed) == state_bits(unbroken)
    assert sum(tensor.nbytes for tensor in state.tensors.values()) == resumed.state_nbytes


@kinds
def test_a_state_without_an_anchor_is_another_and_so_is_one_with_it(kept):
    plain = Drift(some_weights(torch.bfloat16), dtype=kept)
    other = moving(torch.bfloat16, kept)
    assert other.state_nbytes == 2 * plain.state_nbytes

    with pytest.raises(AnchorError, match=r"embed:anchor: the saved drift has none, expected"):
        other.load(plain.state())
    with pytest.raises(AnchorError, match=r"embed:anchor: the saved drift has .*expected none"):
        plain.load(other.state())


@kinds
def test_a_step_torn_while_the_anchor_follows_is_torn_and_a_state_makes_it_whole(kept):
    drift = moving(torch.bfloat16, kept)
    state, before = saved(drift), state_bits(drift)
    drift.weights.fails_at, drift.weights.failure = "norm", MemoryError("stop")

    with pytest.raises(MemoryError, match="stop"):
        drift.step(*NOTHING, tau=0.5)

    with pytest.raises(AnchorError, match="step 4 was not made whole"):
        walk(drift, 1)
    drift.load(state)
    assert state_bits(drift) == before


def look_and_fail(drift, seen):
    seen += [drift.weights.flat(name).clone() for name in drift.weights.names]
    raise RuntimeError("stop")


@kinds
@dtypes
def test_at_the_anchor_the_weights_are_base_plus_anchor_and_then_what_they_were(dtype, kept):
    drift = moving(dtype, kept)
    before, anchor = bits_of(drift.weights), whole_anchor(drift)
    with drift.at_base():
        base = torch.cat([drift.weights.flat(name).clone() for name in drift.weights.names])

    there = []
    with pytest.raises(RuntimeError, match="stop"), drift.at_anchor():
        look_and_fail(drift, there)
    there = torch.cat(there)

    assert there.equal(composed(base, anchor))
    assert not there.equal(base)
    assert bits_of(drift.weights) == before


@pytest.mark.parametrize("tau", [-0.1, 1.1, float("nan")])
def test_a_share_that_cannot_be_is_refused_and_so_is_any_where_no_anchor_moves(tau):
    drift, plain = moving(), Drift(some_weights(torch.float32))
    before = state_bits(drift)

    with pytest.raises(ValueError, match=r"tau is .*, expected 0 to 1"):
        drift.step(*NOTHING, tau=tau)
    with pytest.raises(ValueError, match=r"tau is 0.1, expected 0: this anchor does not move"):
        plain.step(*NOTHING, tau=0.1)
    assert state_bits(drift) == before


@norms
@kinds
@pytest.mark.parametrize("rank", [None, 1], ids=["whole steps", "low rank"])
def test_of_codes_it_is_the_same(kept, norm, rank):
    plain, other, moved = (
        Drift(CodedWeights(rank=rank), dtype=kept, moving=at > 0) for at in range(3)
    )
    rest = {"decay": 0.05, "norm": norm, "sigma": 0.6}

    for step in range(1, 5):
        members, coefficients = population(0, step, 4), [1.5, -0.5, -1.25, 0.25]
        plain.step(members, coefficients, 1.5, **rest)
        other.step(members, coefficients, 1.5, tau=0.0, **rest)
        moved.step(members, coefficients, 1.5, tau=0.4, **rest)
    assert state_bits(other, of_drift=True) == state_bits(plain, of_drift=True)

    drift, anchor = whole_drift(moved), whole_anchor(moved)
    moved.step([], [], 1.0, decay=0.5, norm=norm, sigma=0.6)
    between = drift - anchor
    decay_(between, 0.5, norm)
    found = whole_drift(moved)
    most = torch.maximum(drift.abs(), anchor.abs()).max()
    share = {"float32": 0, "float16": 2**-10, "int8": 1 / 127}[kept]
    assert (found - (anchor + between)).abs().max() <= share * most
    assert moved.anchor.norm() > 0


@pytest.mark.parametrize(
    "settings",
    [
        [(0.2, "l2", 0.05)] * 30,
        [(0.2, "l2", 0.5)] * 30,
        [(0.1, "l1", 0.1)] * 30,
        # Of a run whose settings change on the way: the anchor goes to where the weights are.
        [(0.2, "l2", 0.0)] * 9 + [(0.2, "l2", 1.0)] + [(0.3, "l1", 0.05)] * 10,
    ],
    ids=["slow", "fast", "l1", "stages"],
)
def test_the_forecast_is_how_far_a_walk_gets_and_no_decay_is_no_anchor(settings):
    weights = Weights(Tensors(w=torch.zeros(1 << 8, 1 << 9)))
    drift = Drift(weights, moving=True)
    free = Drift(Weights(Tensors(w=torch.zeros(1 << 8, 1 << 9))))
    forecast = Forecast(weights.numel, 1.0)

    for step, (decay, norm, tau) in enumerate(settings, start=1):
        members, coefficients = population(0, step, 4), [1.5, -0.5, -1.25, 0.25]
        squares = sum_of_squares(net_coefficients(members, coefficients))
        forecast.step(4, squares, 1.0, None, decay, norm, tau)
        drift.step(members, coefficients, 1.0, decay, norm, tau=tau)
        free.step(members, coefficients, 1.0)

    # 131,072 elements against their law, or 65,536 others: 0.2 to 0.4 % a standard error.
    assert drift.norm() == pytest.approx(forecast.norms[-1], rel=0.015)
    assert drift.norm() < 0.9 * free.norm()


@kinds
def test_a_drift_that_is_reset_is_one_before_its_first_step(kept):
    drift, fresh = moving(kept=kept), moving(kept=kept, steps=0)

    drift.reset()

    assert state_bits(drift) == state_bits(fresh)
    assert drift.anchor.norm() == 0
    walk(drift, 2, tau=0.3)
    walk(fresh, 2, tau=0.3)
    assert state_bits(drift) == state_bits(fresh)

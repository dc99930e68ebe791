"""The drift is the state: steps by the formulas, weights rounded from it, nothing half-done."""

import pytest
import torch
from some_weights import (
    Tensors,
    Transcript,
    bits_of,
    drift_of,
    dtypes,
    kinds,
    some_drift,
    some_model,
    some_weights,
    walk,
    whole_drift,
    with_both_noises,
)

from esft.engine import Drift, Member, Weights, noise, perturbed
from esft.engine.measures import measures
from esft.engine.members import population, shape
from esft.errors import AnchorError

INF, NAN = float("inf"), float("nan")
few_bits = pytest.mark.parametrize("kept", ["float16", "int8"])


@with_both_noises
@pytest.mark.parametrize(("shaping", "antithetic"), [("zscore", False), ("ranks", True)])
@pytest.mark.parametrize(
    "decay", [{}, {"decay": 10.0, "norm": "l2"}, {"decay": 0.01, "norm": "l1"}], ids=str
)
def test_twenty_steps_follow_a_float64_transcript(decay, shaping, antithetic):
    drift = some_drift(torch.float32, "float32", steps=0)
    weights = drift.weights
    transcript = Transcript(weights)
    given = torch.Generator().manual_seed(0)

    for step in range(1, 21):
        members = population(0, step, 12, antithetic)
        coefficients = shape(torch.rand(12, generator=given).tolist(), shaping, antithetic)
        drift.step(members, coefficients, 5e-4, **decay)
        transcript.step(members, coefficients, 5e-4, **decay)

    difference = whole_drift(drift).double() - transcript.vector()
    assert float(difference.norm()) <= 1e-6 * transcript.norm()
    assert drift.norm() == pytest.approx(transcript.norm(), rel=1e-6)


@with_both_noises
@kinds
@dtypes
def test_after_every_step_the_weights_are_base_plus_drift_rounded_once(dtype, kept):
    base = some_model(dtype)
    drift = some_drift(dtype, kept, steps=0)
    weights = drift.weights

    for step in range(1, 6):
        drift.step(population(0, step, 3), [1.0, 0.5, -1.5], 0.01, 0.1, "l1")

        for name, parameter in base.named_parameters():
            expected = parameter.view(-1).float() + drift_of(drift, name)
            assert weights.flat(name).equal(expected.to(dtype)), (step, name)


@kinds
@pytest.mark.parametrize("steps", [1, 2, 7])
def test_n_steps_make_n_updates(steps, kept):
    weights = Weights(Tensors(w=torch.zeros(1000)))
    drift = Drift(weights, dtype=kept)

    for _ in range(steps):
        drift.step([Member(5)], [1.0], alpha=0.01)

    expected = steps * 0.01 * noise(5, "w", 0, 1000)
    # float16 rounds by up to 2**-10 in each step, to both sides; int8 by up to 1 / 127 of the
    # largest of 256 elements, which is about three times as long as most.
    within = {"float32": 1e-6, "float16": 2**-10, "int8": steps * 3 / 127}[kept]
    assert float((weights.flat("w") - expected).norm() / expected.norm()) <= within


@kinds
def test_updates_too_small_to_move_a_weight_land_together(kept):
    weights = Weights(Tensors(w=torch.ones(1000, dtype=torch.bfloat16)))
    drift = Drift(weights, dtype=kept)
    unmoved = []

    for _ in range(100):
        drift.step([Member(5)], [1.0], alpha=1e-4)
        unmoved.append(bool((weights.flat("w") == 1).all()))

    expected = 1 + 100 * 1e-4 * noise(5, "w", 0, 1000)
    assert unmoved[0]
    assert (weights.flat("w") - expected).abs().max() <= 2**-7


@few_bits
def test_the_rounding_draws_from_the_seed_of_the_drift(kept):
    def walked(seed):
        weights = Weights(some_model(torch.float32))
        walk(drift := Drift(weights, dtype=kept, seed=seed), steps=2)
        return whole_drift(drift)

    assert walked(0).equal(walked(0))
    assert not walked(0).equal(walked(42))


@with_both_noises
@kinds
@dtypes
def test_a_drift_that_is_reset_makes_the_bits_of_one_that_begins(dtype, kept):
    fresh, again = some_drift(dtype, kept, steps=0), some_drift(dtype, kept, steps=3)
    base = bits_of(fresh.weights)

    again.reset()

    assert (bits_of(again.weights), again.steps, again.norm()) == (base, 0, 0.0)
    assert again.state().figures == fresh.state().figures
    for drift in (fresh, again):
        walk(drift, steps=2)
    assert bits_of(again.weights) == bits_of(fresh.weights)
    assert whole_drift(again).equal(whole_drift(fresh))
    assert again.norm() == fresh.norm()


@with_both_noises
@few_bits
def test_an_idle_step_counts_as_a_step_of_the_rounding(kept):
    idle, straight = (some_drift(torch.float32, kept, steps=1) for _ in range(2))

    idle.step([], [], 0.01)
    for drift in (idle, straight):
        drift.step([Member(1)], [1.0], 0.01)

    assert not whole_drift(idle).equal(whole_drift(straight))


@with_both_noises
def test_at_base_gives_every_bit_back_when_the_block_raises():
    drift = some_drift(torch.bfloat16, "float16")
    before = bits_of(drift.weights)

    with pytest.raises(RuntimeError, match="evaluation failed"), drift.at_base():
        raise RuntimeError("evaluation failed")

    assert bits_of(drift.weights) == before
    walk(drift, steps=1)  # nothing is held any more


@with_both_noises
@pytest.mark.parametrize("holder", ["perturbed", "at_base"])
def test_two_changes_at_once_are_refused_and_leave_every_bit(holder):
    drift = some_drift(torch.bfloat16, "float32")
    weights, state = drift.weights, drift.state()
    before = bits_of(weights)
    held = perturbed(weights, Member(1), 1e-3, drift) if holder == "perturbed" else drift.at_base()

    with held:
        inside = bits_of(weights)
        for change, name in (
            (lambda: walk(drift, 1), "a step"),
            (lambda: drift.load(state), "load"),
            (lambda: measures(drift), "measures"),
            (drift.at_base().__enter__, "at_base"),
            (perturbed(weights, Member(2), 1e-3, drift).__enter__, "perturbed"),
        ):
            with pytest.raises(ValueError, match=f"{name} while the weights are held by {holder}"):
                change()
        assert bits_of(weights) == inside != before

    assert bits_of(weights) == before


@with_both_noises
@kinds
@pytest.mark.parametrize("failure", [MemoryError("stop"), KeyboardInterrupt("stop")], ids=repr)
def test_after_a_step_torn_half_way_everything_is_refused(failure, kept):
    drift = some_drift(torch.bfloat16, kept)
    weights = drift.weights

    weights.fails_at, weights.failure = "norm", failure
    with pytest.raises(type(failure), match="stop"):
        walk(drift, steps=1)

    for use in (
        lambda: walk(drift, steps=1),
        drift.norm,
        drift.state,
        lambda: measures(drift),
        drift.at_base().__enter__,
        perturbed(weights, Member(1), 1e-3, drift).__enter__,
        perturbed(weights, Member(1), 1e-3, drift, "log").__enter__,
    ):
        with pytest.raises(AnchorError, match="was not made whole") as caught:
            use()
        assert "load the model again" in caught.value.hint


@kinds
@pytest.mark.parametrize(
    ("dtype", "alpha"), [(torch.float16, 1e5), (torch.bfloat16, 1e39), (torch.float32, 1e300)]
)
def test_a_step_that_makes_a_weight_infinite_is_refused_and_so_is_the_drift(dtype, alpha, kept):
    drift = Drift(Weights(Tensors(w=torch.ones(600, dtype=dtype))), dtype=kept)
    drift.step([Member(1)], [1.0], 0.01)

    with pytest.raises(AnchorError, match=rf"step 2 makes w infinite in {dtype}") as caught:
        drift.step([Member(2)], [1.0], alpha)

    assert "--at 1 --out" in caught.value.hint
    with pytest.raises(AnchorError, match="step 2 was not made whole"):
        drift.state()


@with_both_noises
@pytest.mark.parametrize(
    ("alpha", "coefficient", "message"),
    [
        *((bad, 1.0, "alpha is .*, expected a positive") for bad in (0.0, -1e-3, NAN, INF)),
        *((0.01, bad, "a coefficient is not finite") for bad in (NAN, INF)),
    ],
)
def test_an_alpha_or_a_coefficient_out_of_range_is_refused_and_nothing_moves(
    alpha, coefficient, message
):
    drift = some_drift(torch.float32)
    before = bits_of(drift.weights)

    with pytest.raises(ValueError, match=message):
        drift.step([Member(1), Member(2)], [1.0, coefficient], alpha)

    assert bits_of(drift.weights) == before
    walk(drift, steps=1)  # nothing is torn


@with_both_noises
def test_a_second_drift_an_unknown_store_and_an_unknown_dtype_are_refused():
    weights = some_weights(torch.float32)

    with pytest.raises(ValueError, match="store is 'cloud', expected one of disk, cpu, device"):
        Drift(weights, store="cloud")
    with pytest.raises(ValueError, match="dtype is 'int4', expected one of float32, float16, int8"):
        Drift(weights, dtype="int4")
    with pytest.raises(ValueError, match="drift_store is 'disk', expected one of cpu, device"):
        Drift(weights, drift_store="disk")
    Drift(weights)
    with pytest.raises(ValueError, match="the weights have a drift already"):
        Drift(weights)

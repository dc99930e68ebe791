"""Steps of codes follow the formulas, and the drift keeps what whole codes leave over."""

import json
import math
from contextlib import nullcontext
from dataclasses import replace
from itertools import count

import pytest
import torch
from some_codes import (
    BYTE,
    CodedModel,
    CodedWeights,
    CodesTranscript,
    all_codes,
    coded_drift,
    codes_of,
    decays,
    drift_of_codes,
    model_bits,
    one_layer,
    walk_codes,
)
from some_weights import bits_of, both_kernels, drift_of, kinds

from esft.engine import Drift, Member, Weights, noise, perturbed
from esft.engine.kernels import Kernels
from esft.engine.kernels.reference import whole_steps
from esft.engine.members import population, shape
from esft.errors import AnchorError


@both_kernels
@pytest.mark.parametrize("antithetic", [False, True])
@decays
def test_twenty_steps_follow_a_transcript_of_the_formulas_code_for_code(decay, antithetic, kernels):
    drift = coded_drift(steps=0, kernels=kernels)
    weights = drift.weights
    transcript = CodesTranscript(weights)
    given = torch.Generator().manual_seed(0)

    for step in range(1, 21):
        members = population(0, step, 6, antithetic)
        coefficients = shape(torch.rand(6, generator=given).tolist(), "zscore", antithetic)
        drift.step(members, coefficients, 1.5, sigma=0.6, **decay)
        transcript.step(members, coefficients, 0.6, 1.5, **decay)
        for name in weights.names:
            assert codes_of(weights, name).tolist() == transcript.codes[name], (step, name)

    assert transcript.refused > 1000  # steps that would have left a grid
    exact = [d for values in transcript.drift.values() for d in values]
    # Each of some hundred sums rounds D by up to 2**-24 of it.
    found = torch.cat([drift_of_codes(drift, name) for name in weights.names]).tolist()
    assert found == pytest.approx(exact, abs=1e-4)
    assert drift.norm() == pytest.approx(math.hypot(*exact), rel=1e-5)


def test_a_drift_of_halves_rounds_to_even_as_the_transcript_does():
    drift = coded_drift(steps=0)
    transcript = CodesTranscript(drift.weights)

    for step in range(1, 21):  # sums of eighths, which both have exactly
        step_of = population(0, step, 4), [0.5, -1.0, 0.25, 1.0]
        drift.step(*step_of, 2.0, sigma=0.5)
        transcript.step(*step_of, 0.5, 2.0)
        for name in drift.weights.names:
            assert codes_of(drift.weights, name).tolist() == transcript.codes[name], (step, name)

    drifts = [d for values in transcript.drift.values() for d in values]
    assert sum(d % 1 == 0.5 for d in drifts) > 50
    assert torch.cat([drift_of_codes(drift, n) for n in drift.weights.names]).tolist() == drifts


@kinds
@pytest.mark.parametrize("norm", ["l1", "l2"])
@pytest.mark.parametrize("pull", [1e-2, 1e-1])
def test_a_decay_alone_shrinks_the_drift_of_codes_by_its_formula(pull, norm, kept):
    weights = one_layer(torch.zeros(64, 64, dtype=torch.int8), BYTE)
    drift = Drift(weights, dtype=kept)
    drift.step(population(0, 1, 4), [1.5, -0.5, -1.25, 0.25], alpha=1.5, sigma=2.0)
    start = drift_of_codes(drift, "w.weight").double()

    def after(steps):
        if norm == "l2":
            return start * (1 - pull) ** steps
        return torch.copysign((start.abs() - steps * pull).clamp(min=0), start)

    steps = next(steps for steps in count(1) if after(steps).norm() <= 0.7 * start.norm())
    for _ in range(steps):
        drift.step([], [], 0.5, decay=pull / 0.5, norm=norm, sigma=2.0)

    # float32: each step rounds by up to 2**-24, of L1 always to the same side, and the norm
    # shrinks meanwhile. The others round by chance: float16 by up to 2**-10 of an element, int8
    # by up to 1 / 127 of the largest of 256.
    within = {"float32": 2 * steps * 2**-24, "float16": 3e-3, "int8": 3e-2}[kept]
    now = drift_of_codes(drift, "w.weight").double()
    assert drift.norm() == pytest.approx(float(after(steps).norm()), rel=within)
    assert drift.norm() == pytest.approx(float(now.norm()), rel=1e-12)
    assert codes_of(weights, "w.weight").equal(now.round().to(torch.int8))
    if kept == "float32":
        assert float((now - after(steps)).norm() / after(steps).norm()) <= within


@kinds
def test_equal_rewards_at_no_drift_change_no_code(kept):
    drift = coded_drift(kept, steps=0)
    before = bits_of(drift.weights)
    members = population(0, 1, 4)
    coefficients = shape([0.5] * 4)
    counted = [m for m, c in zip(members, coefficients, strict=True) if c is not None]

    for norm in ("l1", "l2"):
        drift.step(counted, [], 1.0, 0.1, norm, sigma=0.6)

        assert bits_of(drift.weights) == before
        assert (drift.norm(), drift.changed) == (0.0, 0)
    assert drift.steps == 2


@pytest.mark.parametrize(("pull", "norm"), [(1.0, "l2"), (1e3, "l1")])
@kinds
def test_a_drift_that_has_decayed_to_zero_leaves_the_codes_of_the_base(kept, pull, norm):
    drift = coded_drift(kept)
    base = bits_of(CodedWeights())
    assert bits_of(drift.weights) != base

    drift.step([], [], 1.0, decay=pull, norm=norm, sigma=0.6)

    assert bits_of(drift.weights) == base


@kinds
def test_updates_far_below_half_a_step_land_together(kept):
    weights = one_layer(torch.zeros(30, 40, dtype=torch.int8), BYTE)
    drift = Drift(weights, dtype=kept)
    steps = whole_steps(5, "w.weight", 0, 1200, 1.0, "cpu")
    rounded = torch.zeros(1200)  # the yardstick: D in whole steps
    changed = []

    for _ in range(60):
        drift.step([Member(5)], [1.0], alpha=0.02, sigma=1.0)
        changed.append(drift.changed)
        rounded = (rounded + 0.02 * steps).round()

    assert changed[0] == 0 < sum(changed)
    assert not rounded.any()
    moved = codes_of(weights, "w.weight").float()
    if kept == "float32":
        assert moved.equal((1.2 * steps).round())
    # The others round by chance, so that most of D, not all, is within half a step of 1.2 u.
    assert float((moved - 1.2 * steps).abs().mean()) <= 0.5
    assert float((moved * steps).sum() / steps.square().sum()) == pytest.approx(1.2, rel=0.15)


def saved(drift):
    """A state as a file gives it back: other memory, figures through JSON."""
    state = drift.state()
    tensors = {name: tensor.clone() for name, tensor in state.tensors.items()}
    return replace(state, tensors=tensors, figures=json.loads(json.dumps(state.figures)))


def first_half(drift):
    walk_codes(drift, steps=3, decay=0.02, norm="l1")
    drift.step([], [], 0.1, decay=0.1, sigma=0.6)


def second_half(drift):
    walk_codes(drift, steps=3, run_seed=1, decay=0.02)


@both_kernels
@kinds
def test_steps_from_a_loaded_state_make_the_codes_of_an_unbroken_run(kept, kernels):
    unbroken, resumed = (coded_drift(kept, steps=0, kernels=kernels) for _ in range(2))
    first_half(unbroken)
    state, half_way, norm = saved(unbroken), bits_of(unbroken.weights), unbroken.norm()
    second_half(unbroken)
    walk_codes(resumed, steps=2, run_seed=9)  # somewhere else

    resumed.load(state)
    assert bits_of(resumed.weights) == half_way
    assert resumed.norm() == norm
    second_half(resumed)

    assert bits_of(resumed.weights) == bits_of(unbroken.weights) != half_way
    assert resumed.norm() == unbroken.norm()
    assert resumed.steps == unbroken.steps == 7


@kinds
def test_replayed_steps_make_the_codes_and_the_drift_of_the_first_run_in_either_kernels(kept):
    first, again = coded_drift(kept, steps=6), coded_drift(kept, steps=6, kernels=Kernels())

    assert bits_of(again.weights) == bits_of(first.weights) != bits_of(CodedWeights())
    for name in first.weights.names:
        assert drift_of_codes(again, name).equal(drift_of_codes(first, name))
    assert again.norm() == first.norm()


@kinds
@pytest.mark.parametrize("ending", [None, RuntimeError, KeyboardInterrupt])
def test_at_base_holds_the_base_codes_and_gives_the_others_back(ending, kept):
    drift = coded_drift(kept)
    weights = drift.weights
    before, base = bits_of(weights), bits_of(CodedWeights())
    ends = nullcontext() if ending is None else pytest.raises(ending, match="as planned")

    with ends, drift.at_base():
        inside = bits_of(weights)
        if ending is not None:
            raise ending("as planned")

    assert inside == base != before
    assert bits_of(weights) == before
    drift.give_back()
    assert bits_of(weights) == base


@kinds
def test_changed_counts_the_codes_that_the_last_step_made_others(kept):
    drift = coded_drift(kept, steps=0)
    assert drift.changed == 0

    for step in range(1, 6):
        before = all_codes(drift.weights)
        walk_codes(drift, 1, run_seed=step)
        assert drift.changed == int((all_codes(drift.weights) != before).sum()) > 0

    before = all_codes(drift.weights)
    drift.step([], [], 1.0, decay=0.5, sigma=0.6)  # a decay alone
    assert drift.changed == int((all_codes(drift.weights) != before).sum()) > 0
    drift.step([], [], 1.0, sigma=0.6)  # nothing at all
    assert drift.changed == 0


@kinds
def test_a_step_thousands_of_times_as_large_as_the_one_before_is_kept_whole(kept):
    weights = one_layer(torch.zeros(30, 40, dtype=torch.int8), BYTE)
    drift = Drift(weights, dtype=kept)
    small, large = (whole_steps(5, "w.weight", 0, 1200, sigma, "cpu") for sigma in (0.1, 2.5))

    drift.step([Member(5)], [1.0], alpha=1e-3, sigma=0.1)
    drift.step([Member(5)], [1.0], alpha=5.0, sigma=2.5)

    exact = 1e-3 * small + 5.0 * large
    # float16 rounds by up to 2**-10 of an element, int8 by up to 1 / 127 of the largest of 256.
    within = {"float32": 1e-5, "float16": 2**-10, "int8": 1 / 127}[kept] * float(exact.abs().max())
    assert float((drift_of_codes(drift, "w.weight") - exact).abs().max()) <= within


def test_a_step_without_sigma_is_refused_and_nothing_moves():
    drift = coded_drift()
    before = bits_of(drift.weights)

    with pytest.raises(ValueError, match="sigma is missing, expected that of the members"):
        drift.step([Member(1)], [1.0], 1.0)

    assert bits_of(drift.weights) == before
    walk_codes(drift, 1)  # nothing is torn


CODED = ["up.weight", "down.weight", "odd.weight", "out.weight"]
CHOICES = {
    "nothing said": ({}, CODED),
    "codes by a glob": ({"include": ["o*.weight"]}, CODED[2:]),
    "but for some": ({"exclude": ["odd.*"]}, [CODED[0], CODED[1], CODED[3]]),
    "floats by name": ({"include": ["norm.*"]}, ["norm.weight", "norm.bias"]),
    "all": ({"include": ["*"]}, [*CODED[:2], "down.bias", *CODED[2:], "norm.weight", "norm.bias"]),
}


@pytest.mark.parametrize(("chosen", "names"), CHOICES.values(), ids=CHOICES)
def test_codes_alone_are_tuned_unless_globs_name_floats(chosen, names):
    weights = CodedWeights(**chosen)

    assert weights.names == names
    assert weights.coded == any(name in CODED for name in names)
    sizes = {name: p.numel() for name, p in weights.model.named_parameters()}
    sizes |= {"up.weight": 300, "down.weight": 112}  # two a byte
    assert weights.numel == sum(sizes[name] for name in names)


def test_an_embedding_of_codes_is_not_there_to_be_tuned():
    with pytest.raises(ValueError, match=r"'embed\.\*' matches no parameter"):
        Weights(CodedModel(), include=["embed.*"])


def test_floats_beside_codes_follow_the_formulas_of_floats_and_leave_no_trace():
    weights = CodedWeights(include=["*"])
    alone = coded_drift(steps=0)
    drift = Drift(weights)
    members, coefficients = population(0, 1, 4), [1.5, -0.5, -1.25, 0.25]

    drift.step(members, coefficients, 0.5, sigma=0.6)
    alone.step(members, coefficients, 0.5, sigma=0.6)
    before = model_bits(weights.model)
    for revert in ("restore", "log"):
        with perturbed(weights, Member(3), 0.6, drift, revert):
            assert model_bits(weights.model) != before
        assert model_bits(weights.model) == before

    for name in CODED:
        assert weights.flat(name).equal(alone.weights.flat(name))
    pairs = list(zip(members, coefficients, strict=True))
    expected = 0.5 / 4 * sum(c * noise(member.seed, "norm.weight", 0, 6) for member, c in pairs)
    torch.testing.assert_close(drift_of(drift, "norm.weight"), expected)
    torch.testing.assert_close(weights.flat("norm.weight"), 1 + expected)


@kinds
def test_after_a_step_torn_half_way_codes_are_refused_until_a_state_is_loaded(kept):
    drift = coded_drift(kept)
    weights = drift.weights
    before, state = bits_of(weights), saved(drift)

    weights.fails_at, weights.failure = "odd.weight", KeyboardInterrupt("stop")
    with pytest.raises(KeyboardInterrupt, match="stop"):
        walk_codes(drift, 1, run_seed=1)
    with pytest.raises(AnchorError, match="was not made whole"):
        walk_codes(drift, 1)
    drift.load(state)

    assert bits_of(weights) == before


@kinds
@pytest.mark.parametrize("alpha", [3e38, 1e300])  # what is infinite is D; or alpha in float32, too
def test_an_infinite_update_of_codes_is_refused_though_a_bound_would_hide_it(alpha, kept):
    drift = coded_drift(kept)

    with pytest.raises(AnchorError, match=r"step 4 makes .*\.weight infinite"):
        drift.step([Member(2)], [1.0], alpha, sigma=2.5)

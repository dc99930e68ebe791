"""The state of a drift: what is saved and loaded goes on to the bits of an unbroken run."""

import json
from dataclasses import replace

import pytest
import torch
from some_weights import bits_of, dtypes, kinds, some_drift, walk, whole_drift, with_both_noises

from esft.engine import Member, perturbed
from esft.errors import AnchorError


def saved(drift):
    """A state as a file gives it back: other memory, figures through JSON."""
    state = drift.state()
    tensors = {name: tensor.clone() for name, tensor in state.tensors.items()}
    return replace(state, tensors=tensors, figures=json.loads(json.dumps(state.figures)))


def first_half(drift):
    walk(drift, steps=3, decay=0.01, norm="l1")
    # Last, decays without an update: int8 holds them back until the next one.
    drift.step([], [], 0.1, decay=0.001, norm="l1")
    drift.step([], [], 0.1, decay=0.1)


def second_half(drift):
    drift.step([], [], 0.1, decay=0.001, norm="l1")
    walk(drift, steps=2, run_seed=1, alpha=0.001, decay=0.1)
    drift.step([], [], 0.1, decay=0.1)


@with_both_noises
@kinds
@dtypes
def test_steps_from_a_loaded_state_make_the_bits_of_an_unbroken_run(dtype, kept):
    unbroken, resumed = (some_drift(dtype, kept, steps=0) for _ in range(2))
    first_half(unbroken)
    state = saved(unbroken)
    half_way, norm = bits_of(unbroken.weights), unbroken.norm()
    second_half(unbroken)

    resumed.load(state)
    assert bits_of(resumed.weights) == half_way
    assert resumed.norm() == norm
    assert resumed.state().figures == state.figures
    second_half(resumed)

    assert bits_of(resumed.weights) == bits_of(unbroken.weights)
    assert whole_drift(resumed).equal(whole_drift(unbroken))
    assert resumed.norm() == unbroken.norm()
    assert resumed.state().steps == 9


@with_both_noises
@kinds
def test_a_torn_drift_is_whole_again_once_a_state_is_loaded(kept):
    drift = some_drift(torch.bfloat16, kept, steps=3)
    weights = drift.weights
    before, state = bits_of(weights), saved(drift)
    weights.fails_at, weights.failure = "norm", MemoryError("stop")
    with pytest.raises(MemoryError, match="stop"):
        walk(drift, steps=1)

    drift.load(state)

    assert bits_of(weights) == before
    with perturbed(weights, Member(1), 1e-3, drift):
        pass
    assert bits_of(weights) == before


@with_both_noises
def test_a_state_on_the_host_is_a_view_and_takes_the_bytes_it_says():
    drift = some_drift(torch.bfloat16, "int8")

    one, other = drift.state(), drift.state()

    assert set(one.tensors) == {f"{n}{s}" for n in one.figures for s in ("", ":scales")}
    assert sum(tensor.nbytes for tensor in one.tensors.values()) == drift.state_nbytes
    for name, tensor in one.tensors.items():
        assert tensor.data_ptr() == other.tensors[name].data_ptr()


def with_tensors(change):
    """What makes another state of one: its tensors and those that `change` makes of them."""
    return lambda state: replace(state, tensors={**state.tensors, **change(state.tensors)})


OTHERS = {
    "a name too few": (
        lambda state: replace(
            state, tensors={name: t for name, t in state.tensors.items() if name != "proj"}
        ),
        "proj: the saved drift has none, expected torch.int8",
    ),
    "a name too many": (
        with_tensors(lambda _: {"more": torch.zeros(2)}),
        "more: the saved drift has torch.float32 of shape .2,., expected none",
    ),
    "another size": (
        with_tensors(lambda tensors: {"odd": tensors["odd"][1:]}),
        r"odd: the saved drift has torch.int8 of shape \(23,\), expected .* \(24,\)",
    ),
    "scales of another dtype": (
        with_tensors(lambda tensors: {"odd:scales": tensors["odd:scales"].double()}),
        "odd:scales: the saved drift has torch.float64",
    ),
    "another kind": (
        lambda state: replace(state, kind="float16"),
        "kept as float16, expected int8",
    ),
    "figures of another kind": (
        lambda state: replace(state, figures={**state.figures, "odd": {"exponent": 3}}),
        "figures of odd: the saved drift has exponent, expected owed",
    ),
}


@with_both_noises
@pytest.mark.parametrize(("change", "message"), OTHERS.values(), ids=OTHERS)
def test_a_state_of_another_drift_is_refused_with_a_hint_and_nothing_changes(change, message):
    drift, other = (some_drift(torch.bfloat16, "int8", steps=steps) for steps in (3, 5))
    before, values, norm = bits_of(drift.weights), whole_drift(drift), drift.norm()

    with pytest.raises(AnchorError, match=message) as caught:
        drift.load(change(saved(other)))

    hint = "drift = 'float16'" if "kept as" in message else "that the drift was saved with"
    assert hint in caught.value.hint
    assert bits_of(drift.weights) == before
    assert whole_drift(drift).equal(values)
    assert drift.norm() == norm
    assert drift.state().steps == 3

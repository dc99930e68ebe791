"""Wherever theta_0 and D lie, a drift makes the same bits, and theta_0 is only read."""

import pytest
import torch
from some_weights import (
    Tensors,
    bits_of,
    drift_stores,
    dtypes,
    kinds,
    mapped_base,
    some_drift,
    some_weights,
    stored_drift,
    stores,
    walk,
    whole_drift,
    with_both_noises,
)

from esft.engine import Drift, Member, Weights, perturbed
from esft.engine.perturb import revert_way
from esft.errors import AnchorError


@pytest.fixture
def path(tmp_path):
    return tmp_path / "base.safetensors"


@with_both_noises
@stores
@drift_stores
@kinds
@dtypes
def test_every_store_makes_the_bits_of_the_plain_one(dtype, kept, drift_store, store, path):
    plain = some_drift(dtype, kept, steps=0)
    drift = stored_drift(dtype, kept, store, drift_store, path)
    at_base = bits_of(drift.weights)

    for one in (plain, drift):
        walk(one, steps=2, decay=0.1)
        one.step([], [], 0.1, decay=0.1)
        one.step([], [], 0.1, decay=0.01, norm="l1")
        walk(one, steps=1, run_seed=1, decay=0.01, norm="l1")

    assert bits_of(drift.weights) == bits_of(plain.weights)
    assert whole_drift(drift).equal(whole_drift(plain))
    assert drift.norm() == plain.norm()
    with drift.at_base():
        assert bits_of(drift.weights) == at_base


@with_both_noises
@stores
@drift_stores
@kinds
@dtypes
def test_weights_that_are_given_back_are_the_base_and_the_drift_ends(
    dtype, kept, drift_store, store, path
):
    drift = stored_drift(dtype, kept, store, drift_store, path)
    weights, at_base = drift.weights, bits_of(drift.weights)
    walk(drift, steps=2)
    assert bits_of(weights) != at_base

    drift.give_back()

    assert bits_of(weights) == at_base
    with pytest.raises(AnchorError):
        walk(drift, steps=1)


@with_both_noises
@stores
@drift_stores
@kinds
@dtypes
def test_equal_rewards_members_and_visits_leave_every_bit(dtype, kept, drift_store, store, path):
    drift = stored_drift(dtype, kept, store, drift_store, path)
    weights, at_base = drift.weights, bits_of(drift.weights)

    for decay in ({}, {"decay": 0.1}, {"decay": 0.1, "norm": "l1"}):
        drift.step([], [], 0.5, **decay)
        assert bits_of(weights) == at_base
        assert drift.norm() == 0
    walk(drift, steps=2)
    moved, norm = bits_of(weights), drift.norm()
    with drift.at_base():
        assert bits_of(weights) == at_base != moved
    assert bits_of(weights) == moved
    with perturbed(weights, Member(1), 0.1, drift):
        assert bits_of(weights) != moved
    assert bits_of(weights) == moved
    drift.step([], [], 0.5)

    assert bits_of(weights) == moved
    assert drift.norm() == norm > 0


@with_both_noises
@stores
def test_a_base_takes_bytes_but_on_disk_and_on_a_cpu_is_at_hand_to_restore_from(store, path):
    drift = stored_drift(torch.bfloat16, "int8", store, None, path)

    assert drift.nbytes - drift.state_nbytes == (store != "disk") * drift.weights.nbytes
    assert revert_way(drift) == "restore"
    assert revert_way(None) == "log"


@with_both_noises
@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("proj", None, "base of proj is None, expected torch.bfloat16"),
        ("more", lambda _: torch.zeros(3), "base of more is torch.float32 of .*, expected None"),
        ("proj", lambda t: t.half(), "base of proj is torch.float16 of .* torch.bfloat16"),
        ("proj", lambda t: t[1:], r"base of proj is .* \(191,\), expected .* \(192,\)"),
        ("proj", lambda t: t.view(12, 16), r"base of proj is .* \(12, 16\), expected"),
    ],
)
def test_a_base_unlike_the_weights_is_refused_and_no_drift_is_left(name, change, message, path):
    weights = some_weights(torch.bfloat16)
    base = mapped_base(weights, path)
    tensor = base.pop(name, None)
    if change is not None:
        base[name] = change(tensor)

    with pytest.raises(ValueError, match=message):
        Drift(weights, "disk", base=base)

    Drift(weights)


@with_both_noises
def test_a_base_goes_with_disk_and_with_no_other_store(path):
    weights = some_weights(torch.bfloat16)
    base = mapped_base(weights, path)

    with pytest.raises(ValueError, match="base is missing with store 'disk'"):
        Drift(weights, "disk")
    for store in ("cpu", "device"):
        with pytest.raises(ValueError, match=f"base is given with store '{store}'"):
            Drift(weights, store, base=base)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@stores
def test_a_base_that_is_not_finite_is_refused_wherever_it_lies(store, bad, path):
    values = torch.zeros(500)
    values[400] = bad
    weights = Weights(Tensors(fine=torch.zeros(5), broken=values), scratch=48 * 256)
    base = mapped_base(weights, path) if store == "disk" else None

    with pytest.raises(AnchorError, match="broken of the base model is NaN or infinite"):
        Drift(weights, store, base=base)

    with perturbed(weights, Member(1), 1e-3):  # no half-made drift is left
        pass

"""Wherever theta_0 and D lie, a drift makes the same bits, and theta_0 is only read."""

import pytest
import torch
from some_weights import (
    DRIFT_DTYPES,
    DTYPES,
    SMALL_SCRATCH,
    Tensors,
    bits_of,
    mapped_base,
    some_drift,
    some_model,
    walk,
    whole_drift,
)

from esft.engine import Drift, Member, Weights, perturbed
from esft.engine.anchor import STORES
from esft.engine.drift import DRIFT_STORES
from esft.engine.perturb import revert_way
from esft.errors import AnchorError

places = pytest.mark.parametrize("drift_store", DRIFT_STORES)
stores = pytest.mark.parametrize("store", STORES)
kinds = pytest.mark.parametrize("kept", DRIFT_DTYPES)
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=str)


def placed(dtype, kept, store, drift_store, folder):
    """A Drift of `some_model` at D = 0, and the bytes of the file that "disk" maps."""
    weights = Weights(some_model(dtype), scratch=SMALL_SCRATCH)
    path = folder / "base.safetensors"
    base = mapped_base(weights, path)
    mapped = {"base": base} if store == "disk" else {}
    drift = Drift(weights, store, kept, **mapped, drift_store=drift_store)
    return (
        weights,
        drift,
        lambda: (path.read_bytes(), [bytes(t.view(torch.uint8)) for t in base.values()]),
    )


@stores
@places
@kinds
@dtypes
def test_every_place_makes_the_bits_of_the_plain_one(dtype, kept, drift_store, store, tmp_path):
    plain = some_drift(dtype, kept, steps=0)
    weights, drift, base = placed(dtype, kept, store, drift_store, tmp_path)
    base_before = base()

    for one in (plain, drift):
        walk(one, steps=2, decay=0.1)
        one.step([], [], 0.1, decay=0.1)
        one.step([], [], 0.1, decay=0.01, norm="l1")
        walk(one, steps=1, run_seed=1, decay=0.01, norm="l1")

    assert bits_of(weights) == bits_of(plain.weights)
    assert whole_drift(drift).equal(whole_drift(plain))
    assert drift.norm() == plain.norm()
    assert base() == base_before


@stores
@places
@kinds
@dtypes
def test_equal_rewards_and_visits_leave_every_bit(dtype, kept, drift_store, store, tmp_path):
    weights, drift, base = placed(dtype, kept, store, drift_store, tmp_path)
    at_base, base_before = bits_of(weights), base()

    for decay in ({}, {"decay": 0.1}, {"decay": 0.1, "norm": "l1"}):
        drift.step([], [], 0.5, **decay)
        assert bits_of(weights) == at_base
    walk(drift, steps=2)
    moved = bits_of(weights)
    with drift.at_base():
        assert bits_of(weights) == at_base != moved
    assert bits_of(weights) == moved
    with perturbed(weights, Member(1), 0.1, drift):
        assert bits_of(weights) != moved

    assert bits_of(weights) == moved
    assert base() == base_before


@stores
def test_on_a_cpu_all_lies_at_hand_so_members_are_restored(store, tmp_path):
    _, drift, _ = placed(torch.bfloat16, "int8", store, None, tmp_path)

    assert drift.on_device
    assert revert_way(drift) == "restore"


def test_a_base_on_disk_takes_no_bytes_of_its_own(tmp_path):
    weights, mapped, _ = placed(torch.bfloat16, "int8", "disk", None, tmp_path)
    _, copied, _ = placed(torch.bfloat16, "int8", "cpu", None, tmp_path)

    assert mapped.nbytes == mapped.state_nbytes
    assert copied.nbytes == mapped.nbytes + weights.nbytes


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda base: {name: base[name] for name in base if name != "proj"},
            r"base lacks \['proj'\] and has \[\]",
        ),
        (lambda base: base | {"more": torch.zeros(3)}, r"base lacks \[\] and has \['more'\]"),
        (
            lambda base: base | {"proj": base["proj"].to(torch.float16)},
            r"base of proj is torch.float16 of .* expected torch.bfloat16",
        ),
        (
            lambda base: base | {"proj": base["proj"][1:]},
            r"base of proj is .* \(191,\) on cpu, expected .* \(192,\) on cpu",
        ),
        (
            lambda base: base | {"proj": base["proj"].view(12, 16)},
            r"base of proj is .* \(12, 16\) on cpu, expected .* \(192,\) on cpu",
        ),
    ],
)
def test_a_base_unlike_the_weights_is_refused_and_no_drift_is_left(change, message, tmp_path):
    weights = Weights(some_model(torch.bfloat16))
    base = mapped_base(weights, tmp_path / "base.safetensors")

    with pytest.raises(ValueError, match=message):
        Drift(weights, "disk", base=change(base))

    Drift(weights)


def test_a_base_goes_with_disk_and_with_no_other_store(tmp_path):
    weights = Weights(some_model(torch.bfloat16))
    base = mapped_base(weights, tmp_path / "base.safetensors")

    with pytest.raises(ValueError, match="base is missing with store 'disk'"):
        Drift(weights, "disk")
    for store in ("cpu", "device"):
        with pytest.raises(ValueError, match=f"base is given with store '{store}'"):
            Drift(weights, store, base=base)


@stores
def test_a_base_that_is_not_finite_is_refused_wherever_it_lies(store, tmp_path):
    weights = Weights(Tensors(w=torch.tensor([1.0, float("nan")])))
    base = mapped_base(weights, tmp_path / "base.safetensors") if store == "disk" else None

    with pytest.raises(AnchorError, match="w of the base model is NaN or infinite"):
        Drift(weights, store, base=base)

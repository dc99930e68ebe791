"""How far weights have drifted, measured against the drift put together whole."""

import pytest
import torch
from some_weights import (
    DRIFT_DTYPES,
    DTYPES,
    Tensors,
    bits_of,
    drift_of,
    mapped_base,
    some_drift,
    some_model,
    some_weights,
    walk,
    whole_drift,
)
from test_scratch import Allocated

from esft.engine import Drift, Member, Weights, perturbed
from esft.engine.anchor import STORES
from esft.engine.drift import DRIFT_STORES
from esft.engine.measures import layer_of, measures
from esft.errors import AnchorError

kinds = pytest.mark.parametrize("kept", DRIFT_DTYPES)
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=str)


@kinds
def test_all_weights_and_every_layer_have_their_norm(kept):
    drift = some_drift(torch.bfloat16, kept)
    weights = drift.weights

    measured = measures(drift)

    assert measured.norm == pytest.approx(float(whole_drift(drift).norm()), rel=1e-6)
    assert measured.norm == pytest.approx(drift.norm(), rel=1e-6)
    found = {layer.name: layer for layer in measured.layers}
    assert list(found) == weights.names  # plain names are layers of their own
    for name, layer in found.items():
        assert layer.norm == pytest.approx(float(drift_of(drift, name).norm()), rel=1e-6)
        assert layer.numel == weights.flat(name).numel()


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("model.embed_tokens.weight", "model.embed_tokens"),
        ("model.layers.3.mlp.up_proj.weight", "model.layers.3"),
        ("model.layers.12.mlp.experts.7.w1.weight", "model.layers.12"),
        ("transformer.h.0.ln_1.bias", "transformer.h.0"),
        ("gpt_neox.layers.5.attention.dense.weight", "gpt_neox.layers.5"),
        ("model.norm.weight", "model.norm"),
        ("lm_head.weight", "lm_head"),
        ("scale", "scale"),
    ],
)
def test_a_layer_is_named_up_to_its_number(name, layer):
    assert layer_of(name) == layer


def test_parameters_of_a_layer_count_together():
    draw = torch.Generator().manual_seed(0)
    model = torch.nn.ModuleDict(
        {
            "layers": torch.nn.ModuleList(
                Tensors(**{name: torch.randn(300, generator=draw) for name in ("up", "down")})
                for _ in range(2)
            )
        }
    )
    walk(drift := Drift(Weights(model)), steps=2)

    found = measures(drift)

    assert [(layer.name, layer.numel) for layer in found.layers] == [
        ("layers.0", 600),
        ("layers.1", 600),
    ]
    for layer in found.layers:
        parts = [drift_of(drift, f"{layer.name}.{part}") for part in ("up", "down")]
        assert layer.norm == pytest.approx(float(torch.cat(parts).norm()), rel=1e-6)
    assert found.norm**2 == pytest.approx(sum(layer.norm**2 for layer in found.layers))


@kinds
@dtypes
def test_weights_that_have_not_moved_are_told_from_elements_of_no_drift(dtype, kept):
    base, drift = some_model(dtype), some_drift(dtype, kept)
    weights = drift.weights
    flats = [(weights.flat(name), p.view(-1)) for name, p in base.named_parameters()]
    same = sum(
        int((now.view(torch.uint8).view(-1, now.element_size())
             == then.view(torch.uint8).view(-1, now.element_size())).all(dim=1).sum())
        for now, then in flats
    )  # fmt: skip

    found = measures(drift)

    assert found.unmoved_share == same / weights.numel
    assert found.zero_share == float((whole_drift(drift) == 0).double().mean())
    assert found.zero_share < found.unmoved_share < 1  # the largest numbers stay where they are


@kinds
@dtypes
def test_without_a_step_nothing_has_moved(dtype, kept):
    drift = some_drift(dtype, kept, steps=0)

    found = measures(drift)

    assert (found.norm, found.zero_share, found.unmoved_share) == (0.0, 1.0, 1.0)


def test_a_zero_that_changed_its_sign_has_moved():
    weights = Weights(Tensors(w=torch.tensor([0.0, 1.0])))
    drift = Drift(weights)
    weights.flat("w")[0] = -0.0

    assert measures(drift).unmoved_share == 0.5


@pytest.mark.parametrize("drift_store", DRIFT_STORES)
@pytest.mark.parametrize("store", STORES)
def test_measures_are_the_same_wherever_base_and_drift_lie(store, drift_store, tmp_path):
    expected = some_drift(torch.bfloat16, "float16")
    weights = some_weights(torch.bfloat16)
    base = mapped_base(weights, tmp_path / "base.safetensors") if store == "disk" else None
    drift = Drift(weights, store, "float16", base=base, drift_store=drift_store)
    walk(drift, steps=3)
    before = bits_of(weights)

    found = measures(drift)

    assert found == measures(expected)
    assert bits_of(weights) == before


@kinds
def test_no_more_is_held_than_the_scratch(kept):
    weights = Weights(Tensors(w=torch.randn(100_001)), scratch=48 * 1000)
    walk(drift := Drift(weights, dtype=kept), steps=1)

    with Allocated() as seen:
        measures(drift)

    # The counts of each piece are kept to the end: 8 bytes each.
    pieces = len(list(weights.pieces()))
    assert 0 < seen.peak <= weights.scratch + 5 * 8 * pieces


def test_a_drift_that_was_torn_is_refused():
    drift = some_drift(torch.float32, "float32")
    drift._torn = True

    with pytest.raises(AnchorError, match="interrupted half-way"):
        measures(drift)


def test_weights_that_are_held_are_refused():
    drift = some_drift(torch.float32, "float32")
    weights = drift.weights

    with pytest.raises(ValueError, match="measures while"), drift.at_base():
        measures(drift)
    with (
        pytest.raises(ValueError, match="measures while"),
        perturbed(weights, Member(1), 1e-3, drift),
    ):
        measures(drift)

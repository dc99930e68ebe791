"""How far weights have drifted, measured against the drift put together whole."""

import pytest
import torch
from some_weights import (
    Tensors,
    drift_of,
    dtypes,
    kinds,
    some_drift,
    some_model,
    tensor_bits,
    walk,
    whole_drift,
    with_both_noises,
)

from esft.engine import Drift, Weights
from esft.engine.measures import distance, layer_of, measures


@with_both_noises
@kinds
@dtypes
def test_norms_and_shares_are_those_of_the_drift_put_together(dtype, kept):
    drift = some_drift(dtype, kept)
    weights = drift.weights

    measured = measures(drift)

    assert measured.norm == pytest.approx(float(whole_drift(drift).norm()), rel=1e-6)
    assert measured.norm == pytest.approx(drift.norm(), rel=1e-6)
    assert [layer.name for layer in measured.layers] == weights.names  # each a layer of its own
    for layer in measured.layers:
        assert layer.norm == pytest.approx(float(drift_of(drift, layer.name).norm()), rel=1e-6)
        assert layer.numel == weights.flat(layer.name).numel()
    same = sum(
        tensor_bits(now) == tensor_bits(then)
        for name, base in some_model(dtype).named_parameters()
        for now, then in zip(weights.flat(name), base.view(-1), strict=True)
    )
    assert measured.unmoved_share == same / weights.numel
    assert measured.zero_share == float((whole_drift(drift) == 0).double().mean())
    # The largest numbers stay where they are.
    assert measured.zero_share < measured.unmoved_share < 1


def test_without_a_step_nothing_has_moved_but_a_zero_that_changes_its_sign_has():
    weights = Weights(Tensors(w=torch.tensor([0.0, 1.0])))
    drift = Drift(weights)

    still = measures(drift)
    weights.flat("w")[0] = -0.0

    assert (still.norm, still.zero_share, still.unmoved_share) == (0.0, 1.0, 1.0)
    assert measures(drift).unmoved_share == 0.5


@dtypes
def test_the_distance_of_two_models_is_that_of_their_drift_and_counts_what_both_have(
    dtype, monkeypatch
):
    monkeypatch.setattr("esft.engine.measures._PIECE", 7)
    model, base = some_model(dtype), dict(some_model(dtype).named_parameters())
    left, name = dict(base), next(iter(base))
    del left[name]
    for parameter in model.parameters():
        parameter.data.view(-1)[::3] += 0.25
        parameter.data.view(-1)[1::3] -= 0.25

    measured, without = distance(model, base), distance(model, left)

    changes = {
        name: (parameter.double() - base[name].double()).view(-1)
        for name, parameter in model.named_parameters()
    }
    whole = torch.cat([*changes.values()])
    assert measured.norm == pytest.approx(float(whole.norm()), rel=1e-6)
    assert measured.unmoved_share == float((whole == 0).double().mean())
    assert [layer.numel for layer in measured.layers] == [len(one) for one in changes.values()]
    assert without.norm**2 == pytest.approx(measured.norm**2 - float(changes[name].norm()) ** 2)
    with pytest.raises(ValueError, match="no parameter has the name of another"):
        distance(model, {})


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("model.embed_tokens.weight", "model.embed_tokens"),
        ("model.layers.3.mlp.up_proj.weight", "model.layers.3"),
        ("model.layers.12.mlp.experts.7.w1.weight", "model.layers.12"),
        ("transformer.h.0.ln_1.bias", "transformer.h.0"),
        ("gpt_neox.layers.5.attention.dense.weight", "gpt_neox.layers.5"),
        ("model.norm.weight", "model.norm"),
        ("scale", "scale"),
    ],
)
def test_a_layer_is_named_up_to_its_number(name, layer):
    assert layer_of(name) == layer


def test_parameters_of_a_layer_count_together():
    draw = torch.Generator().manual_seed(0)
    layers = torch.nn.ModuleList(
        Tensors(**{name: torch.randn(300, generator=draw) for name in ("up", "down")})
        for _ in range(2)
    )
    walk(drift := Drift(Weights(torch.nn.ModuleDict({"layers": layers}))), steps=2)

    measured = measures(drift)

    assert [(layer.name, layer.numel) for layer in measured.layers] == [
        ("layers.0", 600),
        ("layers.1", 600),
    ]
    for layer in measured.layers:
        parts = [drift_of(drift, f"{layer.name}.{part}") for part in ("up", "down")]
        assert layer.norm == pytest.approx(float(torch.cat(parts).norm()), rel=1e-6)
    assert measured.norm**2 == pytest.approx(sum(layer.norm**2 for layer in measured.layers))

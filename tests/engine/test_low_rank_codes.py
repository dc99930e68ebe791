"""Noise of low rank of codes: members read it beside them, the drift gets it in steps."""

import copy
import math

import pytest
import torch
from some_codes import CodedModel, codes_of, drift_of_codes, some_matrix
from some_weights import SMALL_SCRATCH, FailingWeights, bits_of, both_kernels, kinds
from tiny_models import tiny_qwen2
from torch import nn

from esft.engine import Drift, Member, Weights, perturbed
from esft.engine.batched import BatchedModel
from esft.engine.coded import CodedLinear, coded_of
from esft.engine.codes import Quantized
from esft.engine.forecast import Forecast, Law, sum_of_squares
from esft.engine.kernels import Kernels
from esft.engine.measures import law_of_weights, root_mean_square
from esft.engine.members import net_coefficients, population, shape
from esft.engine.noise import LOW_RANK_CODES_VERSION, drawn
from esft.engine.replayed import ReplayedDrift
from esft.models.coded_model import quantize_

SIGMA = 0.02
MEMBERS = [Member(5), Member(5, -1), Member(7)]
ROWS = [0, 2, 1, 1, 0, 2]  # whose member each is
DECAYS = [{}, {"decay": 2.0, "norm": "l2"}, {"decay": 2.0, "norm": "l1"}]
decays = pytest.mark.parametrize("decay", DECAYS, ids=str)


def low_rank(kernels=None, rank=2, include=None):
    """Weights of a `CodedModel`; its largest matrix has two pieces."""
    rest = {"scratch": SMALL_SCRATCH, "kernels": kernels, "rank": rank}
    weights = FailingWeights(model := CodedModel(), include, **rest)
    weights.model = model
    return weights


def layer(matrix, rank=1):
    return Weights(nn.ModuleDict({"w": CodedLinear(matrix, None, torch.float32)}), rank=rank)


def scales_of(weights, name):
    """The scale of each code, element by element."""
    scale = weights.scale(name).double()
    columns = weights.factors(name).columns
    rows = scale.shape[0]
    each = scale[:, :, None].expand(-1, -1, columns // scale.shape[1])
    return each.reshape(rows * columns)


def coded_and_floats(weights):
    """A small model whose linear layers are codes, and the same with their values as floats."""
    model = tiny_qwen2()  # its linear layers have biases
    quantize_(model, weights, torch.float32, "qwen2")
    floats = copy.deepcopy(model)
    for name, one in coded_of(floats).items():
        plain = nn.Linear(one.columns, one.rows, bias=one.bias is not None)
        plain.weight.data = one.values()
        if one.bias is not None:
            plain.bias.data = one.bias.data
        floats.set_submodule(name.removesuffix(".weight"), plain)
    return model, floats.eval().requires_grad_(False)


@pytest.mark.parametrize("rank", [1, 3])
@pytest.mark.parametrize("include", [None, ("*proj.*",)], ids=["codes", "codes and biases"])
@pytest.mark.parametrize("kind", ["int8", "int4"])
@torch.inference_mode()
def test_rows_come_out_as_from_the_floats_of_the_codes_perturbed(kind, include, rank, monkeypatch):
    monkeypatch.setattr("esft.engine.coded._TILE", {"cpu": 500})
    model, floats = coded_and_floats(kind)
    weights = Weights(model, include, rank=rank)
    ids, before = torch.randint(4, 200, (6, 9)), bits_of(weights)
    assert max(len(list(one.tiles())) for one in coded_of(model).values()) > 1

    batched = BatchedModel(model, weights)
    with batched.members(MEMBERS, SIGMA):
        shared = batched(input_ids=ids, members=ROWS).logits

    base = floats(input_ids=ids).logits
    alone = torch.empty_like(base)
    of_floats = Weights(floats, weights.names, rank=rank)
    for place, member in enumerate(MEMBERS):
        rows = [row for row, of in enumerate(ROWS) if of == place]
        with perturbed(of_floats, member, SIGMA):
            alone[rows] = floats(input_ids=ids[rows]).logits
    assert of_floats.names == weights.names
    assert float((alone - base).std()) > 0.05  # so much is the noise of these members felt
    torch.testing.assert_close(shared, alone, atol=2e-5, rtol=0)
    assert bits_of(weights) == before
    torch.testing.assert_close(batched(input_ids=ids).logits, base)


@both_kernels
@decays
def test_twenty_steps_follow_the_formula_a_noise_over_the_size_of_a_step(decay, kernels):
    weights = low_rank(kernels)
    drift, alpha = Drift(weights, dtype="float32"), 0.01
    exact = {name: torch.zeros(weights.count(name)).double() for name in weights.names}
    base = {name: codes_of(weights, name).double() for name in weights.names}
    given, clamped = torch.Generator().manual_seed(0), 0

    for step in range(1, 21):
        members = population(0, step, 6, antithetic=True)
        coefficients = shape(torch.rand(6, generator=given).tolist(), "zscore", antithetic=True)
        drift.step(members, coefficients, alpha, **decay)
        for name, moved in exact.items():
            grid, where = weights.grid(name), (name, 0, weights.count(name))
            total = sum(
                c * m.sign * drawn(m.seed, *where, factors=weights.factors(name)).double()
                for m, c in zip(members, coefficients, strict=True)
            )
            moved += alpha / 6 * total / scales_of(weights, name)
            pull = alpha * decay.get("decay", 0.0)
            if decay.get("norm") == "l1":
                moved.copy_(moved.sign() * (moved.abs() - pull).clamp(min=0))
            else:
                moved *= 1 - pull
            low, high = grid.low - 0.5 - base[name], grid.high + 0.5 - base[name]
            clamped += int(((moved < low) | (moved > high)).sum())
            moved.copy_(moved.clamp(low, high))
            codes = (base[name] + moved.round()).clamp(grid.low, grid.high)
            near = ((moved - moved.floor()) - 0.5).abs() < 1e-4  # either is right
            assert codes_of(weights, name).double()[~near].equal(codes[~near])

    assert clamped > 100
    found = torch.cat([drift_of_codes(drift, name) for name in weights.names]).double()
    wanted = torch.cat(list(exact.values()))
    # Each of some hundred sums rounds D by up to 2**-24 of it.
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=0)
    assert drift.norm() == pytest.approx(float(wanted.norm()), rel=1e-5)
    assert float(wanted.abs().max()) > 3


@kinds
@decays
def test_every_form_of_the_passes_makes_the_same_steps(decay, kept):
    made = []
    for kernels in (None, Kernels()):
        drift = Drift(low_rank(kernels), dtype=kept)
        for step in range(1, 5):
            drift.step(population(0, step, 4), [1.5, -0.5, -1.25, 0.25], 0.02, **decay)
        drifts = [drift_of_codes(drift, name).tolist() for name in drift.weights.names]
        made.append((bits_of(drift.weights), drift.norm(), drift.changed, drifts))

    assert made[0] == made[1]
    assert made[0][2] > 0


@kinds
def test_a_drift_is_kept_as_finely_as_of_floats(kept):
    weights = layer(some_matrix(-127, 127, 60, 80, 4))
    drift = Drift(weights, dtype=kept)

    for alpha in (1e-6, 1e-3, 0.05):
        drift.step([Member(1), Member(2)], [1.0, -1.0], alpha)

    noise = [
        drawn(seed, "w.weight", 0, 4800, factors=weights.factors("w.weight")) for seed in (1, 2)
    ]
    wanted = (1e-6 + 1e-3 + 0.05) / 2 * (noise[0] - noise[1]).double()
    wanted /= scales_of(weights, "w.weight")
    inside = (codes_of(weights, "w.weight").abs() < 110) & (wanted.abs() < 15)
    # float16 rounds by up to 2**-10 of an element, int8 by up to 1 / 127 of the largest of 256.
    within = {"float32": 1e-6, "float16": 2**-10, "int8": 1 / 127}[kept] * float(wanted.abs().max())
    found = drift_of_codes(drift, "w.weight").double()
    assert float((found - wanted)[inside].abs().max()) <= 3 * within
    assert int(inside.sum()) > 2000


def test_a_group_without_steps_is_left_alone_and_the_others_go_on():
    matrix = some_matrix(0, 15, 6, 8, 2)
    scale = 50 * matrix.scale  # 0.5 to 1
    scale[2, 1] = 0
    weights = layer(Quantized(matrix.codes, 0, 15, scale, matrix.minimum))
    drift = Drift(weights, dtype="float32")

    drift.step([Member(1)], [1.0], 2.5)

    moved = drift_of_codes(drift, "w.weight").view(6, 2, 4)
    assert not moved[2, 1].any()
    assert int((moved != 0).sum()) == 44
    assert sum(share for share, unit in law_of_weights(weights).units if unit == 0) == 4 / 48


@decays
@pytest.mark.parametrize("antithetic", [False, True])
def test_thirty_steps_without_signal_are_as_long_as_forecast(antithetic, decay):
    draw = torch.Generator().manual_seed(0)
    scale = 0.01 * torch.exp(
        0.7 * torch.randn(256, 4, generator=draw)
    )  # far apart, as those of layers
    codes = torch.zeros(256, 256, dtype=torch.int8)
    weights = layer(Quantized(codes, -127, 127, scale), rank=4)
    drift, alpha = Drift(weights, dtype="float32"), 0.02
    law = law_of_weights(weights)
    forecast = Forecast(weights.numel, alpha, **decay, law=law)

    for step in range(1, 31):
        members = population(0, step, 10, antithetic)
        coefficients = shape(torch.randn(10, generator=draw).tolist(), "zscore", antithetic)
        drift.step(members, coefficients, alpha, **decay)
        forecast.step(10, sum_of_squares(net_coefficients(members, coefficients)))

    assert law.square(None) == pytest.approx(float(scale.double().pow(-2).mean()), rel=1e-6)
    # Noise of rank 4 repeats itself along rows and columns: a few percent of spread, as measured.
    assert drift.norm() / forecast.norms[-1] == pytest.approx(1, rel=0.03)


def test_the_law_tells_how_many_steps_a_unit_is_kind_by_kind_and_floats_count_themselves():
    weights = low_rank(include=["*"])

    units = law_of_weights(weights).units

    numel = sum(math.prod(one.shape) for one in coded_of(weights.model).values() if one.tuned)
    assert weights.names[2] == "down.bias"
    assert weights.numel == numel + 8
    assert sum(share for share, _ in units) == pytest.approx(1)
    ones = [(scales_of(weights, name) ** -2).sum() for name in weights.names if weights.grid(name)]
    assert sum(share * unit**2 for share, unit in units) * weights.numel == pytest.approx(
        float(sum(ones)) + 8
    )
    assert all(1 / 0.02 <= unit <= 1 / 0.01 or unit == 1 for _, unit in units)
    spread = Law(units=units).spread(10_000)
    assert float((spread == 1).sum()) == pytest.approx(10_000 * 8 / weights.numel, abs=1)
    assert len(spread) == 10_000


def test_the_size_of_weights_is_that_of_their_values_around_the_middle_of_the_grid():
    matrix = some_matrix(-127, 127, 60, 80, 4)

    size = root_mean_square(layer(matrix))

    assert size == pytest.approx(float(matrix.dequantized().square().mean().sqrt()), rel=1e-6)


def test_no_code_takes_the_noise_and_no_update_is_replayed():
    weights = low_rank()

    expected = "of low rank, expected members that share a batch"
    with pytest.raises(ValueError, match=expected), perturbed(weights, Member(1), SIGMA):
        pass
    with pytest.raises(ValueError, match="noise is of low rank, expected that of whole steps"):
        ReplayedDrift(weights)
    assert LOW_RANK_CODES_VERSION == 4

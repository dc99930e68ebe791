"""Layers of codes give what layers of the dequantized matrix give, from memory of their own."""

import copy

import pytest
import torch
import torch.nn.functional as F
from some_codes import GRIDS, CodedModel, some_matrix
from some_pieces import assert_same_bits
from torch import nn

from esft.engine import Member, Weights, perturbed
from esft.engine.coded import CodedEmbedding, CodedLinear, coded_of
from esft.engine.codes import Quantized
from esft.engine.weights import identity, identity_as_saved

MATRICES = {  # low, high, rows, columns, groups
    "int8": (-127, 127, 7, 12, 3),
    "packed": (0, 15, 7, 12, 4),
    "packed, signed": (-8, 7, 7, 10, 1),
    "odd groups": (0, 15, 4, 6, 2),
    "odd columns": (0, 15, 7, 9, 3),
    "many tiles": (-127, 127, 700, 500, 1),
}
matrices = pytest.mark.parametrize("matrix", MATRICES.values(), ids=MATRICES)


@matrices
@pytest.mark.parametrize("scales", [torch.float32, torch.float16], ids=str)
def test_values_are_the_dequantized_matrix_bit_for_bit_also_of_a_few_rows(scales, matrix):
    matrix = some_matrix(*matrix)
    minimum = None if matrix.minimum is None else matrix.minimum.to(scales)
    matrix = Quantized(matrix.codes, matrix.low, matrix.high, matrix.scale.to(scales), minimum)
    layer = CodedLinear(matrix, None, torch.float32)

    assert_same_bits(layer.values(), matrix.dequantized())
    assert_same_bits(layer.values(1, 3), matrix.dequantized()[1:3])
    assert layer.codes().equal(matrix.codes)
    assert layer.shape == tuple(matrix.codes.shape)


@matrices
@pytest.mark.parametrize("with_bias", [False, True], ids=["no bias", "bias"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_linear_layer_of_codes_gives_what_its_dequantized_matrix_gives(dtype, with_bias, matrix):
    matrix = some_matrix(*matrix)
    rows, columns = matrix.codes.shape
    draw = torch.Generator().manual_seed(0)
    bias = torch.randn(rows, generator=draw).to(dtype) if with_bias else None
    x = torch.randn(2, 3, columns, generator=draw).to(dtype)
    layer = CodedLinear(matrix, bias, dtype)

    out = layer(x)

    # Tiles may be added up in another order: within the rounding of so many products.
    expected = F.linear(x, matrix.dequantized().to(dtype), bias)
    torch.testing.assert_close(out, expected)
    assert (len(list(layer.tiles())) > 1) == (rows == 700)


@matrices
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_an_embedding_of_codes_gives_rows_of_its_dequantized_matrix(dtype, matrix):
    matrix = some_matrix(*matrix)
    tokens = torch.tensor([[3, 0, 3], [1, 2, len(matrix.codes) - 1]])

    out = CodedEmbedding(matrix, dtype)(tokens)

    assert_same_bits(out, matrix.dequantized().to(dtype)[tokens])


@pytest.mark.parametrize(
    ("low", "high", "columns", "nbytes"),
    [(0, 15, 8, 24), (-8, 7, 8, 24), (0, 15, 9, 54), (-8, 8, 8, 48), (-127, 127, 8, 48)],
)
def test_codes_of_four_bits_lie_two_in_a_byte_unless_columns_are_odd(low, high, columns, nbytes):
    layer = CodedLinear(some_matrix(low, high, 6, columns), None, torch.float32)

    assert layer.weight.nbytes == nbytes
    assert layer.weight.dtype == (torch.uint8 if nbytes == 24 else torch.int8)
    scales = 1 if layer.minimum is None else 2
    assert layer.nbytes == nbytes + scales * 6 * 4


@pytest.mark.parametrize("bounds", [(0, 15), (-127, 127)], ids=str)
def test_a_member_of_a_shared_matrix_shows_in_both_layers_and_is_tuned_once(bounds):
    model = nn.ModuleDict({"one": CodedLinear(some_matrix(*bounds, 6, 8), None, torch.float32)})
    bias = torch.arange(6.0)
    model["other"] = CodedLinear.sharing(model["one"], bias)
    x = torch.randn(3, 8, generator=torch.Generator().manual_seed(0))
    before = model["one"](x)
    weights = Weights(model)

    with perturbed(weights, Member(1), 2.0):
        inside, beside = model["one"](x), model["other"](x)

    assert weights.names == ["one.weight"] == list(coded_of(model))
    assert not inside.equal(before)
    torch.testing.assert_close(beside, inside + bias)
    for name in ("weight", "scale", "minimum"):
        assert getattr(model["other"], name) is getattr(model["one"], name)


def test_a_head_that_shares_the_matrix_of_an_embedding_is_not_tuned():
    embed = CodedEmbedding(some_matrix(0, 15, 6, 8), torch.float32)
    model = nn.ModuleDict({"embed": embed, "head": CodedLinear.sharing(embed, None)})
    model["norm"] = nn.LayerNorm(8)

    assert model["head"](torch.eye(8)).equal(embed(torch.arange(6)).T)
    assert Weights(model).names == ["norm.weight", "norm.bias"]


def one_more(tensor):
    tensor.view(-1)[-1] += 1


CHANGES = {
    "a code": lambda model: one_more(model.down.weight),
    "a scale": lambda model: one_more(model.down.scale),
    "a minimum": lambda model: one_more(model.up.minimum),
    "a scale that is not tuned": lambda model: one_more(model.embed.scale),
    "a float": lambda model: one_more(model.norm.weight),
}


@torch.no_grad()
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_the_identity_covers_codes_scales_and_minima(change):
    model = CodedModel()
    before, as_saved = identity(model), identity_as_saved(model)
    assert identity(CodedModel()) == before

    change(model)

    assert identity(model) != before
    assert identity_as_saved(model) != as_saved


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("tied", [False, True], ids=["", "tied"])
def test_the_identity_as_saved_is_that_of_the_model_with_the_dequantized_matrices(tied, dtype):
    matrices = [some_matrix(*MATRICES[name]) for name in ("packed", "odd columns")]
    embed, linear = (matrix.dequantized().to(dtype) for matrix in matrices)
    bias = torch.ones(7)
    model = nn.ModuleDict({"embed": CodedEmbedding(matrices[0], dtype)})
    plain = nn.ModuleDict({"embed": nn.Embedding(7, 12, _weight=embed)})
    model["linear"] = CodedLinear(matrices[1], bias, dtype)
    plain["linear"] = nn.Linear(9, 7)
    plain["linear"].weight, plain["linear"].bias = nn.Parameter(linear), nn.Parameter(bias)
    model["norm"], plain["norm"] = nn.LayerNorm(7), nn.LayerNorm(7)
    if tied:
        model["head"] = CodedLinear.sharing(model["embed"], None)
        plain["head"] = nn.Linear(12, 7, bias=False)
        plain["head"].weight = plain["embed"].weight

    assert identity_as_saved(model) == identity(plain) != identity(model)


def test_a_copy_of_a_model_has_codes_of_its_own():
    model = CodedModel()
    other = copy.deepcopy(model)
    before = identity(model)

    with perturbed(Weights(other), Member(1), 2.0):
        assert identity(model) == before != identity(other)

    assert other.up.grid == GRIDS["packed"]

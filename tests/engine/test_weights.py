"""The weights: every tuned parameter once, in pieces that fit the scratch."""

import hashlib
import struct

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from some_weights import Tensors, some_model, tensor_bits
from torch import nn

from esft.engine import Member, Weights, perturbed
from esft.engine.weights import identity


def tied_model():
    model = nn.ModuleDict({"embed": nn.Embedding(11, 6), "head": nn.Linear(6, 11, bias=False)})
    model["head"].weight = model["embed"].weight
    return model.requires_grad_(False)


def model_tied_by_memory():
    model = tied_model()
    model["head"].weight = nn.Parameter(model["embed"].weight.data, requires_grad=False)
    return model


@pytest.mark.parametrize("build", [tied_model, model_tied_by_memory])
def test_tied_weights_are_tuned_once(build):
    model = build()
    before = model["embed"].weight.clone()
    weights = Weights(model)

    with perturbed(weights, Member(1), 0.5):
        moved = model["head"].weight - before

    assert weights.names == ["embed.weight"]
    assert (weights.numel, weights.nbytes) == (66, 4 * 66)
    assert moved.std() == pytest.approx(0.5, rel=0.5)  # the noise once: 5 standard errors


@pytest.mark.parametrize(
    ("include", "exclude", "names"),
    [
        (None, None, ["embed", "proj", "norm", "odd", "scale"]),
        (["*o*"], None, ["proj", "norm", "odd"]),
        (["proj", "scale"], None, ["proj", "scale"]),
        (None, ("norm", "s*"), ["embed", "proj", "odd"]),
        (["*o*"], ["n?rm"], ["proj", "odd"]),
    ],
)
def test_globs_choose_and_exclude_wins(include, exclude, names):
    model = some_model(torch.float32)
    before = {name: tensor_bits(parameter) for name, parameter in model.named_parameters()}

    weights = Weights(model, include, exclude)
    with perturbed(weights, Member(1), 1e-2):
        moved = [n for n, p in model.named_parameters() if tensor_bits(p) != before[n]]

    assert weights.names == moved == names


@pytest.mark.parametrize(
    ("globs", "message"),
    [
        ({"include": ["Proj"]}, "'Proj' matches no parameter.*'embed'"),
        ({"exclude": ["norm", "bias*"]}, r"'bias\*' matches no parameter.*'embed'"),
        ({"exclude": ["*"]}, "no floating-point parameter is left"),
        ({"include": "embed"}, "expected a list of globs"),
        ({"exclude": "embed"}, "expected a list of globs"),
    ],
)
def test_globs_that_match_nothing_or_leave_nothing_or_are_no_list_are_refused(globs, message):
    with pytest.raises(ValueError, match=message):
        Weights(some_model(torch.float32), **globs)


def test_integer_parameters_are_left_alone():
    model = Tensors(codes=torch.arange(5), w=torch.ones(5))
    weights = Weights(model)

    with perturbed(weights, Member(1), 0.5):
        assert model.codes.tolist() == [0, 1, 2, 3, 4]

    assert weights.names == ["w"]
    with pytest.raises(ValueError, match="no floating-point parameter is left"):
        Weights(model, exclude=["w"])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float8_e4m3fn], ids=str)
def test_a_dtype_that_cannot_be_tuned_is_refused_unless_excluded(dtype):
    model = Tensors(w=torch.ones(5), scales=torch.ones(5).to(dtype))

    with pytest.raises(ValueError, match=r"scales is torch\.float.*expected float32"):
        Weights(model)

    assert Weights(model, exclude=["scales"]).names == ["w"]


def test_a_parameter_that_is_not_contiguous_counts_in_row_major_order():
    values = torch.randn(7, 5, generator=torch.Generator().manual_seed(0))
    plain, transposed = Tensors(w=values.clone()), Tensors(w=values.t().contiguous().t())
    assert not transposed.w.is_contiguous()

    for model in (plain, transposed):
        with perturbed(Weights(model, scratch=48 * 3), Member(1), 0.1):
            model.inside = model.w.clone()

    assert transposed.inside.equal(plain.inside)
    assert transposed.w.equal(values)


def test_empty_and_scalar_parameters_are_no_trouble():
    model = Tensors(empty=torch.ones(0, 4), none=torch.ones(0), scalar=torch.tensor(2.0))
    weights = Weights(model)

    with perturbed(weights, Member(1), 0.5):
        assert model.scalar != 2

    assert identity(model)
    assert weights.names == ["empty", "none", "scalar"]
    assert weights.numel == 1
    assert model.scalar == 2


@settings(deadline=None, max_examples=100)
@given(st.lists(st.integers(0, 1500), min_size=1, max_size=4), st.integers(1, 48 * 600))
def test_the_pieces_cover_every_weight_once(sizes, scratch):
    model = Tensors(**{f"w{i}": torch.zeros(n) for i, n in enumerate(sizes)})
    weights = Weights(model, scratch=scratch)

    for piece in weights.pieces():
        piece.flat.add_(torch.arange(piece.start, piece.start + piece.count) + 1)
        assert piece.count <= max(256, scratch // 48)
        assert piece.start % 256 == 0

    for i, n in enumerate(sizes):
        assert weights.flat(f"w{i}").tolist() == list(range(1, n + 1))


def test_the_identity_is_the_hash_of_name_dtype_shape_and_bytes_in_row_major_order():
    model = Tensors(w=torch.tensor([[1.0, -0.0], [3.0, 4.0]]), v=torch.ones(1).bfloat16())

    assert (
        identity(model)
        == hashlib.sha256(
            b"w|torch.float32|(2, 2)|"
            + struct.pack("<4f", 1.0, -0.0, 3.0, 4.0)
            + b"v|torch.bfloat16|(1,)|\x80\x3f"
        ).hexdigest()
    )


def test_the_layout_in_memory_is_no_difference_and_a_tied_tensor_counts_once():
    plain, tied = Tensors(w=torch.randn(3, 2)), tied_model()
    transposed = Tensors(w=plain.w.t().contiguous().t())

    assert not transposed.w.is_contiguous()
    assert identity(transposed) == identity(plain)
    assert identity(tied) == identity(nn.ModuleDict({"embed": tied["embed"]}))

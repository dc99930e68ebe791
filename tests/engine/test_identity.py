"""A base model is known by the bytes of its parameters."""

import hashlib
import struct

import pytest
import torch
from some_weights import Tensors
from test_weights import tied_model

from esft.engine.weights import identity


def model(values=(1.0, 0.0, 3.0, 4.0), name="w", dtype=torch.float32, shape=(2, 2)):
    return Tensors(**{name: torch.tensor(values, dtype=dtype).view(shape)})


def test_it_is_the_hash_of_name_dtype_shape_and_bytes_in_row_major_order():
    written_out = b"w|torch.float32|(2, 2)|" + struct.pack("<4f", 1.0, 0.0, 3.0, 4.0)

    assert identity(model()) == hashlib.sha256(written_out).hexdigest()


@pytest.mark.parametrize(
    "change",
    [
        {"values": (1.0, -0.0, 3.0, 4.0)},
        {"values": (1.0, 0.0, 3.0, 4.000001)},
        {"values": (1.0, 0.0, 4.0, 3.0)},
        {"name": "v"},
        {"dtype": torch.bfloat16},
        {"shape": (4, 1)},
    ],
    ids=str,
)
def test_any_difference_gives_another_identity(change):
    assert identity(model(**change)) != identity(model())


def test_the_layout_in_memory_is_no_difference():
    plain = model()
    transposed = Tensors(w=plain.w.t().contiguous().t())

    assert not transposed.w.is_contiguous()
    assert identity(transposed) == identity(plain)


def test_a_tied_tensor_counts_once():
    tied = tied_model()
    alone = torch.nn.ModuleDict({"embed": tied["embed"]})

    assert identity(tied) == identity(alone)


def test_two_dtypes_of_the_same_bytes_differ():
    half = Tensors(w=torch.zeros(4, dtype=torch.float16))

    assert identity(half) != identity(Tensors(w=torch.zeros(4, dtype=torch.bfloat16)))


def test_empty_and_scalar_parameters_are_no_trouble():
    assert identity(Tensors(empty=torch.ones(0, 4), scalar=torch.tensor(2.0)))

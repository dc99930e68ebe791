"""Codes in the blocks of .gguf tensors."""

import os

import gguf
import numpy as np
import pytest
import torch
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

from esft.models.gguf_blocks import KINDS, codes_of, with_codes

MODEL = os.environ.get("ESFT_TEST_MODEL")
HALVES = {"Q8_0": (0,), "Q4_0": (0,), "Q5_0": (0,), "Q6_K": (208,)}
"""Where a block has float16 numbers: at byte 0 and 2 if not here."""
BOUNDS = {"Q8_0": (-128, 127), "Q4_0": (-8, 7), "Q5_0": (-16, 15), "Q6_K": (-32, 31)}
BOUNDS |= {"Q4_1": (0, 15), "Q5_1": (0, 31), "Q4_K": (0, 15), "Q5_K": (0, 31)}

every_kind = pytest.mark.parametrize("kind", KINDS)
some_seeds = pytest.mark.parametrize("seed", [0, 1, 42])


def random_blocks(kind, seed, rows=7, blocks=3):
    """Any bytes, but finite float16 numbers: of both signs, zero and subnormal ones among them."""
    size = GGML_QUANT_SIZES[GGMLQuantizationType[kind]][1]
    rng = np.random.default_rng(seed)
    made = rng.integers(0, 256, (rows * blocks, size), np.uint8)
    for start in HALVES.get(kind, (0, 2)):
        high = made[:, start + 1]
        high[high & 0x7C == 0x7C] ^= 0x40
        made[:3, start : start + 2] = [[0, 0], [0, 0x80], [1, 0]]
    return made.reshape(rows, blocks * size)


def random_codes(kind, like, seed):
    low, high = BOUNDS[kind]
    return torch.from_numpy(np.random.default_rng(seed).integers(low, high + 1, like.shape, "i1"))


def same_bits(one, other):
    if one is None or other is None:
        return one is other
    return one.dtype == other.dtype and one.numpy().tobytes() == other.numpy().tobytes()


@every_kind
@some_seeds
def test_codes_taken_out_and_put_back_leave_every_byte(kind, seed):
    blocks = random_blocks(kind, seed)
    before = blocks.copy()

    again = with_codes(blocks, kind, codes_of(blocks, kind).codes)

    assert np.array_equal(again, before)


@every_kind
@some_seeds
def test_dequantized_they_are_what_gguf_makes_of_the_blocks_bit_for_bit(kind, seed):
    blocks = random_blocks(kind, seed)

    values = codes_of(blocks, kind).dequantized()

    expected = gguf.quants.dequantize(blocks, GGMLQuantizationType[kind])
    assert np.array_equal(values.numpy().view(np.int32), expected.view(np.int32))


@every_kind
@some_seeds
def test_codes_are_within_their_bounds_and_reach_both(kind, seed):
    quantized = codes_of(random_blocks(kind, seed, rows=70), kind)

    assert quantized.codes.dtype == torch.int8
    assert (quantized.low, quantized.high) == BOUNDS[kind]
    assert (quantized.codes.min(), quantized.codes.max()) == BOUNDS[kind]


@every_kind
@some_seeds
def test_other_codes_put_in_come_out_with_the_scales_that_were_there(kind, seed):
    blocks = random_blocks(kind, seed)
    before, quantized = blocks.copy(), codes_of(blocks, kind)
    codes = random_codes(kind, quantized.codes, seed + 1)

    changed = codes_of(with_codes(blocks, kind, codes), kind)

    assert changed.codes.equal(codes)
    assert not codes.equal(quantized.codes)
    assert same_bits(changed.scale, quantized.scale)
    assert same_bits(changed.minimum, quantized.minimum)
    assert np.array_equal(blocks, before)


@every_kind
def test_scales_are_float16_where_the_file_has_just_these_numbers(kind):
    quantized = codes_of(random_blocks(kind, 0), kind)

    expected = torch.float32 if kind.endswith("K") else torch.float16
    assert quantized.scale.dtype == expected
    assert (quantized.minimum is None) == (kind in HALVES)
    assert quantized.minimum is None or quantized.minimum.dtype == expected


@every_kind
def test_blocks_that_cannot_be_written_to_are_read(kind, recwarn):
    blocks = random_blocks(kind, 0, blocks=1)[:1]  # contiguous: a view would share its memory
    blocks.flags.writeable = False

    quantized = codes_of(blocks, kind)

    assert np.array_equal(with_codes(blocks, kind, quantized.codes), blocks)
    assert not recwarn.list  # torch warns of a tensor that shares memory of this sort


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "Q8_0"])  # has every int8
def test_a_code_that_the_type_does_not_have_is_refused(kind):
    blocks = random_blocks(kind, 0)
    low, high = BOUNDS[kind]

    for code in (low - 1, high + 1):
        codes = codes_of(blocks, kind).codes
        codes[3, 5] = code
        with pytest.raises(ValueError, match=f"{kind}: code {code}, expected {low} to {high}$"):
            with_codes(blocks, kind, codes)


def test_an_unknown_type_is_refused_with_those_that_are_known():
    blocks = random_blocks("Q2_K", 0)
    message = "type Q2_K, expected one of Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, Q4_K, Q5_K, Q6_K$"

    with pytest.raises(ValueError, match=message):
        codes_of(blocks, "Q2_K")
    with pytest.raises(ValueError, match=message):
        with_codes(blocks, "Q2_K", np.zeros((7, 768), np.int8))


def test_a_row_that_is_not_a_whole_number_of_blocks_is_refused():
    with pytest.raises(ValueError, match=r"rows of 33 bytes, expected blocks of 34 bytes \(Q8_0\)"):
        codes_of(np.zeros((34, 33), np.uint8), "Q8_0")


@pytest.mark.real
@pytest.mark.skipif(MODEL is None, reason="ESFT_TEST_MODEL names no model")
def test_the_tensors_of_the_real_model_make_the_round_trip():
    tensors = [one for one in gguf.GGUFReader(MODEL).tensors if one.tensor_type.name in KINDS]

    assert tensors
    for tensor in tensors:
        kind = tensor.tensor_type.name
        quantized = codes_of(tensor.data, kind)
        again = with_codes(tensor.data, kind, quantized.codes)
        expected = gguf.quants.dequantize(tensor.data, tensor.tensor_type)

        assert np.array_equal(again, tensor.data), tensor.name
        values = quantized.dequantized().numpy()
        assert np.array_equal(values.view(np.int32), expected.view(np.int32)), tensor.name

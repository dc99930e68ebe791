"""Codes packed one by one, as the formats have it, come back; what cannot be read is refused."""

import random
import re

import numpy as np
import pytest
import torch

from esft.errors import ModelError
from esft.models.packed_checkpoint import keys_of, layers_of, packing_of, quantized

LAYER = "model.layers.0.mlp.up_proj"
OUTPUTS = 16
INPUTS = 96
AWQ_COLUMNS = [0, 2, 4, 6, 1, 3, 5, 7]
GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 32, "desc_act": False}
AWQ = {"quant_method": "awq", "bits": 4, "group_size": 32, "version": "gemm"}
INT8 = {"quant_method": "bitsandbytes", "load_in_8bit": True, "load_in_4bit": False}
NF4 = INT8 | {"load_in_8bit": False, "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}
AGAIN = "copy or download it again"
FLOATS = "the float checkpoint it was made from, with --weights int"


def word(codes, bits):
    """Return codes as one int32, the first in its lowest bits."""
    total = sum(code << bits * k for k, code in enumerate(codes))
    return total - 2**32 if total >= 2**31 else total


def packed_down(rows, bits):
    """Pack (n, m) codes along the first dimension."""
    per = 32 // bits
    return torch.tensor(
        [
            [word([rows[i + k][j] for k in range(per)], bits) for j in range(len(rows[0]))]
            for i in range(0, len(rows), per)
        ],
        dtype=torch.int32,
    )


def packed_across(rows, bits, columns=None):
    """Pack (n, m) codes along the second dimension; `columns`: which of them a word holds where."""
    per = 32 // bits
    columns = columns or range(per)
    return torch.tensor(
        [
            [word([row[j + k] for k in columns], bits) for j in range(0, len(row), per)]
            for row in rows
        ],
        dtype=torch.int32,
    )


def random_layer(config, seed):
    """Return the tensors of a layer, its codes (inputs, outputs) and its weights in float64."""
    rng = random.Random(seed)
    bits, gptq = config["bits"], config["quant_method"] == "gptq"
    size = INPUTS if config["group_size"] == -1 else config["group_size"]
    less = int(gptq and config.get("checkpoint_format", "gptq") == "gptq")
    groups = range(INPUTS // size)
    codes = [[rng.randrange(2**bits) for _ in range(OUTPUTS)] for _ in range(INPUTS)]
    stored = [[rng.randrange(2**bits) for _ in range(OUTPUTS)] for _ in groups]
    stored[0][:2] = [0, 2**bits - 1]
    scales = torch.tensor(
        [[rng.uniform(1e-3, 1e-1) for _ in range(OUTPUTS)] for _ in groups]
    ).half()
    weights = torch.empty(OUTPUTS, INPUTS, dtype=torch.float64)
    for i in range(INPUTS):
        for j in range(OUTPUTS):
            steps = codes[i][j] - (stored[i // size][j] + less)
            weights[j, i] = scales[i // size, j].item() * steps
    columns = None if gptq else AWQ_COLUMNS
    tensors = {
        "qweight": packed_down(codes, bits) if gptq else packed_across(codes, bits, columns),
        "qzeros": packed_across(stored, bits, columns),
        "scales": scales,
    }
    if gptq:
        tensors["g_idx"] = torch.tensor([i // size for i in range(INPUTS)], dtype=torch.int32)
    return {f"{LAYER}.{part}": value for part, value in tensors.items()}, codes, weights


def int8_layer(seed=0):
    noise = torch.Generator().manual_seed(seed)
    codes = torch.randint(-127, 128, (OUTPUTS, INPUTS), generator=noise, dtype=torch.int8)
    largest = torch.rand(OUTPUTS, generator=noise)
    form = torch.tensor(0, dtype=torch.uint8)
    return {
        f"{LAYER}.weight": codes,
        f"{LAYER}.SCB": largest,
        f"{LAYER}.weight_format": form,
    }


def read(tensors, config):
    return quantized(LAYER, tensors.__getitem__, packing_of(config, "tiny"))


# Codes and weights


@pytest.mark.parametrize("size", [8, 32, 48, -1])
@pytest.mark.parametrize(
    "config",
    [
        GPTQ,
        GPTQ | {"checkpoint_format": "gptq"},
        GPTQ | {"checkpoint_format": "gptq_v2", "desc_act": True},
        GPTQ | {"bits": 8},
        GPTQ | {"bits": 8, "checkpoint_format": "gptq_v2"},
        AWQ,
        AWQ | {"version": "GEMM"},
    ],
)
@pytest.mark.parametrize("seed", [0, 1, 42])
def test_codes_and_weights_are_those_that_were_packed(seed, config, size):
    config = config | {"group_size": size}
    tensors, codes, weights = random_layer(config, seed)

    result = read(tensors, config)

    shift = 128 if config["bits"] == 8 else 0
    assert result.codes.dtype == torch.int8
    assert (result.low, result.high) == (-shift, 2 ** config["bits"] - 1 - shift)
    assert torch.equal(result.codes.long() + shift, torch.tensor(codes).T)
    # Exactly: the products of float16 scales and of codes have fewer bits than float32.
    assert torch.equal(result.dequantized().double(), weights)
    assert result.scale.dtype == result.minimum.dtype == torch.float32
    assert result.codes.is_contiguous()
    assert result.scale.is_contiguous()
    assert result.minimum.is_contiguous()


@pytest.mark.parametrize("seed", [0, 1, 42])
def test_an_int8_weight_is_its_code_times_scb_over_127(seed):
    tensors = int8_layer(seed)

    result = read(tensors, INT8)

    largest = tensors[f"{LAYER}.SCB"].numpy()
    assert torch.equal(result.codes, tensors[f"{LAYER}.weight"])
    assert (result.low, result.high, result.minimum) == (-127, 127, None)
    assert np.array_equal(result.scale[:, 0].numpy(), largest * np.float32(1 / 127))


@pytest.mark.parametrize("seed", [0, 1, 42])
def test_an_int8_matrix_is_what_bitsandbytes_makes_of_it(seed):
    from bitsandbytes.functional import int8_vectorwise_dequant, int8_vectorwise_quant

    floats = torch.randn(OUTPUTS, INPUTS, generator=torch.Generator().manual_seed(seed))
    floats[3] = 0
    codes, largest, _ = int8_vectorwise_quant(floats.half())

    result = read({f"{LAYER}.weight": codes, f"{LAYER}.SCB": largest}, INT8)

    expected = int8_vectorwise_dequant(codes, largest)  # multiplies in another order
    # Two products, each rounded by at most 2^-24 of it, on either side.
    torch.testing.assert_close(result.dequantized(), expected, rtol=4 * 2**-24, atol=0)


def test_an_int8_code_of_minus_128_is_kept():
    tensors = int8_layer()
    tensors[f"{LAYER}.weight"][2, 5] = -128

    result = read(tensors, INT8)

    assert result.low == -128
    assert result.codes[2, 5] == -128


# Names


@pytest.mark.parametrize(
    ("config", "parts"),
    [
        (GPTQ, ["qweight", "qzeros", "scales", "g_idx"]),
        (AWQ, ["qweight", "qzeros", "scales"]),
        (INT8, ["SCB", "weight", "weight_format"]),
        (INT8, ["SCB", "weight"]),
    ],
)
def test_quantized_layers_are_found_with_all_their_tensors(config, parts):
    packing = packing_of(config, "tiny")
    own = [f"{LAYER}.{part}" for part in parts]
    keys = ["model.norm.weight", *own, f"{LAYER}.bias", f"{LAYER}2.weight", "lm_head.weight"]

    assert layers_of(keys, packing) == [LAYER]
    assert keys_of(LAYER, packing, keys) == own


def test_old_settings_of_bitsandbytes_without_a_method_are_understood():
    assert packing_of({"load_in_8bit": True}, "tiny").method == "bitsandbytes"


# What cannot be read


@pytest.mark.parametrize(
    ("config", "message", "hint"),
    [
        (
            {"quant_method": "hqq"},
            "tiny is quantized (quant_method hqq), expected gptq, awq, bitsandbytes",
            f"take {FLOATS}8 or int4",
        ),
        ({}, "tiny is quantized (quant_method None), expected", f"take {FLOATS}8"),
        (GPTQ | {"bits": 3}, "with gptq to 3 bits, expected 4 or 8", f"take {FLOATS}8"),
        (AWQ | {"bits": 8}, "with awq to 8 bits, expected 4", f"take {FLOATS}8"),
        (GPTQ | {"bits": "4"}, "to '4' bits, expected", f"take {FLOATS}8"),
        (GPTQ | {"bits": 4.0}, "to 4.0 bits, expected", f"take {FLOATS}8"),
        (
            GPTQ | {"checkpoint_format": "marlin"},
            "with gptq in the format marlin, expected gptq or gptq_v2",
            f"take {FLOATS}8",
        ),
        (
            GPTQ | {"format": "marlin"},
            "with gptq in the format marlin, expected gptq",
            f"take {FLOATS}8",
        ),
        (
            AWQ | {"version": "GEMV"},
            "with awq in the format gemv, expected gemm",
            f"take {FLOATS}8",
        ),
        (
            GPTQ | {"group_size": 0},
            "tiny is quantized with gptq and group_size 0, expected -1",
            AGAIN,
        ),
        (
            GPTQ | {"group_size": None},
            "group_size None, expected -1 or a whole number above 0",
            AGAIN,
        ),
        (
            NF4,
            "tiny is quantized with bitsandbytes to nf4, whose steps are not even: expected codes",
            f"take {FLOATS}4 or as floats",
        ),
        ({"load_in_4bit": True}, "with bitsandbytes to fp4, whose", f"take {FLOATS}4"),
        (
            INT8 | {"load_in_8bit": False},
            "tiny is quantized with bitsandbytes, expected load_in_8bit to be true",
            f"take {FLOATS}8",
        ),
    ],
)
def test_settings_that_cannot_be_read_are_refused_with_a_way_out(config, message, hint):
    with pytest.raises(ModelError, match=re.escape(message)) as caught:
        packing_of(config, "tiny")

    assert caught.value.hint.startswith(hint)


@pytest.mark.parametrize("config", [GPTQ, AWQ, INT8])
def test_a_missing_tensor_is_named(config):
    whole = int8_layer() if config == INT8 else random_layer(config, 0)[0]
    whole.pop(f"{LAYER}.weight_format", None)

    for key in whole:
        tensors = {other: value for other, value in whole.items() if other != key}
        with pytest.raises(ModelError, match=f"tiny: {key} is missing, a part") as caught:
            read(tensors, config)

        assert caught.value.hint == AGAIN


@pytest.mark.parametrize(
    ("config", "part", "change", "message"),
    [
        (GPTQ, "qweight", torch.Tensor.short, "qweight is int16, expected int32"),
        (AWQ, "qzeros", torch.Tensor.long, "qzeros is int64, expected int32"),
        (AWQ, "scales", torch.Tensor.int, "scales is int32, expected float16 or bfloat16 or fl"),
        (GPTQ, "g_idx", torch.Tensor.float, "g_idx is float32, expected int32 or int64"),
        (INT8, "weight", torch.Tensor.half, "weight is float16, expected int8"),
        (
            GPTQ,
            "qweight",
            torch.Tensor.flatten,
            "qweight has shape (192,), expected two dimensions",
        ),
        (GPTQ, "qweight", lambda t: t[:0], "qweight has shape (0, 16), expected two dimensions ab"),
        (GPTQ, "g_idx", lambda t: t[:32], "g_idx has shape (32,), expected (96,)"),
        (GPTQ, "scales", lambda t: t[:1], "scales has shape (1, 16), expected (3, 16)"),
        (AWQ, "qzeros", torch.Tensor.t, "qzeros has shape (2, 3), expected (3, 3)"),
        (AWQ, "scales", lambda t: t[:, :8], "scales has shape (3, 8), expected (3, 24)"),
        (INT8, "SCB", lambda t: t[:4], "SCB has shape (4,), expected (16,)"),
        (GPTQ, "qweight", lambda t: t[:5], " has 40 inputs, expected a multiple of 32"),
        (GPTQ, "qweight", lambda t: t[:, :9], " has 9 outputs, expected a multiple of 8"),
        (INT8, "SCB", lambda t: t / 0, "SCB holds NaN or infinite values"),
        (INT8, "weight_format", lambda t: t + 2, "weight is not stored row by row"),
    ],
)
def test_a_tensor_that_is_not_as_the_packing_has_it_is_named(config, part, change, message):
    tensors = int8_layer() if config == INT8 else random_layer(config, 0)[0]
    if config == AWQ and "expected (3, " in message:
        tensors[f"{LAYER}.qweight"] = torch.zeros(INPUTS, 3, dtype=torch.int32)
        if part == "qzeros":
            tensors[f"{LAYER}.scales"] = torch.ones(3, 24)
    tensors[f"{LAYER}.{part}"] = change(tensors[f"{LAYER}.{part}"])

    with pytest.raises(ModelError, match=re.escape(message)) as caught:
        read(tensors, config)

    assert str(caught.value).startswith(f"tiny: {LAYER}")
    assert caught.value.hint is not None


def test_groups_in_activation_order_are_refused_with_a_way_out():
    config = GPTQ | {"desc_act": True}
    tensors, *_ = random_layer(config, 0)
    tensors[f"{LAYER}.g_idx"] = tensors[f"{LAYER}.g_idx"].flip(0)

    with pytest.raises(ModelError, match="inputs of a group are not consecutive") as caught:
        read(tensors, config)

    assert caught.value.hint == (
        "take a checkpoint made with desc_act = false, or the float checkpoint it was made from "
        "with --weights int4"
    )

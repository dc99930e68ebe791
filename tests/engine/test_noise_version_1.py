"""Version 1 of the noise, number by number: a journal that says 1 replays with these."""

import pytest
import torch

from esft.engine import noise
from esft.engine.noise import NOISE_VERSION, derived_seed, random_bits

VECTORS = [  # seed, name, start, float32 bits of four elements of the noise
    (0, "model.embed_tokens.weight", 0, "3f7698a9 bee42b6b 3eaef6e5 3f525582"),
    (1, "model.embed_tokens.weight", 0, "3dd2cf57 3f0cd6d1 bff04f1f be73fc1d"),
    (42, "model.layers.0.mlp.up_proj.weight", 1, "be8dd586 bfa97a21 bf49c601 3f5e5d4e"),
    (-1, "w", 65535, "3ed38381 400e6a19 3f3a6de1 3f6fa612"),
    (1 << 31, "w", (1 << 31) - 2, "bf6c2eab 3f577bb6 3f60166e bf9b0ccf"),
    (1 << 62, "lm_head.weight", (1 << 32) - 4, "3f3f88f5 bfed5c5a bf71623d bf11e014"),
    (0, "", 0, "3f2cdb04 3eb8eba8 3f22b689 3f5aebef"),
    ((1 << 63) - 1, "größe", 10**9, "3f0cd6d1 3f638990 be598e1f bf8f7a20"),
]
BITS = [  # seed, name, start, four elements of the stochastic rounding's random bits
    (0, "model.embed_tokens.weight", 0, "c88764c6 d6bbb065 b4ec5227 681c328a"),
    (42, "model.layers.0.mlp.up_proj.weight", 1, "f67aa6d9 f7b42704 7a413776 3eaa5674"),
    (-1, "w", 65535, "848ce7f2 72345691 90527c9d 2107bbe1"),
    (1 << 62, "lm_head.weight", (1 << 32) - 4, "2ab2809f 2755341c 3016f7d3 a03b0099"),
]


def in_hex(integers):
    return " ".join(f"{integer & 0xFFFFFFFF:08x}" for integer in integers.tolist())


def test_this_is_version_1():
    assert NOISE_VERSION == 1


@pytest.mark.parametrize(("seed", "name", "start", "expected"), VECTORS)
def test_the_noise_is_the_recorded_one(seed, name, start, expected):
    drawn = noise(seed, name, start, 4)

    assert in_hex(drawn.view(torch.int32)) == expected


@pytest.mark.parametrize(("seed", "name", "start", "expected"), BITS)
def test_the_random_bits_are_the_recorded_ones(seed, name, start, expected):
    drawn = random_bits("rounding", seed, name, start, 4)

    assert in_hex(drawn) == expected


def test_the_derived_seeds_are_the_recorded_ones():
    assert derived_seed("member", 0, 1, 0) == 486349902793465004
    assert derived_seed("member", 42, 500, 29) == 7295523163433587190

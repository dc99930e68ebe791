"""Compiled and eager noise have the same bits, alone and fused with what is done with it."""

from importlib import import_module

import pytest
import torch

from esft.engine import noise
from esft.engine.noise import _keys

COUNT = 1003  # not a whole number of vector registers
SEED, NAME, START = 42, "weight", (1 << 32) - COUNT
WEIGHTS = torch.linspace(-1, 1, COUNT).to(torch.bfloat16)


def uses_of_the_noise():
    """What the engine makes of it: the noise, weights plus noise, the sum over members."""
    one = noise(SEED, NAME, START, COUNT)
    perturbed = (WEIGHTS + one * 1e-3).to(torch.bfloat16)
    total = torch.zeros(COUNT)
    for seed in (SEED, SEED + 1):
        shift = noise(seed, NAME, START, COUNT)
        shift *= 0.7310585786300049
        total += shift
    total *= 1e-4 / 3
    return one, perturbed, total


def compile_whole(function):
    # Not dynamic: the keys of the hash are Python numbers, constants of each compilation.
    torch._dynamo.reset()
    return torch.compile(function, dynamic=False, fullgraph=True)


def test_compiled_and_eager_agree_bit_for_bit(monkeypatch):
    try:
        compile_whole(torch.neg)(torch.ones(3))
    except RuntimeError as error:
        pytest.skip(f"torch.compile finds no C++ compiler that works: {str(error)[:200]}")
    # SHA-256 would break the graph before the hash, and nothing would be fused.
    keys = {seed: _keys("noise", seed, NAME) for seed in (SEED, SEED + 1)}
    module = import_module("esft.engine.noise")  # the package's own `noise` is the function
    monkeypatch.setattr(module, "_keys", lambda _purpose, seed, _name: keys[seed])
    eager = uses_of_the_noise()

    fast = compile_whole(uses_of_the_noise)()

    assert [a.equal(b) for a, b in zip(fast, eager, strict=True)] == [True, True, True]

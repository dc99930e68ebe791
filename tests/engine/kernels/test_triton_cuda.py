"""Triton's passes have the bits of the reference, as interpreted and as compiled for cuda."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="needs triton, which is for Linux"
)

OF_CODES = "perturb", "compose", "accumulate_codes"

# Triton compiles for a device that is not there as long as nothing is launched.
COMPILED = """
import sys
import torch
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction

from esft.engine.codes import Grid
from esft.engine.kernels import chosen_kernels
from esft.engine.kernels.reference import Part, Stored
from esft.engine.noise import Factors

class Ampere:
    get_current_device = get_current_stream = lambda self, *_: 0
    get_current_target = lambda self: GPUTarget("cuda", 80, 32)

cuda = torch.device("cuda")
assert chosen_kernels(cuda).name == "torch"  # no driver
driver.set_active(Ampere())
assert chosen_kernels(torch.device("xpu")).name == "torch"
launch = JITFunction.run

def compiled(self, *arguments, grid, warmup, **options):
    assert not warmup
    assembly = launch(self, *arguments, grid=grid, warmup=True, **options).asm
    print(assembly["ttir"], assembly["ptx"])

JITFunction.run = compiled
kernels = chosen_kernels(cuda)
assert kernels.name == "triton"
drifts = [
    Stored(torch.zeros(512)),
    Stored(torch.zeros(512, dtype=torch.float16), factor=0.5),
    Stored(torch.zeros(512, dtype=torch.int8), torch.zeros(2)),
]
for dtype, drift in zip((torch.float16, torch.float32, torch.bfloat16), drifts):
    weights = torch.zeros(512, dtype=dtype)
    part = Part("weight", 0, weights, weights, drift)
    kernels.perturb([part], 1, 1e-3)
    kernels.compose([part])
kernels.perturb([Part("weight", 0, weights, weights)], 1, 1e-3)
kernels.accumulate(drifts[0].values, "weight", 0, [(1, 0.5), (2, -0.5)])
kernels.perturb([Part("weight", 0, weights, weights, drift, Factors(8, 3))], 1, 1e-3)
kernels.accumulate(drifts[0].values, "weight", 0, [(1, 0.5), (2, -0.5)], Factors(8, 3))
for grid, dtype in ((Grid(0, 15, packed=True), torch.uint8), (Grid(-127, 127), torch.int8)):
    codes = torch.zeros(512 // grid.per_byte, dtype=dtype)
    kernels.perturb([Part("weight", 0, codes, codes, drifts[1], grid=grid)], 1, 0.1)
kernels.compose([Part("weight", 0, codes, codes, drifts[2], grid=grid)])
kernels.accumulate_codes(drifts[0].values, torch.zeros(512), grid, "weight", 0, [(1, 0.5, 1)], 0.1)
torch.version.hip = "7.0"
assert chosen_kernels(cuda).name == "torch"
torch.version.hip, sys.modules["triton.runtime"] = None, None
assert chosen_kernels(cuda).name == "torch"
print("kernels: 14")
"""


def run(*command, **environment):
    environment = os.environ | environment
    done = subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, check=False, env=environment
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_interpreted_passes_have_the_bits_of_the_reference():
    here = Path(__file__).parent
    passes = [str(here / "test_passes.py")]
    passes += [f"{here / 'test_codes.py'}::test_{name}" for name in OF_CODES]

    told = run("-m", "pytest", "-q", "-p", "no:cacheprovider", *passes, TRITON_INTERPRET="1")

    assert re.search(r"\b6 passed", told)


def test_passes_compile_for_cuda_with_no_product_fused_and_count_in_64_bits(tmp_path):
    told = run("-c", COMPILED, TRITON_CACHE_DIR=str(tmp_path), CUDA_VISIBLE_DEVICES="")

    assert told.endswith("kernels: 14\n")
    assert "mul.rn.f32" in told
    assert not re.findall(r"fma|\.ftz", told)
    programs = set(re.findall(r"%(\S+) = tt.get_program_id x", told))
    wide = re.findall(r"arith.extsi %(\S+) : i32 to i64", told)
    assert sum(name in programs for name in wide) == told.count("tt.get_program_id x") == 14

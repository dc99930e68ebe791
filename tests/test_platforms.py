"""Every module can be imported on macOS and Windows; what does not work there is refused."""

import subprocess
import sys

import pytest

# Everything else is imported before the platform changes: it is esft that is looked at.
CODE = """
import os, pkgutil, signal, sys
import esft

def names():
    names = [module.name for module in pkgutil.walk_packages(esft.__path__, "esft.")]
    return [name for name in names if name not in {optional!r}]

def import_all():
    for name in names():
        __import__(name)

import_all()
for name in [name for name in sys.modules if name.partition(".")[0] == "esft"]:
    del sys.modules[name]
sys.platform = {platform!r}
missing = {missing!r}
for name in missing:
    module, _, attribute = name.partition(".")
    if attribute:
        delattr(sys.modules[module], attribute)
    else:
        sys.modules[name] = None
import_all()
assert len(names()) > 60
"""
# For kernels that are left alone where these are missing; Triton is for Linux.
OPTIONAL = [
    f"esft.engine.kernels.{name}"
    for name in ("elements", "numba_cpu", "numba_passes", "triton_cuda")
]
WINDOWS = ["numba", "triton", "resource", "fcntl", "termios", "pwd"]
WINDOWS += [f"os.{name}" for name in ("fork", "killpg", "register_at_fork", "getuid", "statvfs")]
WINDOWS += ["os.sched_getaffinity", "os.waitid", "signal.SIGKILL", "signal.SIGHUP"]
WINDOWS += ["signal.pthread_sigmask"]
PEAK = """
import psutil
from types import SimpleNamespace
psutil.Process.memory_info = lambda self: SimpleNamespace(peak_wset=123)
import torch
from esft.tuning.loop import peak_memory
assert peak_memory(torch.device("cpu")) == 123
"""
REFUSED = """
from pathlib import Path
from esft.errors import TaskError
from esft.tasks.graders.process import GraderProcess
try:
    GraderProcess(Path({program!r})).rows()
except TaskError as error:
    print(error, error.hint)
"""


def run(code):
    code = f"import gc\ngc.disable()\n{code}"  # seconds sooner
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    ("platform", "missing"),
    [("win32", WINDOWS), ("darwin", ["triton", "os.waitid", "os.sched_getaffinity"])],
)
def test_every_module_is_importable_without_what_a_platform_lacks(platform, missing, tmp_path):
    program = tmp_path / "my.py"
    program.write_text("def rows(): return []\ndef reward(row, answer): return 1\n")
    code = CODE.format(platform=platform, missing=missing, optional=OPTIONAL)
    if platform == "win32":
        code += PEAK + REFUSED.format(program=str(program))

    told = run(code)

    assert platform != "win32" or "my.py grades in a process of its own" in told
    assert platform != "win32" or "expected Linux or macOS" in told

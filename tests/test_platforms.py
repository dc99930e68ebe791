"""Every module can be imported on macOS and Windows; what does not work there is refused."""

import subprocess
import sys

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

def import_all_without(platform, missing):
    for name in [name for name in sys.modules if name.partition(".")[0] == "esft"]:
        del sys.modules[name]
    sys.platform = platform
    for name in missing:
        module, _, attribute = name.partition(".")
        if not attribute:
            sys.modules[name] = None
        elif hasattr(sys.modules[module], attribute):
            delattr(sys.modules[module], attribute)
    import_all()

import_all()
assert len(names()) > 60
import_all_without("darwin", {mac!r})
print("macOS: all imported")
import_all_without("win32", {windows!r})
print("Windows: all imported")
"""
# For kernels that are left alone where these are missing; Triton is for Linux.
OPTIONAL = [
    f"esft.engine.kernels.{name}"
    for name in (
        "elements",
        "numba_codes",
        "numba_cpu",
        "numba_passes",
        "triton_codes",
        "triton_cuda",
    )
]
MAC = ["triton", "os.waitid", "os.sched_getaffinity"]
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


def test_every_module_is_importable_without_what_a_platform_lacks(tmp_path):
    program = tmp_path / "my.py"
    program.write_text("def rows(): return []\ndef reward(row, answer): return 1\n")
    # One process for both, since Windows lacks all that macOS does; seconds sooner without garbage.
    code = "import gc\ngc.disable()\n" + CODE.format(mac=MAC, windows=WINDOWS, optional=OPTIONAL)
    code += PEAK + REFUSED.format(program=str(program))

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert set(MAC) <= set(WINDOWS)
    assert done.returncode == 0, done.stderr
    mac, windows, refused = done.stdout.splitlines()
    assert (mac, windows) == ("macOS: all imported", "Windows: all imported")
    assert "my.py grades in a process of its own" in refused
    assert "expected Linux or macOS" in refused

"""`esft cache`: how much is kept, and an end to it."""

import json
import subprocess
import sys

from command import esft

from esft.files import cache_folder
from esft.rollout.cache import Cache


def test_sizes_are_shown_per_kind_and_in_all():
    Cache().put("key", "x" * 5000)

    done = esft("cache")

    assert done.exit_code == 0
    measured, bases, kernels, total = done.stdout.splitlines()
    assert measured.split()[:5] == ["measured", "1", "file", "5.1", "kB"]
    assert bases.split()[:3] == ["bases", "0", "files"]
    assert kernels.split()[:3] == ["kernels", "0", "files"]
    assert total == f"in all 5.1 kB in {cache_folder()}"


def test_what_numba_compiled_is_shown_and_goes(monkeypatch):
    monkeypatch.delenv("NUMBA_CACHE_DIR")
    child = "import torch; from esft.engine.kernels import *; from esft.engine.kernels.reference "
    child += "import Part; one = torch.zeros(1); "
    child += 'chosen_kernels(one.device).perturb([Part("w", 0, one, one)], 1, 1.0)'
    subprocess.run([sys.executable, "-c", child], check=True)

    kernels = esft("cache").stdout.splitlines()[2]
    cleared = esft("cache", "--clear")
    after = esft("cache").stdout.splitlines()[2]

    assert kernels.split()[:3] == ["kernels", "2", "files"]
    assert cleared.exit_code == 0
    assert after.split()[:3] == ["kernels", "0", "files"]


def test_clearing_says_what_it_freed():
    Cache().put("key", "x" * 5000)

    done, again = esft("cache", "--clear", "--json"), esft("cache", "--clear")

    assert json.loads(done.stdout)["freed"] == 5067
    assert again.stdout == f"freed 0 bytes in {cache_folder()}\n"

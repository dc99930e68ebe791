"""What this machine has for esft, what is broken, and what to do about it."""

import os
import platform
import shutil
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version

import torch

from esft.bench.promises import NOTE, determinism, exactness
from esft.engine.kernels import Kernels, chosen_kernels
from esft.errors import EsftError
from esft.files import cache_folder, write_whole
from esft.hub import answer_of
from esft.models.device import choose_device, computes_bfloat16
from esft.models.load import load_model
from esft.models.memory import free_memory
from esft.recipe.settings import Anchor
from esft.runs.folder import free_on_disk
from esft.runs.names import RUNS
from esft.tuning.base import open_base
from esft.tuning.memory import room_on
from esft.tuning.run_info import versions
from esft.tuning.verify import FAILED, OK, Check
from esft.tuning.watcher import Watcher

_BESIDE = ("tokenizers", "safetensors", "huggingface-hub", "numba", "triton")


def examine(model: str, device: str | None, watcher: Watcher) -> Iterator[Check]:
    """Yield what is found, as it is found: the machine first, then a model on it.

    Args:
        model: checked for exactness and for answers that stay the same.
        device: where; None takes the first that this machine has.
    """
    yield Check(what="versions", result=OK, text=_versions())
    try:
        on = choose_device(device)
    except EsftError as error:
        yield _failed("device", error)
        return
    yield _device(on)
    yield _kernels(chosen_kernels(on))
    yield _disk()
    watcher.phase("looking for the hub")
    yield hub_check()
    watcher.phase(f"loading {model}")
    room = room_on(on)
    try:
        loaded = load_model(model, device=device)
        base = open_base(loaded, Anchor(), 0, None, None, room)
    except EsftError as error:
        yield _failed("model", error)
        return
    dtype = str(loaded.dtype).removeprefix("torch.")
    text = f"{model}, {base.weights.numel:,} weights in {dtype} on {loaded.device}"
    yield Check(what="model", result=OK, text=text)
    watcher.phase("perturbing and making steps, to see whether their bits come back")
    yield from exactness(base)
    watcher.phase("asking the same with other batch sizes and numbers of threads")
    yield from determinism(loaded)


def hub_check() -> Check:
    """Say whether the hub answers; without it, what is here already works."""
    from huggingface_hub import constants, get_token

    where = constants.ENDPOINT
    if constants.HF_HUB_OFFLINE:
        return Check(what="hub", result=NOTE, text="not asked: HF_HUB_OFFLINE forbids it")
    answer = answer_of(where)
    if isinstance(answer, int) and answer < 500:
        login = "with a token" if get_token() else "without a token (hf auth login)"
        return Check(what="hub", result=OK, text=f"{where} answers, {login}")
    return Check(
        what="hub",
        result=NOTE,
        text=f"{where} is not reached: {answer}",
        hint="models and rows that are here already are found with HF_HUB_OFFLINE=1; esft tasks "
        "says which tasks need no hub",
    )


def _versions() -> str:
    beside = {}
    for name in _BESIDE:
        try:
            beside[name] = version(name)
        except PackageNotFoundError:
            continue
    named = ", ".join(f"{name} {number}" for name, number in (versions() | beside).items())
    return f"{named}; {platform.system()} {platform.machine()}"


def _device(device: torch.device) -> Check:
    free = f"{free_memory(device) / 1e9:.1f} GB free"
    half = "computes in bfloat16" if computes_bfloat16(device) else "has no bfloat16 of its own"
    if device.type == "cuda":
        text = f"{device}, {torch.cuda.get_device_name(device)}, {free}, {half}"
    else:
        cores, threads = os.cpu_count(), torch.get_num_threads()
        text = f"{device}, {cores} cores, torch threads: {threads}, {free}, {half}"
    if device.type == "cpu" and shutil.which("nvidia-smi") and not torch.cuda.is_available():
        return Check(
            what="device",
            result=NOTE,
            text=f"{text}; there is an NVIDIA driver, and this torch finds no GPU",
            hint=f"install torch for your GPU: it is {torch.__version__} now",
        )
    return Check(what="device", result=OK, text=text)


def _kernels(kernels: Kernels) -> Check:
    if kernels.missing is None:
        return Check(what="kernels", result=OK, text=f"passes over the weights in {kernels.name}")
    return Check(
        what="kernels",
        result=NOTE,
        text=f"passes over the weights in plain {kernels.name}, which is slower: {kernels.missing}",
        hint="the bits are the same; esft bench engine says how much slower",
    )


def _disk() -> Check:
    folder = cache_folder()
    try:
        write_whole(folder / "doctor", "")
        (folder / "doctor").unlink()
    except (EsftError, OSError) as error:
        return Check(
            what="cache",
            result=FAILED,
            text=f"{folder} cannot be written: {error}",
            hint="set ESFT_CACHE_DIR to a folder of yours",
        )
    free = (free_on_disk(path) / 1e9 for path in (folder, RUNS))
    text = "{} with {:.1f} GB free; {:.1f} GB free for runs here".format(folder, *free)
    return Check(what="cache", result=OK, text=text)


def _failed(what: str, error: EsftError) -> Check:
    return Check(what=what, result=FAILED, text=str(error), hint=error.hint)

"""Kill a run with SIGKILL at a chosen place, and resume it: real processes, real files."""

import gc
import hashlib
import json
import multiprocessing
import os
import resource
import signal
import sys
import tempfile
from itertools import count
from pathlib import Path
from unittest import mock

import torch
from tiny_runs import Notes, never
from transformers import AutoModelForCausalLM  # noqa: F401 - costs the children no time

import esft.engine.perturb
import esft.engine.stream
import esft.files
import esft.models.save
import esft.runs.folder
import esft.runs.snapshots
from esft.engine.drift import Drift
from esft.errors import EsftError
from esft.evals.plasticity import run_plasticity
from esft.recipe.settings import Anchor, Model, Prior, Recipe, Run, Search, TaskSettings
from esft.rollout.rollout import Rollout
from esft.rollout.typed import to_json
from esft.tuning.start import Finished, resume_tuning, run_tuning

PLACES = {
    "perturb": (Drift, "parts"),
    "revert": (esft.engine.perturb, "finish"),
    "rollout": (Rollout, "begin"),
    "step": (esft.engine.stream.Tally, "note"),
    "journal": (esft.files, "_write_all"),
    "file": (esft.files, "_write_all"),
    "snapshot": (esft.runs.snapshots, "save_file"),
    "model": (esft.models.save, "_save_tokenizer"),
    "evaluation": (esft.runs.folder.RunFolder, "record_evaluation"),
    "rename": (esft.files, "sync"),
}
"""What is called there; the process dies at one of the calls, files half-written."""


def embedded_recipe(folder, noise="full", **anchor):
    """Return a recipe of a few short steps on the embedded model."""
    return Recipe(
        model=Model(id="embedded", device="cpu"),
        task=TaskSettings(
            name="subtract-two-digits", train=24, holdout=12, rows_per_step=6, reward="logprob"
        ),
        search=Search(
            seed=3, steps=6, population=4, sigma=0.005, alpha=0.05, antithetic=True, noise=noise
        ),
        anchor=Anchor(**({"awd": 1.0, "norm": "l2"} | anchor)),
        prior=Prior(tasks=("copy-letters",), every=2, rows=6),
        run=Run(dir=str(folder), snapshot_every=2),
    )


def coded_recipe(folder, weights, **anchor):
    """Return a recipe of three steps on codes of the embedded model; those of "replay" are int4,
    whose drift is not kept, and those of "int4 lowrank" have noise of low rank."""
    search = {"sigma": 0.05, "alpha": 1.0}
    if weights == "replay":
        weights, anchor = "int4", {"drift": "replay", "awd": 0.0} | anchor
    if weights == "int4 lowrank":
        weights, search = "int4", {"sigma": 0.005, "alpha": 0.05, "noise": "lowrank"}
    return Recipe(
        model=Model(id="embedded", device="cpu", weights=weights, dtype="float32"),
        task=TaskSettings(
            name="subtract-two-digits", train=8, holdout=6, rows_per_step=4, reward="logprob"
        ),
        search=Search(seed=3, steps=3, population=2, **search),
        anchor=Anchor(**({"awd": 0.02, "norm": "l2"} | anchor)),
        run=Run(dir=str(folder), snapshot_every=2),
    )


def in_process(work, *args):
    """Run `work(*args)` in a process of its own; return its exit code and what it returned."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["kills"])  # loaded once for all
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(sender, work, args))
    # Before Python 3.13 the server that loads it looks at no other path than this one.
    with mock.patch.dict(os.environ, PYTHONPATH=os.pathsep.join(sys.path)):
        process.start()
    sender.close()
    try:
        result = receiver.recv()
    except EOFError:
        result = None
    process.join()
    return process.exitcode, result


def tune(recipe, place=None, nth=None):
    """Tune; return how often each place was passed."""
    passed = _watch(place, nth)
    run_tuning(recipe, Notes(), never)
    return {name: next(counter) for name, counter in passed.items()}


def tune_until_full(recipe, place, nth):
    """Tune on a disk that is full from call `nth` of `place` on; return the error."""
    owner, attribute = PLACES[place]
    _wrap(owner, attribute, place, count(), nth, _fill)
    try:
        run_tuning(recipe, Notes(), never)
    except EsftError as error:
        return type(error).__name__, str(error), error.hint
    return None


def resume(path, place=None, nth=None):
    """Go on with a run; return what it tells out of the ordinary."""
    _watch(place, nth)
    notes = Notes()
    result = resume_tuning(Path(path), notes, never)
    return [*notes.notices, *(["finished"] if isinstance(result, Finished) else [])]


def learn(path, request, place=None, nth=None):
    """Learn another task from a run and its base; return what was found."""
    _watch(place, nth)
    return to_json(run_plasticity([Path(path)], request, Notes(), never)[0])


def what_is_left(path):
    """Return what must not depend on kills: journal, weights, evaluations, best step, snapshots."""
    path = Path(path)
    info = json.loads((path / "run.json").read_text())
    weights = (path / "model" / "model.safetensors").read_bytes()
    metrics = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    return {
        "journal": (path / "journal.jsonl").read_bytes(),
        "weights": hashlib.sha256(weights).hexdigest(),
        "saved": info["saved"],
        "state": info["state"],
        "evals": (path / "evals.jsonl").read_text(),
        # The journal holds rewards in float32: a line made again from it has those.
        "drift": [(line["step"], round(line["reward_mean"], 5), line["drift"]) for line in metrics],
        "files": sorted(each.name for each in path.iterdir()),
        "snapshots": {each.name: each.read_bytes() for each in (path / "drift").iterdir()},
    }


def killed_and_resumed(path, kills, noise="full", weights="float"):
    """Tune into `path`, killed at each (place, call) in turn and resumed; return the exit codes.

    `weights`: which codes, if not floats, are tuned. A run that is killed before its folder appears
    begins again.
    """
    codes = []
    for kill in [*kills, ()]:
        begun = Path(path).exists()
        coded = weights != "float"
        recipe = coded_recipe(path, weights) if coded else embedded_recipe(path, noise)
        work, what = (resume, path) if begun else (tune, recipe)
        codes.append(in_process(work, what, *kill)[0])
    return codes


def _child(sender, work, args):
    gc.freeze()  # what was loaded once stays shared: no search for garbage copies it
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as cache:
        os.environ["ESFT_CACHE_DIR"] = cache  # what another process scored is scored again
        sender.send(work(*args))
    sender.close()


def _watch(place, nth):
    """Count what is called at each place; die at call `nth` of `place`."""
    passed = {name: count() for name in PLACES}
    for name, (owner, attribute) in PLACES.items():
        _wrap(owner, attribute, name, passed[name], nth if name == place else None, _die)
    return passed


def _wrap(owner, attribute, name, counter, nth, happens):
    original = getattr(owner, attribute)

    def wrapper(*args, **kwargs):
        counts = name != "journal" or args[0].name.endswith("journal.jsonl")
        if counts and next(counter) == nth:
            happens(name, original, args, kwargs)
        return original(*args, **kwargs)

    setattr(owner, attribute, wrapper)


def _fill(name, original, args, kwargs):
    """Let no file grow beyond what it is by more than a few bytes, as on a full disk."""
    room = args[0].tell() + 10 if name in ("journal", "file") else 4096
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, resource.RLIM_INFINITY))


def _die(name, original, args, kwargs):
    """Die at once, a file that is being written half-written."""
    if name in ("journal", "file"):
        file, data = args
        file.write(data[: len(data) // 2])
    if name == "snapshot":
        original(*args, **kwargs)
        os.truncate(args[1], os.path.getsize(args[1]) // 2)
    os.kill(os.getpid(), signal.SIGKILL)

"""Runs on the ranks of a torchrun: real processes of this machine that meet on it."""

import gc
import multiprocessing
import os
import signal
import sys
import tempfile
from dataclasses import dataclass
from unittest import mock

import torch
from tiny_runs import Notes, never
from torch.distributed import TCPStore
from transformers import AutoModelForCausalLM  # noqa: F401 - costs the children no time

import esft.tuning.ranks
from esft.errors import EsftError
from esft.evals.follow import follow_eval
from esft.evals.run import run_eval
from esft.tuning.follow import follow
from esft.tuning.ranks import joined
from esft.tuning.start import resume_tuning, run_tuning

LIMIT_S = 120


@dataclass(frozen=True)
class Ended:
    """How a rank ended."""

    code: int | None
    value: object = None  # what its work returned
    error: EsftError | None = None


def on_ranks(world, work, *args, restarts=0, meanwhile=lambda processes: None):
    """Run `work(ranks, *args)` on so many ranks; return how each ended. `meanwhile` is given their
    processes, by rank, once they are started."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["rank_runs", "kills"])  # loaded once for all
    # As torchrun does: no rank has the store that they meet in.
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    started = []
    for rank in range(world):
        there = {"RANK": rank, "WORLD_SIZE": world, "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": world}
        there |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": store.port}
        there |= {"TORCHELASTIC_RESTART_COUNT": restarts, "TORCHELASTIC_USE_AGENT_STORE": True}
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(target=_rank, args=(sender, there, work, args))
        # Before Python 3.13 the server that loads it looks at no other path than this one.
        with mock.patch.dict(os.environ, PYTHONPATH=os.pathsep.join(sys.path)):
            process.start()
        sender.close()
        started.append((process, receiver))
    meanwhile([process for process, _ in started])
    ended = []
    for process, receiver in started:
        value, error = None, None
        try:
            if receiver.poll(LIMIT_S):
                value, error = receiver.recv()
        except EOFError:
            pass
        process.join(LIMIT_S)
        process.kill()
        ended.append(Ended(process.exitcode, value, error))
    return ended


def tune(ranks, recipe, of_ranks=None, die=None):
    """Tune; return what was told, out of the ordinary. `of_ranks`: other recipes by rank; `die`:
    (rank, where, call) of a SIGKILL, where an attribute of a class, or what else happens there."""
    rank = 0 if ranks is None else ranks.place.rank
    recipe = (of_ranks or {}).get(rank, recipe)
    _happens_there(rank, die)
    if ranks is not None and ranks.follows:
        return follow(ranks, recipe)
    notes = Notes()
    run_tuning(recipe, notes, never, ranks=ranks)
    return [text for text in notes.notices if not text.startswith("other programs are at work")]


def resume(ranks, path):
    """Go on with a run; return what was told, out of the ordinary."""
    if ranks is not None and ranks.follows:
        return follow(ranks, None)
    notes = Notes()
    resume_tuning(path, notes, never, ranks=ranks)
    return notes.notices


def measure(ranks, request):
    """Evaluate; return what that came to."""
    if ranks is not None and ranks.follows:
        return follow_eval(ranks)
    return run_eval(request, Notes(), ranks).record


def _rank(sender, there, work, args):
    gc.freeze()  # what was loaded once stays shared: no search for garbage copies it
    torch.set_num_threads(1)
    os.environ.update({name: str(value) for name, value in there.items()})
    esft.tuning.ranks.GONE_S, esft.tuning.ranks.SLOW_S = 5.0, 20.0
    value, error, code = None, None, 0
    with tempfile.TemporaryDirectory() as cache:
        os.environ["ESFT_CACHE_DIR"] = cache  # what another process scored is scored again
        try:
            with joined() as ranks:
                value = work(ranks, *args)
        except EsftError as raised:
            error, code = raised, 1
    sender.send((value, error))
    sender.close()
    sys.exit(code)


def _happens_there(rank, die):
    if die is None or die[0] != rank:
        return
    _, (owner, attribute), nth, *what = die
    original, passed = getattr(owner, attribute), []

    def wrapper(*args, **kwargs):
        passed.append(1)
        if len(passed) == nth + 1:
            (what[0] if what else _die)(*args)
        return original(*args, **kwargs)

    setattr(owner, attribute, wrapper)


def _die(*args):
    os.kill(os.getpid(), signal.SIGKILL)


def spoil(drift, *args):
    """Change one weight, as bad memory does."""
    next(iter(drift.state().tensors.values()))[7] = 1.0

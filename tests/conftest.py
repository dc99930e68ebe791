"""How tests run: untimed; each file whole in one worker of pytest-xdist, the longest first."""

import atexit
import gc
import os
import tempfile
import uuid

import pytest
from hypothesis import HealthCheck, settings

gc.disable()  # while libraries and tests load, which leave no garbage; see below

IS_WORKER = "PYTEST_XDIST_WORKER" in os.environ

# Before a test file imports torch, which reads it once: two threads beside another busy process
# wait for each other many times as long as they work.
if IS_WORKER:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# None of the user's own cache, nor of one that another session left.
CACHES = tempfile.TemporaryDirectory(prefix="esft-tests-")
os.environ["ESFT_CACHE_DIR"] = CACHES.name
# But compiled kernels, which are made anew where their source changed: 10 s in every process.
os.environ.setdefault("NUMBA_CACHE_DIR", f"{tempfile.gettempdir()}/esft-tests-numba")

# An example may take long because something else runs: that is no failure.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")

# Files of 10 s and more: begun last, one of them would be all that runs at the end.
LONGEST = (
    "test_real.py",
    "tuning/test_resume_kills.py",
    "tuning/test_ranks.py",
    "cli/test_tune_command.py",
    "cli/test_quickstart.py",
    "rollout/test_generate.py",
    "evals/test_run.py",
    "evals/test_checkpoints.py",
    "models/test_hub.py",
    "engine/test_perturb.py",
    "engine/test_random_walk.py",
    "tuning/test_coded_runs.py",
    "export/test_export_gguf.py",
    "tuning/test_resume.py",
    "tuning/test_hub_commit.py",
    "cli/test_examples.py",
    "tuning/test_tune.py",
    "embedded/test_embedded.py",
    "export/test_export.py",
    "evals/test_kl.py",
    "test_platforms.py",
    "cli/test_report_command.py",
    "report/test_report.py",
    "tuning/test_rebuild.py",
    "cli/test_resume_command.py",
    "cli/test_refused_runs.py",
    "cli/test_eval_command.py",
    "engine/test_interruption.py",
    "engine/test_decay.py",
    "engine/test_drift.py",
)


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch):
    """What one test keeps in esft's cache is no other's."""
    monkeypatch.setenv("ESFT_CACHE_DIR", f"{CACHES.name}/{uuid.uuid4().hex}")


def pytest_collection_modifyitems(config, items):
    """Put the tests of the longest files first, where files are shared out in this order."""
    if IS_WORKER:
        tests = config.rootpath / "tests"
        place = {tests / file: number for number, file in enumerate(LONGEST)}
        items.sort(key=lambda item: place.get(item.path, len(LONGEST)))


def pytest_collection_finish():
    """Let no search for garbage look through the libraries: half a second for each of them."""
    gc.freeze()
    gc.enable()
    atexit.register(gc.unfreeze)


@pytest.hookimpl(optionalhook=True)  # a run without xdist does not know it
def pytest_xdist_make_scheduler(config, log):
    """With `-n` alone a file goes to one worker: its tests share what they set up."""
    if config.option.dist != "load":
        return None  # another way was asked for
    from xdist.scheduler import LoadFileScheduling

    config.option.loadscopereorder = False  # by number of tests, which says little of their time
    return LoadFileScheduling(config, log)

"""What trackers are shown of a run, and that a run needs none."""

from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from tiny_runs import Notes, a_recipe, jsonl, never

from esft.errors import RunError
from esft.recipe.settings import Run
from esft.runs.folder import RunFolder
from esft.runs.records import RecordedScore
from esft.runs.steps import StepMetrics, StepSignal, StepTimes
from esft.tuning import track
from esft.tuning.start import run_tuning
from esft.tuning.track import OPEN, figures, require_tracker, tracked

TIMES = StepTimes(engine=1.0, rollout=2.0, grading=0.5, other=0.25)
SHOWN = {"reward_mean": 0.5, "reward_best": 0.75, "members": 4, "drift": 2.0, "forecast": 2.5}
SIGNAL = StepSignal(silent=0.25, solved=0.125, reliability=0.5, chance=0.01, cut=None)
STEP = StepMetrics(step=3, **SHOWN, seconds=3.75, times=TIMES, peak_memory=10**9, signal=SIGNAL)
SCORE = RecordedScore(
    step=3, task="arc", role="prior", n=8, accuracy=0.25, se=0.1, reward=0.5, reward_se=0.1
)


def folder_of(path):
    info = SimpleNamespace(started="2026-11-26T10:00:00", settings={"search.sigma": 0.001})
    return RunFolder(path, info)


@pytest.fixture
def kept(monkeypatch):
    """Put a tracker that keeps what it is shown in the place of trackio, and make it fail."""
    kept = SimpleNamespace(lines=[], fails=None, closed=False)

    def log(step, values):
        if kept.fails is not None:
            raise kept.fails
        kept.lines.append((step, values))

    @contextmanager
    def opened(run):
        yield log
        kept.closed = True

    monkeypatch.setitem(OPEN, "trackio", opened)
    monkeypatch.setattr(track, "find_spec", lambda name: None if name == "wandb" else True)
    return kept


def test_every_step_and_evaluation_of_a_run_is_shown(kept, tmp_path):
    recipe = a_recipe(tmp_path)
    run = tmp_path / "run"

    run_tuning(replace(recipe, run=Run(dir=str(run), track="trackio")), Notes(), never)

    evaluated = [line["step"] for line in jsonl(run / "evals.jsonl")]
    steps = [step for step, values in kept.lines if "drift/norm" in values]
    assert steps == [line["step"] for line in jsonl(run / "metrics.jsonl")] == [1, 2, 3]
    assert [s for s, v in kept.lines if "target/conciseness/reward" in v] == evaluated == [0, 3]
    assert kept.closed


def test_figures_have_what_is_known_by_name():
    assert figures(STEP) == {
        "reward/mean": 0.5,
        "reward/best": 0.75,
        "drift/norm": 2.0,
        "drift/forecast": 2.5,
        "seconds/step": 3.75,
        "seconds/engine": 1.0,
        "seconds/rollout": 2.0,
        "seconds/grading": 0.5,
        "seconds/other": 0.25,
        "memory/peak": 10**9,
        "signal/silent": 0.25,
        "signal/solved": 0.125,
        "signal/reliability": 0.5,
        "signal/chance": 0.01,
    }
    assert figures(SCORE) == {"prior/arc/accuracy": 0.25, "prior/arc/reward": 0.5}


def test_a_tracker_that_fails_is_told_of_once_and_the_run_goes_on(kept, tmp_path):
    notes, run = Notes(), folder_of(tmp_path)
    kept.fails = OSError("no\n route")

    with tracked("trackio", run, notes):
        run.record_metrics(STEP)
        run.record_metrics(STEP)

    assert notes.notices == [
        "trackio does not track this run any more, which goes on: no route",
    ]
    assert len(jsonl(tmp_path / "metrics.jsonl")) == 2
    assert run.followers == []


def test_a_package_that_is_missing_is_said_before_the_model_is_looked_for(kept, tmp_path):
    recipe = replace(a_recipe(tmp_path), run=Run(dir=str(tmp_path / "run"), track="wandb"))
    (Path(recipe.model.id) / "config.json").unlink()

    with pytest.raises(RunError, match="track is 'wandb', which is not installed") as caught:
        run_tuning(recipe, Notes(), never)

    assert caught.value.hint.startswith("pip install wandb")
    assert set(OPEN) == set(Run.declared()["track"].choices)
    require_tracker("trackio")


def test_tensorboard_has_the_figures_in_the_run_folder(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    run = folder_of(tmp_path)

    with tracked("tensorboard", run, Notes()):
        run.record_metrics(STEP)

    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in figures(STEP)} == {
        tag: [(3, value)] for tag, value in figures(STEP).items()
    }


def test_wandb_keeps_the_figures_offline(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    notes, run = Notes(), folder_of(tmp_path)

    with tracked("wandb", run, notes):
        run.record_metrics(STEP)

    assert notes.notices == []
    (written,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    assert b"reward/mean" in written.read_bytes()

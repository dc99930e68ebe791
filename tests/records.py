"""Records of a run for tests, with any of their values changed."""

from esft.runs.records import ModelInfo, Places, RecordedScore, RunInfo, Saved
from esft.runs.steps import StepMetrics

MODEL = ModelInfo(
    id="embedded", source="embedded", base="ab", parts={}, dtype="float32", tuned_parameters=1000
)


def an_info(**changes):
    """Return the content of a run.json."""
    settings = {"model.id": "embedded", "task.name": "arc", "search.steps": 3}
    values = {
        "state": "finished",
        "journal": "",
        "started": "2026-03-01T00:00:00+00:00",
        "versions": {},
        "model": MODEL,
        "device": "cpu",
        "threads": 1,
        "noise_version": 1,
        "rows": {},
        "files": {},
        "places": Places(folder="/", data_dir=None),
        "settings": settings,
        "batches": ((0, 64),),
        "saved": Saved(step=2, weights="cd", journal="ef", files={}),
    }
    return RunInfo(**values | changes)


def a_step(step, **changes):
    """Return a line of metrics.jsonl."""
    values = {"reward_mean": 0.3, "reward_best": 0.6, "members": 4, "drift": 1.0, "forecast": 1.0}
    return StepMetrics(step=step, **values | changes)


def a_score(step, **changes):
    """Return a line of evals.jsonl."""
    values = {"task": "arc", "role": "target", "n": 2, "accuracy": 0.5, "se": 0.1}
    return RecordedScore(step=step, **values | {"reward": 0.5, "reward_se": 0.1} | changes)

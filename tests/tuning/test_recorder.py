"""Which steps of a run are evaluated, which is the best, and when a run is past its peak."""

from dataclasses import replace

import pytest
from records import a_score
from tiny_runs import Notes, a_recipe, never

from esft.recipe.settings import Prior, Run
from esft.runs.records import best_step, scores
from esft.tuning.recorder import has_peaked
from esft.tuning.start import Finished, resume_tuning, run_tuning


def lines(*rewards):
    """Return scores of the target with these rewards, from step 0 on, and of a prior task."""
    target = [a_score(step, reward=reward) for step, reward in enumerate(rewards)]
    return [*target, a_score(1, role="prior", reward=9.0)]


@pytest.mark.parametrize(
    ("rewards", "best", "since"),
    [
        ((0.1, 0.2, 0.5, 0.3, 0.5), 2, 2),  # the first of equal ones
        ((0.9, 0.2, 0.5), 0, 2),  # the base model stays the best
        ((0.1, None, 0.2, None), 2, 1),
        ((0.1, 0.2), 1, 0),
    ],
)
def test_a_run_has_peaked_so_many_evaluations_after_its_best(rewards, best, since):
    found = lines(*rewards)

    assert best_step(found) == best
    for patience in (1, 2, 3):
        assert has_peaked(found, patience) == (since >= patience)
    assert not has_peaked(found, None)


def test_a_run_past_its_peak_ends_there_keeps_its_best_step_and_is_finished(tmp_path):
    recipe = replace(
        a_recipe(tmp_path, steps=30, sigma=0.05, alpha=0.2),
        prior=Prior(every=1),
        run=Run(dir=str(tmp_path / "run"), snapshot_every=1, stop_after_peak=3),
    )

    outcome = run_tuning(recipe, Notes(), never)

    last, best = outcome.steps, outcome.best_step
    assert last == best + 3 < 30
    assert best == best_step(scores(tmp_path / "run"))
    assert not outcome.stopped
    kept = sorted(path.name for path in (tmp_path / "run" / "drift").iterdir())
    assert kept == [f"step-{n:06d}.safetensors" for n in (best, last - 1, last) if n]
    assert isinstance(resume_tuning(tmp_path / "run", Notes(), never), Finished)

"""Which steps of a run are evaluated, which is the best, and how one ends past its peak."""

import random
import shutil
from dataclasses import replace

import pytest
from records import a_score
from tiny_runs import Notes, a_recipe, info_of, never

from esft.recipe.settings import Prior, Run
from esft.report.read import read_run
from esft.runs.records import best_step
from esft.tuning.population import Population
from esft.tuning.rebuild import RebuildOptions, find_source, rebuild, step_of
from esft.tuning.start import Finished, resume_tuning, run_tuning
from esft.tuning.verify import FAILED, checks_of


@pytest.mark.parametrize(
    ("rewards", "best"),
    [
        ((0.1, 0.2, 0.5, 0.3, 0.5), 2),  # the first of equal ones
        ((0.9, 0.2, 0.5), 0),  # the base model stays the best
        ((0.1, None, 0.2, None), 2),
        ((None, None), None),
    ],
)
def test_the_best_step_has_the_best_reward_of_the_target(rewards, best):
    target = [a_score(step, reward=reward) for step, reward in enumerate(rewards)]

    assert best_step([*target, a_score(1, role="prior", reward=9.0)]) == best


class Given(Population):
    """Scores holdout rows as a run would whose reward has these means, step by step."""

    means = ()

    def score(self, task, parts, at_base=False):
        step = 0 if at_base else self._session.base.drift.steps
        mean = self.means[min(step, len(self.means) - 1)]
        draw = random.Random(step)
        for results in super().score(task, parts, at_base):
            yield [replace(result, reward=draw.gauss(mean, 0.05)) for result in results]


def past_its_peak(folder, *means):
    """Return the run of up to 12 steps whose rewards have these means, and what it came to."""

    class These(Given):
        pass

    These.means = means
    recipe = replace(
        a_recipe(folder, steps=12, task={"holdout": 40, "max_new_tokens": 1}),
        prior=Prior(every=1),
        run=Run(dir=str(folder / "run"), snapshot_every=1, stop_after_peak=3),
    )
    return folder / "run", run_tuning(recipe, Notes(), never, These)


def weights(run):
    return (run / "model" / "model.safetensors").read_bytes()


def test_a_run_past_its_peak_ends_there_with_the_model_of_the_peak(tmp_path):
    run, outcome = past_its_peak(tmp_path, 0.1, 0.3, 0.6, 0.4, 0.3, 0.2)

    assert (outcome.peak.step, outcome.best_step, outcome.stopped) == (2, 2, False)
    assert outcome.steps == outcome.peak.since[-1] < 12
    assert outcome.tuned.reward == pytest.approx(0.6, abs=0.03)
    saved = info_of(run)["saved"]
    assert (saved["step"], saved["end"][0]) == (2, outcome.steps)
    source = find_source(str(run))
    assert step_of(source, "last") == step_of(source, "best") == 2
    assert rebuild(source, "last", Notes(), RebuildOptions(from_base=True)).proven
    assert FAILED not in {each.result for each in checks_of(run, Notes(), RebuildOptions())}
    (target,) = read_run(run).tasks
    assert (target.after.step, target.evaluations[-1].step) == (2, outcome.steps)

    model = weights(run)
    shutil.rmtree(run / "model")
    assert isinstance(resume_tuning(run, Notes(), never), Finished)
    assert weights(run) == model
    assert info_of(run)["saved"] == saved


def test_a_run_that_only_lost_ends_with_the_base_model(tmp_path):
    run, outcome = past_its_peak(tmp_path, 0.9, 0.3, 0.2)

    assert outcome.peak.step == 0
    assert info_of(run)["saved"]["weights"] == info_of(run)["model"]["base"]
    assert FAILED not in {each.result for each in checks_of(run, Notes(), RebuildOptions())}


def test_a_run_whose_reward_falls_by_less_than_noise_makes_goes_on(tmp_path):
    run, outcome = past_its_peak(tmp_path, 0.1, 0.5, 0.498)

    assert (outcome.steps, outcome.peak) == (12, None)
    assert info_of(run)["saved"]["step"] == 12

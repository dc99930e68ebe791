"""What members alone tell of whether a tuned model can still learn."""

import json
from dataclasses import replace

import pytest
from tiny_runs import Notes, a_recipe, given_rewards, never

from esft.errors import RunError, TaskError
from esft.evals.learners import PlasticityRequest, learner_of
from esft.evals.proxy import MEMBERS, run_proxy
from esft.recipe.settings import Run
from esft.stats.signal import expected_best
from esft.tuning.probe import run_probe
from esft.tuning.start import run_tuning


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A folder with two runs: same/ made no update, far/ did."""
    folder = tmp_path_factory.mktemp("runs")
    recipe = a_recipe(folder, task={"train": 12, "holdout": 6}, sigma=0.1, alpha=0.2)
    for name, rewards in {"same": [0.5] * 12, "far": range(12)}.items():
        there = Run(dir=str(folder / name), keep_model=name == "same")
        run_tuning(replace(recipe, run=there), Notes(), never, given_rewards(*rewards))
    return folder


def asked(**changes):
    given = {"task": "copy-letters", "seeds": 2, "seed": 5, "rows": 4, "kl_prompts": 5}
    given |= {"kl_tokens": 2, "changes": {"task.reward": "logprob"}}
    return PlasticityRequest(**given | changes)


@pytest.fixture(scope="module")
def found(runs):
    return run_proxy([runs / "same", runs / "far"], asked(), Notes())


def test_a_model_that_is_its_base_has_the_same_members(found):
    same, far = found

    assert same.distance.drift == 0 < far.distance.drift
    assert far.distance.kl.base_to_tuned.prompts == 5  # holdout rows: those that members see are 4
    for estimate in (same.improving, same.change, same.best):
        assert (estimate.mean, estimate.interval.low, estimate.interval.high) == (0, 0, 0)
    assert far.change.mean != 0
    assert [pair.seed for pair in far.seeds] == [5, 6]
    assert [pair.change[0] for pair in same.seeds] == [pair.change[0] for pair in far.seeds]


def test_figures_are_those_of_a_probe_of_the_same_members(runs, found):
    learner = learner_of(runs / "same", asked(rows=None))
    probed = run_probe(learner.with_seed(6), Notes(), sigmas=[0.1], members=MEMBERS, rows=4)
    (one,), pair = probed.sigmas, found[0].seeds[1]

    assert pair.improving[0] == one.signal.improving
    assert pair.change[0] == pytest.approx(one.signal.change)
    assert pair.best[0] == pytest.approx(one.signal.best[MEMBERS])
    assert pair.best[0] == pytest.approx(expected_best(one.changes, MEMBERS))


def test_it_is_called_a_proxy_where_it_is_written(runs, found):
    written = json.loads((runs / "far" / "plasticity-proxy.json").read_text())

    assert written["proxy"] is True
    assert written["rows"] == 4
    assert not (runs / "far" / "plasticity.json").exists()
    assert not (runs / "far" / "plasticity" / "model").exists()  # was rebuilt for it


def test_of_one_seed_intervals_are_over_members_and_the_best_has_none(runs):
    (record,) = run_proxy([runs / "far"], asked(seeds=1, kl_prompts=0), Notes())

    assert record.best is record.distance.kl is None
    assert record.change.interval.low < record.change.mean < record.change.interval.high


def test_what_cannot_be_tried_is_refused(runs):
    with pytest.raises(TaskError, match="expected 99"):
        run_proxy([runs / "far"], asked(changes={"task.train": 99999, "task.holdout": 99}), Notes())
    with pytest.raises(RunError, match=r"members of .* overflow at sigma 1e\+38") as caught:
        run_proxy([runs / "far"], asked(changes={"search.sigma": 1e38}), Notes())
    assert caught.value.hint == "--set search.sigma=3e+37"

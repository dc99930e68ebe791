"""A step with the largest of its changes alone: scored on those weights, and only once."""

import json
from dataclasses import replace

import pytest
from tiny_runs import Notes, a_recipe, never

from esft.engine.largest import at_largest
from esft.errors import RecipeError
from esft.evals.largest import PERCENTS
from esft.evals.results import read_eval
from esft.evals.run import EvalRequest, run_eval, write_eval
from esft.recipe.settings import Prior, Run
from esft.tuning.rebuild import find_source, rebuild
from esft.tuning.start import run_tuning

PRIORS = ("copy-letters:8", "upper-letters:8")


@pytest.fixture
def run(tmp_path):
    """A run of three steps, measured at each, whose evaluations are in the cache of the test."""
    made = replace(
        a_recipe(tmp_path, alpha=0.2),
        prior=Prior(tasks=PRIORS, every=1),
        run=Run(dir=str(tmp_path / "run")),
    )
    run_tuning(made, Notes(), never)
    return tmp_path / "run"


def keep_the_peak(run, step):
    """Make a run one that ended past its peak."""
    info = json.loads((run / "run.json").read_text())
    checksums = find_source(str(run)).record.checksums
    last = info["saved"]["step"], info["saved"]["journal"]
    info["saved"] |= {"step": step, "journal": checksums[step], "end": last}
    (run / "run.json").write_text(json.dumps(info))


def asked(run, **changes):
    request = {"run": str(run), "kl_prompts": 0, "noise_floor": False, "layers": True}
    return EvalRequest(**(request | changes))


@pytest.mark.parametrize(("at", "step"), [(None, 3), ("2", 2), ("1,2", 2)])
def test_scores_are_those_of_weights_with_these_changes_alone(run, at, step):
    result = run_eval(asked(run, at=at), Notes())

    base = rebuild(find_source(str(run)), str(step), Notes()).base
    (chosen,) = (one.largest for one in result.record.drift if one.step == step)
    assert [one.percent for one in chosen] == list(PERCENTS)
    assert [one.step for one in result.record.drift if one.largest] == [step]
    for measured, task in zip(result.measured, result.record.tasks, strict=True):
        rollout = replace(measured.task.rollout, model=base.loaded.model)
        assert [one.percent for one in task.largest] == [100, *PERCENTS, 100]
        assert task.largest[0].score == task.after
        for one in chosen:
            with at_largest(base.drift, one.least):
                alone = rollout.evaluate(measured.task.encoded)
            assert measured.largest[one.percent, 1].results == tuple(alone)
        # All of D, by the share of its squares that the largest tenth has.
        scale = (chosen[2].norm / base.drift.norm()) ** 2
        assert task.largest[-1].scale == pytest.approx(scale)
        with at_largest(base.drift, 0.0, scale):
            smaller = rollout.evaluate(measured.task.encoded)
        assert measured.largest[100, task.largest[-1].scale].results == tuple(smaller)


def test_nothing_is_scored_or_rebuilt_twice_and_the_record_reads_back(run, counted):
    plain = run_eval(asked(run, layers=False), Notes()).record
    counted.clear()
    first = run_eval(asked(run), Notes())
    assert len(counted) == 3 * (len(PERCENTS) + 1)
    counted.clear()
    notes = Notes()
    again = run_eval(asked(run), notes)

    assert counted == []
    assert not any("largest" in phase or "all of D" in phase for phase in notes.phases)
    assert again.record == first.record
    write_eval(again)
    assert read_eval(run / "eval.json") == first.record
    assert run_eval(asked(run, layers=False), Notes()).record == plain
    without = replace(first.record, drift=plain.drift, tasks=plain.tasks)
    assert without == plain
    assert [task.largest for task in plain.tasks] == [()] * 3


def test_of_a_run_that_kept_its_peak_its_changes_are_told_and_later_steps_are_right(run):
    before = run_eval(asked(run, layers=False), Notes()).record
    keep_the_peak(run, 2)

    # Of the other task nothing was measured, so the model is rebuilt, and would go past the peak.
    record = run_eval(asked(run, priors=("reverse-letters:5",)), Notes()).record

    steps = {task.name: [score.step for score in task.evaluations] for task in record.tasks}
    assert steps == {"conciseness": [0, 1, 2, 3], "reverse-letters": [0, 2]}
    assert [(one.step, len(one.largest)) for one in record.drift] == [(2, 4)]
    assert {score.score.step for task in record.tasks for score in task.largest} == {2}
    assert [task.largest[0].score for task in record.tasks] == [task.after for task in record.tasks]
    assert record.tasks[0].evaluations == before.tasks[0].evaluations


def test_a_run_that_kept_its_base_has_no_changes_and_no_verdict(run):
    keep_the_peak(run, 0)

    tasks = run_eval(asked(run, layers=False), Notes()).record.tasks

    assert [(task.after, task.change, task.verdict) for task in tasks] == [(None, None, None)] * 3
    assert [len(task.comparisons) for task in tasks] == [3, 3, 3]  # what was measured is told
    with pytest.raises(RecipeError, match="--layers is given for step 0"):
        run_eval(asked(run), Notes())


def test_of_codes_which_round_nothing_is_made_smaller(tmp_path):
    made = a_recipe(tmp_path, sigma=0.5, alpha=1.0)
    made = replace(made, model=replace(made.model, weights="int4"))
    run_tuning(made, Notes(), never)

    (task,) = run_eval(asked(tmp_path / "run"), Notes()).record.tasks

    assert [(one.percent, one.scale) for one in task.largest] == [(p, 1) for p in (100, *PERCENTS)]

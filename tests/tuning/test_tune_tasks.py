"""Runs on a user's own tasks, and on rewards that need no answer."""

from dataclasses import replace

import pytest
from tiny_runs import Notes, a_recipe, jsonl, never

from esft.errors import TaskError
from esft.recipe.settings import TaskSettings
from esft.rollout.rollout import Rollout
from esft.tuning.start import run_tuning


def own_recipe(folder, file, **task):
    settings = {"rows_per_step": 4, "max_new_tokens": 5} | task
    return replace(a_recipe(folder, steps=2), task=TaskSettings(name=str(file), **settings))


def write_program(folder, body):
    """A program with 16 rows and a reward() of this body."""
    rows = 'def rows():\n    return [{"prompt": f"Say {n}!", "n": n} for n in range(16)]\n\n\n'
    file = folder / "my.py"
    file.write_text(f"{rows}def reward(row, answer):\n{body}")
    return file


def test_answers_without_a_score_count_as_0_are_counted_and_shown_once(tmp_path):
    file = write_program(tmp_path, '    return 1 / (row["n"] % 2)\n')
    notes = Notes()

    outcome = run_tuning(own_recipe(tmp_path, file), notes, never)

    told = [notice for notice in notes.notices if "grader gave no score" in notice]
    assert len(told) == 1
    assert "raised ZeroDivisionError" in told[0]
    assert told[0].startswith("my at step 0: ")
    # Those of the holdout rows twice, and those of two steps of four members.
    metrics = jsonl(tmp_path / "run" / "metrics.jsonl")
    of_holdout = outcome.base.figures()["grader_failures"]
    of_steps = sum(line["grader_failures"] for line in metrics)
    assert outcome.grader_failures == 2 * of_holdout + of_steps
    assert 0 < of_holdout < 8
    assert all(result.reward == (0.0 if result.failure else 1.0) for result in outcome.base.results)


def test_a_program_that_cannot_be_imported_stops_before_a_model_is_loaded(tmp_path):
    file = write_program(tmp_path, "    return 1\nimport no_such_module_anywhere\n")
    recipe = own_recipe(tmp_path, file)
    recipe = replace(recipe, model=replace(recipe.model, id=str(tmp_path / "no model")))

    with pytest.raises(TaskError, match="no_such_module_anywhere"):
        run_tuning(recipe, Notes(), never)


def test_with_reward_logprob_members_answer_nothing_and_the_base_and_the_end_do(
    tmp_path, monkeypatch
):
    answered = []
    answer = Rollout._answered
    monkeypatch.setattr(
        Rollout,
        "_answered",
        lambda self, rows, *rest: answered.append(len(rows)) or answer(self, rows, *rest),
    )
    recipe = a_recipe(tmp_path, task={"reward": "logprob"})

    outcome = run_tuning(recipe, Notes(), never)

    assert answered == [5, 5]
    assert outcome.base.reward < 0
    assert 0 <= outcome.base.accuracy <= 1
    metrics = jsonl(tmp_path / "run" / "metrics.jsonl")
    assert [line["correct"] for line in metrics] == [None] * 3
    assert all(line["reward_best"] < 0 for line in metrics)


def test_reward_logprob_is_learned(tmp_path):
    recipe = a_recipe(
        tmp_path, task={"reward": "logprob"}, steps=12, population=16, antithetic=True
    )

    outcome = run_tuning(recipe, Notes(), never)

    assert outcome.tuned.reward > outcome.base.reward + 0.05

"""What the base's answers and the first steps say of the settings."""

import random
from dataclasses import replace

import pytest
from tiny_runs import Notes, a_recipe, jsonl, never

from esft.errors import RunError
from esft.recipe.settings import Model
from esft.tuning.first_steps import is_destroyed
from esft.tuning.start import run_tuning


def able(folder, reward="correct", name="copy-letters", **search):
    """A recipe that tunes the embedded model on what it can do already."""
    recipe = a_recipe(folder, steps=2, **search)
    task = replace(recipe.task, name=name, reward=reward, max_new_tokens=None)
    task = replace(task, train=20, holdout=20)
    return replace(recipe, model=Model(id="embedded", device="cpu"), task=task)


@pytest.mark.parametrize(
    ("reward", "settings", "step", "text", "hint"),
    [
        ("correct", {"sigma": 1.0}, 1, "noise of sigma 1 destroys the model", "--sigma 0.1"),
        ("logprob", {"sigma": 1.0}, 1, "noise of sigma 1 destroys the model", "--sigma 0.1"),
        ("logprob", {"sigma": 1e-3, "alpha": 2.0}, 2, "step 1, with alpha 2, destroyed", "--alpha"),
    ],
)
def test_a_run_whose_first_step_destroys_the_model_stops(
    reward, settings, step, text, hint, tmp_path
):
    recipe = able(tmp_path, reward, population=10, **settings)

    with pytest.raises(RunError, match=text) as caught:
        run_tuning(recipe, Notes(), never)

    assert hint in caught.value.hint
    assert "on the same 20 rows" in str(caught.value)
    assert len(jsonl(tmp_path / "run" / "journal.jsonl")) == step  # the header, and steps before


def test_a_run_that_changes_little_goes_on(tmp_path):
    notes = Notes()

    run_tuning(able(tmp_path, population=4, sigma=1e-3, alpha=1e-3), notes, never)

    assert len(notes.steps) == 2
    assert not any("score 0" in text for text in notes.notices)


def test_members_as_able_as_the_base_never_look_destroyed():
    drawn = random.Random(0)
    for rate in (0.05, 0.1, 0.3, 0.9):
        for _ in range(2000):
            base = [float(drawn.random() < rate) for _ in range(200)]
            members = [float(drawn.random() < rate) for _ in range(40 * 20)]
            level = sum(base) / len(base)
            assert not is_destroyed(base, level, sum(members) / len(members))


@pytest.mark.parametrize(
    ("known", "mean", "destroyed"),
    [
        ([0.0, 1.0], 0.05, True),
        ([0.0, 1.0], 0.06, False),
        ([0.0, 0.0], 0.0, False),  # there was nothing to lose
        ([-1.0, -1.0], -1.5, False),  # rows that are all alike
        ([-1.0, -1.0], -2.5, True),
        ([-1.0, -3.0], -4.5, False),
        ([-1.0, -3.0], -5.5, True),
    ],
)
def test_what_counts_as_destroyed(known, mean, destroyed):
    assert is_destroyed(known, sum(known) / len(known), mean) == destroyed


def test_a_base_that_scores_next_to_nothing_is_said_with_its_best_answer_and_what_to_try(tmp_path):
    notes, recipe = Notes(), able(tmp_path, name="subtract-two-digits", population=2, sigma=1e-4)

    run_tuning(recipe, notes, never)

    (said,) = (text for text in notes.notices if "score 0" in text)
    assert "of 20 base answers score 0" in said
    assert "--set task.reward=logprob" in said
    best = dict(notes.shown)["the best of its answers"]
    assert best[0].answers[0][1].correct

"""`--sigma auto`: what it costs, what it chooses, and what a run keeps of it."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_runs import Notes, a_recipe, never

from esft.errors import RecipeError
from esft.recipe.settings import Model, Recipe, Search, TaskSettings, with_settings
from esft.runs.records import read_probe
from esft.tuning.probe import FEWEST_MEMBERS, FEWEST_ROWS
from esft.tuning.recommend import REACH, reach_of
from esft.tuning.sigma import NEAR, SHARE, choose_sigma, sizes_for
from esft.tuning.start import run_tuning


def recipe_of(steps, population, train, per_step=None):
    return Recipe(
        model=Model(id="embedded"),
        task=TaskSettings(name="copy-letters", train=train, rows_per_step=per_step),
        search=Search(steps=steps, population=population),
    )


COUNTS = st.integers(2, 400)
ROWS = st.integers(FEWEST_ROWS, 400)


@given(COUNTS, COUNTS, ROWS, COUNTS)
def test_a_trial_costs_a_twentieth_of_the_run_at_most_or_is_refused(steps, population, train, part):
    recipe = recipe_of(steps, population, train, min(part, train))
    per_step = recipe.task.rows_per_step

    whole = steps * population * per_step
    try:
        members, rows = sizes_for(recipe)
    except RecipeError as error:
        more = int(error.hint.split()[1])
        assert more > steps
        sizes_for(with_settings(recipe, {"search.steps": more}))
        return
    assert members >= FEWEST_MEMBERS
    assert FEWEST_ROWS <= rows <= max(per_step, FEWEST_ROWS)
    assert rows * (len(NEAR) * members + 1) <= SHARE * whole * (1 + 1e-9)


@pytest.mark.parametrize(
    ("steps", "population", "rows", "sizes"),
    [
        (500, 30, 50, (30, 50)),  # published
        (20, 12, 16, (4, 14)),  # an evening on a laptop
        (40, 16, 50, (10, 50)),
    ],
)
def test_runs_try_what_they_can_afford(steps, population, rows, sizes):
    assert sizes_for(recipe_of(steps, population, rows)) == sizes


def test_a_short_run_is_told_how_many_steps_would_do():
    with pytest.raises(RecipeError, match="too little of 5 steps of 8 members on 6 rows") as error:
        sizes_for(recipe_of(5, 8, 6))

    assert error.value.hint.startswith("--steps 22 or more")
    with pytest.raises(RecipeError, match="on 4 rows at least, there are 3 to tune on"):
        sizes_for(recipe_of(500, 30, 3))


def test_sigma_is_one_of_those_tried_and_alpha_walks_as_far_as_it_should(tmp_path):
    recipe = a_recipe(tmp_path, steps=60)

    fresh = choose_sigma(recipe, (), Notes())
    typed = choose_sigma(recipe, {"search.alpha"}, Notes())
    named = choose_sigma(recipe, (), Notes(), {"search.alpha", "search.sigma"})

    sigma = fresh.changes["search.sigma"]
    assert sigma == fresh.probed.chosen
    assert sigma in [one.sigma for one in fresh.probed.sigmas]
    assert fresh.because.startswith(f"sigma {sigma:g}: ")
    assert reach_of(with_settings(recipe, fresh.changes).search) == pytest.approx(REACH, rel=0.05)
    assert "search.alpha" not in {*typed.changes, *named.changes}
    assert typed.changes["search.sigma"] == named.changes["search.sigma"] == sigma


def test_a_run_of_the_model_that_was_tried_is_that_of_the_same_settings_typed(tmp_path):
    recipe = a_recipe(tmp_path, steps=60)
    chosen = choose_sigma(recipe, (), Notes())
    short = with_settings(recipe, chosen.changes | {"search.steps": 2})
    typed = replace(short, run=replace(short.run, dir=str(tmp_path / "typed")))

    run_tuning(short, Notes(), never, opened=chosen.opened, probed=chosen.probed)
    run_tuning(typed, Notes(), never)

    journals = [tmp_path / run / "journal.jsonl" for run in ("run", "typed")]
    assert journals[0].read_bytes() == journals[1].read_bytes()
    assert read_probe(tmp_path / "run") == chosen.probed
    assert read_probe(tmp_path / "typed") is None


def test_sigmas_that_round_away_are_not_tried(tmp_path):
    recipe = a_recipe(tmp_path, steps=60)
    coarse = with_settings(recipe, {"model.dtype": "bfloat16"})
    shared = with_settings(coarse, {"search.noise": "lowrank"})

    fine, rounded, alone = (
        [one.sigma for one in choose_sigma(one, (), Notes()).probed.sigmas]
        for one in (recipe, coarse, shared)
    )

    assert len(fine) == len(alone) == len(NEAR)
    assert 0 < len(rounded) < len(NEAR)

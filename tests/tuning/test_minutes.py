from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_runs import Notes, a_recipe, never

from esft.errors import RecipeError
from esft.recipe.settings import Model, Prior, Recipe, Search, TaskSettings, with_settings
from esft.tuning.minutes import (
    EVALUATED,
    FEWEST_ROWS,
    MEMBERS,
    POPULATION,
    STEPS,
    Price,
    fit_minutes,
    shared_out,
)
from esft.tuning.recommend import REACH
from esft.tuning.start import run_tuning

RECIPE = Recipe(
    model=Model(id="embedded"),
    task=TaskSettings(name="copy-letters", train=200, holdout=200),
    prior=Prior(tasks=("sort-digits",)),
)
SOME = st.floats(1e-4, 10)


def a_price(**parts):
    return Price(
        **{"batch": 64, "call": 0.0, "row": 0.01, "member": 0.1, "evaluation": 1.0} | parts
    )


@given(SOME, SOME, SOME, st.integers(1, 256), st.floats(1e-4, 1e4), st.floats(10, 1e5))
def test_what_is_chosen_fits_into_the_time(row, call, member, batch, evaluation, seconds):
    price = Price(row=row, call=call, batch=batch, member=member, evaluation=evaluation)

    chosen = shared_out(RECIPE, price, seconds, ())

    share = min(1, EVALUATED * seconds / (2 * evaluation))
    rows = chosen["task.rows_per_step"]
    one = rows * row + -(-rows // batch) * call + member
    took = chosen["search.steps"] * chosen["search.population"] * one + 2 * share * evaluation
    assert took <= seconds * (1 + 1e-9)
    assert POPULATION[0] <= chosen["search.population"] <= POPULATION[1]
    assert chosen["search.population"] % 2 == 0
    if share < 1:
        assert chosen["task.holdout"] == max(FEWEST_ROWS, int(share * 200)) == chosen["prior.rows"]
    else:
        assert not {"task.holdout", "prior.rows"} & chosen.keys()


@given(SOME, st.floats(10, 1e5))
def test_more_time_gives_more_members_or_rows(row, seconds):
    price = a_price(row=row, member=row, evaluation=row)

    some, more = (shared_out(RECIPE, price, time, ()) for time in (seconds, 3 * seconds))

    def scored(chosen):
        return chosen["search.steps"] * chosen["search.population"] * chosen["task.rows_per_step"]

    assert scored(more) >= scored(some)


def test_rows_that_cost_next_to_nothing_are_taken():
    batched, each = a_price(call=4.0, row=0.1), a_price(row=0.6)
    recipe = with_settings(RECIPE, {"task.train": 40})

    many, few = (shared_out(recipe, price, 400, ()) for price in (batched, each))

    assert many["task.rows_per_step"] == 40
    assert few["task.rows_per_step"] == 8


def test_fewer_rows_are_taken_where_more_would_leave_too_few_steps():
    recipe = with_settings(RECIPE, {"task.train": 40})

    chosen = shared_out(recipe, a_price(call=4.0, row=0.1), 280, ())

    assert chosen["task.rows_per_step"] < 40
    assert chosen["search.steps"] >= STEPS


def test_where_no_member_fits_what_is_counted_is_the_fewest_rows():
    assert shared_out(RECIPE, a_price(row=1e6), 60, ())["task.rows_per_step"] == 8


def test_evaluations_on_the_way_are_those_of_the_steps_that_fit():
    price = a_price(evaluation=60.0)
    often, never = (
        with_settings(RECIPE, {"prior.every": every, "search.steps": 500}) for every in (25, None)
    )

    some, none = (shared_out(recipe, price, 600, ()) for recipe in (often, never))

    # Before the first step, after the last, and one of fewer than 51 steps: not 20 of 500.
    assert 25 < some["search.steps"] <= 50
    assert some["task.holdout"] == int(EVALUATED * 600 / (3 * 60) * 200)
    assert "task.holdout" not in none


def test_steps_that_were_typed_have_as_many_members_as_fit():
    price = a_price()
    recipe = with_settings(RECIPE, {"search.steps": 40})

    chosen = shared_out(recipe, price, 600, {"search.steps"})

    one = chosen["task.rows_per_step"] * 0.01 + 0.1
    assert 40 * chosen["search.population"] * one <= 600
    assert 40 * (chosen["search.population"] + 2) * one > 600 - 2


@pytest.mark.parametrize("key", ["search.steps", "search.population", "task.rows_per_step"])
def test_what_was_given_is_not_chosen_and_counts(key):
    price = a_price()
    recipe = with_settings(RECIPE, {"search.population": 4, "task.rows_per_step": 10})

    chosen = shared_out(recipe, price, 600, {key})

    assert key not in chosen
    if key != "search.steps":
        kept = {"search.population": 4, "task.rows_per_step": 10} | chosen
        one = kept["task.rows_per_step"] * 0.01 + 0.1
        assert 500 < kept["search.steps"] * kept["search.population"] * one <= 600


def test_members_are_timed_and_tried_and_a_recipe_comes_of_it(tmp_path):
    recipe = replace(a_recipe(tmp_path), search=Search())

    fitted = fit_minutes(recipe, 0.5, {"search.population"}, Notes())

    changes = fitted.changes
    assert "search.population" not in changes
    assert changes["search.steps"] >= 5
    assert 0 < fitted.seconds < 30
    assert changes["search.sigma"] == float(f"{changes['search.sigma']:.2g}") > 0
    tuned = with_settings(recipe, changes)
    assert tuned.search.population == recipe.search.population
    assert fitted.because[0].startswith(f"sigma {tuned.search.sigma:g}: ")
    members = tuned.search.steps * tuned.search.population
    assert ("members in all are few" in fitted.because[-1]) == (members < MEMBERS)
    assert not (tmp_path / "run").exists()


def test_few_members_are_said(tmp_path, monkeypatch):
    monkeypatch.setattr("esft.tuning.minutes.MEMBERS", 10**9)

    fitted = fit_minutes(a_recipe(tmp_path), 0.5, (), Notes())

    assert "members in all are few, 1000000000 tell more: more minutes" in fitted.because[-1]


def test_all_steps_walk_as_far_as_published_or_as_the_recipe_has_it(tmp_path):
    recipe = a_recipe(tmp_path, steps=50, population=8, sigma=0.02, alpha=0.01)

    annealed = with_settings(recipe, {"search.anneal": "cosine"})

    def reach(search):
        squares = sum(search.at(step)[1] ** 2 for step in range(1, search.steps + 1))
        return (squares / search.population) ** 0.5 / search.sigma

    fresh = fit_minutes(annealed, 0.5, (), Notes())
    named = fit_minutes(recipe, 0.5, (), Notes(), ("search.sigma", "search.alpha"))

    # Settings have two digits: each is off by a twentieth at most.
    assert reach(with_settings(annealed, fresh.changes).search) == pytest.approx(REACH, rel=0.1)
    assert "search.sigma" not in named.changes
    assert reach(with_settings(recipe, named.changes).search) == pytest.approx(1.25, rel=0.1)


def test_a_run_of_the_model_that_was_tried_is_that_of_the_same_settings_typed(tmp_path):
    fitted = fit_minutes(a_recipe(tmp_path), 0.5, {"search.steps"}, Notes())
    tuned = with_settings(a_recipe(tmp_path), fitted.changes)
    typed = replace(tuned, run=replace(tuned.run, dir=str(tmp_path / "typed")))

    run_tuning(tuned, Notes(), never, opened=fitted.opened)
    run_tuning(typed, Notes(), never)

    journals = [tmp_path / run / "journal.jsonl" for run in ("run", "typed")]
    assert journals[0].read_bytes() == journals[1].read_bytes()


def test_sigma_is_chosen_by_members_unless_it_was_typed(tmp_path):
    recipe = a_recipe(tmp_path, steps=50)

    chosen = fit_minutes(recipe, 0.5, (), Notes())
    typed = fit_minutes(recipe, 0.5, {"search.sigma"}, Notes())

    tried = [one.sigma for one in chosen.probed.sigmas]
    assert tried == sorted(tried)
    assert chosen.changes["search.sigma"] == chosen.probed.chosen
    assert chosen.probed.chosen in tried
    assert {len(one.changes) for one in chosen.probed.sigmas} == {chosen.probed.members}
    assert "search.sigma" not in typed.changes
    assert typed.probed is None


def test_too_little_time_is_refused_with_what_takes_it(tmp_path):
    with pytest.raises(RecipeError, match=r"leaves time for 0 steps, expected at least 5"):
        fit_minutes(a_recipe(tmp_path), 1e-4, (), Notes())


def test_a_price_counts_batches_and_rows():
    price = a_price(batch=10, call=3.0, row=0.5)

    assert [price.rollout(rows) for rows in (1, 10, 11, 30)] == [3.5, 8.0, 11.5, 24.0]


def test_members_that_share_batches_pay_their_part_of_them():
    price = a_price(batch=10, call=3.0, row=0.5, shared=True)

    assert [price.rollout(rows) for rows in (1, 10, 11)] == pytest.approx([0.8, 8.0, 8.8])

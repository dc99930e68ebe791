from collections import Counter
from dataclasses import replace

import pytest
from scoring import question_row
from tiny_models import write_model
from tiny_runs import a_recipe, write_arc

from esft.errors import RecipeError, TaskError
from esft.recipe.settings import Model, Recipe, TaskSettings
from esft.tuning.session import open_session, rows_of_step
from esft.tuning.tasks import rows_hash


def arc_recipe(folder, **task):
    model = write_model(folder / "base")
    return Recipe(
        model=Model(id=str(model), device="cpu"),
        task=TaskSettings(name="arc-easy", train=3, holdout=4, **task),
    )


def test_rows_come_from_the_folder_named_else_from_that_of_the_environment(tmp_path, monkeypatch):
    data = str(write_arc(tmp_path / "data"))
    monkeypatch.setenv("ESFT_DATA_DIR", data)
    session = open_session(arc_recipe(tmp_path))
    monkeypatch.setenv("ESFT_DATA_DIR", str(tmp_path / "elsewhere"))
    named = open_session(arc_recipe(tmp_path, data_dir=data))

    assert {one.row.id.partition("-")[0] for one in session.train} == {"train"}
    assert [one.row.gold for one in session.tasks[0].encoded] == [1, 1, 1, 1]
    assert named.train == session.train


def test_rows_that_ship_with_esft_are_replaced_only_by_a_named_folder(tmp_path, monkeypatch):
    (tmp_path / "data").mkdir()
    monkeypatch.setenv("ESFT_DATA_DIR", str(tmp_path / "data"))

    assert len(open_session(a_recipe(tmp_path)).train) == 6
    with pytest.raises(TaskError, match=r"data has no conciseness\.train\.jsonl"):
        open_session(a_recipe(tmp_path, task={"data_dir": str(tmp_path / "data")}))


def test_the_recipe_of_a_session_says_how_many_rows_there_are(tmp_path):
    data = write_arc(tmp_path / "data", rows=7)
    recipe = arc_recipe(tmp_path, data_dir=str(data))

    asked = open_session(recipe).recipe.task
    found = open_session(
        replace(recipe, task=TaskSettings(name="arc-easy", data_dir=str(data)))
    ).recipe.task

    assert (asked.train, asked.holdout) == (3, 4)
    assert (found.train, found.holdout) == (7, 7)


def test_more_rows_a_step_than_there_are_is_refused_with_their_number(tmp_path):
    data = str(write_arc(tmp_path / "data"))

    with pytest.raises(RecipeError, match="rows_per_step is 8, expected at most 3") as caught:
        open_session(arc_recipe(tmp_path, data_dir=data, rows_per_step=8))

    assert caught.value.hint.startswith("set rows_per_step = 3")


def test_a_glob_that_matches_nothing_is_an_error_of_the_recipe(tmp_path):
    recipe = arc_recipe(tmp_path, data_dir=str(write_arc(tmp_path / "data")))
    model = Model(id=recipe.model.id, device="cpu", include=("*.attention.*",))

    with pytest.raises(RecipeError, match=r"'\*\.attention\.\*' matches no parameter"):
        open_session(Recipe(model=model, task=recipe.task))


def test_where_a_step_sees_all_rows_they_come_in_their_order():
    assert rows_of_step(1, 7, 7, seed=1) == rows_of_step(9, 7, 7, seed=1) == list(range(7))


@pytest.mark.parametrize(("total", "per_step"), [(12, 4), (12, 5), (7, 3), (5, 1)])
@pytest.mark.parametrize("seed", [0, 1, 42])
def test_no_row_comes_twice_within_a_pass(total, per_step, seed):
    steps = range(1, 4 * total + 1)
    dealt = [row for step in steps for row in rows_of_step(step, total, per_step, seed)]

    for start in range(0, len(dealt) - total + 1, total):
        assert Counter(dealt[start : start + total]) == Counter(range(total))


def test_seeds_and_passes_deal_in_different_orders():
    orders = {tuple(rows_of_step(step, 20, 10, seed)) for seed in (0, 1, 42) for step in (1, 3, 5)}

    assert len(orders) == 9


def test_the_hash_of_rows_depends_on_rows_and_order():
    rows = tuple(question_row(number) for number in range(3))

    assert rows_hash(rows) not in (rows_hash(rows[::-1]), rows_hash(rows[:2]))


@pytest.mark.parametrize(
    "changes", [{"answer": "other"}, {"accepted": ("other",)}, {"facts": {"numbers": (1, 2)}}]
)
def test_the_hash_of_rows_depends_on_how_answers_are_graded_and_not_on_ids(changes):
    row = question_row(1)

    assert rows_hash([row]) == rows_hash([replace(row, id="other")])
    assert rows_hash([row]) != rows_hash([replace(row, **changes)])

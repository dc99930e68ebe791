from dataclasses import replace

import pytest
from tiny_models import write_model
from tiny_runs import a_recipe, write_arc

from esft.errors import RecipeError, TaskError
from esft.recipe.settings import Model, Recipe, TaskSettings
from esft.tuning.session import open_session


def arc_recipe(folder, **task):
    model = write_model(folder / "base")
    return Recipe(
        model=Model(id=str(model), device="cpu"),
        task=TaskSettings(name="arc-easy", train=3, holdout=4, **task),
    )


def test_rows_of_a_benchmark_come_from_the_folder_of_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("ESFT_DATA_DIR", str(write_arc(tmp_path / "data")))

    session = open_session(arc_recipe(tmp_path))

    assert [row.id for row in session.train.rows] == ["train-0", "train-1", "train-2"]
    assert [row.gold for row in session.holdout.rows] == [1, 1, 1, 1]


def test_a_named_folder_comes_before_that_of_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("ESFT_DATA_DIR", str(tmp_path / "elsewhere"))

    session = open_session(arc_recipe(tmp_path, data_dir=str(write_arc(tmp_path / "data"))))

    assert session.train.rows[0].id == "train-0"


def test_rows_that_ship_with_esft_are_replaced_only_by_a_named_folder(tmp_path, monkeypatch):
    (tmp_path / "data").mkdir()
    monkeypatch.setenv("ESFT_DATA_DIR", str(tmp_path / "data"))

    assert len(open_session(a_recipe(tmp_path)).train.rows) == 6
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
    data = write_arc(tmp_path / "data", rows=7)
    task = TaskSettings(name="arc-easy", data_dir=str(data), rows_per_step=8)

    with pytest.raises(RecipeError, match="rows_per_step is 8, expected at most 7") as caught:
        open_session(replace(arc_recipe(tmp_path), task=task))

    assert caught.value.hint.startswith("set rows_per_step = 7")


def test_a_glob_that_matches_nothing_is_an_error_of_the_recipe(tmp_path):
    recipe = arc_recipe(tmp_path, data_dir=str(write_arc(tmp_path / "data")))
    model = Model(id=recipe.model.id, device="cpu", include=("*.attention.*",))

    with pytest.raises(RecipeError, match=r"'\*\.attention\.\*' matches no parameter"):
        open_session(Recipe(model=model, task=recipe.task))

import json
from dataclasses import replace

import pytest
from runs import Notes, a_recipe, never, write_arc

from esft.errors import RecipeError, TaskError
from esft.evaluate import mean_and_error
from esft.prior import prior_rows
from esft.recipe import Prior
from esft.tasks import get_task
from esft.tasks.rows import read_split
from esft.tune import run_tuning


def with_priors(recipe, *tasks, **settings):
    return replace(recipe, prior=Prior(tasks=tasks, **({"rows": 4} | settings)))


def evals(run):
    return [json.loads(line) for line in (run / "evals.jsonl").read_text().splitlines()]


def program(folder, name):
    """A prior task in a file: eight test rows, rewarded by the length of the answer."""
    rows = [{"prompt": f"{name} {n}", "split": "test"} for n in range(8)]
    file = folder / f"{name}.py"
    file.write_text(f"def rows():\n    return {rows!r}\n\ndef reward(row, answer):\n    return 1\n")
    return str(file)


def test_prior_rows_are_the_first_of_the_test_split(tmp_path):
    recipe = with_priors(a_recipe(tmp_path), "countdown", rows=5)

    (prior,) = prior_rows(recipe, get_task("conciseness"))

    assert list(prior.rows) == read_split(get_task("countdown"), "test")[:5]


def test_prior_rows_are_those_of_the_validation_split_where_there_is_no_test(tmp_path, monkeypatch):
    monkeypatch.setenv("ESFT_DATA_DIR", str(write_arc(tmp_path / "data", rows=6)))

    (prior,) = prior_rows(with_priors(a_recipe(tmp_path), "arc"), get_task("conciseness"))

    assert [row.id for row in prior.rows] == [f"validation-{n}" for n in range(4)]


def test_a_folder_named_for_the_target_counts_for_prior_tasks_of_the_hub_alone(tmp_path):
    data = write_arc(tmp_path / "data", rows=6)
    recipe = a_recipe(tmp_path)
    recipe = replace(recipe, task=replace(recipe.task, name="arc", data_dir=str(data)))

    easy, countdown = prior_rows(with_priors(recipe, "arc-easy", "countdown"), get_task("arc"))

    assert len(easy.rows) == len(countdown.rows) == 4


@pytest.mark.parametrize("tasks", [("conciseness",), ("countdown", "conciseness")])
def test_the_target_is_no_prior_task(tmp_path, tasks):
    with pytest.raises(RecipeError, match="tasks has conciseness, expected tasks of other names"):
        prior_rows(with_priors(a_recipe(tmp_path), *tasks), get_task("conciseness"))


def test_a_prior_task_without_rows_and_one_with_too_few_say_so(tmp_path, monkeypatch):
    monkeypatch.setenv("ESFT_DATA_DIR", str(write_arc(tmp_path / "data", rows=3)))
    target, recipe = get_task("conciseness"), a_recipe(tmp_path)

    with pytest.raises(TaskError, match="arc has 3 validation rows, expected 4") as few:
        prior_rows(with_priors(recipe, "arc"), target)
    with pytest.raises(TaskError, match="gsm8k has neither test nor validation rows"):
        prior_rows(with_priors(recipe, "gsm8k"), target)

    assert few.value.hint == "--set prior.rows=3"


def test_target_and_priors_are_evaluated_first_every_so_many_steps_and_last(tmp_path):
    names = [program(tmp_path, "first"), program(tmp_path, "second")]
    recipe = with_priors(a_recipe(tmp_path, steps=5), *names, every=2)
    notes = Notes()

    outcome = run_tuning(recipe, notes, never)

    lines = evals(tmp_path / "run")
    assert [(line["step"], line["task"]) for line in lines] == [
        (step, task) for step in (0, 2, 4, 5) for task in ("conciseness", "first", "second")
    ]
    assert [line["role"] for line in lines] == ["target", "prior", "prior"] * 4
    assert {line["n"] for line in lines if line["role"] == "prior"} == {4}
    assert [step for step, _ in notes.evaluations] == [2, 4]
    assert [each.name for each in notes.evaluations[0][1]] == ["conciseness", "first", "second"]
    assert [each.name for each in outcome.priors] == ["first", "second"]
    for step in (0, 2, 4, 5):
        rows = (tmp_path / "run" / "evals" / f"first-{step}.jsonl").read_text().splitlines()
        assert len(rows) == 4


def test_an_evaluation_at_the_last_step_is_made_once(tmp_path):
    recipe = with_priors(a_recipe(tmp_path, steps=4), program(tmp_path, "first"), every=2)

    run_tuning(recipe, Notes(), never)

    assert [line["step"] for line in evals(tmp_path / "run")] == [0, 0, 2, 2, 4, 4]


def test_evaluations_between_change_no_bit_of_a_run(tmp_path):
    plain, watched = tmp_path / "plain", tmp_path / "watched"
    plain.mkdir()
    watched.mkdir()
    recipe = with_priors(a_recipe(watched), program(tmp_path, "first"), every=1)

    run_tuning(a_recipe(plain), Notes(), never)
    run_tuning(recipe, Notes(), never)

    steps = [
        (each / "run" / "journal.jsonl").read_text().splitlines()[1:] for each in (plain, watched)
    ]
    figures = [[json.loads(line) for line in lines] for lines in steps]
    assert [(line["rewards"], line["coefficients"]) for line in figures[0]] == [
        (line["rewards"], line["coefficients"]) for line in figures[1]
    ]
    files = [each / "run" / "model" / "model.safetensors" for each in (plain, watched)]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_run_json_names_the_rows_of_each_prior_task(tmp_path):
    run_tuning(with_priors(a_recipe(tmp_path), program(tmp_path, "first")), Notes(), never)

    rows = json.loads((tmp_path / "run" / "run.json").read_text())["rows"]
    assert rows["prior task first"]["n"] == 4
    assert len(rows["prior task first"]["hash"]) == 16


def test_the_first_lines_name_the_prior_tasks(tmp_path):
    notes = Notes()

    run_tuning(with_priors(a_recipe(tmp_path), program(tmp_path, "first"), every=2), notes, never)

    assert ("prior", "first: 4 rows each, every 2 steps") in notes.plans[0].lines


def test_errors_of_a_prior_task_are_those_of_its_rows(tmp_path):
    outcome = run_tuning(
        with_priors(a_recipe(tmp_path), program(tmp_path, "first")), Notes(), never
    )

    scores = outcome.priors[0].base
    expected = mean_and_error([float(result.correct) for result in scores.results])
    assert (scores.accuracy, scores.accuracy_se) == expected

from dataclasses import replace

import pytest
from tiny_models import write_model
from tiny_runs import Notes, a_recipe, info_of, jsonl, never, write_arc

from esft.errors import RecipeError, TaskError
from esft.models.load import load_model
from esft.recipe.priors import PriorSpec, parse_prior_line
from esft.recipe.settings import Prior
from esft.rollout.batches import Batches
from esft.stats.intervals import mean_and_error
from esft.tasks.registry import get_task
from esft.tasks.rows import read_split
from esft.tuning.run_info import own_files, with_recorded_paths
from esft.tuning.start import run_tuning
from esft.tuning.tasks import eval_task, find_batch, prior_rows, rows_of


def with_priors(recipe, *tasks, **settings):
    return replace(recipe, prior=Prior(tasks=tasks, **({"rows": 4} | settings)))


def own_rows(folder, name):
    """A task in a file: three rows without a split, answered by 7."""
    file = folder / f"{name}.jsonl"
    file.write_text("".join(f'{{"prompt": "{n}?", "answer": 7}}\n' for n in range(3)))
    return str(file)


def test_prior_rows_are_the_first_by_hash_of_the_test_split_else_of_validation(
    tmp_path, monkeypatch
):
    monkeypatch.setenv("ESFT_DATA_DIR", str(write_arc(tmp_path / "data", rows=6)))
    recipe = with_priors(a_recipe(tmp_path), "countdown", "arc")

    (_, countdown), (_, arc) = prior_rows(recipe, [PriorSpec(name="conciseness")])

    # Drawn at random: they keep their order.
    assert list(countdown) == read_split(get_task("countdown"), "test")[:4]
    assert [row.key for row in arc] == sorted(row.key for row in arc)
    assert {row.id.partition("-")[0] for row in arc} == {"validation"}


@pytest.mark.parametrize("tasks", [("conciseness",), ("countdown", "Conciseness:2")])
def test_the_target_is_no_prior_task_however_its_line_reads(tmp_path, tasks):
    with pytest.raises(RecipeError, match="expected tasks of other names than the target"):
        prior_rows(with_priors(a_recipe(tmp_path), *tasks), [PriorSpec(name="conciseness")])


def test_a_prior_task_without_rows_and_one_with_too_few_say_so(tmp_path, monkeypatch):
    monkeypatch.setenv("ESFT_DATA_DIR", str(write_arc(tmp_path / "data", rows=3)))
    target, recipe = [PriorSpec(name="conciseness")], a_recipe(tmp_path)

    with pytest.raises(TaskError, match="arc has 3 validation rows, expected 4") as few:
        prior_rows(with_priors(recipe, "arc"), target)
    with pytest.raises(TaskError, match="gsm8k has neither test nor validation rows"):
        prior_rows(with_priors(recipe, "gsm8k"), target)

    assert few.value.hint == "name the task with the rows there are: arc:3"


def test_a_prior_task_may_name_its_own_number_of_rows(tmp_path):
    recipe = with_priors(a_recipe(tmp_path), "countdown:2", "sort-digits", "copy-letters:5")

    priors = prior_rows(recipe, [PriorSpec(name="conciseness")])

    assert [len(rows) for _, rows in priors] == [2, 4, 5]


def test_too_few_rows_for_a_number_in_the_line_are_said_with_the_line_that_works(tmp_path):
    spec = parse_prior_line(f"{own_rows(tmp_path, 'mine')}:9 grader=number split=train")

    with pytest.raises(TaskError, match=r"mine has 3 train rows, expected 9$") as few:
        rows_of(spec, 200, None)

    working = few.value.hint.partition(": ")[2]
    assert working == f"{tmp_path}/mine.jsonl:3 grader=number split=train"
    assert len(rows_of(parse_prior_line(working), 200, None)[1]) == 3


def test_a_named_split_is_taken_and_no_other_is_looked_at(tmp_path):
    data = write_arc(tmp_path / "data", rows=6)
    (data / "arc_easy.test.jsonl").write_text("no rows at all")
    (data / "arc_challenge.train.jsonl").unlink()

    for line in ("arc-easy:1 split=train", "arc-easy:1 split=validation", "arc:1"):
        spec = parse_prior_line(line)
        (row,) = rows_of(spec, 4, str(data))[1]
        assert row.id.startswith(f"{spec.split or 'validation'}-")
    with pytest.raises(TaskError, match="prior task arc has no test rows"):
        rows_of(parse_prior_line("arc:1 split=test"), 4, str(data))


def test_a_task_with_train_rows_alone_is_refused_with_the_line_that_measures_those(tmp_path):
    spec = parse_prior_line(f"{own_rows(tmp_path, 'mine')}:2 grader=number")

    with pytest.raises(TaskError, match="mine has neither test nor validation rows") as caught:
        rows_of(spec, 200, None)

    assert f"train rows: {replace(spec, split='train')}, or" in caught.value.hint


def test_the_folder_of_a_line_comes_before_that_of_the_run_and_holds_for_any_task(tmp_path):
    data = write_arc(tmp_path / "data", rows=6)
    (data / "countdown.test.jsonl").write_text("no rows at all")

    _, arc = rows_of(parse_prior_line(f"arc:2 data_dir={data}"), 4, str(tmp_path / "elsewhere"))
    _, of_run = rows_of(parse_prior_line("arc:2"), 4, str(data))
    _, own = rows_of(parse_prior_line("countdown:2"), 4, str(data))

    assert arc == of_run
    assert len(own) == 2
    with pytest.raises(TaskError, match=r"countdown\.test\.jsonl line 1 is not JSON"):
        rows_of(parse_prior_line(f"countdown:2 data_dir={data}"), 4, None)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("arc scoring=exact", "scoring is 'exact', expected choice or generate for arc"),
        ("countdown reward=prob", "needs options to choose from: countdown"),
        ("countdown grader=number", "countdown has its own grader"),
    ],
)
def test_what_a_task_cannot_do_is_refused_before_its_rows_are_read(line, message):
    with pytest.raises(TaskError, match=message):
        rows_of(parse_prior_line(f"{line} data_dir=nowhere"), 4, None)


def test_each_prior_task_is_scored_as_its_line_says(tmp_path):
    data = write_arc(tmp_path / "data", rows=6)
    own = own_rows(tmp_path, "mine")
    lines = [
        "arc:3 scoring=generate max_new_tokens=3",
        "arc-easy:3 reward=prob",
        f"{own}:2 grader=contains split=train",
        "countdown:2",
    ]
    specs = [parse_prior_line(line) for line in lines]
    loaded = load_model(str(write_model(tmp_path / "base")), device="cpu")

    priors = [
        eval_task("prior", task, spec, rows, loaded, Batches())
        for spec in specs
        for task, rows in [rows_of(spec, 4, str(data))]
    ]

    assert [prior.name for prior in priors] == ["arc", "arc-easy", "mine", "countdown"]
    assert [each.rollout.scoring for each in priors] == [
        "generate", "choice", "generate", "generate",
    ]  # fmt: skip
    usual = get_task("countdown").max_new_tokens
    assert [each.rollout.max_new_tokens for each in priors] == [3, 16, 256, usual]
    assert all(0 < each.reward < 1 for each in priors[1].rollout.evaluate(priors[1].encoded))
    graded, _ = rows_of(specs[2], 4, None)
    assert graded.grade(priors[2].encoded[0].row, ["it is 7, no less"]).correct


@pytest.mark.parametrize(("per_step", "most"), [(1, 64), (1000, 64)])
def test_the_batch_of_a_run_is_the_least_over_its_ways_to_score(
    tmp_path, monkeypatch, per_step, most
):
    data, filled = write_arc(tmp_path / "data", rows=6), []
    lines = ["arc:3 scoring=generate max_new_tokens=3", "arc-easy:3", "countdown:2", "arc:2"]
    specs = [parse_prior_line(line) for line in lines]
    loaded = load_model(str(write_model(tmp_path / "base")), device="cpu")
    tasks = [
        eval_task("prior", task, spec, rows, loaded, Batches())
        for spec in specs
        for task, rows in [rows_of(spec, 4, str(data))]
    ]

    def found(fill, device, most, free):
        fill(Batches(1))
        filled[-1].append(most)
        shared.append(free(device))
        return most // 2

    monkeypatch.setattr("esft.tuning.tasks.largest_batch", found)
    for task in tasks:
        name = task.name
        task.rollout.fill = lambda rows, batches, name=name: filled.append([name, len(rows)])

    shared = []
    monkeypatch.setattr("esft.tuning.tasks.free_memory", lambda device: 100)

    size = find_batch(tasks, tasks[0].encoded, per_step, sharing=4)

    assert set(shared) == {25}
    # The one with the longest rows of each way, the target's with those that it is tuned on.
    assert filled == [["countdown", 2, most], ["arc-easy", 3, most // 2]]
    assert size == most // 4


@pytest.mark.parametrize("name", ["home", "a b=c #d"])
def test_files_named_in_lines_are_found_again_from_another_folder(tmp_path, monkeypatch, name):
    home = tmp_path / name
    (home / "data").mkdir(parents=True)
    own_rows(home, "mine")
    monkeypatch.chdir(home)
    recipe = with_priors(a_recipe(tmp_path), "mine.jsonl:2 grader=number", "arc:3 data_dir=data")
    files = own_files(recipe)

    monkeypatch.chdir(tmp_path)
    moved = with_recorded_paths(recipe, str(home), None)

    assert list(files) == ["mine.jsonl"]
    assert own_files(moved) == files
    mine, arc = moved.prior.specs
    assert (mine.name, arc.data_dir) == (str(home / "mine.jsonl"), str(home / "data"))


def test_target_and_priors_are_evaluated_first_every_so_many_steps_and_last(tmp_path):
    names = ["countdown", "sort-digits"]
    lines = [f"{name} max_new_tokens=4" for name in names]
    recipe = with_priors(a_recipe(tmp_path, steps=5), *lines, every=2)
    notes = Notes()

    outcome = run_tuning(recipe, notes, never)

    lines = jsonl(tmp_path / "run" / "evals.jsonl")
    assert [(line["step"], line["task"]) for line in lines] == [
        (step, task) for step in (0, 2, 4, 5) for task in ("conciseness", *names)
    ]
    assert [line["role"] for line in lines] == ["target", "prior", "prior"] * 4
    assert {line["n"] for line in lines if line["role"] == "prior"} == {4}
    assert [step for step, _ in notes.evaluations] == [2, 4]
    assert [each.name for each in notes.evaluations[0][1]] == ["conciseness", *names]
    assert [each.name for each in outcome.priors] == names
    scores = outcome.priors[0].base
    expected = mean_and_error([float(result.correct) for result in scores.results])
    assert (scores.accuracy, scores.accuracy_se) == expected
    assert ("prior", "countdown, sort-digits: 4 rows each, every 2 steps") in notes.plans[0]
    rows = info_of(tmp_path / "run")["rows"]
    assert (rows["prior task countdown"]["n"], len(rows["prior task countdown"]["hash"])) == (4, 16)
    for step in (0, 2, 4, 5):
        rows = jsonl(tmp_path / "run" / "evals" / f"countdown-{step}.jsonl")
        assert len(rows) == 4
        # What was asked, for the report: once is enough.
        assert all((row["question"] is None) == (step > 0) for row in rows)


def test_evaluations_between_change_no_bit_of_a_run_and_the_last_is_made_once(tmp_path):
    plain, watched = tmp_path / "plain", tmp_path / "watched"
    plain.mkdir()
    watched.mkdir()
    recipe = with_priors(a_recipe(watched), "countdown max_new_tokens=4", every=1)

    run_tuning(a_recipe(plain), Notes(), never)
    run_tuning(recipe, Notes(), never)

    journals = [jsonl(folder / "run" / "journal.jsonl")[1:] for folder in (plain, watched)]
    figures = [[(line["rewards"], line["coefficients"]) for line in lines] for lines in journals]
    assert figures[0] == figures[1]
    files = [folder / "run" / "model" / "model.safetensors" for folder in (plain, watched)]
    assert files[0].read_bytes() == files[1].read_bytes()
    assert [line["step"] for line in jsonl(watched / "run" / "evals.jsonl")] == [
        step for step in range(4) for _ in range(2)
    ]

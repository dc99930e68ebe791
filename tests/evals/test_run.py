"""Prior tasks and target on steps of a run: right, and never scored twice."""

import errno
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_models import tiny_llama, write_model
from tiny_runs import Notes, a_recipe, never, write_arc

from esft.errors import RecipeError, RunError
from esft.evals.results import read_eval
from esft.evals.run import EvalRequest, run_eval, write_eval
from esft.evals.steps import quantized_copy
from esft.models.load import load_model
from esft.recipe.priors import parse_prior_line
from esft.recipe.settings import Prior, Run
from esft.rollout.batches import Batches
from esft.tuning.rebuild import find_source, rebuild
from esft.tuning.start import run_tuning
from esft.tuning.tasks import eval_task, rows_of

QUIET = {"kl_prompts": 0, "noise_floor": False}
PROGRAM = """\
def rows():
    return [{'prompt': f'Say {n}.', 'split': 'test'} for n in range(4)]

def reward(row, answer):
    return 0.5
"""


def a_run(folder, *, priors=("copy-letters:8", "upper-letters:8"), **recipe):
    """Tune a tiny model for three steps, measured before, after two, and after three."""
    made = replace(
        a_recipe(folder, **recipe),
        prior=Prior(tasks=priors, every=2, rows=7),
        run=Run(dir=str(folder / "run"), snapshot_every=2),
    )
    run_tuning(made, Notes(), never)
    return folder / "run"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return a_run(tmp_path_factory.mktemp("run"))


@pytest.fixture
def kept(tmp_path):
    """A run whose evaluations are in the cache of the test."""
    return a_run(tmp_path)


@pytest.fixture
def model(tmp_path):
    """What asks for a model by itself."""
    write_model(tmp_path / "model")
    return {"models": (str(tmp_path / "model"),), "device": "cpu"} | QUIET


def asked(run, **changes):
    return EvalRequest(**({"run": str(run), "at": "2,last"} | QUIET | changes))


def result_of(request, task):
    (result,) = (one for one in run_eval(request, Notes()).record.tasks if one.name == task)
    return result


def test_what_the_run_measured_is_not_measured_again(tmp_path, counted):
    threads = torch.get_num_threads()
    notes = Notes()
    try:
        torch.set_num_threads(1)  # those of the run count, like its batch size
        run = a_run(tmp_path, task={"batch": 2})
        counted.clear()
        torch.set_num_threads(2)
        result = run_eval(asked(run), notes)
    finally:
        torch.set_num_threads(threads)

    assert counted == []
    assert not any("rows" in phase for phase in notes.phases)
    assert result.record.steps == (0, 2, 3)
    assert [task.role for task in result.record.tasks] == ["target", "prior", "prior"]
    recorded = [json.loads(line) for line in (run / "evals.jsonl").read_text().splitlines()]
    for task in result.record.tasks:
        lines = [line for line in recorded if line["task"] == task.name]
        scores = [(score.accuracy, score.reward) for score in task.evaluations]
        assert scores == [(line["accuracy"], line["reward"]) for line in lines]
    assert result.path == str(run / "eval.json")
    assert not (run / "eval.json").exists()
    write_eval(result)
    assert read_eval(run / "eval.json") == result.record


def test_without_steps_all_evaluations_of_the_run_are_used_and_only_its_own(kept, counted):
    priors = ("copy-letters:8", "upper-letters:5", "reverse-letters:6")
    counted.clear()

    record = run_eval(asked(kept, priors=priors, at=None), Notes()).record

    steps = {task.name: [score.step for score in task.evaluations] for task in record.tasks}
    assert steps["conciseness"] == steps["copy-letters"] == [0, 2, 3]
    assert steps["upper-letters"] == steps["reverse-letters"] == [0, 3]  # other rows; another task
    assert record.steps == (0, 2, 3)
    assert [drift.step for drift in record.drift] == [3]
    assert sorted(counted) == [5, 5, 6, 6]


def test_other_steps_and_tasks_are_measured_once(kept, counted):
    request = asked(kept, priors=("copy-letters:8", "reverse-letters:5"), at="1,2,3")
    counted.clear()

    first = run_eval(request, Notes())
    assert sorted(counted) == sorted([5, 8] + [5] * 4)  # step 1, and the new task on all four
    counted.clear()
    again = run_eval(request, Notes())

    assert counted == []
    assert again.record == first.record


def test_each_step_is_scored_on_its_own_weights(run):
    result = run_eval(asked(run, priors=("reverse-letters:6",), at="1,3"), Notes())

    for number, step in enumerate((0, 1, 3)):
        model = rebuild(find_source(str(run)), str(step), Notes()).base.loaded
        spec = parse_prior_line("reverse-letters:6")
        task, rows = rows_of(spec, 200, None)
        prior = eval_task("prior", task, spec, rows, model, Batches())
        expected = prior.rollout.evaluate(prior.encoded)
        assert list(result.measured[1].evaluations[number].results) == expected


def test_nothing_is_rebuilt_unless_the_cache_is_damaged_or_cannot_be_written(
    run, tmp_path, monkeypatch, counted
):
    monkeypatch.setenv("ESFT_CACHE_DIR", str(tmp_path / "cache"))
    request = asked(run, priors=("reverse-letters:5",), at="1,3", kl_prompts=3, kl_tokens=4)
    counted.clear()
    first, notes = run_eval(request, Notes()), Notes()
    assert run_eval(request, notes).record == first.record
    assert notes.rebuilds == notes.progressed == []  # where all is known nothing is rebuilt
    for file in (tmp_path / "cache").rglob("*.json*"):
        file.write_bytes(file.read_bytes()[:-9])

    assert run_eval(request, Notes()).record == first.record
    assert len(counted) == 12
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ESFT_CACHE_DIR", str(tmp_path / "file"))
    assert run_eval(request, Notes()).record == first.record


def test_drift_and_forecast_are_those_of_the_run(run):
    drift = run_eval(asked(run, at="1,2,3"), Notes()).record.drift

    metrics = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [measured.step for measured in drift] == [1, 2, 3]
    for measured, expected in zip(drift, metrics, strict=True):
        assert measured.norm == pytest.approx(expected["drift"], rel=1e-6)
        assert measured.forecast == expected["forecast"]
        squares = sum(layer.norm**2 for layer in measured.layers)
        assert squares == pytest.approx(measured.norm**2, rel=1e-6)


def compared(notes):
    """The numbers of prompts that KL divergences were measured on, as they were told."""
    told = [phase.partition(": KL on ")[2] for phase in notes.phases]
    return [int(phase.split()[0]) for phase in told if phase]


def test_the_kl_of_each_prior_task_is_measured_both_ways_and_once(run):
    request, notes = asked(run, at="3", kl_prompts=3, kl_tokens=4), Notes()

    first = run_eval(request, notes)
    more = run_eval(replace(request, at="2,3"), notes)
    others = Notes()
    for change in ({"kl_prompts": 2}, {"kl_tokens": 5}):
        run_eval(replace(request, **change), others)

    assert compared(notes) == [3, 3, 3, 3]
    assert compared(others) == [2, 2, 3, 3]
    assert [[pair.step for pair in task.kl] for task in more.record.tasks] == [[], [2, 3], [2, 3]]
    for before, after in zip(first.record.tasks, more.record.tasks, strict=True):
        assert before.kl == after.kl[1:]
        for pair in after.kl:
            for estimate in (pair.base_to_tuned, pair.tuned_to_base):
                assert estimate.prompts == 3
                assert estimate.kl > 0


def test_a_journal_alone_is_measured_with_the_tasks_that_are_named(run):
    result = run_eval(asked(run / "journal.jsonl", priors=("reverse-letters:5",)), Notes())

    assert [task.name for task in result.record.tasks] == ["reverse-letters"]
    assert len(result.record.drift) == 2
    assert result.path is None


def test_a_model_by_itself_is_measured_once_also_as_the_base_of_a_run(kept, model, counted):
    request = EvalRequest(priors=("reverse-letters:5",), **model)
    request = replace(request, models=(str(kept.parent / "base"),))
    counted.clear()

    result = run_eval(request, Notes())
    run_eval(request, Notes())
    run_eval(asked(kept, priors=("reverse-letters:5",), at="0"), Notes())

    assert counted == [5]
    assert (result.record.steps, result.record.drift) == ((0,), ())
    assert result.record.tasks[0].verdict is None


def test_rows_are_those_of_the_run_unless_others_are_asked_for(run, tmp_path, monkeypatch):
    monkeypatch.delenv("ESFT_DATA_DIR", raising=False)
    data = str(write_arc(tmp_path / "data", rows=3))
    made = a_recipe(tmp_path / "2", task={"data_dir": data, "train": 2, "holdout": 1})
    made = replace(made, task=replace(made.task, name="arc-easy"))
    of_run = run_tuning(made, Notes(), never).run_path
    request = asked(run, at="0", priors=("copy-letters", "reverse-letters:4"))
    arc = replace(request, priors=("arc:2",))

    assert result_of(request, "copy-letters").evaluations[0].n == 7
    assert result_of(request, "reverse-letters").evaluations[0].n == 4
    assert result_of(replace(request, rows=5), "copy-letters").evaluations[0].n == 5
    assert result_of(replace(request, rows=5), "reverse-letters").evaluations[0].n == 4
    assert result_of(replace(arc, data_dir=data), "arc").evaluations[0].n == 2
    assert result_of(replace(arc, run=of_run), "arc").evaluations[0].n == 2


def test_a_task_that_cannot_be_measured_leaves_the_others(run, model, monkeypatch):
    monkeypatch.delenv("ESFT_DATA_DIR", raising=False)
    changes = {"data_dir": str(run)}

    record = run_eval(asked(run, priors=("arc:5", "copy-letters:8"), **changes), Notes()).record

    assert [task.name for task in record.tasks] == ["conciseness", "copy-letters"]
    assert [failed.task for failed in record.failed] == ["arc"]
    with pytest.raises(RunError, match="no task can be measured: arc: ") as caught:
        run_eval(EvalRequest(priors=("arc:5",), **model, **changes), Notes())
    assert caught.value.hint


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"at": "4"}, "expected best, last or a step from 0 to 3"),
        ({"at": "2,"}, "expected best, last or a step from 0 to 3"),
        ({"dtype": "float16"}, "a run has a dtype of its own"),
        ({"models": ("embedded",)}, "is another base model"),
        ({"priors": ("conciseness:3",)}, "expected tasks of other names"),
        ({"layers": True, "load": "nf4"}, "--layers is given with --load nf4"),
        ({"layers": True, "at": "0"}, "--layers is given for step 0"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_measured(run, changes, error):
    notes = Notes()

    with pytest.raises((RecipeError, RunError), match=error):
        run_eval(asked(run, **({"priors": ("copy-letters:3",)} | changes)), notes)

    assert not any("rows" in phase for phase in notes.phases)


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({}, "no prior task is named"),
        ({"priors": ("copy-letters:3",), "at": "3"}, "--at is 3"),
        ({"priors": ("copy-letters:3",), "layers": True}, "with --model without a RUN"),
    ],
)
def test_a_model_by_itself_has_no_tasks_and_no_steps(model, changes, error):
    with pytest.raises(RecipeError, match=error):
        run_eval(EvalRequest(**model, **changes), Notes())


@pytest.mark.parametrize("load", ["nf4", "int8"])
def test_models_can_be_measured_as_loaded_in_fewer_bits(tmp_path, load, counted):
    # bitsandbytes packs rows of at least 64.
    model = tiny_llama(hidden_size=64, intermediate_size=128)
    run = a_run(tmp_path, model=model, task={"reward": "logprob"})
    counted.clear()
    plain = result_of(asked(run), "conciseness")
    assert counted == []

    result = run_eval(asked(run, load=load), Notes())

    assert len(counted) == 9
    assert (result.record.load, result.path) == (load, str(run / f"eval-{load}.json"))
    in_full, loaded = (
        [score.reward for score in task.evaluations] for task in (plain, result.record.tasks[0])
    )
    assert len({*in_full, *loaded}) == 6
    assert loaded == pytest.approx(in_full, rel=0.1)
    run_eval(asked(run, load=load), Notes())
    assert len(counted) == 9


def test_a_full_disk_is_said_where_a_model_is_to_be_loaded_in_fewer_bits(model, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    loaded = load_model(*model["models"], device="cpu")
    monkeypatch.setattr(loaded.model, "save_pretrained", full)

    with pytest.raises(RunError, match="cannot be written: No space left") as caught:
        quantized_copy(loaded, "int8")
    assert caught.value.hint == "make room on the disk"


def test_the_noise_floor_is_said_in_half_precision_alone(tmp_path, counted):
    run = a_run(tmp_path, model=tiny_llama(dtype=torch.bfloat16))
    counted.clear()

    floor = run_eval(asked(run, noise_floor=True), Notes()).record.noise_floor

    assert len(counted) == 3  # the base again, task by task
    assert floor.text.startswith("the base model in batches of 32 instead of 64: ")
    assert floor.rows == 21
    full = a_run(tmp_path / "float32")
    assert run_eval(asked(full, noise_floor=True), Notes()).record.noise_floor is None


def test_what_a_grader_failed_on_is_scored_again_and_so_is_what_a_program_changed(
    model, tmp_path, counted
):
    program = tmp_path / "own.py"
    request = EvalRequest(priors=(f"{program}:4",), **model)
    rewards = []
    for value in ("1 / 0", "1 / 0", "0.5", "0.5", "0.75"):
        program.write_text(PROGRAM.replace("0.5", value))
        rewards.append(result_of(request, "own").evaluations[0].reward)

    assert rewards == [0, 0, 0.5, 0.5, 0.75]
    assert counted == [4] * 4


def test_other_rows_and_weights_are_other_evaluations(tmp_path, model, counted):
    write_model(tmp_path / "other", tiny_llama(seed=1))
    data = write_arc(tmp_path / "data", rows=3)
    request = EvalRequest(priors=("arc:2",), data_dir=str(data), **model)
    run_eval(request, Notes())
    run_eval(replace(request, models=(str(tmp_path / "other"),)), Notes())
    file = data / "arc_challenge.validation.jsonl"
    file.write_text(file.read_text().replace("validation 1?", "validation one?"))

    run_eval(request, Notes())

    assert counted == [2, 2, 2]


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("chat_template.jinja", "im_start", "im_begin"),
        ("config.json", '"rms_norm_eps": 1e-06', '"rms_norm_eps": 0.1'),
    ],
)
def test_the_same_weights_with_other_files_are_another_model(model, counted, file, old, new):
    request = EvalRequest(priors=("copy-letters:4",), **model)
    run_eval(request, Notes())
    path = Path(*model["models"]) / file
    before = path.read_text()

    path.write_text(before.replace(old, new))
    run_eval(request, Notes())
    path.write_text(before)
    run_eval(request, Notes())

    assert old in before
    assert counted == [4, 4]

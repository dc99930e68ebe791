"""Prior tasks and target on steps of a run: right, and never scored twice."""

import errno
import json
from dataclasses import replace

import pytest
import torch
from tiny_models import tiny_llama, write_model
from tiny_runs import Notes, a_recipe, never, write_arc

from esft.errors import EsftError, RecipeError, RunError
from esft.evals import distances as eval_drift
from esft.evals.request import EvalRequest, run_eval
from esft.evals.results import read_eval
from esft.models.load import load_model
from esft.recipe.priors import parse_prior_line
from esft.recipe.settings import Prior, Run
from esft.rollout.evaluate import evaluate
from esft.rollout.rollout import Rollout
from esft.tuning.prior_tasks import ready, rows_of
from esft.tuning.rebuild import find_source, rebuild
from esft.tuning.start import run_tuning

QUIET = {"kl_prompts": 0, "noise_floor": False}


def a_run(folder, *, priors=("copy-letters:8", "upper-letters:8"), **recipe):
    """Tune a tiny model for three steps, measured before, after two, and after three."""
    made = replace(
        a_recipe(folder, **recipe),
        prior=Prior(tasks=priors, every=2),
        run=Run(dir=str(folder / "run"), snapshot_every=2),
    )
    run_tuning(made, Notes(), never)
    return folder / "run"


@pytest.fixture
def run(tmp_path):
    return a_run(tmp_path)


@pytest.fixture
def counted(monkeypatch):
    """The numbers of rows that were scored, call by call."""
    calls, evaluate = [], Rollout.evaluate

    def counting(self, encoded):
        calls.append(len(encoded.rows))
        return evaluate(self, encoded)

    monkeypatch.setattr(Rollout, "evaluate", counting)
    return calls


def asked(run, **changes):
    return EvalRequest(**({"run": str(run), "at": "2,last"} | QUIET | changes))


def figures(result, task):
    (found,) = (each for each in result.record.tasks if each.name == task)
    return found


def test_what_the_run_measured_is_not_measured_again(run, counted):
    notes = Notes()

    result = run_eval(asked(run), notes)

    assert counted == []
    assert not any("rows" in phase for phase in notes.phases)
    recorded = [json.loads(line) for line in (run / "evals.jsonl").read_text().splitlines()]
    assert result.record.steps == (0, 2, 3)
    for task in ("conciseness", "copy-letters", "upper-letters"):
        expected = [line for line in recorded if line["task"] == task]
        found = figures(result, task).evaluations
        assert [each.accuracy for each in found] == [line["accuracy"] for line in expected]
        assert [each.reward for each in found] == [line["reward"] for line in expected]


def test_the_batch_that_the_run_found_is_kept(tmp_path, counted):
    run = a_run(tmp_path, task={"batch": 2})
    counted.clear()

    run_eval(asked(run), Notes())

    assert counted == []


def test_steps_are_scored_with_as_many_threads_as_the_run_had(tmp_path, counted):
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        run = a_run(tmp_path)
        counted.clear()
        torch.set_num_threads(1)
        run_eval(asked(run), Notes())
    finally:
        torch.set_num_threads(threads)

    assert counted == []


def test_rows_come_from_the_folder_named_else_from_the_run_s(run, tmp_path, monkeypatch):
    monkeypatch.delenv("ESFT_DATA_DIR", raising=False)
    write_arc(tmp_path / "data", rows=3)
    request = asked(run, at="0", priors=("arc:2",))

    named = run_eval(replace(request, data_dir=str(tmp_path / "data")), Notes())

    assert figures(named, "arc").rows == 2
    made = a_recipe(tmp_path / "2", task={"data_dir": str(tmp_path / "data")})
    made = replace(made, task=replace(made.task, name="arc-easy", train=2, holdout=1))
    of_run = run_tuning(made, Notes(), never).run_path
    assert figures(run_eval(replace(request, run=of_run), Notes()), "arc").rows == 2


def test_other_steps_and_tasks_are_measured_once(run, counted):
    priors = ("copy-letters:8", "reverse-letters:5")

    first = run_eval(asked(run, priors=priors, at="1,2,3"), Notes())
    assert sorted(counted) == sorted([5, 8] + [5] * 4)  # step 1, and the new task on all four
    counted.clear()
    again = run_eval(asked(run, priors=priors, at="1,2,3"), Notes())

    assert counted == []
    assert again.record == first.record


def test_each_step_is_scored_on_its_own_weights(run):
    result = run_eval(asked(run, priors=("reverse-letters:6",), at="1,3"), Notes())

    for number, step in enumerate((0, 1, 3)):
        model = rebuild(find_source(str(run)), str(step), Notes()).base.loaded
        rows = rows_of(parse_prior_line("reverse-letters:6"), 200, None)
        (prior,) = ready((rows,), model, None)
        expected = evaluate(prior.rollout, prior.encoded)
        assert result.measured[1].evaluations[number].results == expected.results


def test_an_evaluation_that_was_interrupted_goes_on(run, counted, monkeypatch):
    request = asked(run, priors=("reverse-letters:150",), at="0")
    evaluate = Rollout.evaluate

    def interrupted(self, encoded):
        if len(counted) == 2:
            raise KeyboardInterrupt
        return evaluate(self, encoded)

    monkeypatch.setattr(Rollout, "evaluate", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_eval(request, Notes())
    assert counted == [64, 64]
    counted.clear()
    monkeypatch.setattr(Rollout, "evaluate", evaluate)

    run_eval(request, Notes())

    assert counted == [22]


def test_a_damaged_cache_is_scored_anew(run, counted, tmp_path, monkeypatch):
    monkeypatch.setenv("ESFT_CACHE_DIR", str(tmp_path / "cache"))
    request = asked(run, priors=("reverse-letters:5",), at="0")
    first = run_eval(request, Notes())
    for file in (tmp_path / "cache" / "evals").iterdir():
        file.write_bytes(b'{"reward": half')
    counted.clear()

    again = run_eval(request, Notes())

    assert len(counted) == 2
    assert again.record == first.record


def test_a_cache_that_cannot_be_written_is_done_without(run, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ESFT_CACHE_DIR", str(tmp_path / "file"))

    result = run_eval(asked(run, priors=("reverse-letters:5",), at="0"), Notes())

    assert figures(result, "reverse-letters").rows == 5


def test_comparisons_are_paired_row_by_row(run):
    result = run_eval(asked(run, at="3"), Notes())

    for measured, task in zip(result.measured, result.record.tasks, strict=True):
        before, after = (
            [bool(row.correct) for row in each.results] for each in measured.evaluations
        )
        (comparison,) = task.comparisons
        gained = sum(new and not old for old, new in zip(before, after, strict=True))
        lost = sum(old and not new for old, new in zip(before, after, strict=True))
        assert (comparison.gained, comparison.lost) == (gained, lost)
        assert len(comparison.gained_rows) == gained
        assert comparison.change == pytest.approx((gained - lost) / task.rows)
        assert comparison.low <= comparison.change <= comparison.high
        assert task.verdict.kind == "not enough"


def test_eval_json_is_what_was_measured(run):
    result = run_eval(asked(run), Notes())

    assert result.path == str(run / "eval.json")
    assert read_eval(run / "eval.json") == result.record
    assert [each.role for each in result.record.tasks] == ["target", "prior", "prior"]


def test_drift_and_forecast_are_those_of_the_run(run):
    result = run_eval(asked(run, at="1,2,3"), Notes())

    metrics = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [each.step for each in result.record.drift] == [1, 2, 3]
    for found, expected in zip(result.record.drift, metrics, strict=True):
        assert found.norm == pytest.approx(expected["drift"], rel=1e-6)
        assert found.forecast == expected["forecast"]
        squares = sum(layer.norm**2 for layer in found.layers)
        assert squares == pytest.approx(found.norm**2, rel=1e-6)


def test_the_kl_of_each_prior_task_is_measured_both_ways(run):
    result = run_eval(asked(run, at="2,3", kl_prompts=3, kl_tokens=4), Notes())

    assert figures(result, "conciseness").kl == ()
    for task in ("copy-letters", "upper-letters"):
        found = figures(result, task).kl
        assert [each.step for each in found] == [2, 3]
        for each in found:
            for estimate in (each.base_to_tuned, each.tuned_to_base):
                assert estimate.prompts == 3
                assert estimate.kl > 0


@pytest.fixture
def compared(monkeypatch):
    """The numbers of prompts that KL divergences were measured on, call by call."""
    calls, between = [], eval_drift.kl_between

    def counting(model, tokenizer, drift, prompts, *others, **named):
        calls.append(len(prompts))
        return between(model, tokenizer, drift, prompts, *others, **named)

    monkeypatch.setattr(eval_drift, "kl_between", counting)
    return calls


def test_a_kl_that_is_known_is_not_measured_again(run, compared):
    request = asked(run, at="3", kl_prompts=3, kl_tokens=4)
    first = run_eval(request, Notes())
    assert compared == [3, 3]

    assert run_eval(request, Notes()).record == first.record
    assert compared == [3, 3]
    added = run_eval(replace(request, at="2,3"), Notes())
    assert compared == [3, 3, 3, 3]
    for task in ("copy-letters", "upper-letters"):
        assert figures(added, task).kl[1:] == figures(first, task).kl


@pytest.mark.parametrize("change", [{"kl_prompts": 2}, {"kl_tokens": 5}, {"at": "2"}])
def test_another_kl_is_measured(run, compared, change):
    request = asked(run, at="3", kl_prompts=3, kl_tokens=4)
    run_eval(request, Notes())
    compared.clear()

    run_eval(replace(request, **change), Notes())

    assert len(compared) == 2


def _files_of_kl(cache):
    files = (cache / "distances").iterdir()
    return [file for file in files if "base_to_tuned" in file.read_text()]


def test_where_all_is_known_nothing_is_rebuilt(run):
    request = asked(run, at="1,3", kl_prompts=3, kl_tokens=4)
    first = run_eval(request, Notes())
    notes = Notes()

    again = run_eval(request, notes)

    assert again.record == first.record
    assert notes.rebuilds == notes.progressed == []


def test_a_damaged_cache_of_kl_is_measured_anew(run, compared, tmp_path, monkeypatch):
    monkeypatch.setenv("ESFT_CACHE_DIR", str(tmp_path / "cache"))
    request = asked(run, at="3", kl_prompts=3, kl_tokens=4)
    first = run_eval(request, Notes())
    one, other = _files_of_kl(tmp_path / "cache")
    one.write_bytes(b'{"base_to_tuned": {"kl"')
    other.write_text("{}")
    compared.clear()

    assert run_eval(request, Notes()).record == first.record
    assert compared == [3, 3]


def test_a_journal_alone_is_measured_with_the_tasks_that_are_named(run):
    result = run_eval(asked(run / "journal.jsonl", priors=("reverse-letters:5",)), Notes())

    assert [task.name for task in result.record.tasks] == ["reverse-letters"]
    assert result.path is None
    with pytest.raises(RecipeError, match="no prior task is named"):
        run_eval(asked(run / "journal.jsonl"), Notes())


def test_a_model_is_measured_by_itself(tmp_path, counted):
    write_model(tmp_path / "model")
    request = EvalRequest(
        model=str(tmp_path / "model"), priors=("copy-letters:5",), device="cpu", **QUIET
    )

    result = run_eval(request, Notes())
    run_eval(request, Notes())

    assert counted == [5]
    assert result.record.steps == (0,)
    assert result.record.drift == ()
    assert figures(result, "copy-letters").verdict is None


def test_a_model_by_itself_has_no_steps(tmp_path):
    request = EvalRequest(model=str(tmp_path / "model"), priors=("copy-letters:5",), at="3")

    with pytest.raises(RecipeError, match="--at is 3, expected none: a model by itself"):
        run_eval(request, Notes())


def test_rows_are_those_of_the_run_unless_others_are_asked_for(tmp_path):
    made = replace(a_recipe(tmp_path), prior=Prior(rows=7), run=Run(dir=str(tmp_path / "run")))
    run_tuning(made, Notes(), never)
    run = tmp_path / "run"
    priors = ("copy-letters", "reverse-letters:4")

    runs = run_eval(asked(run, at="0", priors=priors), Notes())
    others = run_eval(asked(run, at="0", priors=priors, rows=5), Notes())

    assert [task.rows for task in runs.record.tasks[1:]] == [7, 4]
    assert [task.rows for task in others.record.tasks[1:]] == [5, 4]


def test_the_base_of_a_run_and_the_model_by_itself_are_the_same_evaluation(run, counted):
    run_eval(asked(run, priors=("reverse-letters:5",), at="0"), Notes())
    counted.clear()

    run_eval(
        EvalRequest(
            model=str(run.parent / "base"), priors=("reverse-letters:5",), device="cpu", **QUIET
        ),
        Notes(),
    )

    assert counted == []


def test_a_task_that_cannot_be_measured_leaves_the_others(run, monkeypatch):
    monkeypatch.delenv("ESFT_DATA_DIR", raising=False)
    priors = ("arc:5", "copy-letters:8")

    result = run_eval(asked(run, priors=priors, data_dir=str(run)), Notes())

    assert [task.name for task in result.record.tasks] == ["conciseness", "copy-letters"]
    assert [failed.task for failed in result.record.failed] == ["arc"]


def test_where_no_task_can_be_measured_the_first_reason_is_given(tmp_path):
    write_model(tmp_path / "model")

    with pytest.raises(RunError, match="no task can be measured: arc: ") as caught:
        run_eval(
            EvalRequest(
                model=str(tmp_path / "model"), priors=("arc:5",), data_dir=str(tmp_path), **QUIET
            ),
            Notes(),
        )

    assert caught.value.hint


def test_another_base_model_is_refused(run, tmp_path):
    write_model(tmp_path / "other", tiny_llama(seed=1))

    with pytest.raises(RunError, match="is another base model"):
        run_eval(asked(run, model=str(tmp_path / "other")), Notes())


@pytest.mark.parametrize("at", ["4", "2,", "two"])
def test_a_step_there_is_not_is_refused(run, at):
    with pytest.raises(RunError, match="expected best, last or a step from 0 to 3"):
        run_eval(asked(run, at=at), Notes())


@pytest.mark.parametrize("load", ["nf4", "int8"])
def test_models_can_be_measured_as_loaded_in_fewer_bits(tmp_path, load, counted):
    # bitsandbytes packs rows of at least 64.
    model = tiny_llama(hidden_size=64, intermediate_size=128)
    run = a_run(tmp_path, model=model, task={"reward": "logprob"})
    counted.clear()
    plain = run_eval(asked(run), Notes())
    assert counted == []

    result = run_eval(asked(run, load=load), Notes())

    assert len(counted) == 9
    assert result.record.load == load
    assert result.path == str(run / f"eval-{load}.json")
    in_full, loaded = (
        [each.reward for each in figures(each_result, "conciseness").evaluations]
        for each_result in (plain, result)
    )
    assert len({*in_full, *loaded}) == 6
    assert loaded == pytest.approx(in_full, rel=0.1)
    counted.clear()
    run_eval(asked(run, load=load), Notes())
    assert counted == []


def test_in_half_precision_the_noise_floor_is_said(tmp_path, counted):
    run = a_run(tmp_path, model=tiny_llama(dtype=torch.bfloat16))
    counted.clear()

    result = run_eval(asked(run, noise_floor=True), Notes())

    assert len(counted) == 3  # the base again, task by task
    text = result.record.noise_floor.text
    assert text.startswith("the base model in batches of 32 instead of 64: ")
    assert result.record.noise_floor.rows == 21


def test_in_float32_there_is_no_noise_floor(run, counted):
    assert run_eval(asked(run, noise_floor=True), Notes()).record.noise_floor is None
    assert counted == []


def test_answers_that_a_grader_failed_on_are_scored_again(tmp_path, counted):
    program = tmp_path / "fussy.py"
    program.write_text(
        "def rows():\n"
        "    return [{'prompt': f'Say {n}.', 'split': 'test'} for n in range(4)]\n\n"
        "def reward(row, answer):\n"
        "    raise ValueError('no')\n"
    )
    write_model(tmp_path / "model")
    request = EvalRequest(
        model=str(tmp_path / "model"), priors=(f"{program}:4",), device="cpu", **QUIET
    )

    run_eval(request, Notes())
    run_eval(request, Notes())

    assert counted == [4, 4]


def test_a_program_that_changed_is_scored_again(tmp_path, counted):
    program = tmp_path / "kind.py"
    text = (
        "def rows():\n"
        "    return [{'prompt': f'Say {n}.', 'split': 'test'} for n in range(4)]\n\n"
        "def reward(row, answer):\n"
        "    return 0.5\n"
    )
    program.write_text(text)
    write_model(tmp_path / "model")
    request = EvalRequest(
        model=str(tmp_path / "model"), priors=(f"{program}:4",), device="cpu", **QUIET
    )
    first = run_eval(request, Notes())
    program.write_text(text.replace("0.5", "0.75"))

    again = run_eval(request, Notes())

    assert counted == [4, 4]
    rewards = [figures(each, "kind").evaluations[0].reward for each in (first, again)]
    assert rewards == [0.5, 0.75]


def test_a_dtype_for_a_run_is_refused(run):
    with pytest.raises(RecipeError, match="a run has a dtype of its own"):
        run_eval(asked(run, dtype="float16"), Notes())


@pytest.mark.parametrize("way", ["reward=logprob", "scoring=generate", "max_new_tokens=2"])
def test_another_way_of_scoring_is_another_evaluation(tmp_path, counted, way):
    write_model(tmp_path / "model")
    given = {"model": str(tmp_path / "model"), "device": "cpu"} | QUIET
    run_eval(EvalRequest(priors=("copy-letters:5",), **given), Notes())

    run_eval(EvalRequest(priors=(f"copy-letters:5 {way}",), **given), Notes())

    assert counted == [5, 5]


def test_rows_that_changed_are_scored_again(tmp_path, counted):
    write_model(tmp_path / "model")
    write_arc(tmp_path / "data", rows=3)
    request = EvalRequest(
        model=str(tmp_path / "model"),
        priors=("arc:2",),
        device="cpu",
        data_dir=str(tmp_path / "data"),
        **QUIET,
    )
    run_eval(request, Notes())
    file = tmp_path / "data" / "arc_challenge.validation.jsonl"
    file.write_text(file.read_text().replace("validation 1?", "validation one?"))

    run_eval(request, Notes())

    assert counted == [2, 2]


def test_other_batch_sizes_and_weights_are_other_evaluations(tmp_path, counted):
    for number, seed in enumerate((0, 1)):
        write_model(tmp_path / f"model-{number}", tiny_llama(seed=seed))
        run_eval(
            EvalRequest(
                model=str(tmp_path / f"model-{number}"),
                priors=("copy-letters:4",),
                device="cpu",
                **QUIET,
            ),
            Notes(),
        )

    assert counted == [4, 4]


def test_the_target_of_a_run_is_none_of_its_prior_tasks(run):
    notes = Notes()

    with pytest.raises(RecipeError, match="have conciseness:3, expected tasks of other names"):
        run_eval(asked(run, priors=("copy-letters:3", "conciseness:3")), notes)

    assert notes.phases == []  # before the model is loaded


def test_a_full_disk_is_said_where_a_model_is_to_be_loaded_in_fewer_bits(run, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("esft.evals.quantized.write_model", full)

    with pytest.raises(RunError, match="cannot be written") as caught:
        run_eval(asked(run, load="int8"), Notes())
    assert "make room" in caught.value.hint


def test_a_prior_task_may_be_the_target_of_no_run(tmp_path):
    write_model(tmp_path / "model")
    loaded = load_model(str(tmp_path / "model"), device="cpu")

    with pytest.raises(EsftError, match="no-such-task"):
        rows_of(parse_prior_line("no-such-task"), 5, None)
    rows = rows_of(parse_prior_line("conciseness:5 split=train"), 200, None)
    assert len(ready((rows,), loaded, None)[0].encoded.rows) == 5

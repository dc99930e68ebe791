import json
import math

import pytest
from report_runs import ROWS, write_eval, write_run

from esft.errors import RunError
from esft.report.charts import sections_of
from esft.report.read import named_apart, read_run
from esft.runs.names import locked
from esft.runs.steps import StepTimes


@pytest.fixture
def run(tmp_path):
    return write_run(tmp_path / "run")


def task_of(numbers, name):
    return next(task for task in numbers.tasks if task.name == name)


def test_the_target_comes_first_and_each_task_is_compared_with_its_base_row_by_row(run):
    numbers = read_run(run)

    names = [(task.name, task.role) for task in numbers.tasks]
    assert names == [("arc", "target"), ("gsm8k", "prior")]
    prior = task_of(numbers, "gsm8k")
    assert [(score.step, score.accuracy) for score in prior.evaluations] == [(0, 0.9), (4, 0.5)]
    assert (prior.before.step, prior.after.step) == (0, 4)
    assert prior.change.change == pytest.approx(-0.4)
    assert (prior.change.gained, prior.change.lost) == (0, 0.4 * ROWS)
    assert prior.change.low < -0.4 < prior.change.high
    assert prior.change.p == pytest.approx(2 * 0.5**16)
    assert prior.change.reward_change == pytest.approx(2 * prior.change.change)


def test_target_and_prior_tasks_get_their_verdicts_from_what_the_run_measured(tmp_path):
    numbers = read_run(write_run(tmp_path / "run", evaluations={0: 0.3, 4: 0.9}))

    assert task_of(numbers, "gsm8k").verdict.kind == "improved"
    assert task_of(numbers, "arc").verdict.kind == "down"


def test_rows_that_are_not_all_there_leave_the_scores_without_a_comparison(run):
    for step in (0, 4):
        file = run / "evals" / f"gsm8k-{step}.jsonl"
        file.write_text("".join(file.read_text().splitlines(True)[:-1]))

    prior = task_of(read_run(run), "gsm8k")

    assert len(prior.evaluations) == 2
    assert (prior.comparisons, prior.verdict) == ((), None)


def test_what_esft_eval_measured_is_read_beside_the_runs_own_evaluations(run):
    write_eval(run)

    numbers = read_run(run)

    mmlu = task_of(numbers, "mmlu")
    assert [score.step for score in mmlu.evaluations] == [0, 4]
    assert (mmlu.change.change, mmlu.verdict.kind) == (-0.1, "lost")
    assert (mmlu.change.reward_change, mmlu.change.reward_se) == (0.7, 0.1)
    assert (mmlu.change.reward_low, mmlu.change.reward_high) == (0.5, 0.9)
    (pair,) = mmlu.kl
    assert (pair.base_to_tuned.kl, math.isnan(pair.tuned_to_base.kl)) == (0.02, True)
    (drift,) = numbers.drift
    assert (drift.zero_share, drift.unmoved_share) == (0.1, 0.2)
    assert drift.layers[2].norm == 3
    assert task_of(numbers, "gsm8k").evaluations
    assert "Noise floor: 2 of 10 answers differ" in numbers.notes
    assert "piqa could not be evaluated: no rows" in numbers.notes


def eval_of(task, run):
    """Return the run's own evaluations of a task as eval.json has them, without its steps 1-3."""
    lines = [json.loads(line) for line in (run / "evals.jsonl").read_text().splitlines()]
    scores = [line for line in lines if line["task"] == task and line["step"] in (0, 4)]
    return {"name": task, "role": "prior", "evaluations": scores, "comparisons": []}


def test_evaluations_of_the_same_rows_are_joined(tmp_path):
    run = write_run(tmp_path / "run", evaluations={0: 0.9, 2: 0.7, 4: 0.5})
    write_eval(run, tasks=[eval_of("gsm8k", run)])

    prior = task_of(read_run(run), "gsm8k")

    assert [score.step for score in prior.evaluations] == [0, 2, 4]


def test_evaluations_of_other_rows_are_never_joined_and_their_tasks_named_in_one_note(tmp_path):
    run = write_run(tmp_path / "run", evaluations={0: 0.9, 2: 0.7, 4: 0.5})
    others = [eval_of("arc", run) | {"role": "target"}, eval_of("gsm8k", run)]
    for score in (score for other in others for score in other["evaluations"]):
        score["n"] = 7
    write_eval(run, tasks=others)

    numbers = read_run(run)

    scores = task_of(numbers, "gsm8k").evaluations
    assert [(score.step, score.n) for score in scores] == [(0, 7), (4, 7)]
    notes = [note for note in numbers.notes if "figures of esft eval" in note]
    assert [note.split(":")[0] for note in notes] == ["arc, gsm8k"]


def test_eval_json_of_another_journal_is_ignored_with_a_note(run):
    write_eval(run, journal="0" * 16)

    numbers = read_run(run)

    assert [task.name for task in numbers.tasks] == ["arc", "gsm8k"]
    assert numbers.drift == ()
    assert any("eval.json is ignored" in note for note in numbers.notes)


def test_eval_json_made_before_the_run_went_on_is_used_with_a_note(run):
    second = (run / "journal.jsonl").read_text().splitlines()[2]
    write_eval(run, journal=json.loads(second)["checksum"])

    numbers = read_run(run)

    assert task_of(numbers, "mmlu").evaluations
    assert "eval.json was made at step 2; the run went on to step 4" in numbers.notes


@pytest.mark.parametrize("norm", ["l1", "l2"])
def test_without_decay_the_free_forecast_is_the_forecast(tmp_path, norm):
    numbers = read_run(write_run(tmp_path / "run", anchor_norm=norm))

    for step in numbers.progress:
        assert step.free == pytest.approx(step.forecast)
        assert step.ratio == pytest.approx(1.01)
    assert numbers.decay.half_life is None
    assert numbers.decay.text.startswith("No decay: the drift is free.")


def test_what_a_decay_left_is_measured_against_the_same_updates_without_it(tmp_path):
    numbers = read_run(write_run(tmp_path / "run", anchor_awd=1.0))

    first = numbers.progress[0]
    assert first.left == pytest.approx(1.01 * 0.9)  # a share of alpha * lambda = 0.1 is gone
    assert numbers.decay.pull == pytest.approx(0.1)
    assert numbers.decay.half_life == 7  # 0.9^7 < 1/2 < 0.9^6
    assert "each step takes 10.00% of the drift, half-life 7 steps" in numbers.decay.text


def test_an_anchor_that_moves_is_told_with_its_distance_and_has_a_chart(tmp_path):
    still, moving = (
        read_run(write_run(tmp_path / move, anchor_awd=1.0, anchor_move=move))
        for move in ("none", "ema")
    )

    norm = moving.progress[-1].anchor
    assert norm == pytest.approx(0.5 * moving.progress[-1].drift)
    assert f"follows the weights, by now {norm:.4g} from the base." in moving.decay.text
    assert "follows" not in still.decay.text
    charts = [chart for section in sections_of([still, moving]) for chart in section.charts]
    (chart,) = [chart for chart in charts if chart.label == "||E||"]
    assert [line.run for line in chart.lines] == [1]


def test_an_l1_decay_is_told_against_the_random_walk(tmp_path):
    decay = read_run(write_run(tmp_path / "run", anchor_awd=0.1, anchor_norm="l1")).decay

    assert decay.walk == pytest.approx(0.05)  # alpha / sqrt(N)
    assert "pulls every weight by 0.01 towards its base" in decay.text


def test_the_noise_of_the_search_is_said_once_or_as_it_falls(run):
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]

    def said(noises):
        noted = [line | {"noise": noise} for line, noise in zip(lines, noises, strict=True)]
        (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in noted))
        return read_run(run).noise

    assert said([4e-7] * len(lines)) == "sigma^2 / N is 4e-07"
    last = len(lines)
    assert said([4e-7] * (last - 1) + [1e-7]) == (
        f"sigma^2 / N is 4e-07 in step 1 and 1e-07 in step {last}"
    )
    assert said([None] * last) is None


def test_the_spread_of_the_population_leaves_out_members_without_a_reward(tmp_path):
    run = write_run(tmp_path / "run", rewards=(0.0, 1.0, math.nan, 2.0))

    step = read_run(run).progress[0]

    assert step.reward_sd == pytest.approx(math.sqrt(2 / 3))
    assert step.reward_worst == 0


def test_where_the_time_went_is_summed_over_the_steps_that_know_it(run):
    numbers = read_run(run)

    assert numbers.times == StepTimes(engine=3.0, rollout=12.0, grading=9.0, other=0.0)
    assert str(numbers.times) == "engine 12.5%, rollout 50.0%, grading 37.5%, other 0.0%"
    assert [step.times is None for step in numbers.progress] == [True, False, False, False]


def test_a_run_that_has_just_begun_has_no_numbers_yet(tmp_path):
    numbers = read_run(write_run(tmp_path / "run", steps=0, evaluations={}))

    assert (numbers.steps, numbers.planned, numbers.state) == (0, 4, "stopped")
    assert (numbers.tasks, numbers.progress, numbers.notes) == ((), (), ())


@pytest.mark.parametrize(
    ("file", "content", "note"),
    [
        ("evals.jsonl", "[]\n", "evals.jsonl: line 1 is not as esft writes it: it is []"),
        ("evals.jsonl", "{}\n", "step is missing"),
        ("metrics.jsonl", "{\n", "metrics.jsonl: line 1 is not as esft"),
        ("journal.jsonl", "", "journal.jsonl is empty"),
        ("eval.json", "{", "eval.json cannot be read"),
        ("eval.json", '{"format": 9}', "eval.json has format 9, expected 2"),
    ],
)
def test_a_damaged_file_is_left_out_with_a_note(run, file, content, note):
    (run / file).write_text(content)

    numbers = read_run(run)

    assert note in " ".join(numbers.notes)
    assert numbers.tasks or numbers.progress


def test_a_folder_that_is_not_a_run_is_refused(tmp_path):
    with pytest.raises(RunError, match=r"run\.json cannot be read"):
        read_run(tmp_path)


def test_runs_are_called_by_what_sets_them_apart_else_by_their_names(tmp_path):
    decayed, free, again = (
        read_run(write_run(tmp_path / name, anchor_awd=awd))
        for name, awd in (("a", 1.4286), ("b", 0.0), ("c", 0.0))
    )

    assert [run.label for run in named_apart([decayed])] == ["a"]
    assert [run.label for run in named_apart([decayed, free])] == ["awd 1.43", "no decay"]
    assert [run.label for run in named_apart([decayed, free, again])] == ["awd 1.43", "b", "c"]
    assert [run.name for run in named_apart([decayed, free])] == ["a", "b"]


def test_a_run_that_did_not_end_is_stopped_unless_a_process_works_on_it(tmp_path):
    run = write_run(tmp_path / "run", steps=2)

    with locked(run):
        assert read_run(run).state == "running"
    assert read_run(run).state == "stopped"


def test_runs_of_one_name_are_told_apart_by_their_paths(tmp_path):
    runs = [read_run(write_run(tmp_path / folder / "run")) for folder in ("a", "b")]

    named = named_apart([*runs, read_run(write_run(tmp_path / "other"))])

    assert [run.name for run in named] == [run.label for run in named]
    assert [run.name for run in named] == [runs[0].path, runs[1].path, "other"]

"""What a report says first: a title, a sentence, two numbers; and the answers that it shows."""

import re

import pytest
from report_runs import ROWS, write_eval, write_evaluation, write_run

from esft.report.answers import SHOWN
from esft.report.read import named_apart, read_run
from esft.report.summary import comparison_of, says_right, summary_of, title_of
from esft.runs.folder import open_run


def glance(tmp_path, **changes):
    return summary_of(read_run(write_run(tmp_path / "run", **changes)))


def test_the_gain_is_said_with_its_interval_and_so_is_what_became_of_the_prior_task(tmp_path):
    said = glance(tmp_path, evaluations={0: 0.9, 2: 0.5, 4: 0.2})

    assert (said.state, len(said.figures)) == ("", 2)
    assert said.target.startswith("10\u00a0% → 80\u00a0% right on 40 rows, +70 points, +5")
    assert "beyond chance" not in said.target
    assert said.priors == (
        "What it could do before: lost most of 1 of 1 prior task: a smaller alpha or --awd."
    )
    target, prior = said.figures
    assert (target.after, target.kind) == ("80\u00a0%", "good")
    assert (prior.label, prior.kind) == ("1 prior task: right answers", "bad")
    assert prior.change.startswith("−70 points, −8")


def test_a_change_that_may_be_chance_is_said_to_be_one(tmp_path):
    said = glance(tmp_path, evaluations={0: 0.9, 4: 0.875})

    assert "(no change beyond chance)" in said.target
    assert {figure.kind for figure in said.figures} == {""}
    assert said.priors.endswith(": too few rows to tell of gsm8k.")


@pytest.mark.parametrize(
    ("changes", "state", "target"),
    [
        ({"steps": 0, "evaluations": {}}, "Stopped after 0 of 4", "was not evaluated"),
        (
            {"steps": 1, "evaluations": {0: 0.9}},
            "Stopped after 1 of 4",
            "base model has",
        ),
    ],
    ids=["nothing", "base alone"],
)
def test_a_run_that_did_not_end_says_how_far_it_came(tmp_path, changes, state, target):
    said = glance(tmp_path, **changes)

    assert said.state.startswith(state)
    assert target in said.target
    assert said.figures == ()


def test_where_no_answer_counts_as_right_the_reward_is_what_is_shown(tmp_path):
    path = write_run(tmp_path / "run", evaluations={})
    for step, reward in ((0, 0.25), (4, 0.75)):
        write_evaluation(open_run(path), "own", "target", step, 0, wrong=reward)

    run = read_run(path)

    assert not says_right(run.tasks[0])
    (figure,) = summary_of(run).figures
    assert (figure.before, figure.after, figure.kind) == ("0.25", "0.75", "good")
    assert summary_of(run).target.startswith("Reward 0.25 → 0.75 on 40 rows, +0.50, ")
    assert summary_of(run).priors.startswith("Nothing else was watched")
    (answers,) = run.answers
    assert (answers.gained.total, answers.unchanged.total) == (ROWS, 0)
    assert answers.gained.shown[0].after.correct is None


def test_the_mean_of_prior_tasks_lies_within_their_intervals_and_is_surer_than_each(tmp_path):
    path = write_run(tmp_path / "run", evaluations={0: 0.9, 4: 0.8})
    write_eval(path)
    one, two = [task.change for task in read_run(path).tasks if task.role == "prior"]

    change = summary_of(read_run(path)).figures[1].change

    mean, low, high = map(float, re.findall(r"-?\d+", change.replace("−", "-")))
    assert mean == pytest.approx(50 * (one.change + two.change), abs=0.5)
    assert 50 * (one.low + two.low) < low < mean < high < 50 * (one.high + two.high)


def test_several_runs_are_compared_by_the_tasks_that_all_of_them_have(tmp_path):
    kept = write_run(tmp_path / "kept", evaluations={0: 0.9, 4: 0.85}, anchor_awd=1.0)
    moved = write_run(tmp_path / "moved", evaluations={0: 0.9, 4: 0.8})
    write_eval(kept)  # mmlu fell by 10 points, where the other run was not measured

    runs = named_apart([read_run(kept), read_run(moved)])

    assert title_of(runs) == "arc on embedded: 2 runs"
    assert comparison_of(runs) == (
        "Most gained: no decay (+10 points). Most kept of what it could do: awd 1 (−5 points)."
    )
    assert comparison_of(runs[:1]) == ""
    other = read_run(write_run(tmp_path / "other", task_name="arc-easy"))
    assert title_of([*runs, other]) == "3 runs side by side"
    assert comparison_of([*runs, other]) == ""


def test_answers_show_six_rows_gained_lost_and_unchanged_with_what_was_asked(tmp_path):
    run = read_run(write_run(tmp_path / "run", evaluations={0: 0.9, 2: 0.1, 4: 0.5}))

    target, prior = run.answers

    assert [answers.task for answers in run.answers] == ["arc", "gsm8k"]
    assert [group.total for group in (prior.gained, prior.lost, prior.unchanged)] == [0, 16, 24]
    assert len(prior.lost.shown) == len(prior.unchanged.shown) == SHOWN
    assert (target.gained.total, target.lost.total, target.step) == (16, 0, 4)
    row = prior.lost.shown[0]
    assert (row.question, row.wanted) == ("<b>Q</b> & 20?", "<u>")
    assert (row.before.correct, row.after.correct, row.before.reward) == (True, False, 2.0)
    assert row.before.answer.startswith("<i>gsm8k</i> step 0")
    assert row.after.answer.startswith("<i>gsm8k</i> step 4")


def test_rows_of_an_older_esft_are_shown_without_their_question(tmp_path):
    path = write_run(tmp_path / "run")
    file = path / "evals" / "arc-0.jsonl"
    file.write_text(file.read_text().replace('"question"', '"was"').replace('"wanted"', '"no"'))

    (row, *_) = read_run(path).answers[0].gained.shown

    assert (row.question, row.wanted, row.before.correct) == (None, None, False)

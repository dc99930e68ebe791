"""Which answers a run shows, and which it keeps."""

import math
from dataclasses import replace

import pytest
from tiny_runs import Notes, a_recipe, jsonl, never

from esft.recipe.settings import Run
from esft.rollout.encode import EncodedRow
from esft.rollout.results import RowResult
from esft.runs.folder import open_run
from esft.tasks.task import Row, ask
from esft.tuning.answers import samples, step_samples
from esft.tuning.start import resume_tuning, run_tuning


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    """A run of four steps that shows two rows and keeps the answers of every second step."""
    folder = tmp_path_factory.mktemp("shown")
    recipe = replace(
        a_recipe(folder, steps=4),
        run=Run(dir=str(folder / "run"), show_answers=2, keep_answers=2),
    )
    notes = Notes()
    return folder / "run", notes, run_tuning(recipe, notes, never)


def test_holdout_rows_are_shown_with_the_base_before_and_with_both_after(shown):
    run, notes, outcome = shown

    _, before = notes.shown[0]
    kept = {step: jsonl(run / "evals" / f"conciseness-{step}.jsonl") for step in (0, 4)}
    assert len(before) == len(outcome.samples) == 2
    for at, (first, last) in enumerate(zip(before, outcome.samples, strict=True)):
        assert first.asked == last.asked != ""
        ((who, base),), (old, (tuned, now)) = first.answers, last.answers
        assert (who, old, tuned) == ("base", ("base", base), "tuned")
        assert list(base.answers) == kept[0][at]["answers"]
        assert list(now.answers) == kept[4][at]["answers"]


def test_a_step_shows_its_best_and_its_worst_member_as_its_answers_are_kept(shown):
    run, notes, _ = shown

    (_, rows) = notes.shown[-1]
    lines = jsonl(run / "answers" / "step-4.jsonl")
    means = {}
    for line in lines:
        means.setdefault(line["member"], []).append(line["reward"])
    best = max(means, key=lambda member: sum(means[member]))
    assert [who for who, _ in rows[0].answers] == ["best", "worst"]
    answered = [line["answers"] for line in lines if line["member"] == best]
    assert list(rows[0].answers[0][1].answers) in answered


def test_all_answers_of_the_steps_chosen_are_kept_and_of_no_other(shown):
    run, _, _ = shown

    assert sorted(path.name for path in (run / "answers").iterdir()) == [
        "step-2.jsonl",
        "step-4.jsonl",
    ]
    lines = jsonl(run / "answers" / "step-2.jsonl")
    made = open_run(run).read_journal().steps[1]
    assert len(lines) == 4 * 6  # members, rows
    for member, reward in enumerate(made.rewards, start=1):
        rewards = [line["reward"] for line in lines if line["member"] == member]
        assert sum(rewards) / 6 == pytest.approx(reward)
    assert all(line["question"] and len(line["answers"]) == 1 for line in lines)


def test_what_is_shown_and_kept_may_change_when_a_run_goes_on(shown):
    run, _, _ = shown
    recipe = run / "recipe.toml"
    text = recipe.read_text().replace("steps = 4", "steps = 5")
    recipe.write_text(text.replace("show_answers = 2", "show_answers = 0"))
    notes = Notes()

    resume_tuning(run, notes, never)

    assert notes.shown == []


ROWS = [EncodedRow(row=Row(id=text, questions=(ask(text),))) for text in ("one", "two", "three")]


def members(*rewards):
    """Return what members with these mean rewards made of `ROWS`, each its own answer."""
    return [
        [RowResult(reward=reward, correct=None, answers=(f"{reward}",)) for _ in ROWS]
        for reward in rewards
    ]


def test_a_step_shows_a_row_of_a_middling_member_every_few_steps_each_time_another(tmp_path):
    recipe = a_recipe(tmp_path, steps=100)

    shown = {
        step: step_samples(recipe, step, ROWS, members(0.1, 0.9, math.nan, 0.5))
        for step in range(1, 101)
    }

    times = [step for step, samples in shown.items() if samples]
    assert times == list(range(5, 101, 5))
    assert {shown[step][0].asked for step in times} == {"one", "two", "three"}
    assert {shown[step][0].answers[0][1].reward for step in times} == {0.5}
    assert all(len(shown[step]) == 1 for step in times)


def test_the_best_and_the_worst_member_are_shown_where_rows_are_asked_for(tmp_path):
    recipe = a_recipe(tmp_path, steps=8)
    recipe = replace(recipe, run=Run(show_answers=2))

    first, second = step_samples(recipe, 4, ROWS, members(0.1, 0.9, 0.5))

    assert first.asked != second.asked
    assert [(who, result.reward) for who, result in first.answers] == [
        ("best", 0.9),
        ("worst", 0.1),
    ]


def test_rows_without_answers_are_not_shown():
    assert samples(ROWS, 1, base=[RowResult(reward=-1.0, correct=None)]) == ()


def asked(*texts, count=9):
    rows = [EncodedRow(row=Row(id=text, questions=(ask(text),))) for text in texts]
    base = [RowResult(reward=1.0, correct=None, answers=("an answer",)) for _ in texts]
    return [sample.asked for sample in samples(rows, count, base=base)]


def test_words_that_all_rows_begin_with_are_left_out_of_what_is_shown():
    first, second = "Good or bad?  One word.\nThe soup\nwas hot.", "Good or bad? One word. The tea."

    assert asked(first, second) == ["… soup was hot.", "… tea."]
    assert asked(first, second, count=1) == ["… soup was hot."]


@pytest.mark.parametrize(
    "texts",
    [
        ["one row of many words"],
        ["all rows are alike"] * 2,
        ["What is the sea?", "What is the sky?"],
    ],
)
def test_few_words_in_common_are_shown_and_so_are_rows_that_are_alike(texts):
    assert asked(*texts) == texts

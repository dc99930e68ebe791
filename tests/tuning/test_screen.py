"""Rows that are left out, and what a run makes of it."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_runs import Notes, a_recipe, jsonl, never

from esft.engine.journal_read import read_journal
from esft.engine.members import shape
from esft.tuning.screen import MISSED, SILENT, Screen, as_hex, from_hex
from esft.tuning.start import resume_tuning, run_tuning


@given(st.lists(st.booleans(), max_size=300))
def test_silent_rows_are_read_as_they_were_written(silent):
    assert from_hex(as_hex(silent), len(silent)) == silent


@pytest.mark.parametrize("text", ["4", "-1", "x", "ff"])
def test_bits_of_more_rows_than_there_are_are_refused(text):
    with pytest.raises(ValueError, match=r"expected at most 2 bits|invalid literal"):
        from_hex(text, 2)


@given(st.lists(st.tuples(st.lists(st.integers(0, 5)), st.sets(st.integers(0, 5))), max_size=40))
def test_a_row_rests_just_where_its_last_steps_were_silent(steps):
    screen = Screen()
    silent_since, missed = dict.fromkeys(range(6), 0), dict.fromkeys(range(6), 0)
    for rows, silent in steps:  # a row may have two turns in a step
        rest = {row for row in rows if silent_since[row] >= SILENT and missed[row] < MISSED}
        seen = screen.seen(rows)
        assert seen == ([row for row in rows if row not in rest] or rows)
        screen.note(rows, [row in silent for row in seen])
        for row in set(rows):
            missed[row] = 0 if row in seen else missed[row] + 1
            if row in seen:
                silent_since[row] = silent_since[row] + 1 if row in silent else 0


def test_a_row_is_seen_every_fifth_time_while_nothing_varies_on_it():
    screen, seen_in = Screen(), []
    for step in range(1, 20):
        seen = screen.seen([0, 1])
        seen_in += [step] if 1 in seen else []
        screen.note([0, 1], [row == 1 for row in seen])

    assert seen_in == [1, 2, 3, 8, 13, 18]


def test_where_all_rows_rest_a_step_sees_them_all():
    screen = Screen()
    for _ in range(SILENT):
        screen.note([0, 1], [True, True])

    assert screen.seen([0, 1]) == [0, 1]
    assert screen.seen([0, 2]) == [2]


@given(
    st.lists(st.lists(st.integers(0, 3), min_size=4, max_size=4), min_size=1, max_size=6),
    st.lists(st.integers(-5, 5), max_size=6),
    st.sampled_from(["zscore", "ranks"]),
)
def test_rows_that_are_the_same_for_all_members_change_no_coefficient(varied, same, shaping):
    def shaped(rows):
        return shape([sum(row[at] for row in rows) / len(rows) for at in range(4)], shaping, False)

    assert shaped([*varied, *([value] * 4 for value in same)]) == pytest.approx(shaped(varied))


def screened(folder, **search):
    return a_recipe(
        folder, task={"train": 24, "rows_per_step": 12}, steps=12, screen_rows=True, **search
    )


def test_a_run_leaves_silent_rows_out_and_says_in_its_journal_which_those_are(tmp_path):
    run_tuning(screened(tmp_path, sigma=1e-4), Notes(), never)

    record, lines = (
        read_journal(tmp_path / "run" / "journal.jsonl"),
        jsonl(tmp_path / "run" / "metrics.jsonl"),
    )
    rows = [line["rows"] for line in lines]
    # Each row has a turn in two steps: silent in three, from the seventh step on.
    assert rows[:6] == [12] * 6
    assert min(rows[6:]) < 12
    for step, line in zip(record.steps, lines, strict=True):
        silent = from_hex(step.silent, line["rows"])
        assert sum(silent) / len(silent) == pytest.approx(line["signal"]["silent"])
        assert step.rows_at == (step.step - 1) * 12


def test_a_run_stopped_and_resumed_leaves_out_the_same_rows(tmp_path):
    recipe = screened(tmp_path, sigma=1e-4, antithetic=True, noise="lowrank")
    calls = iter([*[False] * 8, True])

    run_tuning(recipe, Notes(), never)
    parts = replace(recipe, run=replace(recipe.run, dir=str(tmp_path / "parts")))
    run_tuning(parts, Notes(), lambda: next(calls))
    resume_tuning(tmp_path / "parts", Notes(), never)

    whole, parts = ((tmp_path / run / "journal.jsonl").read_bytes() for run in ("run", "parts"))
    assert whole == parts


def test_without_it_the_journal_says_nothing_of_rows_and_steps_see_them_all(tmp_path):
    run_tuning(a_recipe(tmp_path, sigma=1e-4, steps=5), Notes(), never)

    assert {step.silent for step in read_journal(tmp_path / "run" / "journal.jsonl").steps} == {
        None
    }
    assert {line["rows"] for line in jsonl(tmp_path / "run" / "metrics.jsonl")} == {6}

"""What eval.json says of a task: every figure against the base, the rows by their ids."""

from types import SimpleNamespace

import pytest

from esft.evals.evaluator import Measured
from esft.evals.record import task_record
from esft.evaluate import evaluation_of
from esft.rollout import RowResult
from esft.tasks.task import Row

BASE = "1100" * 25
"""Whether each row is right."""


def measured(*outcomes):
    """A task with an evaluation for each text of 0 and 1."""
    evaluations = tuple(evaluation_of(list(map(result, outcome)), "exact") for outcome in outcomes)
    rows = tuple(
        Row(id=f"row-{number}", messages=({"role": "user", "content": str(number)},))
        for number in range(len(outcomes[0]))
    )
    rollout = SimpleNamespace(task=SimpleNamespace(name="letters"), scoring="exact")
    prepared = SimpleNamespace(rows=rows)
    subject = SimpleNamespace(name="letters", role="prior", rollout=rollout, prepared=prepared)
    return Measured(subject=subject, evaluations=evaluations)


def result(right):
    return RowResult(reward=float(right), correct=right == "1", answer="")


def test_every_step_is_compared_with_the_base_row_by_row():
    steps = ("1011" + BASE[4:], "0000" + BASE[4:], "1111" + BASE[4:])

    record = task_record(measured(BASE, *steps), (0, 2, 5, 9), 0.03, [])

    assert [each["step"] for each in record["evaluations"]] == [0, 2, 5, 9]
    assert [each["step"] for each in record["comparisons"]] == [2, 5, 9]
    assert [each["change"] for each in record["comparisons"]] == pytest.approx([0.01, -0.02, 0.02])
    gained = [each["gained_rows"] for each in record["comparisons"]]
    lost = [each["lost_rows"] for each in record["comparisons"]]
    assert gained == [["row-2", "row-3"], [], ["row-2", "row-3"]]
    assert lost == [["row-1"], ["row-0", "row-1"], []]
    for each in record["comparisons"]:
        assert (each["gained"], each["lost"]) == (len(each["gained_rows"]), len(each["lost_rows"]))
        assert each["low"] < each["change"] < each["high"]


def test_the_verdict_is_of_the_last_step_and_of_the_margin_asked_for():
    up, same = "1" * 100, BASE

    assert (
        task_record(measured(BASE, same, up), (0, 1, 2), 0.03, [])["verdict"]["kind"] == "improved"
    )
    assert (
        task_record(measured(BASE, up, same), (0, 1, 2), 0.03, [])["verdict"]["kind"] != "improved"
    )
    wide = task_record(measured(BASE, up, up), (0, 1, 2), 0.9, [])["verdict"]
    assert wide["kind"] == "unchanged"
    assert wide["difference"] == pytest.approx(0.5)


def test_a_model_by_itself_has_no_verdict():
    record = task_record(measured(BASE), (0,), 0.03, [])

    assert record["verdict"] is None
    assert record["comparisons"] == []
    assert record["evaluations"][0]["accuracy"] == 0.5

"""Every grader agrees with a person on the answers of judged.toml."""

import tomllib
from fractions import Fraction
from pathlib import Path

import pytest

from esft.tasks.benchmarks.answers import grade_gsm8k, grade_proofwriter
from esft.tasks.benchmarks.countdown import grade_countdown
from esft.tasks.graders.text import grade_short
from esft.tasks.task import Option, Row
from esft.tasks.words import GRADERS

TABLE = tomllib.loads((Path(__file__).parent / "judged.toml").read_text("utf-8"))["judged"]
OTHERS = {"short": grade_short, "gsm8k": grade_gsm8k, "proofwriter": grade_proofwriter}


def grade(judged, answer):
    options = [
        Option(context="", continuation=f" {text}", text=text, label=label)
        for label, text in zip("ABCD", judged.get("options", []), strict=False)
    ]
    row = Row(id="r", questions=(), answer=judged["answer"], options=tuple(options))
    return (OTHERS.get(judged["grader"]) or GRADERS[judged["grader"]].grade)(row, answer)


def test_the_table_has_enough_of_each_kind():
    assert {judged["grader"] for judged in TABLE} == {*GRADERS, *OTHERS, "countdown"}
    assert sum(len(judged.get("right", [])) for judged in TABLE) >= 150
    assert sum(len(judged["wrong"]) for judged in TABLE) >= 150


@pytest.mark.parametrize(
    "judged", TABLE, ids=lambda judged: f"{judged['grader']}-{judged['answer']}"
)
def test_a_grader_judges_as_a_person_does(judged):
    if judged["grader"] == "math":
        pytest.importorskip("math_verify")
    for verdict in ("right", "wrong"):
        for answer in judged.get(verdict, []):
            if judged["grader"] == "countdown":
                facts = {"numbers": tuple(judged["numbers"]), "target": Fraction(judged["target"])}
                graded = grade_countdown(
                    Row(id="r", questions=(), facts=facts), f"<answer>{answer}</answer>"
                )
            else:
                graded = grade(judged, answer)

            assert (graded.correct, answer) == (verdict == "right", answer)

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from esft.tasks.graders.math_answers import LONGEST, grade_math, stated_formula
from esft.tasks.task import Row, ask

pytest.importorskip("math_verify")


def row_of(answer, *accepted):
    return Row(id="r", questions=(ask("Q?"),), answer=answer, accepted=accepted)


RIGHT, WRONG = (1.0, True, None), (0.0, False, None)


@pytest.mark.parametrize(
    ("right", "answer"),
    [
        ("\\frac{1}{2}", "\\boxed{0.5}"),
        ("\\frac{1}{2}", "1/2"),
        ("\\frac{1}{2}", "so it is $\\frac{2}{4}$."),
        ("(x+1)^2", "\\boxed{x^2 + 2x + 1}"),
        ("\\{1, 2, 3\\}", "\\boxed{\\{3,1,2\\}}"),
        ("(1, 2]", "\\boxed{\\left(1,2\\right]}"),
        ("(-\\infty, 2) \\cup (3, \\infty)", "\\boxed{(3,\\infty)\\cup(-\\infty,2)}"),
        ("50\\%", "\\boxed{50}"),
        ("\\sqrt{8}", "\\boxed{2\\sqrt{2}}"),
        ("\\text{east}", "east"),
        ("11,111,100", "\\boxed{11111100}"),
        ("\\$18.90", "\\boxed{18.90}"),
        (
            "\\begin{pmatrix} 1 \\\\ 2 \\end{pmatrix}",
            "\\boxed{\\begin{pmatrix}1\\\\2\\end{pmatrix}}",
        ),
        ("7", "first \\boxed{6}, no: \\boxed{7}"),
        ("7", "\\boxed{7} and \\boxed{8 that is never closed"),
        ("7", "x" * 100_000 + " \\boxed{7}"),
    ],
)
def test_an_answer_that_equals_a_right_one_is_worth_1(right, answer):
    for row in (row_of(right), row_of("12345", right)):
        grade = grade_math(row, answer)

        assert (grade.reward, grade.correct, grade.failure) == RIGHT


@pytest.mark.parametrize(
    ("right", "answer"),
    [
        ("\\frac{1}{2}", "\\boxed{0.51}"),
        ("\\{1, 2\\}", "\\boxed{\\{1,2,3\\}}"),
        ("(1, 2]", "\\boxed{[1,2]}"),
        ("\\text{east}", "\\boxed{\\text{west}}"),
        ("7", "\\boxed{7}, no: \\boxed{8}"),
        ("7", "I do not know"),
        ("7", "\\boxed{}"),
        ("7", ""),
        ("7", "\\boxed{1/0}"),
        ("7", "\\boxed{\ud800}"),
    ],
)
def test_any_other_answer_is_worth_0(right, answer):
    grade = grade_math(row_of(right), answer)

    assert (grade.reward, grade.correct, grade.failure) == WRONG


@pytest.mark.parametrize(
    "answer",
    [
        "\\boxed{" + "(" * 900 + "1" + ")" * 900 + "}",
        "\\frac{1}{" * 180 + "7" + "}" * 180,
        "1+" * 50_000 + "1",
        "\\boxed{\\int_0^{\\infty} e^{-x^{x^{x}}} dx}",
    ],
)
def test_a_hostile_answer_is_worth_0_in_about_a_second(answer):
    grade_math(row_of("7"), "\\boxed{1}")  # a process that the last answer ended starts again here
    began = time.monotonic()

    grade = grade_math(row_of("7"), answer)

    assert (grade.reward, grade.correct) == (0.0, False)
    assert time.monotonic() - began < 4


@pytest.mark.parametrize(
    ("answer", "counts"),
    [
        ("a \\boxed{1} b \\boxed{2} c", "2"),
        ("\\boxed{\\frac{1}{2}}", "\\frac{1}{2}"),
        ("\\boxed {3}", "3"),
        ("\\boxed{a\\\\}", "a\\\\"),
        ("\\boxed{\\boxed{5}}", "5"),
        ("\\boxed{4} \\boxed{5", "4"),
        ("\\boxed{3 \\text{ eggs}}", "3 \\text{ eggs}"),
        ("#### 6\nI am sure.", "6"),
        ("no box {5}", None),
        ("We add.\n\nSo the answer is $7$.\n", "7"),
        ("x" * (LONGEST + 1), None),
    ],
)
def test_the_last_closed_box_counts_else_the_last_mark_else_a_last_line_of_a_formula_alone(
    answer, counts
):
    assert stated_formula(answer) == counts


PIECES = ["\\boxed{", "\\frac{", "\\sqrt{", "{", "}", "^", "_", "$", "(", ")", "[", ",", "=", "x"]
PIECES += ["\\{", "\\infty", "\\cup", "\\text{", "\\begin{pmatrix}", "%", "!", "0", "7", "12", " "]


@settings(max_examples=25, deadline=None)
@given(answer=st.one_of(st.text(), st.lists(st.sampled_from(PIECES), max_size=12).map("".join)))
def test_any_answer_gets_0_or_1(answer):
    grade = grade_math(row_of("\\frac{\\pi}{1234567}"), answer)

    assert grade.reward == float(grade.correct) == 0.0

"""What the multiple-choice tasks share: their rows, the message that asks, the grader."""

from collections.abc import Sequence
from functools import partial

from esft.tasks.graders.choices import GRADING, grade_choice
from esft.tasks.task import Option, Row, Task, ask, one_answer

LETTERS = "ABCDEFGHIJ"
"""Labels of options that have none of their own."""


def choice_row(*, id: str, asked: str, options: Sequence[Option], gold: int) -> Row:
    """A row whose message asks for the label of one of its options.

    Args:
        id: the row's own, or one of `made_id`.
        asked: what the message asks, before it lists the options.
        options: with a label each; two or more.
        gold: index of the right one.
    """
    label = options[gold].label
    return Row(
        id=id,
        questions=(ask(_message(asked, options), reference=label),),
        answer=label,
        options=tuple(options),
        gold=gold,
    )


def text_options(context: str, texts: Sequence[str], labels: Sequence[str]) -> list[Option]:
    """Options whose whole text continues the one context; labels beyond the texts are unused."""
    return [
        Option(context=context, continuation=f" {text}", text=text, label=label)
        for text, label in zip(texts, labels, strict=False)
    ]


choice_task = partial(
    Task,
    grading=GRADING,
    scoring="choice",
    scorings=("choice", "generate"),
    max_new_tokens=16,
    grade=one_answer(grade_choice),
)
"""Makes a task of the fields that are its own."""


def _message(asked: str, options: Sequence[Option]) -> str:
    listed = "\n".join(f"{option.label}. {option.text.strip()}" for option in options)
    kind = "number" if (options[0].label or "").isdecimal() else "letter"
    return f"{asked.strip()}\n\n{listed}\n\nReply with the {kind} of the right answer alone."

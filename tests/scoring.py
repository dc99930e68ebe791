"""Rows and tasks for tests of scoring, on the tiny models."""

from dataclasses import replace

from esft.tasks.task import Grade, Option, Row, Task, ask, one_answer


def choice_row(number, options=("red", "green", "a very long blue"), gold=0):
    context = f"Question: number {number}?\nAnswer:"
    return Row(
        id=f"row-{number}",
        questions=(ask(context, reference=options[gold]),),
        answer=options[gold],
        options=tuple(
            Option(context=context, continuation=f" {text}", text=text) for text in options
        ),
        gold=gold,
    )


def question_row(number, answer="yes"):
    words = "word " * (number % 5)
    return Row(
        id=f"row-{number}",
        questions=(ask(f"Is {number} a number {words}?", reference=answer),),
        answer=answer,
    )


def asked(row):
    """The text of a row's one question, in one message."""
    ((message,),) = [question.messages for question in row.questions]
    return message["content"]


def change_question(row, **changes):
    """The row with its one question changed."""
    (question,) = row.questions
    return replace(row, questions=(replace(question, **changes),))


def vowels(row, answer):
    """Score an answer by its share of vowels: something a random model's answers differ in."""
    share = sum(letter in "aeiou" for letter in answer) / max(1, len(answer))
    return Grade(reward=share, correct=row.answer in answer)


def a_task(scoring="choice", max_new_tokens=8):
    return Task(
        name="made-up",
        summary="a task of the tests",
        source="the tests",
        licence="Apache-2.0",
        size="as many as a test makes",
        grading="the share of vowels",
        scorings=tuple(sorted(("choice", "exact", "generate"), key=lambda own: own != scoring)),
        max_new_tokens=max_new_tokens,
        file="made_up",
        read=lambda raw: question_row(raw["number"]),
        grade=one_answer(vowels),
    )

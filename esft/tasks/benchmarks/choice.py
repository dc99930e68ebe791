"""Multiple-choice benchmarks, in the prompt forms of lm-evaluation-harness to the character."""

import re
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from esft.tasks.columns import index_column, text_column, texts_column, word_column, wrong_column
from esft.tasks.graders.choices import grade_choice
from esft.tasks.task import Option, Row, choice_row, hub_task, made_id, one_answer, text_options
from esft.tasks.words import GRADERS

LETTERS = "ABCDEFGHIJ"  # labels of options that have none of their own
_MARKER = re.compile(r"\[.*?\]")


def read_arc(raw: Mapping[str, Any]) -> Row:
    """A row of allenai/ai2_arc, with three to five options; labels are A to E or 1 to 5."""
    question = text_column(raw, "question")
    texts = texts_column(raw, "choices.text")
    labels = texts_column(raw, "choices.label")
    if len(texts) < 2:
        raise wrong_column("choices.text", texts, "two options or more")
    if len(labels) != len(texts) or len(set(labels)) != len(labels):
        raise wrong_column("choices.label", labels, f"{len(texts)} labels, all different")
    return choice_row(
        id=text_column(raw, "id"),
        asked=question,
        options=text_options(f"Question: {question}\nAnswer:", texts, labels),
        gold=labels.index(word_column(raw, "answerKey", labels)),
    )


def read_hellaswag(raw: Mapping[str, Any]) -> Row:
    """A row of Rowan/hellaswag; label is "0" to "3", as on the hub, or an int."""
    activity = text_column(raw, "activity_label")
    begun = text_column(raw, "ctx_a")
    # Where the text goes on with a new sentence, ctx_b is empty.
    going_on = "" if raw.get("ctx_b") == "" else text_column(raw, "ctx_b")
    context = _without_markers(f"{activity}: {begun} {going_on.capitalize()}")
    endings = texts_column(raw, "endings")
    cleaned = [_without_markers(ending) for ending in endings]
    if len(endings) != 4 or not all(ending.strip() for ending in cleaned):
        raise wrong_column("endings", endings, "4 endings, each more than markers in brackets")
    in_text = raw.get("label") in ("0", "1", "2", "3")
    return choice_row(
        id=made_id("hellaswag", context, *cleaned),
        asked=f"{context}\n\nWhich of these comes next?",
        options=text_options(context, cleaned, LETTERS),
        gold=int(raw["label"]) if in_text else index_column(raw, "label", 4),
    )


def _without_markers(text: str) -> str:
    """The text without the markers of WikiHow, character for character as the harness has it."""
    return _MARKER.sub("", text.strip().replace(" [title]", ". ")).replace("  ", " ")


def read_mmlu(raw: Mapping[str, Any]) -> Row:
    """A row of cais/mmlu; answer is the index of the right one of four choices."""
    choices = texts_column(raw, "choices")
    if len(choices) != 4:
        raise wrong_column("choices", choices, "4 choices")
    return _exam_row("mmlu", raw, "subject", choices, index_column(raw, "answer", 4))


def read_mmlu_pro(raw: Mapping[str, Any]) -> Row:
    """A row of TIGER-Lab/MMLU-Pro, scored by the letters in the form of MMLU.

    The harness and the published figures score chains of thought, so ours do not compare with them.
    """
    options = texts_column(raw, "options")
    if not 3 <= len(options) <= 10:
        raise wrong_column("options", options, "3 to 10 options")
    gold = index_column(raw, "answer_index", len(options))
    if text_column(raw, "answer") != LETTERS[gold]:
        raise wrong_column("answer", raw["answer"], f"{LETTERS[gold]}, as answer_index is {gold}")
    return _exam_row("mmlu-pro", raw, "category", options, gold)


def _exam_row(
    task: str, raw: Mapping[str, Any], about: str, choices: Sequence[str], gold: int
) -> Row:
    """A row whose options are listed in the context and scored by their letters.

    The harness takes the letters for the choices, each of length 1: acc_norm is acc.
    """
    subject, question = text_column(raw, about), text_column(raw, "question")
    lettered = list(zip(LETTERS, choices, strict=False))
    listed = "".join(f"{letter}. {text}\n" for letter, text in lettered)
    context = (
        "The following are multiple choice questions (with answers) about "
        f"{subject.replace('_', ' ')}.\n\n{question.strip()}\n{listed}Answer:"
    )
    options = [
        Option(context=context, continuation=f" {letter}", text=text, label=letter, length=1)
        for letter, text in lettered
    ]
    id = made_id(task, subject, question, *choices)
    return choice_row(id=id, asked=question, options=options, gold=gold)


def read_piqa(raw: Mapping[str, Any]) -> Row:
    """A row of baber/piqa; label is 0 for sol1, 1 for sol2."""
    goal = text_column(raw, "goal")
    solutions = [text_column(raw, "sol1"), text_column(raw, "sol2")]
    return choice_row(
        id=made_id("piqa", goal, *solutions),
        asked=goal,
        options=text_options(f"Question: {goal}\nAnswer:", solutions, LETTERS),
        gold=index_column(raw, "label", 2),
    )


def read_winogrande(raw: Mapping[str, Any]) -> Row:
    """A row of allenai/winogrande, scored partially as in the harness.

    What follows the first blank, filled, is scored, the same words for both options. The harness
    has no acc_norm here: as both are divided by 1, ours is acc.
    """
    sentence = text_column(raw, "sentence")
    before, _, after = sentence.partition("_")
    if not after.strip():
        raise wrong_column("sentence", sentence, "a sentence with a blank (_) and words behind it")
    names = [text_column(raw, "option1"), text_column(raw, "option2")]
    words = f" {after.strip()}"
    options = [
        Option(context=before + name, continuation=words, text=name, label=label, length=1)
        for name, label in zip(names, "12", strict=True)
    ]
    return choice_row(
        id=made_id("winogrande", sentence, *names),
        asked=f"{sentence.strip()}\n\nWhich of these fits the blank (_)?",
        options=options,
        gold=int(word_column(raw, "answer", ("1", "2"))) - 1,
    )


_choice_task = partial(
    hub_task,
    grading=GRADERS["choice"].grading,
    scorings=("choice", "generate"),
    max_new_tokens=16,
    grade=one_answer(grade_choice),
)
_NO_TEST = {"train": "train", "validation": "validation"}  # its answers are not public

CHOICE = (
    _choice_task(
        "arc",
        "allenai/ai2_arc, ARC-Challenge",
        summary="school science questions, the hard ones",
        licence="CC BY-SA 4.0",
        size="1,119 train, 299 validation, 1,172 test",
        file="arc_challenge",
        read=read_arc,
    ),
    _choice_task(
        "arc-easy",
        "allenai/ai2_arc, ARC-Easy",
        summary="school science questions, the easy ones",
        licence="CC BY-SA 4.0",
        size="2,251 train, 570 validation, 2,376 test",
        read=read_arc,
    ),
    _choice_task(
        "hellaswag",
        "Rowan/hellaswag",
        summary="beginnings of everyday texts, with four endings each",
        licence="MIT",
        size="39,905 train, 10,042 validation",
        read=read_hellaswag,
        splits=_NO_TEST,
    ),
    _choice_task(
        "mmlu",
        "cais/mmlu, all",
        summary="exam questions from 57 subjects, with four options each",
        licence="MIT",
        size="285 train (its dev split), 1,531 validation, 14,042 test",
        read=read_mmlu,
        splits={"train": "dev", "validation": "validation", "test": "test"},
    ),
    _choice_task(
        "mmlu-pro",
        "TIGER-Lab/MMLU-Pro",
        summary="harder exam questions, with up to ten options each, in the form of mmlu",
        licence="MIT",
        size="70 train (its validation split), 12,032 test",
        read=read_mmlu_pro,
        # The hub has no train split. Holdout rows are what is left of these 70, not test rows.
        splits={"train": "validation", "test": "test"},
    ),
    _choice_task(
        "piqa",
        "baber/piqa",  # as in the harness: `datasets` no longer runs the script of ybisk/piqa
        summary="everyday goals, with two ways to reach each",
        licence="AFL 3.0",
        size="16,113 train, 1,838 validation",
        read=read_piqa,
        splits=_NO_TEST,
    ),
    _choice_task(
        "winogrande",
        "allenai/winogrande, winogrande_xl",
        summary="sentences with a blank that one of two names fits",
        licence="CC BY",
        size="40,398 train, 1,267 validation",
        read=read_winogrande,
        splits=_NO_TEST,
    ),
)

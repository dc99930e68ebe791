"""MMLU-Pro: harder exam questions from 14 categories, with up to ten options each."""

from collections.abc import Mapping
from typing import Any

from esft.tasks.benchmarks.mmlu import lettered_options
from esft.tasks.columns import index_column, text_column, texts_column, wrong_column
from esft.tasks.ids import made_id
from esft.tasks.multiple_choice import LETTERS, choice_row, choice_task
from esft.tasks.task import HubSource, Row


def read_mmlu_pro(raw: Mapping[str, Any]) -> Row:
    """A row of TIGER-Lab/MMLU-Pro; answer is the letter of answer_index.

    Scored by the letters, in the form of MMLU. lm-evaluation-harness and the published figures
    score chains of thought that the model generates, so ours do not compare with them.

    Raises:
        TaskError: a column is missing or wrong; names it, what it holds and what was expected.
    """
    question = text_column(raw, "question")
    options = texts_column(raw, "options")
    if not 3 <= len(options) <= len(LETTERS):
        raise wrong_column("options", options, f"3 to {len(LETTERS)} options")
    gold = index_column(raw, "answer_index", len(options))
    if text_column(raw, "answer") != LETTERS[gold]:
        raise wrong_column("answer", raw["answer"], f"{LETTERS[gold]}, as answer_index is {gold}")
    category = text_column(raw, "category")
    return choice_row(
        id=made_id("mmlu-pro", category, question, *options),
        asked=question,
        options=lettered_options(category, question, options),
        gold=gold,
    )


MMLU_PRO = choice_task(
    name="mmlu-pro",
    summary="harder exam questions, with up to ten options each, in the form of mmlu",
    source="TIGER-Lab/MMLU-Pro",
    licence="MIT",
    size="70 train (its validation split), 12,032 test",
    hub=HubSource(id="TIGER-Lab/MMLU-Pro"),
    file="mmlu_pro",
    read=read_mmlu_pro,
    # The hub has no train split. Holdout rows are what is left of these 70, not test rows.
    splits={"train": "validation", "test": "test"},
)

"""PIQA: everyday goals, with two ways to reach each."""

from collections.abc import Mapping
from typing import Any

from esft.tasks.columns import index_column, text_column
from esft.tasks.ids import made_id
from esft.tasks.multiple_choice import LETTERS, choice_row, choice_task, text_options
from esft.tasks.task import HubSource, Row


def read_piqa(raw: Mapping[str, Any]) -> Row:
    """A row of baber/piqa; label is 0 for sol1, 1 for sol2.

    Raises:
        TaskError: a column is missing or wrong; names it, what it holds and what was expected.
    """
    goal = text_column(raw, "goal")
    ways = [text_column(raw, "sol1"), text_column(raw, "sol2")]
    return choice_row(
        id=made_id("piqa", goal, *ways),
        asked=goal,
        # The prompt form of lm-evaluation-harness, so that accuracies can be compared with it.
        options=text_options(f"Question: {goal}\nAnswer:", ways, LETTERS),
        gold=index_column(raw, "label", 2),
    )


PIQA = choice_task(
    name="piqa",
    summary="everyday goals, with two ways to reach each",
    source="baber/piqa",
    licence="AFL 3.0",
    size="16,113 train, 1,838 validation",
    # The copy that lm-evaluation-harness 0.4.13 reads: ybisk/piqa is a dataset script, which
    # `datasets` no longer runs.
    hub=HubSource(id="baber/piqa"),
    file="piqa",
    read=read_piqa,
    splits={"train": "train", "validation": "validation"},
)

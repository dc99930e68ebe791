"""Small tasks, rows and data files for the tests of esft.tasks."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from esft.tasks.registry import get_task
from esft.tasks.task import Row, Task


def arc_object(number: int = 1, **changes: Any) -> dict[str, Any]:
    """A row in the columns of allenai/ai2_arc; rows of different numbers ask different things."""
    choices = {"text": ["dry palms", "wet palms", "oily palms"], "label": ["A", "B", "C"]}
    row = {
        "id": f"r{number}",
        "question": f"Question {number}?",
        "choices": choices,
        "answerKey": "B",
    }
    return {**row, **changes}


def write_rows(folder: Path, name: str, rows: Iterable[Mapping[str, Any]]) -> Path:
    """Write <folder>/<name>.jsonl and return its path."""
    path = folder / f"{name}.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def prompts(rows: Iterable[Row]) -> list[str]:
    """What each row asks."""
    return [row.questions[0].messages[0]["content"] for row in rows]


def plain_task() -> Task:
    """A task of rows {"prompt": ..., "answer": ...} in files plain.<split>.jsonl."""
    return replace(get_task("conciseness"), name="plain", file="plain")

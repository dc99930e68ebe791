"""`esft tasks`: what a model can be tuned on."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from esft.cli.options import complete_tasks, json_option
from esft.cli.show import wrapped
from esft.rollout.typed import json_text

if TYPE_CHECKING:
    from esft.tasks.rows import Preview
    from esft.tasks.task import Row, Task


@click.command(short_help="List the tasks, or show two rows of one.")
@click.argument("name", required=False, shell_complete=complete_tasks)
@click.option("--grader", help="How answers to rows of your own are graded.")
@click.option("--columns", help="What their columns are called: prompt=question,answer=label.")
@click.option("--source", help="Of task know, which other task has the rows  [default: trivia-qa]")
@click.option(
    "--data-dir",
    help="Folder of <task>.<split>.jsonl files  [default: $ESFT_DATA_DIR, else the task's own rows "
    "or the hub]",
)
@json_option
def tasks(
    name: str | None,
    grader: str | None,
    columns: str | None,
    source: str | None,
    data_dir: str | None,
    as_json: bool,
) -> None:
    """List all tasks, first those that need no network; with NAME, show two rows of it as a model
    sees them, the reference answer, how answers are graded, source and licence. NAME may be your
    own .jsonl, .csv, .parquet or .py file, or hub:ID[:config]. No model is loaded.

    \b
    Examples:
      esft tasks
      esft tasks countdown
      esft tasks my.jsonl --grader number
      esft tasks my.csv --grader exact --columns prompt=question,answer=label
      esft tasks hub:squad --grader contains --columns answer=answers.text,prompt=question
    """
    from esft.tasks.registry import data_folder, get_task, task_names
    from esft.tasks.rows import preview

    if name is not None:
        task = get_task(name, grader, columns, source)
        shown = preview(task, data_folder(data_dir, task))
        click.echo((_preview_json if as_json else _preview_text)(task, shown))
        return
    every = [get_task(name) for name in task_names()]
    if as_json:
        click.echo(json_text([_task_record(task) for task in every]))
        return
    groups: dict[str, list[Task]] = {}
    for task in sorted(every, key=lambda task: task.hub is not None):
        folder = data_folder(data_dir, task)
        where = "Without network: rows come with esft, or are generated"
        if folder is not None and any(folder.glob(f"{task.file}.*.jsonl")):
            where = f"Without network: rows in {folder}"
        elif task.hub is not None:
            where = "From the hub: rows are downloaded once, or read from --data-dir"
        groups.setdefault(where, []).append(task)
    for where, of_group in groups.items():
        click.echo(wrapped("", where, break_long_words=True))
        for task in of_group:
            click.echo(wrapped(f"  {task.name:<20}", task.summary, max_lines=1, placeholder=" ..."))
    click.echo("Two rows, source and licence of one: esft tasks NAME")


def _scorings(task: Task) -> str:
    others = [scoring for scoring in task.scorings if scoring != task.scoring]
    return f"{task.scoring} ({', '.join(others)})" if others else task.scoring


def _task_record(task: Task) -> dict[str, object]:
    plain = ("name", "summary", "source", "licence", "scoring", "scorings", "max_new_tokens")
    return {name: getattr(task, name) for name in (*plain, "grading")} | {"rows": task.size}


def _preview_json(task: Task, shown: Preview) -> str:
    rows = [
        {name: getattr(row, name) for name in ("id", "answer", "accepted", "gold")}
        | {"questions": row.questions, "options": row.options}
        for row in shown.rows
    ]
    where = {"where": shown.where, "split": shown.split, "total": shown.total}
    return json_text(_task_record(task) | where | {"first": rows})


def _preview_text(task: Task, shown: Preview) -> str:
    lines = [
        wrapped("", f"{task.name}: {task.summary}"),
        wrapped("  source    ", f"{task.source}; {task.licence}"),
        wrapped("  rows      ", f"{shown.total:,} in {shown.where}"),
        wrapped("  scored by ", _scorings(task)),
    ]
    scorings = {
        "choice": "1 where the right option has the highest log-probability a character (acc_norm)",
        "exact": "1 where the greedy answer would be the reference to the token, found in one "
        "forward",
        "generate": f"greedy answers of up to {task.max_new_tokens:,} tokens: {task.grading}",
    }
    for scoring, how in scorings.items():
        if scoring in task.scorings:
            lines.append(wrapped(f"  {scoring:<10}", how))
    for number, row in enumerate(shown.rows, start=1):
        lines += ["", f"Row {number}, {row.id}", *_row_lines(task, row)]
    return "\n".join(lines)


def _row_lines(task: Task, row: Row) -> Iterator[str]:
    if "choice" in task.scorings and row.options:
        contexts = {option.context for option in row.options}
        if len(contexts) == 1:
            yield from _block("by choice, context", *contexts)
        options = [
            f"{'*' if index == row.gold else ' '} "
            f"{'' if len(contexts) == 1 else option.context + ' |'}{option.continuation}"
            for index, option in enumerate(row.options)
        ]
        yield from _block("by choice, options and the right one with *", "\n".join(options))
    if "generate" in task.scorings:
        head = "by generate, " if row.options else ""
        for number, question in enumerate(row.questions, start=1):
            which = f"question {number}, " if len(row.questions) > 1 else ""
            for message in question.messages:
                yield from _block(f"{head}{which}{message['role']}", message["content"])
            if question.opening:
                yield from _block("every answer begins with", question.opening)
    for question in row.questions:
        reference = "(none)" if question.reference is None else question.reference
        yield from _block("reference answer", reference)
    if row.accepted:
        yield from _block("also right", ", ".join(row.accepted))


def _block(head: str, text: str) -> tuple[str, str]:
    return f"  {head}:", textwrap.indent(text, "    ")

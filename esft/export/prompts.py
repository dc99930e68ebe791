"""The prompts on which an exported model is compared with the tuned one."""

from pathlib import Path

from esft.errors import TaskError
from esft.recipe.paths import with_recorded_paths
from esft.recipe.toml import load_recipe
from esft.rollout.encode import encode_prompt
from esft.runs.folder import RunFolder
from esft.tasks.benchmarks.short_answers import CONCISENESS
from esft.tasks.registry import data_folder, get_task
from esft.tasks.rows import read_split, split_rows
from esft.tasks.task import Question, Row
from esft.tuning.rebuild import Source
from esft.tuning.watcher import Watcher

PROMPTS = 32

Prompt = Question | str
"""A question, or plain text: what stands before the options of a choice."""


def find_prompts(source: Source, watcher: Watcher) -> tuple[list[Prompt], str]:
    """Return PROMPTS prompts, and in words where they come from.

    They are the run's first holdout rows, then questions that come with esft.

    Args:
        source: a run, or a journal alone, which has no rows.
        watcher: told where the rows of the run are not found.
    """
    own: list[Prompt] = []
    if source.run is not None:
        try:
            own = _holdout(source.run)
        except TaskError as error:
            watcher.notice(f"{error}; questions of conciseness are compared instead")
    shipped = [_prompt(row, "generate") for row in read_split(CONCISENESS, "validation")]
    more = [prompt for prompt in shipped if prompt not in own][: PROMPTS - len(own)]
    parts = []
    if own:
        name = Path(str(source.run.info["settings"]["task.name"])).name  # of a file: no folders
        parts.append(f"{len(own)} holdout rows of {name}")
    if more:
        parts.append(f"{len(more)} questions of conciseness, which come with esft")
    return [*own, *more], " and ".join(parts)


def tokens_of(prompt: Prompt, tokenizer) -> tuple[int, ...]:
    """Return a prompt as a rollout would give it to the model."""
    if isinstance(prompt, str):
        return tuple(tokenizer(prompt)["input_ids"])
    return encode_prompt(tokenizer, prompt)


def _holdout(run: RunFolder) -> list[Prompt]:
    settings = with_recorded_paths(load_recipe(str(run.recipe_path), {}), run.info["places"]).task
    task = get_task(settings.name, settings.grader)
    scoring = task.choose_scoring(settings.scoring, settings.reward)
    folder = data_folder(settings.data_dir, task)
    rows = split_rows(task, settings.train, settings.holdout, folder).holdout[:PROMPTS]
    return [_prompt(row, scoring) for row in rows]


def _prompt(row: Row, scoring: str) -> Prompt:
    if scoring == "choice":
        return row.options[row.gold].context
    question = row.questions[0]
    return Question(messages=question.messages, opening=question.opening)

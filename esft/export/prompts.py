"""The prompts on which an exported model is compared with the tuned one."""

from collections.abc import Iterator
from dataclasses import dataclass
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


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """What a model is asked, as text."""

    messages: tuple[dict[str, str], ...] = ()
    opening: str = ""
    """What the answer begins with."""
    context: str | None = None
    """Plain text in place of messages: what stands before the options of a choice."""

    def tokens(self, tokenizer) -> tuple[int, ...]:
        """Return the prompt as a rollout would give it to the model."""
        if self.context is not None:
            return tuple(tokenizer(self.context)["input_ids"])
        return encode_prompt(tokenizer, Question(messages=self.messages, opening=self.opening))


@dataclass(frozen=True, kw_only=True)
class Prompts:
    """The prompts, and where they come from."""

    prompts: tuple[Prompt, ...]
    source: str
    """In words, such as "32 holdout rows of arc"."""


def find_prompts(source: Source, watcher: Watcher) -> Prompts:
    """Return PROMPTS prompts: the run's first holdout rows, then questions that come with esft.

    Args:
        source: a run, or a journal alone, which has no rows.
        watcher: told where the rows of the run cannot be had.
    """
    own: list[Prompt] = []
    if source.run is not None:
        try:
            own = list(_holdout(source.run))
        except TaskError as error:
            watcher.notice(f"{error}; questions of conciseness are compared instead")
    more = [prompt for prompt in _shipped() if prompt not in own][: PROMPTS - len(own)]
    parts = []
    if own:
        parts.append(f"{len(own)} holdout rows of {_task_name(source.run)}")
    if more:
        parts.append(f"{len(more)} questions of conciseness, which come with esft")
    return Prompts(prompts=(*own, *more), source=" and ".join(parts))


def _holdout(run: RunFolder) -> Iterator[Prompt]:
    settings = with_recorded_paths(load_recipe(str(run.recipe_path), {}), run.info["places"]).task
    task = get_task(settings.name, settings.grader)
    scoring = task.choose_scoring(settings.scoring, settings.reward)
    folder = data_folder(settings.data_dir, task)
    rows = split_rows(task, settings.train, settings.holdout, folder).holdout[:PROMPTS]
    return (_prompt(row, scoring) for row in rows)


def _shipped() -> Iterator[Prompt]:
    return (_prompt(row, "generate") for row in read_split(CONCISENESS, "validation"))


def _prompt(row: Row, scoring: str) -> Prompt:
    if scoring == "choice":
        return Prompt(context=row.options[row.gold].context)
    question = row.questions[0]
    return Prompt(messages=question.messages, opening=question.opening)


def _task_name(run: RunFolder) -> str:
    """Return the task's name; of a file of one's own, without the folders that lead to it."""
    return Path(str(run.info["settings"]["task.name"])).name

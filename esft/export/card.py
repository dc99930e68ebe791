"""The model card of an exported model."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from os.path import basename
from pathlib import Path

import torch

from esft import __version__
from esft.engine.journal_read import lines_until
from esft.export.compare import NEW_TOKENS, Conversion
from esft.recipe.priors import parse_prior_line
from esft.recipe.stages import TABLE, tuned_on
from esft.runs.records import RecordedRow, RecordedScore, read_lines, rows_path, scores
from esft.tasks.task import Messages, Row
from esft.tuning.rebuild import Source

_OF_HEADER = ("search.seed", "search.population", "search.antithetic", "search.sigma")
_OF_HEADER += ("search.alpha", "anchor.awd", "anchor.norm", "anchor.drift")
_OF_HEADER += ("model.include", "model.exclude")
"""Settings that the head of a journal has."""
_OF_RUN = ("task.scoring", "task.reward", "task.train", "task.holdout", "task.rows_per_step")
_OF_RUN += ("task.max_new_tokens", "search.shaping")
"""Those that only run.json has."""


QUESTION = ({"role": "user", "content": "What is the capital of France?"},)
"""What the card asks where the run has no row to show."""


@dataclass(frozen=True, kw_only=True)
class Exported:
    """The model of a step, as it was in memory and as it is in a folder."""

    step: int
    best: int | None  # the run's best step; None where nothing says it
    base: str  # hub id of the base model, or its name without the folders that lead to it
    revision: str | None  # its commit, where it is from the hub
    base_weights: str  # identity of the base model
    tuned_weights: str  # of the model in memory
    recorded: bool  # whether the run recorded that identity too
    parameters: int  # tuned ones
    drift: float | None  # ||D||; None where the run did not record it
    tuned_dtype: str
    device: str  # where it was rebuilt and compared
    dtype: str  # of the folder
    weights: str  # of the folder's; others than `tuned_weights` where the dtype is another
    prompts: int  # how many it was compared on; 0 for a copy of the model that the run saved
    prompts_from: str  # which ones, in words
    conversion: Conversion | None  # None where the weights keep their dtype
    chat: bool = True  # whether it has a chat template
    no_ollama: str | None = None  # why it has no Modelfile; None where it has one
    pushed: str | None = None  # the repository on the hub that it goes to


@dataclass(frozen=True, kw_only=True)
class Example:
    """A row with both answers."""

    messages: Messages
    before: str
    after: str

    @property
    def asked(self) -> str:
        return "\n".join(message["content"] for message in self.messages)


def example_of(source: Source, step: int, rows: Sequence[Row]) -> Example | None:
    """Return the first of the holdout `rows` whose answer at `step` is not that of the base model.

    None where none is, or the run did not record both answers.
    """
    if source.run is None:
        return None
    answers: dict[int, dict[str, str]] = {}
    for score in scores(source.run.path):
        if score.role == "target" and score.step in (0, step):
            recorded = read_lines(rows_path(source.run.path, score), RecordedRow)
            answers[score.step] = {row.key: row.answers[0] for row in recorded if row.answers}
    before, after = answers.get(0, {}), answers.get(step, {})
    for row in rows:
        both = before.get(row.key), after.get(row.key)
        if None not in both and both[0] != both[1]:
            return Example(messages=row.questions[0].messages, before=both[0], after=both[1])
    return None


def card(source: Source, exported: Exported, example: Example | None = None) -> str:
    """Return the text of README.md; it names no path of this machine."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    record, run = source.record, source.run
    tasks: dict[str, dict[int, RecordedScore]] = {}
    for score in () if run is None else scores(run.path):
        # The last of a task and step counts, as the run itself reads them.
        tasks.setdefault(score.task, {})[score.step] = score
    cards = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    cards.filters |= {"short": basename, "json": json.dumps, "repr": repr}
    return cards.get_template("card.md.jinja").render(
        made=exported,
        record=record,
        run=None if run is None else run.info,
        tuned_on=run and basename(tuned_on(run.info.settings)),
        new_tokens=run and source.recipe.at_stage(-1).task.max_new_tokens,
        version=__version__,
        scores=tasks,
        evaluated=sorted({step for by_step in tasks.values() for step in by_step}),
        settings=_settings(source),
        threads=torch.get_num_threads(),
        comparison=comparison_text(exported),
        example=example,
        question=QUESTION if example is None else example.messages,
        journal=hashlib.sha256(lines_until(record, exported.step).encode()).hexdigest(),
    )


def comparison_text(exported: Exported) -> str:
    """Return in a sentence or two what the comparison found."""
    if not exported.prompts:
        return "Its files are those that the run saved, and its weights those that it recorded."
    prompts = f"{exported.prompts} prompts ({exported.prompts_from})"
    found = exported.conversion
    if found is None:
        return f"All weights are equal, bit for bit, and so are the tokens of {prompts}."
    return (
        f"The weights were converted from {exported.tuned_dtype} to {exported.dtype}; the tokens "
        f"of {prompts} are equal, {conversion_text(found, exported.prompts)}."
    )


def conversion_text(found: Conversion, prompts: int) -> str:
    """Return how the logits and answers of a converted model differ, as the rest of a sentence."""
    return (
        f"{found.logits:,} logits at {found.positions:,} positions of them "
        f"differ by at most {found.largest_difference:.4g}, mean KL(tuned || exported) "
        f"{found.mean_kl:.4g} nats, and {found.same_answers} of the {prompts} greedy "
        f"answers of up to {NEW_TOKENS} tokens are equal"
    )


def _settings(source: Source) -> dict[str, object]:
    header = source.record.header
    settings = {"dtype of the run": header["dtype"], "noise version": header["noise_version"]}
    settings |= {name: header[name.partition(".")[2]] for name in _OF_HEADER}
    settings |= {"search.anneal": header["anneal"]} if "anneal" in header else {}
    settings |= {"model.weights": header["weights"]} if "weights" in header else {}
    if source.run is not None:
        recorded = source.run.info.settings
        settings |= {name: recorded.get(name) for name in _OF_RUN}
        moves = recorded["anchor.move"] != "none"
        settings |= {name: recorded[name] for name in ("anchor.move", "anchor.tau") if moves}
        for number, stage in enumerate(recorded.get(TABLE) or (), start=1):
            said = stage | {"task.name": basename(stage.get("task.name", recorded["task.name"]))}
            told = (f"{key} {said[key]}" for key in said if key != "task.data_dir")
            settings[f"stage {number}"] = ", ".join(told)
        priors = [parse_prior_line(line) for line in recorded["prior.tasks"]]
        short = [str(replace(spec, name=basename(spec.name), data_dir=None)) for spec in priors]
        settings["prior.tasks"] = ", ".join(short) or None
    return settings

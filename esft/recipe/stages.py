"""The stages of a chain, one task after the other: the [[stage]] tables of a recipe."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from esft.recipe.check import Problem, as_toml, nearest, shown

TABLE = "stage"

_FIXED = ("search.seed", "search.noise", "search.rank", "search.steps", "task.batch")
_FIXED += ("anchor.store", "anchor.drift", "anchor.drift_store", "anchor.move", "anchor.tau")
_FIXED_TABLES = ("model", "prior", "run")


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A number of steps, and what they are made by where it is not what the tables above say."""

    steps: int
    changes: Mapping[str, object] = field(default_factory=dict)  # "table.key" to value

    @property
    def settings(self) -> dict[str, object]:
        """Everything that it says, as `read_stages` reads it."""
        listed = {k: list(v) if isinstance(v, tuple) else v for k, v in self.changes.items()}
        return {"steps": self.steps, **listed}

    @property
    def toml(self) -> str:
        """Its table in a recipe."""
        lines = [f"{key} = {as_toml(value)}" for key, value in self.settings.items()]
        return "\n".join([f"[[{TABLE}]]", *lines]) + "\n"


def read_stages(
    body: object, known: Mapping[str, Mapping[str, object]], steps: object
) -> tuple[tuple[Stage, ...], list[Problem]]:
    """Return the stages of a recipe, and what is wrong with them; none where `body` is None.

    Args:
        body: what TOML has of [[stage]]: a list of tables, keys dotted or not.
        known: names of the settings of each table.
        steps: of a stage that names no number.
    """
    if body is None:
        return (), []
    if not isinstance(body, list | tuple) or not body or not all(isinstance(s, dict) for s in body):
        text = f"[{TABLE}] is {shown(body)}, expected a table [[{TABLE}]] for each stage"
        return (), [Problem((TABLE,), text, f"write [[{TABLE}]] in double brackets")]
    stages, problems = [], []
    for number, table in enumerate(body, start=1):
        changes = dict(_flat(table))
        count = changes.pop("steps", steps)
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            text = f"steps is {shown(count)}, expected a whole number, 1 or more"
            problems.append(_problem(number, text, "for example steps = 50"))
            count = 1
        wrong = [_refusal(number, key, value, known) for key, value in changes.items()]
        problems += filter(None, wrong)
        stages.append(Stage(steps=count, changes=changes))
    return tuple(stages), problems


def tuned_on(settings: Mapping[str, object]) -> str:
    """Return what a run with these settings is tuned on: its task, or those of a chain in turn."""
    task, stages = str(settings["task.name"]), settings.get(TABLE)
    if not stages:
        return task
    return " > ".join(Path(str(stage.get("task.name", task))).name for stage in stages)


def _flat(table: Mapping[str, object]) -> Iterator[tuple[str, object]]:
    for key, value in table.items():
        if isinstance(value, dict):
            yield from ((f"{key}.{inner}", of) for inner, of in value.items())
        else:
            yield key, value


def _refusal(
    number: int, key: str, value: object, known: Mapping[str, Mapping[str, object]]
) -> Problem | None:
    """Return what is wrong with a key; None where a stage may have it."""
    table, _, name = key.partition(".")
    if name in known.get(table, ()) and table not in _FIXED_TABLES and key not in _FIXED:
        return None
    if name in known.get(table, ()):
        fix = f"set {name} under [{table}], for all stages"
        if table == "model":
            fix = f"{fix}; another model is another run"
        if key == "search.steps":
            fix = f"write steps = {shown(value)}"
        return _problem(number, f"{key} is {shown(value)}, expected what stages can change", fix)
    allowed = [f"{t}.{n}" for t, names in known.items() for n in names]
    meant = nearest(key, allowed)
    if meant is None and "." not in key:
        meant = next((one for one in allowed if one.partition(".")[2] == key), None)
    text = f"{key} = {shown(value)} is not a setting, expected steps or one as table.key"
    return _problem(number, text, "for example task.name" if meant is None else f"write {meant}")


def _problem(number: int, text: str, hint: str) -> Problem:
    return Problem((TABLE,), f"[[{TABLE}]] {number}: {text}", hint)
